"""``[dataset]`` as a configuration has it: from the file to the images of the plan, and what the tables say of them."""

import numpy as np
import pytest

import bench.data.cache as cache
import bench.data.memo as memo
from bench.cli import main
from bench.config.sections import load
from bench.data import open_ref, open_set, rows_of
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet

METHODS = """
[[models]]
arch = "small-cnn"
channels = 4
hidden = 8
[train]
epochs = 0
[[defenses]]
use = "standard"
[[attacks]]
use = "fgsm"
"""


@pytest.fixture
def photos(tmp_path):
    """Ten classes, three of twelve images of each for the test; files of one class come together."""
    for split, count in (("train", 9), ("test", 3)):
        for label in range(10):
            folder = tmp_path / "photos" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * (split == "test") + 20 * label + index
                (folder / f"{index}.png").write_bytes(encode(noise(seed, 8, 8)))
    return tmp_path / "photos"


def write_config(tmp_path, name, dataset="", methods=METHODS):
    path = tmp_path / "my.toml"
    path.write_text(f'schema = 1\nname = "my"\n[dataset]\nname = "{name}"\n{dataset}\n{methods}')
    return path


def planned_cell(tmp_path, name, dataset=""):
    return make(load(str(write_config(tmp_path, name, dataset)))).plan.cells[0].cell


def class_counts(ref):
    images = open_ref(ref, folder=None)
    return np.bincount(images.labels[rows_of(images, ref)], minlength=len(images.class_names)).tolist()


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_part_of_an_own_set_is_of_every_class_by_default(tmp_path, photos, kind):
    folder = photos
    if kind == "parquet":
        folder = tmp_path / "tables"
        for split in ("train", "test"):
            images = open_set(f"folder:{photos}", split, folder=None)
            files = [encode(np.ascontiguousarray(x.transpose(1, 2, 0))) for x in images.images]
            write_parquet(folder / f"{split}.parquet", files, images.labels.tolist())
    cell = planned_cell(tmp_path, f"{kind}:{folder}", "n = 20\ntrain_n = 40")
    assert class_counts(cell.data) == [2] * 10 and class_counts(cell.model.weights.data) == [4] * 10
    assert (cell.data.subset, cell.data.classes_present) == ("stratified", None)
    again = planned_cell(tmp_path, f"{kind}:{folder}", 'n = 20\ntrain_n = 40\nsubset = "stratified"')
    assert again.data == cell.data and again.model == cell.model
    first = planned_cell(tmp_path, f"{kind}:{folder}", 'n = 20\ntrain_n = 40\nsubset = "first"')
    assert class_counts(first.data) == [3] * 6 + [2] + [0] * 3 and first.data.classes_present == 7
    assert class_counts(first.model.weights.data) == [9] * 4 + [4] + [0] * 5


def test_a_named_set_in_mixed_order_keeps_its_first_and_a_sorted_one_is_stratified(tmp_path):
    digits = planned_cell(tmp_path, "digits", "n = 30\ntrain_n = 50")
    images = open_set("digits", "test", folder=None)
    assert digits.data.subset == "first" and rows_of(images, digits.data).tolist() == list(range(30))
    for number, split in enumerate(("train", "test")):
        for label in range(10):
            folder = tmp_path / "svhn" / split / str(label)
            folder.mkdir(parents=True)
            for index in range(4):
                (folder / f"{index}.png").write_bytes(encode(noise(1000 * number + 10 * label + index)))
    config = load(str(write_config(tmp_path, "svhn", "n = 10\ntrain_n = 20")))
    cell = make(config, data_folder=tmp_path).plan.cells[0].cell
    assert cell.data.subset == cell.model.weights.data.subset == "stratified"
    sorted_set = open_set("svhn", "test", folder=tmp_path)
    assert sorted(sorted_set.labels[rows_of(sorted_set, cell.data)].tolist()) == list(range(10))


def test_the_configuration_orders_classes_and_chooses_channels(tmp_path, photos):
    order = [f"class{label}" for label in reversed(range(10))]
    cell = planned_cell(tmp_path, f"folder:{photos}", f"classes = {order}\nchannels = 1")
    usual = planned_cell(tmp_path, f"folder:{photos}")
    assert cell.data.image_shape == (1, 8, 8) and usual.data.image_shape == (3, 8, 8)
    assert open_ref(cell.data, folder=None).class_names == tuple(order)
    assert open_ref(cell.model.weights.data, folder=None).class_names == tuple(order)
    assert cell.data.data_sha != usual.data.data_sha


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('classes = ["a", "a"]', "'a' is given twice"),
        ('classes = ["a"]', "classes"),
        ("channels = 2", "channels"),
        ('subset = "last"', "subset"),
        ('clases = ["a", "b"]', "did you mean 'classes'"),
    ],
)
def test_a_key_or_value_that_is_none_is_one_line(tmp_path, line, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(str(write_config(tmp_path, "digits", line)))
    assert "\n" not in str(caught.value)


def test_classes_may_be_written_as_numbers(tmp_path):
    for label in (1, 2, 10):
        (tmp_path / "tree" / str(label)).mkdir(parents=True)
        (tmp_path / "tree" / str(label) / "0.png").write_bytes(encode(noise(label)))
    config = load(str(write_config(tmp_path, f"folder:{tmp_path / 'tree'}", "classes = [10, 1, 2]")))
    assert config.dataset.classes == ("10", "1", "2")


def run(tmp_path, name, dataset, *more):
    store = tmp_path / "store"
    arguments = ["run", str(write_config(tmp_path, name, dataset)), "--store", str(store), "--device", "cpu"]
    return main([*arguments, "--report", str(tmp_path / "report"), *more]), store


def test_tables_say_which_classes_are_missing(tmp_path, photos, capsys):
    code, store = run(tmp_path, f"folder:{photos}", 'n = 10\ntrain_n = 20\nsubset = "first"')
    assert code == 0
    # Ten images in the order of their files: three of each of three classes, and one of a fourth.
    for kind in ("md", "csv", "tex"):
        capsys.readouterr()
        assert main(["leaderboard", "--store", str(store), "--format", kind]) == 0
        output = capsys.readouterr().out
        assert "the 10 test images are of 4 of 10 classes" in output
        assert "the 20 training images are of 3 of 10 classes" in output
    assert "4 of 10 classes" in (tmp_path / "report" / "index.html").read_text()
    assert {result.cell.data.classes_present for result in Store(store).results()} == {4}
    assert run(tmp_path, f"folder:{photos}", "n = 10")[0] == 0
    classes_present = {r.cell.data.indices_sha: r.cell.data.classes_present for r in Store(store).results()}
    assert sorted(classes_present.values(), key=str) == [4, None]


def test_verify_finds_images_that_were_altered_in_the_cache(tmp_path, photos, caplog, capsys):
    assert run(tmp_path, f"folder:{photos}", "n = 10")[0] == 0
    original = open_set(f"folder:{photos}", "test", folder=None)
    pixels = np.array(original.images)
    folders = (memo.cache_folder() / "decoded").iterdir()
    (entry,) = (folder for folder in folders if memo.recall(folder / "about.json")["sha"] == original.sha)
    altered = np.load(entry / "images.npy", mmap_mode="r+")
    altered[:] = 255 - pixels
    altered.flush()
    memo.keep(entry / "about.json", {**memo.recall(entry / "about.json"), "stamps": cache._stamps(entry)})
    capsys.readouterr()
    assert run(tmp_path, f"folder:{photos}", "n = 10", "--verify", "100%")[0] == 0
    assert "2 cells computed again, 0 differ" in capsys.readouterr().out
    assert f"{entry} does not count: its arrays were altered" in caplog.text
    assert np.array_equal(open_set(f"folder:{photos}", "test", folder=None).images, pixels)
