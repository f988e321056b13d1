"""Which folder or label is which class: as torchvision has it, as the user says, or refused."""

import numpy as np
import pyarrow as pa
import pytest
from torchvision.datasets import ImageFolder

from bench.data import data_ref, open_ref, open_set, rows_of
from bench.keys import identity
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet


def tree(root, *classes, images=2, seed=0):
    """Write class folders whose images differ from each other, and return how the harness names the set."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            (root / name / f"{index}.png").write_bytes(encode(noise(seed + 100 * number + index, 8, 8)))
    return f"folder:{root}"


def error_of(name, split="test", **options):
    with pytest.raises(UsageError) as caught:
        open_set(name, split, folder=None, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_name(images):
    """Return what does not depend on how classes are numbered: the set of (pixels, name of the class)."""
    return {(x.tobytes(), images.class_names[y]) for x, y in zip(images.images, images.labels, strict=True)}


ONE_TO_TEN = tuple(map(str, range(1, 11)))


def test_folders_named_by_numbers_are_in_the_order_of_numbers(tmp_path, caplog):
    name = tree(tmp_path, *ONE_TO_TEN)
    images, torchvision_images = open_set(name, "test", folder=None), ImageFolder(tmp_path)
    assert images.class_names == ONE_TO_TEN
    assert images.labels.tolist() == np.repeat(range(10), 2).tolist()
    for _ in range(2):
        open_set(name, "test", folder=None)
    assert caplog.text.count("in the order 1, 2, 3, ..., 10, not in torchvision's, 1, 10, 2, ..., 9") == 1
    assert 'classes = ["1", "10", "2", "3", "4", "5", "6", "7", "8", "9"] under [dataset]' in caplog.text
    caplog.clear()
    reordered = open_set(name, "test", folder=None, classes=tuple(torchvision_images.classes))
    assert list(reordered.class_names) == torchvision_images.classes
    labelled = {(np.asarray(image).transpose(2, 0, 1).tobytes(), label) for image, label in torchvision_images}
    assert {(x.tobytes(), y) for x, y in zip(reordered.images, reordered.labels, strict=True)} == labelled
    assert "order" not in caplog.text
    assert by_name(reordered) == by_name(images) and reordered.sha != images.sha


@pytest.mark.parametrize(
    "names", [("0", "1", "9"), ("01", "02", "10"), ("class1", "class10", "class2"), ("1", "10", "b")]
)
def test_any_other_names_are_in_torchvisions_order_without_a_word(tmp_path, caplog, names):
    images = open_set(tree(tmp_path, *names), "test", folder=None)
    assert list(images.class_names) == ImageFolder(tmp_path).classes and "order" not in caplog.text


def test_the_user_orders_the_classes(tmp_path):
    name = tree(tmp_path, "ant", "bee", "cow")
    usual = open_set(name, "test", folder=None)
    images = open_set(name, "test", folder=None, classes=("cow", "ant", "bee"))
    assert images.labels.tolist() == [1, 1, 2, 2, 0, 0] and by_name(images) == by_name(usual)
    ref = data_ref(images)
    assert open_ref(ref, folder=None).labels.tolist() == images.labels.tolist()
    assert len(rows_of(images, ref)) == 6 and ref.data_sha != data_ref(usual).data_sha
    named = open_set(name, "test", folder=None, classes=("ant", "bee", "cow"))
    assert named.sha == usual.sha and identity(data_ref(named)) == identity(data_ref(usual))
    assert "classes = [...] leaves out cow; the set has ant, bee, cow" in error_of(name, classes=("ant", "bee"))
    assert "classes = [...] names dog; the set" in error_of(name, classes=("ant", "bee", "cow", "dog"))


def test_the_same_images_elsewhere_are_the_same_data(tmp_path):
    refs = []
    for folder in (tmp_path / "here", tmp_path / "far" / "away"):
        tree(folder / "train", "ant", "bee", images=3, seed=7)
        refs.append(
            data_ref(open_set(tree(folder / "test", "ant", "bee").removesuffix("/test"), "test", folder=None), 2)
        )
    assert refs[0].name != refs[1].name
    assert refs[0].model_copy(update={"name": ""}) == refs[1].model_copy(update={"name": ""})


def test_images_one_folder_too_deep_are_refused(tmp_path):
    tree(tmp_path / "a" / "images", "ant", "bee")
    line = error_of(f"folder:{tmp_path / 'a'}")
    assert "all images lie in one class folder" in line and "<split>/<class>/" in line
    assert f"did you mean folder:{tmp_path / 'a' / 'images'}, which holds ant, bee?" in line
    tree(tmp_path / "b" / "photos" / "train", "ant", "bee")
    assert f"did you mean folder:{tmp_path / 'b' / 'photos'}, which holds train?" in error_of(
        f"folder:{tmp_path / 'b'}"
    )
    tree(tmp_path / "c" / "test", "all")
    assert f"in one class folder, {tmp_path / 'c' / 'test' / 'all'}; " in error_of(f"folder:{tmp_path / 'c'}")
    for split in ("train", "test"):
        tree(tmp_path / "d" / split / "images", "ant", "bee")
    assert "in one class folder, " in error_of(f"folder:{tmp_path / 'd'}", "train")
    for part in ("session1", "session2"):
        tree(tmp_path / "e" / part, "ant", "bee")
    assert "each of session1, session2 holds the same folders, ant, bee" in error_of(f"folder:{tmp_path / 'e'}")
    images = open_set(f"folder:{tmp_path / 'e'}", "test", folder=None, classes=("session1", "session2"))
    assert images.labels.tolist() == [0] * 4 + [1] * 4


def test_splits_whose_classes_do_not_agree_are_refused(tmp_path):
    tree(tmp_path / "train", "ant", "bee")
    name = tree(tmp_path / "test", "all").removesuffix("/test")
    for split in ("train", "test"):
        assert "test has all, which" in error_of(name, split)
    assert open_set(name, "test", folder=None, classes=("ant", "bee", "all")).labels.tolist() == [2, 2]


def test_folders_without_an_image_are_no_classes(tmp_path):
    tree(tmp_path / "train", "ant", "bee", "cow")
    name = tree(tmp_path / "test", "ant", "bee").removesuffix("/test")
    assert set(open_set(name, "test", folder=None).class_names) == {"ant", "bee", "cow"}
    (tmp_path / "train" / "annotations").mkdir()
    assert "no image in annotations/" in error_of(name)
    images = open_set(name, "test", folder=None, classes=("ant", "annotations", "bee", "cow"))
    assert images.labels.tolist() == [0, 0, 2, 2]


def test_split_folders_without_class_folders_are_no_classes(tmp_path):
    assert "test/, train/ hold images, not class folders" in error_of(tree(tmp_path, "train", "test"))
    # A train may well be a class.
    assert open_set(tree(tmp_path / "b", "train", "plane"), "test", folder=None).class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "TEST"), ("training", "testing"), ("TRAIN", "Val"), ("train", "valid")]
)
def test_splits_may_be_written_otherwise(tmp_path, train, test):
    tree(tmp_path / train, "ant", "bee", images=3)
    name = tree(tmp_path / test, "ant", "bee", seed=50).removesuffix(f"/{test}")
    for split, folder in (("train", train), ("test", test)):
        images, torchvision_images = open_set(name, split, folder=None), ImageFolder(tmp_path / folder)
        assert (
            images.labels.tolist() == torchvision_images.targets
            and list(images.class_names) == torchvision_images.classes
        )
        assert np.array_equal(images.images[0].transpose(1, 2, 0), np.asarray(torchvision_images[0][0]))


def test_two_folders_that_could_be_one_split_are_refused(tmp_path):
    tree(tmp_path / "train", "ant", "bee")
    name = tree(tmp_path / "Training", "ant", "bee").removesuffix("/Training")
    assert "Training/, train/ could all be the train split" in error_of(name, "train")


@pytest.mark.parametrize("name", ["Test.parquet", "TEST-00000-of-00001.parquet", "VALID.parquet"])
def test_splits_of_parquet_may_be_in_capitals(tmp_path, name):
    write_parquet(tmp_path / "Train.parquet", [encode(noise(i)) for i in range(3)], [0, 1, 1])
    write_parquet(tmp_path / name, [encode(noise(5))], [1])
    assert len(open_set(f"parquet:{tmp_path}", "train", folder=None)) == 3
    assert len(open_set(f"parquet:{tmp_path}", "test", folder=None)) == 1


def table(folder, labels, **options):
    write_parquet(folder / "test.parquet", [encode(noise(i, 8, 8)) for i in range(len(labels))], labels, **options)
    return f"parquet:{folder}"


def test_labels_from_one_are_said_and_no_class_is_empty(tmp_path, caplog):
    name = table(tmp_path, [3, 1, 2, 10, 4, 5, 6, 7, 8, 9])
    images = open_set(name, "test", folder=None)
    assert images.labels.tolist() == [2, 0, 1, 9, 3, 4, 5, 6, 7, 8] and images.class_names == ONE_TO_TEN
    open_set(name, "test", folder=None)
    assert caplog.text.count("labels are 1 to 10 and have no names: taken as classes 0 to 9") == 1
    caplog.clear()
    # As torchvision's SVHN has it: the digit 0 is written as 10.
    order = ("10", *map(str, range(1, 10)))
    assert open_set(name, "test", folder=None, classes=order).labels.tolist() == [3, 1, 2, 0, 4, 5, 6, 7, 8, 9]
    assert "labels" not in caplog.text


def test_labels_from_zero_are_classes_as_they_are(tmp_path, caplog):
    images = open_set(table(tmp_path, [1, 0, 2]), "test", folder=None)
    assert images.labels.tolist() == [1, 0, 2] and images.class_names == ("0", "1", "2")
    assert "labels" not in caplog.text
    wider = open_set(f"parquet:{tmp_path}", "test", folder=None, classes=("0", "1", "2", "3"))
    assert wider.labels.tolist() == [1, 0, 2] and len(wider.class_names) == 4


@pytest.mark.parametrize("labels", [[0, 2, 3], [2, 3, 4], [7, 500, 12], [-1, 0, 1]])
def test_labels_with_gaps_are_refused_until_the_classes_are_named(tmp_path, labels):
    name = table(tmp_path, labels)
    assert "without names and not 0 to K-1 without a gap; if these are the classes, give classes" in error_of(name)
    order = tuple(map(str, sorted(labels, reverse=True)))
    images = open_set(name, "test", folder=None, classes=order)
    assert [images.class_names[label] for label in images.labels] == [str(label) for label in labels]
    assert "leaves out" in error_of(name, classes=order[1:])


def test_labels_that_are_texts(tmp_path, caplog):
    labels = ["cow", "ant", "bee", "ant"]
    images = open_set(table(tmp_path / "a", labels), "test", folder=None)
    assert images.class_names == ("ant", "bee", "cow") and images.labels.tolist() == [2, 0, 1, 0]
    coded = open_set(table(tmp_path / "b", pa.array(labels).dictionary_encode()), "test", folder=None)
    assert coded.sha == images.sha and "order" not in caplog.text
    named = open_set(table(tmp_path / "c", labels, names=["bee", "cow", "ant"]), "test", folder=None)
    assert named.class_names == ("bee", "cow", "ant") and named.labels.tolist() == [1, 2, 0, 2]
    again = open_set(f"parquet:{tmp_path / 'a'}", "test", folder=None, classes=("bee", "cow", "ant"))
    assert again.sha == named.sha
    assert open_set(table(tmp_path / "d", ["2", "10", "1"]), "test", folder=None).labels.tolist() == [1, 2, 0]
    assert "in the order 1, 2, 10, not 1, 10, 2" in caplog.text
    write_parquet(tmp_path / "a" / "train.parquet", [encode(noise(0))], [0])
    assert "its labels are numbers, unlike those of" in error_of(f"parquet:{tmp_path / 'a'}").replace(
        "texts", "numbers"
    )


def test_names_in_a_table_are_ordered_by_the_user(tmp_path):
    name = table(tmp_path, [0, 2, 1], names=["ant", "bee", "cow"])
    images = open_set(name, "test", folder=None, classes=("cow", "bee", "ant"))
    assert images.labels.tolist() == [2, 0, 1] and images.class_names == ("cow", "bee", "ant")
    assert "names dog" in error_of(name, classes=("ant", "bee", "cow", "dog"))


def test_a_table_of_one_class_and_one_with_a_class_that_was_not_trained_are_refused(tmp_path):
    assert "all images are of one class, 0; two are needed" in error_of(table(tmp_path / "a", [0, 0]))
    write_parquet(tmp_path / "b" / "train.parquet", [encode(noise(i)) for i in range(2)], [0, 1])
    assert "test has the labels 2, train has not" in error_of(table(tmp_path / "b", [0, 2]))


def test_a_named_set_has_the_classes_that_it_has_by_definition(tmp_path):
    write_parquet(tmp_path / "svhn" / "test.parquet", [encode(noise(i)) for i in range(2)], [4, 2])
    assert open_set("svhn", "test", folder=tmp_path).class_names == tuple("0123456789")
    write_parquet(tmp_path / "svhn" / "test.parquet", [encode(noise(i)) for i in range(2)], [1, 10])
    with pytest.raises(UsageError, match="row 1: label 10 is not one of the 10 classes"):
        open_set("svhn", "test", folder=tmp_path)
