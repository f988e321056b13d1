"""Sets of common corruptions: their authors' files against other readers of them, and files that are not theirs."""

import csv
import io
import os
import pickle
from dataclasses import replace
from operator import and_

import numpy as np
import pyarrow.parquet as pq
import pytest
from torchvision.datasets import ImageFolder

from bench.cli import main
from bench.data import NAMED, corrupted, data_ref, has_split, named_set, open_ref, open_set, rows_of
from bench.store.working_store import Store
from bench.types import CORRUPTIONS, Threat, UsageError
from tests.data.image_files import encode, noise, write_parquet

EACH = 20


@pytest.fixture
def small(monkeypatch):
    """Files of 20 images in each condition, where the authors' have 10,000 or 50,000."""
    monkeypatch.setattr(corrupted, "_CIFAR_IMAGES", EACH)
    monkeypatch.setattr(corrupted, "_IMAGENET_IMAGES", EACH)


def labels(classes=10):
    return np.tile(np.arange(EACH) % classes, 5)


def write_arrays(root, *corruptions, folder="CIFAR-10-C"):
    """Write the files of some corruptions; each image has one colour of its own."""
    (root / folder).mkdir(exist_ok=True)
    np.save(root / folder / "labels.npy", labels())
    arrays = {}
    for number, corruption in enumerate(corruptions):
        colours = np.random.default_rng(number).integers(0, 256, (5 * EACH, 1, 1, 3), dtype=np.uint8)
        arrays[corruption] = np.tile(colours, (1, 32, 32, 1))
        np.save(root / folder / f"{corruption}.npy", arrays[corruption])
    return arrays


def write_folders(root, corruption, severity, classes=("n01", "n02"), each=10):
    for label, name in enumerate(classes):
        folder = root / corruption / str(severity) / name
        folder.mkdir(parents=True)
        for index in range(each):
            file = encode(noise(100 * severity + 10 * label + index, 224, 224), "JPEG")
            (folder / f"ILSVRC2012_val_{index:08}.JPEG").write_bytes(file)


def error_of(name, root, split="test"):
    with pytest.raises(UsageError) as caught:
        open_set(name, split, folder=root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_an_array_of_the_true_size_has_severities_in_blocks(tmp_path):
    (tmp_path / "CIFAR-10-C").mkdir()
    draw = np.random.default_rng(0)
    # Files of the true size, with holes where nothing is read.
    array = np.lib.format.open_memmap(tmp_path / "CIFAR-10-C" / "fog.npy", "w+", np.uint8, (50_000, 32, 32, 3))
    array[20_000:20_100] = draw.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    array.flush()
    labels = draw.integers(0, 10, 10_000, dtype=np.uint8)
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.tile(labels, 5))
    images = open_set("cifar10-c:fog:3", "test", folder=tmp_path)
    assert images.images.shape == (10_000, 3, 32, 32) and not images.ordered
    written = np.load(tmp_path / "CIFAR-10-C" / "fog.npy")[20_000:30_000]
    assert np.array_equal(images.images.transpose(0, 2, 3, 1), written) and written[:100].any()
    assert np.array_equal(images.labels, labels)


@pytest.mark.parametrize("place", ["CIFAR-10-C", "cifar10-c", "cifar10-c/CIFAR-10-C"])
def test_every_place_of_the_folder(tmp_path, small, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    array = write_arrays(tmp_path, "fog", folder=place)["fog"]
    for root in (tmp_path, *([tmp_path / place] if place == "CIFAR-10-C" else [])):
        images = open_set("cifar10-c:fog:5", "test", folder=root)
        assert np.array_equal(images.images.transpose(0, 2, 3, 1), array[4 * EACH :])
        assert images.labels.tolist() == labels()[4 * EACH :].tolist()


def test_several_conditions_have_all_copies_of_an_image_together(tmp_path, small):
    arrays = write_arrays(tmp_path, *corrupted.CORRUPTIONS)
    of_fog = open_set("cifar10-c:fog", "test", folder=tmp_path)
    assert np.array_equal(of_fog.images[:5].transpose(0, 2, 3, 1), arrays["fog"][::EACH])
    at_two = open_set("cifar10-c:2", "test", folder=tmp_path)
    expected = np.stack([array[EACH : 2 * EACH] for array in arrays.values()], axis=1)
    assert np.array_equal(at_two.images.transpose(0, 2, 3, 1), expected.reshape(-1, 32, 32, 3))
    assert at_two.labels.tolist() == np.repeat(labels()[:EACH], 15).tolist()
    every = open_set("cifar10-c", "test", folder=tmp_path)
    assert every.images.shape == (75 * EACH, 3, 32, 32) and np.bincount(every.labels).tolist() == [150] * 10
    # A few of these are a sample of all conditions, and the first are those of the first images.
    assert data_ref(every, 100).subset == "stratified" and every.ordered
    # Labels that are known without the images are those beside them.
    location = corrupted.find(tmp_path, "cifar10-c", 10)
    assert np.array_equal(location.source("test").labels(), every.labels)


def test_the_further_corruptions_are_read_and_not_counted(tmp_path, small):
    write_arrays(tmp_path, *corrupted.CORRUPTIONS, "spatter")
    assert len(open_set("cifar10-c:spatter", "test", folder=tmp_path)) == 5 * EACH
    assert len(open_set("cifar10-c", "test", folder=tmp_path)) == 75 * EACH


def test_a_reference_finds_its_part_again(tmp_path, small):
    write_arrays(tmp_path, "fog", "snow")
    ref = data_ref(open_set("cifar10-c:snow:4", "test", folder=tmp_path), 7)
    assert (ref.name, ref.n, ref.num_classes, ref.subset) == ("cifar10-c:snow:4", 7, 10, "first")
    assert open_ref(ref, folder=tmp_path).sha == ref.data_sha
    assert data_ref(open_set("cifar10-c:fog:4", "test", folder=tmp_path), 7).data_sha != ref.data_sha


def test_training_images_and_names_of_classes_are_those_of_the_set_without_corruptions(tmp_path, small):
    write_arrays(tmp_path, "fog")
    assert not has_split("cifar10-c:fog:1", "train", tmp_path)
    line = error_of("cifar10-c:fog:1", tmp_path, "train")
    assert line.endswith("has no train images, only test; networks for it are trained on cifar10, which is not found")
    assert open_set("cifar10-c:fog:1", "test", folder=tmp_path).class_names == tuple("0123456789")
    files = [encode(noise(index)) for index in range(4)]
    write_parquet(tmp_path / "cifar10" / "train.parquet", files, [3, 1, 0, 9], names=list("abcdefghij"))
    plain, train = (open_set(name, "train", folder=tmp_path) for name in ("cifar10", "cifar10-c:fog:1"))
    # The hash names the images in the key of a training, so that one training serves both.
    assert train.sha == plain.sha and train.labels.tolist() == [3, 1, 0, 9]
    assert open_set("cifar10-c:fog:1", "test", folder=tmp_path).class_names == tuple("abcdefghij")


@pytest.mark.parametrize("group", ["", "weather"])
def test_image_files_are_torchvisions_image_folder(tmp_path, small, monkeypatch, group):
    for severity in (1, 2):
        write_folders(tmp_path / "ImageNet-C" / group, "fog", severity)
    entry = NAMED["imagenet-c"]
    monkeypatch.setattr("bench.data.named.NAMED", {"imagenet-c": replace(entry, num_classes=2)})
    images = open_set("imagenet-c:fog:2", "test", folder=tmp_path)
    reader = ImageFolder(tmp_path / "ImageNet-C" / group / "fog" / "2")
    expected = np.stack([np.asarray(image) for image, _ in reader]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.images, expected) and images.labels.tolist() == reader.targets
    assert images.ordered and images.class_names == ("n01", "n02")
    assert f"no folder fog/3/, there or in {', '.join(corrupted._GROUPS)}" in error_of("imagenet-c:fog:3", tmp_path)
    next((tmp_path / "ImageNet-C" / group / "fog" / "2").rglob("*.JPEG")).unlink()
    assert "2: 19 images, not 20; unpack its archive again" in error_of("imagenet-c:fog:2", tmp_path)


def test_image_folders_of_too_few_classes(tmp_path, small):
    write_folders(tmp_path / "ImageNet-C", "fog", 1, each=1)
    assert "fog/1: 2 class folders (n01, n02), not 1,000" in error_of("imagenet-c:fog:1", tmp_path)


def damaged(path, kind):
    if kind == "gone":
        path.unlink()
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "text":
        path.write_bytes(b"no array\n")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps([1, 2]))
    elif kind == "objects":
        np.save(path, np.array([Trap()] * 5 * EACH, dtype=object), allow_pickle=True)
    elif kind == "floats":
        np.save(path, np.load(path).astype(np.float32))
    elif kind == "few":
        np.save(path, np.load(path)[1:])


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


DAMAGE = {
    "gone": "is missing",
    "pipe": "is not a regular file",
    "cut": "not a whole npy file of numbers",
    "text": "not a whole npy file of numbers",
    "pickle": "not a whole npy file of numbers",
    "objects": "not a whole npy file of numbers (ValueError: Array can't be memory-mapped: Python objects in dtype.)",
    "floats": "float32 (100",
    "few": "(99",
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", ["fog.npy", "labels.npy"])
def test_a_file_that_is_not_the_authors_is_one_line(tmp_path, small, monkeypatch, file, kind):
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path, "fog")
    path = tmp_path / "CIFAR-10-C" / file
    damaged(path, kind)
    line = error_of("cifar10-c:fog:1", tmp_path)
    assert str(path) in line and DAMAGE[kind] in line
    assert not (tmp_path / "unpickled").exists()


def test_arrays_of_another_shape_or_of_another_set(tmp_path, small):
    write_arrays(tmp_path, "fog")
    folder = tmp_path / "CIFAR-10-C"
    np.save(folder / "fog.npy", np.zeros((5 * EACH, 3, 32, 32), np.uint8))
    assert f"fog.npy: uint8 ({5 * EACH}, 3, 32, 32), not uint8 ({5 * EACH}, 32, 32, 3)" in error_of(
        "cifar10-c:fog", tmp_path
    )
    folder.rename(tmp_path / "CIFAR-100-C")
    np.save(tmp_path / "CIFAR-100-C" / "fog.npy", np.zeros((5 * EACH, 32, 32, 3), np.uint8))
    line = error_of("cifar100-c:fog:1", tmp_path)
    assert "10 labels from 0 to 9, not all of 0 to 99; is it the file of another set?" in line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cifar10-c:fgo:3", "unknown corruption 'fgo'; did you mean 'fog'?"),
        ("cifar10-c:../fog:3", "unknown corruption '../fog'"),
        ("cifar10-c:", "unknown corruption ''"),
        ("cifar10-c:fog:6", "severity '6' is none of 1 to 5; right is, for example, cifar10-c:fog:3"),
        ("cifar10-c:fog:", "severity '' is none of 1 to 5"),
        ("cifar10-c:0", "severity '0' is none of 1 to 5"),
        ("cifar10-c:3:fog", "severity '3:fog' is none of 1 to 5"),
        ("cifar10:fog:3", "unknown dataset 'cifar10:fog:3'"),
    ],
)
def test_a_part_that_there_is_not(tmp_path, name, line):
    assert line in error_of(name, tmp_path)


def test_nothing_is_downloaded_and_the_line_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CROSSFIRE_OFFLINE")
    line = error_of("cifar100-c:fog:1", tmp_path)
    assert f"no CIFAR-100-C/ in {tmp_path} (--data)" in line and "https://zenodo.org/records/3555552" in line
    assert not named_set("cifar100-c:fog:1").available(tmp_path)


def test_a_run_trains_on_cifar10_and_tests_on_its_corruptions(tmp_path, small, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path, "fog")
    files = [encode(noise(index)) for index in range(20)]
    write_parquet(tmp_path / "cifar10" / "train.parquet", files, list(range(10)) * 2, names=list("abcdefghij"))
    (tmp_path / "my.toml").write_text(
        'schema = 1\nname = "my"\n[dataset]\nname = "cifar10-c:fog:3"\nn = 8\n[[models]]\narch = "small-cnn"\n'
        'channels = 4\nhidden = 8\n[train]\nepochs = 1\n[[defenses]]\nuse = "standard"\n[[attacks]]\nuse = "fgsm"\n'
    )
    assert main(["run", "my.toml", "--data", str(tmp_path), "--store", "store", "--device", "cpu"]) == 0
    assert "cifar10-c:fog:3" in capsys.readouterr().out


def test_a_clean_cell_counts_what_is_right_of_each_corruption(tmp_path, small, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path, *CORRUPTIONS)
    files = [encode(noise(index)) for index in range(20)]
    write_parquet(tmp_path / "cifar10" / "train.parquet", files, list(range(10)) * 2, names=list("abcdefghij"))
    (tmp_path / "my.toml").write_text(
        'schema = 1\nname = "my"\n[dataset]\nname = "cifar10-c"\nn = 900\n[[models]]\narch = "small-cnn"\n'
        'channels = 4\nhidden = 8\n[train]\nepochs = 0\n[[defenses]]\nuse = "standard"\n[[attacks]]\nuse = "fgsm"\n'
    )
    command = ["run", "my.toml", "--only", "clean", "--data", str(tmp_path), "--store", "store", "--device", "cpu"]
    assert main(command) == 0
    assert "mCE" in capsys.readouterr().out
    store = Store(tmp_path / "store")
    (result,) = store.results()
    records = pq.read_table(store.records(result.key)).to_pylist()
    # Copies of an image follow each other, corruption by corruption, each from the least severity to the greatest.
    of = [CORRUPTIONS[row["index"] % 75 // 5] + str(row["index"] % 5 + 1) for row in records]
    right = [row["clean"] == row["label"] for row in records]
    assert {f"{count.kind}{count.severity}": (count.n, count.right) for count in result.by_corruption} == {
        condition: (of.count(condition), sum(map(and_, (each == condition for each in of), right)))
        for condition in dict.fromkeys(of)
    }
    assert 0 < sum(right) < 900 and len(set(of)) == 75


def test_folders_hold_one_condition_after_another():
    rows = np.array([0, 49_999, 50_000, 100_001, 200_000])
    right = np.array([True, False, True, True, False])
    counts = corrupted.counts("imagenet-c:fog", rows, right)
    assert [(each.kind, each.severity, each.n, each.right) for each in counts] == [
        ("fog", 1, 2, 1),
        ("fog", 2, 1, 1),
        ("fog", 3, 1, 1),
        ("fog", 5, 1, 0),
    ]
    assert corrupted.counts("cifar10", rows, right) == ()


ATTACKED = """
schema = 1
name = "my"
[dataset]
name = "digits"
n = 40
subset = "stratified"
[[models]]
arch = "small-cnn"
channels = 4
hidden = 8
[train]
epochs = 0
[[defenses]]
use = "standard"
[[defenses]]
use = "bit-depth"
[[attacks]]
use = "corrupted:release"
severity = [5, 2]
kind = "fog"
"""


def write_release(folder, kinds=("fog",)):
    """Write files of corrupted digits as those of CIFAR-10-C are; return the arrays by kind."""
    digits = open_set("digits", "test", folder=None)
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(digits.labels, 5).astype(np.uint8))
    arrays = {}
    for number, kind in enumerate(kinds):
        arrays[kind] = np.random.default_rng(number).integers(0, 256, (5 * len(digits), 8, 8), dtype=np.uint8)
        np.save(folder / f"{kind}.npy", arrays[kind])
    return arrays


def run(tmp_path, text):
    (tmp_path / "my.toml").write_text(text)
    return main(["run", "my.toml", "--store", "store", "--device", "cpu"])


def test_the_authors_files_are_columns_beside_those_of_attacks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fog = write_release(tmp_path / "release")["fog"]
    assert run(tmp_path, ATTACKED) == 0
    assert "corrupted:release" in capsys.readouterr().out
    results = {result.names.attack: result for result in Store(tmp_path / "store").results() if result.cell.attack}
    for severity in (2, 5):
        result = results[f"corrupted:release[kind=fog,severity={severity}]"]
        assert result.cell.attack.threat == Threat(norm="corruption", eps=None)
        images = open_set("digits", "test", folder=None)
        rows = rows_of(images, result.cell.data)
        moved = fog[(severity - 1) * 500 + rows] / 255 - images.images[rows, 0] / 255
        assert result.metrics.mean_linf == pytest.approx(np.abs(moved).max((1, 2)).mean(), abs=1e-6)
    # They adapt to nothing: a step has them under static access alone.
    accesses = {(result.names.defense, result.names.access) for result in Store(tmp_path / "store").results()}
    assert accesses == {("standard", "white-box"), ("bit-depth", "static")}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / "labels.npy").unlink(), "no file"),
        (lambda folder: (folder / "fog.npy").unlink(), "no file"),
        (lambda folder: damaged(folder / "labels.npy", "few"), "not a whole number for each of 2,500 images"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(2500, np.int64)), "labels.npy: the label of image"),
        (lambda folder: damaged(folder / "fog.npy", "few"), "has 2,499 images: not five severities of a set"),
        (
            lambda folder: np.save(folder / "fog.npy", np.zeros((2250, 8, 8), np.uint8)),
            "not five times the 500 of digits",
        ),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((2505, 8, 8), np.uint8)), "and the set 2,500 at most"),
        (lambda folder: damaged(folder / "fog.npy", "objects"), "holds pickled Python objects"),
    ],
)
def test_files_beside_attacks_that_are_not_the_authors_are_one_line(tmp_path, monkeypatch, capsys, change, line):
    monkeypatch.chdir(tmp_path)
    write_release(tmp_path / "release")
    change(tmp_path / "release")
    assert run(tmp_path, ATTACKED) == 2
    said = capsys.readouterr().err
    assert line in said and not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('use = "corrupted:"', "'corrupted:' names no folder; right is: corrupted:DIR"),
        ('use = "corrupted:release"\naccess = ["adaptive"]', "saved images adapt to no defense"),
        ('use = "corrupted:release"\neps = "8/255"', "common corruptions have a severity and no eps"),
        ('use = "corrupted:release"\nseverity = 0', "severity"),
    ],
)
def test_what_the_authors_files_do_not_take_is_one_line(tmp_path, monkeypatch, capsys, text, line):
    monkeypatch.chdir(tmp_path)
    write_release(tmp_path / "release")
    assert run(tmp_path, ATTACKED.partition("[[attacks]]")[0] + f"[[attacks]]\n{text}\n") == 2
    assert line in capsys.readouterr().err


def test_fifteen_files_give_a_mean_corruption_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_release(tmp_path / "release", CORRUPTIONS)
    kinds = ", ".join(f'"{kind}"' for kind in CORRUPTIONS)
    assert run(tmp_path, ATTACKED.replace('kind = "fog"', f"kind = [{kinds}]").replace("[5, 2]", "5")) == 0
    capsys.readouterr()
    assert main(["leaderboard", "--store", "store", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row in rows:
        cells = [
            float(value)
            for name, value in row.items()
            if name.startswith("corrupted:") and name.endswith("corruptions)")
        ]
        assert len(cells) == 15
        error = float(row["mCE, unnormalised, severity 5 (common corruptions)"])
        assert error == pytest.approx(1 - sum(cells) / 15, abs=1e-6)
