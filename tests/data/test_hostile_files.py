"""Files, links and folders that nobody means to be images: one line each, and nothing waits or runs."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data import decode, open_set, parquet
from bench.data.foreign import walk
from bench.data.resizing import Resizing
from bench.data.rows import Row
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet

GOOD = encode(noise(0, 8, 8))


def error_of(name, split="test", **options):
    with pytest.raises(UsageError) as caught:
        open_set(name, split, **{"folder": None, **options})
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def tree(folder, classes=("ant", "bee")):
    for name in classes:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(GOOD)
    return f"folder:{folder}"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "gone"])
def test_what_is_no_file_among_the_images(tmp_path, kind):
    name, path = tree(tmp_path), tmp_path / "ant" / "2.png"
    create = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": lambda: path.mkdir(),
        "loop": lambda: path.symlink_to(path),
        "gone": lambda: path.symlink_to(tmp_path / "gone"),
    }
    create[kind]()
    if kind == "folder":
        assert len(open_set(name, "test", folder=None)) == 2
        return
    messages = {"pipe": "is not a regular file", "device": "is not a regular file", "gone": "is missing"}
    assert f"{path} {messages.get(kind, 'cannot be read')}" in error_of(name)


@pytest.mark.parametrize("file", ["test.parquet", "meta.json"])
def test_what_is_no_file_among_tables(tmp_path, file):
    write_parquet(tmp_path / "test.parquet", [GOOD, GOOD], [0, 1], names=["a", "b"])
    for create in (
        os.mkfifo,
        os.mkdir,
        lambda path: os.symlink("/dev/zero", path),
        lambda path: os.symlink(path, path),
    ):
        (tmp_path / file).unlink(missing_ok=True)
        create(tmp_path / file)
        assert f"{tmp_path / file} " in error_of(f"parquet:{tmp_path}")
        (tmp_path / file).rmdir() if (tmp_path / file).is_dir() else (tmp_path / file).unlink()


@pytest.mark.parametrize("file", ["batches.meta", "test_batch"])
def test_what_is_no_file_of_a_publisher(tmp_path, file):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"")
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    assert "batches.meta" in error_of("cifar10", folder=tmp_path) or "not found" in error_of("cifar10", folder=tmp_path)


def test_links_that_lead_round_are_followed_once(tmp_path):
    name = tree(tmp_path)
    (tmp_path / "ant" / "up").symlink_to(tmp_path)
    (tmp_path / "ant" / "self").symlink_to(tmp_path / "ant")
    (tmp_path / "bee" / "again").symlink_to(tmp_path / "ant")
    # Two of these in each other's way would be two to the power of forty folders.
    assert len(list(walk(tmp_path))) < 50
    assert len(open_set(name, "test", folder=None)) < 50


def test_a_table_without_rows(tmp_path):
    write_parquet(tmp_path / "test.parquet", [], np.array([], np.int64))
    assert error_of(f"parquet:{tmp_path}") == f"dataset parquet:{tmp_path}: it has no image"


def test_what_pillow_gives_no_text_for(tmp_path, monkeypatch):
    name = tree(tmp_path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: (_ for _ in ()).throw(MemoryError))
    assert error_of(name).endswith(": a damaged image (MemoryError)")


def test_endless_folders_are_counted(tmp_path, monkeypatch):
    tree(tmp_path)
    monkeypatch.setattr("bench.data.foreign.MOST_FOLDERS", 2)
    assert "has over 2 folders" in str(pytest.raises(UsageError, list, walk(tmp_path)).value)


def test_a_walk_is_that_of_the_standard_library(tmp_path):
    for name in ("b/c/d", "b-a", "a/z", "a/y/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    expected = sorted((root, sorted(files)) for root, _, files in os.walk(tmp_path, followlinks=True))
    assert sorted((str(root), files) for root, files in walk(tmp_path)) == expected


def test_names_that_are_no_utf8(tmp_path):
    name = tree(tmp_path)
    (tmp_path / "ant" / os.fsdecode(b"\xff.png")).write_bytes(GOOD)
    assert "its name is not UTF-8; rename it" in error_of(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    name = tree(tmp_path)
    (tmp_path / "ant" / "1.png").chmod(0)
    assert "Permission denied" in error_of(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not readable as JSON (RecursionError"),
        ("9" * 5000, "not readable as JSON (ValueError"),
        ('{"splits": {"test": {"file": [1], "sha256": 3}}, "class_names": [["a"], "b"]}', None),
        ('{"splits": {"test": {"file": "test.parquet", "sha256": "0000"}}}', "meta.json beside it says 0000"),
    ],
)
def test_descriptions_that_are_none(tmp_path, text, message):
    write_parquet(tmp_path / "test.parquet", [GOOD, GOOD], [0, 1], names=["a", "b"])
    (tmp_path / "meta.json").write_text(text)
    if message is None:
        assert len(open_set(f"parquet:{tmp_path}", "test", folder=None)) == 2
    else:
        assert message in error_of(f"parquet:{tmp_path}")


def test_tables_of_more_rows_than_anyone_has(tmp_path, monkeypatch):
    write_parquet(tmp_path / "test.parquet", [GOOD, GOOD], [0, 1], names=["a", "b"])
    monkeypatch.setattr(parquet, "MAX_IMAGES", 1)
    assert "test.parquet: 2 rows; at most 1 are read" in error_of(f"parquet:{tmp_path}")


def test_one_large_image_in_many_rows_is_unpacked_piece_by_piece(tmp_path):
    # In the file the value stands once; unpacked at once it would take 150 MB.
    image_bytes = encode(noise(0, 8, 8)) + bytes(2**19)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"image": pa.array([{"bytes": image_bytes, "path": ""}] * 300, kind), "label": pa.array([0, 1] * 150)}
    )
    pq.write_table(table, tmp_path / "test.parquet", use_dictionary=True)
    assert (tmp_path / "test.parquet").stat().st_size < 2**22
    before = pa.total_allocated_bytes()
    rows = parquet.find(tmp_path).source("test").read().items
    next(rows)
    assert pa.total_allocated_bytes() - before < 2**26
    rows.close()


def test_two_columns_of_one_name(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": GOOD, "path": ""}] * 2, kind)
    table = pa.Table.from_arrays([image, image, pa.array([0, 1])], names=["image", "image", "label"])
    pq.write_table(table, tmp_path / "test.parquet")
    assert "test.parquet: two columns are called 'image'" in error_of(f"parquet:{tmp_path}")


def test_labels_that_are_no_text_in_utf8(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": GOOD, "path": ""}] * 2, kind)
    invalid_labels = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "<i4")), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"image": image, "label": invalid_labels}), tmp_path / "test.parquet")
    assert "test.parquet: damaged (UnicodeDecodeError" in error_of(f"parquet:{tmp_path}")


def test_no_program_is_started_on_an_image(monkeypatch):
    from PIL import Image

    started = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **_: started.append(args))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    with pytest.raises(UsageError, match="it is in no known format"):
        decode.decode(Row("row 0", 0, postscript), 3, Resizing((8, 8)))
    assert not started and "EPS" in Image.ID


def test_tiny_imagenets_lists_may_hold_anything(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "train" / "n1").mkdir(parents=True)
    for words in ("no tab\n\tx\nn1\tant\n", "\n"):
        (folder / "words.txt").write_text(words)
        (folder / "wnids.txt").write_text("n1\nn2\n")
        assert "no train image" in error_of("tiny_imagenet", "train", folder=tmp_path)
    (folder / "words.txt").write_bytes(b"\xff\xfe\0")
    assert "words.txt: not a text in UTF-8" in error_of("tiny_imagenet", "train", folder=tmp_path)


@pytest.mark.parametrize(
    "name", ["folder:" + "a" * 400, "folder:a\0b", "parquet:~nobody-here", "folder:/dev/null", "folder:"]
)
def test_folders_that_are_none(name):
    assert "no folder " in error_of(name)


def test_listing_goes_on_over_a_broken_set(tmp_path, capsys):
    from bench.cli import main

    for name in ("train", "training"):
        tree(tmp_path / "cifar10" / name)
    assert main(["list", "datasets", "--json", "--data", str(tmp_path)]) == 0
    available = {row["name"]: row["available"] for row in json.loads(capsys.readouterr().out)["datasets"]}
    assert not available["cifar10"] and available["digits"]


def test_rows_are_decoded_in_parts_that_fit(tmp_path, monkeypatch):
    from bench.data import cache

    monkeypatch.setattr(cache, "_AT_ONCE_BYTES", 3 * 64 * 3)
    rows = [Row(f"row {i}", 0, bytes(100)) for i in range(10)]
    assert [len(part) for part in cache._in_parts(iter(rows), 3)] == [3, 3, 3, 1]
    assert [len(part) for part in cache._in_parts(iter(rows), 100)] == [6, 4]
    assert [len(part) for part in cache._in_parts(iter(rows), 0)] == [1] * 10


def test_the_files_here_are_read_as_before(tmp_path):
    assert len(open_set(tree(tmp_path / "a b\nc é"), "test", folder=None)) == 2
    assert Path(tmp_path / "a b\nc é").is_dir()
