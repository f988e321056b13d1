"""Every layout against an independent reader of the same files."""

import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

from bench.data import NAMED, data_ref, open_ref, open_set, rows_of
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet


def as_nchw(images):
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)


def write_tree(root, per_class=3, size=(32, 32), kind="png"):
    for number, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = noise(100 * number + index, *size)
            (root / name / f"image_{index + 1:04d}.{kind}").write_bytes(
                encode(pixels, "JPEG" if kind == "jpg" else "PNG")
            )


def test_digits_are_scikit_learns_split_once_and_for_all():
    test, train = open_set("digits", "test", folder=None), open_set("digits", "train", folder=None)
    assert test.images.shape == (500, 1, 8, 8) and train.images.shape == (1297, 1, 8, 8)
    source = load_digits()
    images = np.concatenate([test.images, train.images])[:, 0].reshape(1797, 64)
    ink = np.rint(images.astype(float) * 16 / 255).astype(int)
    rows = sorted((*row, label) for row, label in zip(ink, np.concatenate([test.labels, train.labels]), strict=True))
    sklearn_rows = sorted((*row.astype(int), label) for row, label in zip(source.data, source.target, strict=True))
    assert rows == sklearn_rows
    assert images.max() == 255 and images.min() == 0
    share = np.bincount(source.target) * 500 / 1797
    assert np.abs(np.bincount(test.labels) - share).max() < 1


def test_digits_enlarged_by_nearest_neighbour_repeat_their_pixels():
    small = open_set("digits", "test", folder=None).images
    large = open_set("digits", "test", folder=None, image_size=(16, 16), interpolation="nearest").images
    assert np.array_equal(large, small.repeat(2, axis=2).repeat(2, axis=3))


def test_parquet_shards_are_read_in_order(tmp_path):
    pixels = [noise(i) for i in range(5)]
    folder = tmp_path / "cifar10"
    write_parquet(folder / "train-00000-of-00002.parquet", [encode(p) for p in pixels[:2]], [3, 1])
    write_parquet(folder / "train-00001-of-00002.parquet", [encode(p) for p in pixels[2:]], [0, 9, 2])
    (folder / "meta.json").write_text(json.dumps({"class_names": list("abcdefghij")}))
    images = open_set("cifar10", "train", folder=tmp_path)
    assert np.array_equal(images.images, as_nchw(pixels))
    assert images.labels.tolist() == [3, 1, 0, 9, 2] and images.labels.dtype == np.int64
    assert images.class_names == tuple("abcdefghij")
    assert images.images.dtype == np.uint8 and not images.images.flags.writeable


def test_the_hubs_own_column_names_and_class_labels_are_known(tmp_path):
    write_parquet(tmp_path / "test.parquet", [encode(noise(0))], [1], columns=("img", "fine_label"))
    table = pq.read_table(tmp_path / "test.parquet")
    info = {"info": {"features": {"fine_label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "test.parquet")
    images = open_set(f"parquet:{tmp_path}", "test", folder=None)
    assert images.class_names == ("x", "y") and images.labels.tolist() == [1]


def test_without_names_the_classes_are_counted_over_all_splits(tmp_path):
    write_parquet(tmp_path / "train.parquet", [encode(noise(i)) for i in range(7)], [6, 1, 2, 3, 4, 5, 0])
    write_parquet(tmp_path / "test.parquet", [encode(noise(1))], [2])
    assert open_set(f"parquet:{tmp_path}", "test", folder=None).class_names == tuple("0123456")


def test_val_is_the_test_split_only_where_there_is_no_other(tmp_path):
    write_parquet(tmp_path / "val.parquet", [encode(noise(0))], [0], names=["a", "b"])
    assert np.array_equal(open_set(f"parquet:{tmp_path}", "test", folder=None).images, as_nchw([noise(0)]))
    write_parquet(tmp_path / "test.parquet", [encode(noise(1))], [0], names=["a", "b"])
    assert np.array_equal(open_set(f"parquet:{tmp_path}", "test", folder=None).images, as_nchw([noise(1)]))


def test_a_set_without_splits_is_a_test_split_and_says_so(tmp_path, caplog):
    write_parquet(tmp_path / "a" / "data.parquet", [encode(noise(0))], [0], names=["a", "b"])
    write_tree(tmp_path / "b")
    for name in (f"parquet:{tmp_path / 'a'}", f"folder:{tmp_path / 'b'}"):
        caplog.clear()
        assert len(open_set(name, "test", folder=None)) in (1, 6)
        assert "no split of its own" in caplog.text
        with pytest.raises(UsageError, match="no train images, only test"):
            open_set(name, "train", folder=None)


@pytest.mark.parametrize(("name", "files", "label", "meta", "names", "reader"), [
    ("cifar10", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], "labels", "batches.meta", "label_names",
     datasets.CIFAR10),
    ("cifar100", ["train", "test"], "fine_labels", "meta", "fine_label_names", datasets.CIFAR100),
])  # fmt: skip
def test_cifar_as_torchvision_keeps_it(tmp_path, monkeypatch, name, files, label, meta, names, reader):
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    count = 10 if name == "cifar10" else 100
    for number, file in enumerate(files):
        data = np.random.default_rng(number).integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": data, label: [number, 3, 0, 9]}, protocol=2))
    (folder / meta).write_bytes(pickle.dumps({names: [f"class {i}" for i in range(count)]}, protocol=2))
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "test"):
        torchvision_set, images = reader(tmp_path, train=split == "train"), open_set(name, split, folder=tmp_path)
        assert np.array_equal(images.images.transpose(0, 2, 3, 1), torchvision_set.data)
        assert images.labels.tolist() == torchvision_set.targets and list(images.class_names) == torchvision_set.classes


def test_svhn_as_torchvision_keeps_it(tmp_path, monkeypatch):
    for number, split in enumerate(("train", "test")):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3, 7), dtype=np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10, 1, 2, 9, 10, 5, 4]]).T})
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    for split in ("train", "test"):
        torchvision_set, images = datasets.SVHN(tmp_path, split=split), open_set("svhn", split, folder=tmp_path)
        assert np.array_equal(images.images, torchvision_set.data)
        assert images.labels.tolist() == torchvision_set.labels.tolist() == [0, 1, 2, 9, 0, 5, 4]


def test_caltech_as_torchvision_keeps_it(tmp_path):
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    write_tree(root, per_class=10, size=(40, 60), kind="jpg")
    (root / "BACKGROUND_Google").mkdir()
    torchvision_set = datasets.Caltech101(tmp_path)
    parts = {split: open_set("caltech101", split, folder=tmp_path) for split in ("train", "test")}
    assert {split: np.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [8, 8],
        "test": [2, 2],
    }
    assert list(parts["test"].class_names) == torchvision_set.categories == ["ant", "bee"]
    expected = {
        (np.asarray(i.resize((300, 200), Image.Resampling.BILINEAR)).tobytes(), label) for i, label in torchvision_set
    }
    pixels_and_labels = set()
    for part in parts.values():
        pixels_and_labels |= {
            (x.transpose(1, 2, 0).tobytes(), y) for x, y in zip(part.images, part.labels, strict=True)
        }
    assert pixels_and_labels == expected and len(expected) == 20


@pytest.mark.parametrize("annotated", [True, False])
def test_tiny_imagenet_as_it_is_handed_out_and_as_it_is_often_sorted(tmp_path, annotated):
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(("n02", "n01")):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / "images" / f"{wnid}_0.JPEG").write_bytes(encode(noise(label, 64, 64), "JPEG"))
        folder = root / "val" / ("images" if annotated else wnid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"val_{label}.JPEG").write_bytes(encode(noise(9 + label, 64, 64), "JPEG"))
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    if annotated:
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tant, emmet\nn02\tbee\nn03\tcow\n")
    test, train = (open_set("tiny_imagenet", split, folder=tmp_path) for split in ("test", "train"))
    assert test.class_names == ("n01 ant", "n02 bee")
    assert sorted(train.labels.tolist()) == sorted(test.labels.tolist()) == [0, 1]
    for label, seed in ((1, 9), (0, 10)):
        expected = np.asarray(Image.open(io.BytesIO(encode(noise(seed, 64, 64), "JPEG"))))
        (image,) = test.images[test.labels == label]
        assert np.array_equal(image.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("name", ["cifar100", "folder"])
def test_a_tree_of_folders_is_torchvisions_image_folder(tmp_path, name):
    root = tmp_path / "cifar100"
    write_tree(root / "train")
    write_tree(root / "val", per_class=2)
    (root / "val" / "bee" / "Thumbs.db").write_bytes(b"not an image")
    for split, folder in (("train", "train"), ("test", "val")):
        images = open_set(name if name == "cifar100" else f"folder:{root}", split, folder=tmp_path)
        torchvision_set = datasets.ImageFolder(root / folder)
        assert np.array_equal(images.images, as_nchw([image for image, _ in torchvision_set]))
        assert images.labels.tolist() == torchvision_set.targets and list(images.class_names) == torchvision_set.classes


def test_a_class_absent_from_one_split_keeps_the_numbers_of_the_others(tmp_path):
    write_tree(tmp_path / "train")
    (tmp_path / "test" / "bee").mkdir(parents=True)
    (tmp_path / "test" / "bee" / "0.png").write_bytes(encode(noise(0)))
    assert open_set(f"folder:{tmp_path}", "test", folder=None).labels.tolist() == [1]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_images_of_other_sizes_are_resized_as_pillow_does(tmp_path, interpolation):
    pixels = [noise(0, 40, 30), noise(1, 20, 64)]
    write_parquet(tmp_path / "test.parquet", [encode(p) for p in pixels], [0, 1])
    name = f"parquet:{tmp_path}"
    images = open_set(name, "test", folder=None, image_size=(24, 48), interpolation=interpolation)
    expected = [Image.fromarray(p).resize((48, 24), Image.Resampling[interpolation.upper()]) for p in pixels]
    assert np.array_equal(images.images, as_nchw(expected))
    with pytest.raises(UsageError, match=r"test.parquet row 1 is 20x64, not 40x30 .* image_size"):
        open_set(name, "test", folder=None)


def test_the_same_images_have_the_same_hash_in_any_layout(tmp_path):
    write_tree(tmp_path / "tree")
    order = datasets.ImageFolder(tmp_path / "tree")
    write_parquet(tmp_path / "one" / "x.parquet", [encode(np.asarray(i)) for i, _ in order], order.targets)
    names = [f"folder:{tmp_path / 'tree'}", f"parquet:{tmp_path / 'one'}"]
    first, second = (open_set(name, "test", folder=None) for name in names)
    assert first.sha == second.sha
    write_parquet(tmp_path / "one" / "x.parquet", [encode(np.asarray(i)) for i, _ in order], [1, *order.targets[1:]])
    assert open_set(names[1], "test", folder=None).sha != first.sha


def test_a_reference_finds_its_images_again_or_says_that_they_changed(tmp_path):
    path = tmp_path / "test.parquet"
    write_parquet(path, [encode(noise(i)) for i in range(4)], [0, 1, 0, 1])
    images = open_set(f"parquet:{tmp_path}", "test", folder=None)
    ref = data_ref(images, 2, "stratified")
    assert (ref.n, ref.num_classes, ref.image_shape, ref.data_sha) == (2, 2, (3, 32, 32), images.sha)
    rows = rows_of(open_ref(ref, folder=None), ref)
    assert sorted(images.labels[rows].tolist()) == [0, 1] and ref == data_ref(images, 2)
    first = data_ref(images, 2, "first")
    assert rows_of(open_ref(first, folder=None), first).tolist() == [0, 1]
    assert len({first.indices_sha, data_ref(images, 3).indices_sha, ref.indices_sha}) == 3
    write_parquet(path, [encode(noise(i)) for i in range(1, 5)], [0, 1, 0, 1])
    with pytest.raises(UsageError, match="not those that the plan was made for"):
        open_ref(ref, folder=None)


def test_a_size_that_changes_nothing_changes_no_key():
    plain = data_ref(open_set("digits", "test", folder=None))
    same = data_ref(open_set("digits", "test", folder=None, image_size=(8, 8), interpolation="nearest"))
    other = data_ref(open_set("digits", "test", folder=None, image_size=(16, 16), interpolation="nearest"))
    assert plain == same and plain.data_sha != other.data_sha


@pytest.mark.parametrize(
    ("name", "counts", "shape", "classes"),
    [
        ("cifar10", (50_000, 10_000), (3, 32, 32), 10),
        ("cifar100", (7_500, 4_000), (3, 32, 32), 100),
        ("svhn", (7_500, 2_500), (3, 32, 32), 10),
        ("tiny_imagenet", (10_000, 1_000), (3, 64, 64), 20),
        ("caltech101", (869, 388), (3, 200, 300), 13),
    ],
)
def test_real_sets_are_what_pillow_reads(real, name, counts, shape, classes):
    if not NAMED[name].available(real):
        pytest.skip(f"no {name} under {real}")
    # The train split of CIFAR-10 takes seconds to decode: its speed is measured elsewhere.
    for split, count in zip(("train", "test"), counts, strict=True):
        if (name, split) == ("cifar10", "train"):
            continue
        images = open_set(name, split, folder=real)
        assert images.images.shape == (count, *shape) and len(images.class_names) == classes
        file = next(path for path in sorted((real / name).glob("*.parquet")) if path.name.startswith((split, "val"))
                    and not (split == "train" and path.name.startswith("val")))  # fmt: skip
        for index, row in enumerate(pq.read_table(file).slice(0, 20).to_pylist()):
            expected = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            expected = expected.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
            assert np.array_equal(images.images[index].transpose(1, 2, 0), np.asarray(expected))
            assert images.labels[index] == row["label"]
