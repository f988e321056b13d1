"""Adversarial sets are written as they were judged, and nothing of the user's is overwritten."""

import errno
import hashlib
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from bench.cli import main
from bench.data import ImageSet, open_set
from bench.evaluation.chunks import write_chunk
from bench.evaluation.craft import Crafted
from bench.report.sets import kept, npz
from bench.report.sets.kept import AdversarialSet
from bench.store.working_store import Store
from bench.types import Threat
from tests.schedule import small

#: Two chunks of images; the step on the bare network has a static and an adaptive set of its own.
CONFIG = f"""
schema = 1
name = "sets"
{small.DIGITS}
[train]
epochs = 2
batch = 50
lr = 0.05

[[defenses]]
use = "standard"

[[defenses]]
use = "jpeg"

[[attacks]]
use = "fgsm"
eps = "0.1"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    assert small.run(folder, text=CONFIG) == 0
    return folder


def export(folder, *options):
    return main(["export", "sets", *options, "--store", str(folder / "store")])


def cell(folder, name):
    (result,) = [each for each in Store(folder / "store").results() if name in str(each.names)]
    return result


def chunks(folder, result):
    files = sorted((folder / "store" / "attack" / kept.attack_key(result.cell.attack)).iterdir())
    return np.concatenate([load_file(path)["images"] for path in files])


def test_npz_holds_every_bit_that_was_judged_and_the_answers(folder, tmp_path):
    assert export(folder, "jpeg/fgsm/adaptive", "--out", str(tmp_path / "one.npz")) == 0
    result, images = cell(folder, "jpeg/fgsm/adaptive"), open_set("digits", "test", folder=None)
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    np.testing.assert_array_equal(arrays["x_adv"], chunks(folder, result))
    assert arrays["x_adv"].dtype == np.float32
    np.testing.assert_array_equal(arrays["x"], images.images[arrays["rows"]])
    np.testing.assert_array_equal(arrays["labels"], images.labels[arrays["rows"]])
    for name, outcomes in (("clean", result.clean_outcomes), ("adv", result.outcomes_under_attack)):
        assert (arrays[f"predictions_{name}"] == arrays["labels"]).tolist() == list(outcomes)
    metadata = json.loads(str(arrays.pop("metadata")))
    assert metadata["key"] == result.key and metadata["access"] == "adaptive"
    assert metadata["threat"] == {"norm": "linf", "eps": "1/10"} and metadata["defense"]["name"] == "jpeg"
    assert metadata["sha256"] == {name: hashlib.sha256(each.tobytes()).hexdigest() for name, each in arrays.items()}
    assert os.uname().nodename not in json.dumps(metadata)


def test_a_set_that_has_gone_says_how_to_make_it_again_and_that_gives_the_same_file(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "other")
    whole, other, name = tmp_path / "whole.npz", tmp_path / "other", "digits/small-cnn/standard/fgsm/white-box"
    assert export(folder, name, "--out", str(whole)) == 0
    result = cell(other, "standard/fgsm")
    shutil.rmtree(other / "store" / "attack")
    capsys.readouterr()
    assert export(other, name, "--out", str(tmp_path / "again.npz")) == 2
    line = capsys.readouterr().err
    result_file = Store(other / "store").cell_file(result.key)
    assert line.count("\n") == 1 and f"delete {result_file} and run" in line and f"--only '{name}'" in line
    assert not (tmp_path / "again.npz").exists()
    result_file.unlink()
    assert small.run(other, "--only", name, text=CONFIG) == 0
    assert export(other, name, "--out", str(tmp_path / "again.npz")) == 0
    again, first = (dict(np.load(path)) for path in (tmp_path / "again.npz", whole))
    assert [key for key in first if not np.array_equal(first[key], again[key])] == []
    # Of the one that is gone all others are still written, and the code says that one is not.
    shutil.rmtree(other / "store" / "attack" / kept.attack_key(result.cell.attack))
    assert export(other, "fgsm", "--out", str(tmp_path / "all")) == 3


def test_a_damaged_chunk_is_one_line_and_the_same_run_mends_it(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    result = cell(other, "standard/fgsm")
    last = sorted((other / "store" / "attack" / kept.attack_key(result.cell.attack)).iterdir())[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    capsys.readouterr()
    assert export(other, "standard/fgsm", "--out", str(tmp_path / "a.npz")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{last} does not count: cut short or altered" in error
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".*"))
    assert small.run(other, text=CONFIG) == 0 and export(other, "standard/fgsm", "--out", str(tmp_path / "a.npz")) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x_adv"], chunks(folder, result))


def test_the_same_store_gives_the_same_file(folder, tmp_path):
    for kind in ("npz", "parquet"):
        paths = [tmp_path / f"{which}.{kind}" for which in ("a", "b")]
        assert [export(folder, "adaptive", "--out", str(path)) for path in paths] == [0, 0]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_parquet_is_a_set_of_rounded_images_with_every_bit_beside_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert export(folder, "adaptive", "--format", "parquet", "--out", str(tmp_path / "out")) == 0
    (file,) = (tmp_path / "out").glob("*/test.parquet")
    said = capsys.readouterr().err
    # A tenth is 25.5 steps of 255: images at the edge of the ball are rounded out of it.
    assert "rounding changes 140 of 140 images, and " in said and "outside their budget of linf 1/10" in said
    result, images = cell(folder, "jpeg/fgsm/adaptive"), open_set(f"parquet:{file.parent}", "test", folder=None)
    judged, table = chunks(folder, result), pq.read_table(file)
    np.testing.assert_array_equal(images.images, np.rint(judged * 255).astype(np.uint8))
    exact = np.stack([np.frombuffer(each, "<f4") for each in table.column("x_adv").to_pylist()])
    np.testing.assert_array_equal(exact.reshape(judged.shape), judged)
    digits = open_set("digits", "test", folder=None)
    np.testing.assert_array_equal(images.labels, digits.labels[table.column("row").to_numpy()])
    assert images.class_names == digits.class_names
    assert json.loads(table.schema.metadata[b"crossfire"])["key"] == result.key


def test_pictures_are_rounded_and_say_so(folder, tmp_path, capsys):
    assert export(folder, "adaptive", "--format", "png", "--out", str(tmp_path / "out")) == 0
    assert "8 bit is not what was judged: rounding changes 140 of 140 images" in capsys.readouterr().err
    (top,) = (tmp_path / "out").iterdir()
    judged, listed = chunks(folder, cell(folder, "jpeg/fgsm/adaptive")), json.loads((top / "set.json").read_text())
    row, label = listed["images"]["row"][131], listed["images"]["label"][131]
    picture = np.asarray(Image.open(top / "test" / str(label) / f"{row:06d}.png"))
    np.testing.assert_array_equal(picture, np.rint(judged[131, 0] * 255))
    assert len(list(top.glob("clean/*/*.png"))) == 140


def test_what_is_there_is_named(folder, capsys):
    assert main(["export", "--store", str(folder / "store")]) == 0
    assert "adversarial images of 3 of 3 attacked cells" in capsys.readouterr().out
    assert export(folder, "--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"].split("/", 2)[2], row["n"], row["lacks"]) for row in rows] == [
        ("jpeg/fgsm/adaptive", 140, None),
        ("jpeg/fgsm/static", 140, None),
        ("standard/fgsm/white-box", 140, None),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "kept.npz"], "is one file, for 3 cells"),
        (["adaptive", "--out", "there.npz"], "there.npz is there already and is not overwritten"),
        (["adaptive", "--out", "x.npz", "--format", "png"], "ends with .npz, and --format is png"),
        (["nothing-like-it", "--out", "o"], "no attacked cell matches"),
        ([], "where to?"),
        (["adaptive", "--out", "there.npz/below"], "cannot be written: Not a directory"),
        (["--json", "--out", "o"], "--json goes with --list"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(options, says, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.npz").write_text("mine")
    assert export(folder, *options) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert os.listdir() == ["there.npz"] and Path("there.npz").read_text() == "mine"


@pytest.mark.parametrize("kind", ["npz", "parquet", "png"])
def test_a_full_disk_is_one_line_and_leaves_nothing(kind, folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert export(folder, "adaptive", "--format", kind, "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "cannot be written: No space left on device" in error and error.count("\n") == 1
    assert [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == []


def test_memory_does_not_grow_with_the_set(folder, tmp_path):
    result = cell(folder, "standard/fgsm")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32)).astype(np.uint8)
    peaks = {}
    for n in (256, 1024):
        rows = np.zeros(n, np.int64)
        paths = []
        for first in range(0, n, 64):
            path = tmp_path / str(n) / f"{first:06d}-{first + 64:06d}.safetensors"
            x = torch.from_numpy(pixels[:1]).float().repeat(64, 1, 1, 1) / 255
            write_chunk(path, Crafted(x, torch.zeros(64), torch.zeros(64), 0.0, [], 64))
            paths.append(path)
        data = result.cell.data.model_copy(update={"image_shape": (3, 32, 32), "n": n})
        attack = result.cell.attack.model_copy(update={"data": data, "threat": Threat()})
        cell_of_n = result.cell.model_copy(update={"data": data, "attack": attack})
        result_of_n = result.model_copy(update={"cell": cell_of_n})
        images = ImageSet("a set", "test", pixels, np.zeros(64, np.int64), ("a", "b"), "")
        tracemalloc.start()
        with (tmp_path / f"{n}.npz").open("wb") as file:
            npz.write(AdversarialSet(result_of_n, images, rows, tuple(paths), None), file)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The images of the larger set take 12 MB.
    assert peaks[1024] < peaks[256] + 2**19, peaks
