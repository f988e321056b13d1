import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import bench.data.cache as cache
import bench.data.memo as memo
from bench.data import NAMED, open_set
from bench.data.resizing import Resizing
from bench.data.rows import Row, Rows, Source
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet


def write_set(folder, count=3, seed=0):
    path = folder / "test.parquet"
    write_parquet(path, [encode(noise(seed + i)) for i in range(count)], [0] * count, names=["a", "b"])
    # As old as any file that a user has.
    os.utime(path, (time.time() - 60, time.time() - 60))
    return f"parquet:{folder}"


@pytest.fixture
def calls(monkeypatch):
    """How many images are decoded and how many files are hashed."""
    counts = {"decode": 0, "_hash": 0}
    homes = {"decode": cache, "_hash": memo}
    for name in counts:
        original = getattr(homes[name], name)

        def counted(*args, _name=name, _original=original, **kwargs):
            counts[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(homes[name], name, counted)
    return counts


def cache_entries():
    folder = memo.cache_folder() / "decoded"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_second_time_nothing_is_decoded_or_hashed(tmp_path, calls):
    name = write_set(tmp_path)
    first = open_set(name, "test", folder=None)
    assert calls == {"decode": 3, "_hash": 1}
    second = open_set(name, "test", folder=None)
    assert calls == {"decode": 3, "_hash": 1}
    assert np.array_equal(first.images, second.images) and first.sha == second.sha
    assert isinstance(second.images, np.memmap)


def test_data_that_arrives_in_parts_is_named_until_it_is_there_and_decoded_once(tmp_path, calls):
    def arrive(file, count):
        write_parquet(tmp_path / file, [encode(noise(i)) for i in range(count)], [0] * count, names=["a", "b"])
        os.utime(tmp_path / file, (time.time() - 60, time.time() - 60))

    arrive("test.parquet", 1)
    arrive("train-00000-of-00002.parquet", 2)
    name = f"parquet:{tmp_path}"
    assert len(open_set(name, "test", folder=None)) == 1
    before = dict(calls)
    with pytest.raises(UsageError) as error:
        open_set(name, "train", folder=None)
    assert str(error.value) == (
        f"{tmp_path}/train-00001-of-00002.parquet is missing: train-00000-of-00002.parquet says that there are 2"
    )
    assert calls == before == {"decode": 1, "_hash": 1}
    arrive("train-00001-of-00002.parquet", 3)
    for _ in range(2):
        assert len(open_set(name, "train", folder=None)) == 5 and len(open_set(name, "test", folder=None)) == 1
        assert calls == {"decode": 1 + 5, "_hash": 1 + 2}


def test_a_touched_file_is_hashed_again_but_not_decoded(tmp_path, calls):
    name = write_set(tmp_path)
    open_set(name, "test", folder=None)
    os.utime(tmp_path / "test.parquet", (1_000_000, 1_000_000))
    open_set(name, "test", folder=None)
    assert calls == {"decode": 3, "_hash": 2}


def test_a_file_changed_within_a_tick_of_the_clock_is_noticed(tmp_path):
    name = write_set(tmp_path)
    stamp = time.time_ns()
    os.utime(tmp_path / "test.parquet", ns=(stamp, stamp))
    first = open_set(name, "test", folder=None)
    size = (tmp_path / "test.parquet").stat().st_size
    for seed in range(1, 200):
        write_set(tmp_path, seed=seed)
        if (tmp_path / "test.parquet").stat().st_size == size:
            break
    os.utime(tmp_path / "test.parquet", ns=(stamp, stamp))
    assert open_set(name, "test", folder=None).sha != first.sha


def test_every_size_and_interpolation_is_kept_apart():
    def open_digits(side, interpolation):
        return open_set("digits", "test", folder=None, image_size=(side, side), interpolation=interpolation).images

    for side in (16, 12):
        nearest, bilinear = open_digits(side, "nearest"), open_digits(side, "bilinear")
        assert np.array_equal(open_digits(side, "nearest"), nearest)
        assert np.array_equal(open_digits(side, "bilinear"), bilinear)
        assert not np.array_equal(nearest, bilinear)


def test_a_source_that_announces_other_rows_than_it_has_is_not_kept(tmp_path):
    rows = [Row("row 0", 0, noise(0))]
    source = Source((tmp_path,), "made up", ("a",), lambda: Rows(2, iter(rows)))
    with pytest.raises(UsageError, match="1 images where 2 were announced"):
        cache._write(tmp_path, source, source.read(), 3, Resizing((32, 32)))


def test_a_moved_set_is_the_same_set(tmp_path, calls):
    open_set(write_set(tmp_path / "here"), "test", folder=None)
    open_set(write_set(tmp_path / "there"), "test", folder=None)
    assert calls["decode"] == 3 and len(cache_entries()) == 1


def test_an_entry_cut_short_is_made_again(tmp_path):
    name = write_set(tmp_path)
    first = np.array(open_set(name, "test", folder=None).images)
    (entry,) = cache_entries()
    for file, size in (("images.npy", 500), ("labels.npy", 0), ("about.json", 4)):
        path = memo.cache_folder() / "decoded" / entry / file
        with path.open("r+b") as handle:
            handle.truncate(size)
        assert np.array_equal(open_set(name, "test", folder=None).images, first)


class CachedSet(NamedTuple):
    """A set in the cache; ``folder`` is that of its cache entry."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    sha: str
    folder: Path


@pytest.fixture
def cached_set(tmp_path):
    images = open_set(write_set(tmp_path), "test", folder=None)
    (entry,) = cache_entries()
    folder = memo.cache_folder() / "decoded" / entry
    return CachedSet(images.name, np.array(images.images), np.array(images.labels), images.sha, folder)


def flip(path, offset, *, keep_times):
    """Change one bit of a file; ``keep_times`` sets its time of change back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "about.json"])
@pytest.mark.parametrize(("part", "keep_times"), [("head", False), ("middle", False), ("middle", True), ("end", True)])
def test_a_flipped_bit_is_said_and_the_images_are_decoded_again(cached_set, caplog, file, part, keep_times):
    size = (cached_set.folder / file).stat().st_size
    # Every fifth byte of an array's header: the array may still load, with another shape or type.
    offsets = {"head": range(0, min(size, 120), 5), "middle": [size // 2], "end": [size - 1]}[part]
    for offset in offsets:
        caplog.clear()
        flip(cached_set.folder / file, offset, keep_times=keep_times)
        reopened = open_set(cached_set.name, "test", folder=None)
        assert np.array_equal(reopened.images, cached_set.pixels)
        assert np.array_equal(reopened.labels, cached_set.labels) and reopened.sha == cached_set.sha
        assert len(caplog.records) == 1, offset
        assert f"{cached_set.folder} does not count: " in caplog.text and "decoded again" in caplog.text
    assert len(cache_entries()) == 1


def test_inverted_images_are_noticed_though_every_time_is_set_back(cached_set, caplog, monkeypatch):
    inverted = np.load(cached_set.folder / "images.npy", mmap_mode="r+")
    inverted[:] = 255 - cached_set.pixels
    inverted.flush()
    del inverted
    about = memo.recall(cached_set.folder / "about.json")
    # A program that can set back the time of the last status change can also renew the stamps.
    memo.keep(cached_set.folder / "about.json", {**about, "stamps": cache._stamps(cached_set.folder)})
    assert not np.array_equal(open_set(cached_set.name, "test", folder=None).images, cached_set.pixels)
    reopened = open_set(cached_set.name, "test", folder=None, thorough=True)
    assert np.array_equal(reopened.images, cached_set.pixels) and np.array_equal(reopened.labels, cached_set.labels)
    assert "its times say nothing of it, so results may stand on it: run --verify 100% tells" in caplog.text
    assert np.array_equal(open_set(cached_set.name, "test", folder=None).images, cached_set.pixels)


def test_a_copied_cache_is_hashed_once_and_not_decoded(cached_set, calls, monkeypatch, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(memo.cache_folder().parent, copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy))
    hashed = []
    original = cache.content_sha
    monkeypatch.setattr(cache, "content_sha", lambda *arrays: hashed.append(1) or original(*arrays))
    for _ in range(3):
        assert np.array_equal(open_set(cached_set.name, "test", folder=None).images, cached_set.pixels)
    assert calls["decode"] == 0 and len(hashed) == 1


def test_a_file_that_is_gone_is_made_again(cached_set, caplog):
    for file in ("images.npy", "labels.npy", "about.json"):
        (cached_set.folder / file).unlink()
        assert np.array_equal(open_set(cached_set.name, "test", folder=None).images, cached_set.pixels)
    assert caplog.text.count("a file is missing") == 3


def test_several_processes_may_find_an_entry_damaged_at_once(cached_set):
    flip(cached_set.folder / "images.npy", 200, keep_times=False)
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open, args=(cached_set.name, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert answers == {(cached_set.sha, int(cached_set.pixels.astype(np.int64).sum()))}


def test_a_damaged_memory_of_hashes_does_not_count(cached_set, calls):
    (file,) = (memo.cache_folder() / "hashes").iterdir()
    text = file.read_text()
    offset = text.index('"hashes":["') + len('"hashes":["')
    file.write_text(text[:offset] + ("0" if text[offset] != "0" else "1") + text[offset + 1 :])
    assert open_set(cached_set.name, "test", folder=None).sha == cached_set.sha and calls == {"decode": 0, "_hash": 1}


def test_thorough_reads_the_files_again(cached_set, calls, caplog, tmp_path):
    assert open_set(cached_set.name, "test", folder=None, thorough=True).sha == cached_set.sha
    assert calls == {"decode": 0, "_hash": 1} and not caplog.records
    (file,) = (memo.cache_folder() / "hashes").iterdir()
    memo.keep(file, {"hashes": ["0" * 64]})
    assert open_set(cached_set.name, "test", folder=None, thorough=True).sha == cached_set.sha
    assert "holds other bytes than before, though its size and times are the same" in caplog.text


def test_a_death_while_writing_leaves_nothing_that_is_read(tmp_path, monkeypatch):
    name = write_set(tmp_path)
    with monkeypatch.context() as patch:

        def dies(*_):
            raise KeyboardInterrupt

        patch.setattr(cache, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            open_set(name, "test", folder=None)
    assert not [entry for entry in cache_entries() if not entry.startswith(".")]
    assert len(open_set(name, "test", folder=None)) == 3


def test_leftovers_of_a_dead_process_are_swept_after_a_day(tmp_path):
    folder = memo.cache_folder() / "decoded"

    def part_folder(pid):
        return f".{'0' * 64}.{pid}.0123abcd.part"

    stale, recent = part_folder(1), part_folder(2)
    with_foreign_file = part_folder(3)
    ages = {stale: 2, recent: 0, with_foreign_file: 2, ".photos.part": 2}
    for name in ages:
        (folder / name).mkdir(parents=True)
        (folder / name / "images.npy").write_bytes(b"half")
    (folder / with_foreign_file / "sea.jpg").write_bytes(b"a stranger's")
    for name, days in ages.items():
        then = time.time() - 24 * 3600 * days - 60
        os.utime(folder / name, (then, then))
    open_set(write_set(tmp_path), "test", folder=None)
    hidden = {entry for entry in cache_entries() if entry.startswith(".")}
    assert hidden == {recent, with_foreign_file, ".photos.part"}
    assert os.listdir(folder / with_foreign_file) == ["sea.jpg"]
    assert os.listdir(folder / ".photos.part") == ["images.npy"]


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "about.json", "hashes"])
def test_whatever_is_in_the_place_of_a_file_of_the_cache_is_made_again(cached_set, file):
    path = next((memo.cache_folder() / "hashes").iterdir()) if file == "hashes" else cached_set.folder / file
    for replace in (os.mkfifo, os.mkdir, lambda path: path.symlink_to(path), lambda path: path.write_text("[" * 10**6)):
        path.unlink()
        replace(path)
        assert np.array_equal(open_set(cached_set.name, "test", folder=None).images, cached_set.pixels)


def _open(name, barrier, queue):
    barrier.wait()
    images = open_set(name, "test", folder=None)
    queue.put((images.sha, int(images.images.astype(np.int64).sum())))


def test_several_processes_may_decode_the_same_set_at_once(tmp_path):
    name = write_set(tmp_path, count=300)
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open, args=(name, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(answers) == 1 and len(cache_entries()) == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="the cache cannot be written: .*; set XDG_CACHE_HOME"):
        open_set(write_set(tmp_path / "set"), "test", folder=None)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, None])
def test_an_entry_that_cannot_be_read_for_want_of_files_or_memory_stays(cached_set, caplog, monkeypatch, code):
    name, folder = cached_set.name, cached_set.folder
    before = folder.stat().st_ino

    def lacking(*_, **__):
        raise MemoryError if code is None else OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", lacking)
        with pytest.raises(memo.CacheError, match=f"the cache cannot be read: {folder}: .*(files open|memory)"):
            open_set(name, "test", folder=None)
    assert folder.stat().st_ino == before and not caplog.records
    assert np.array_equal(open_set(name, "test", folder=None).images, cached_set.pixels)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    name = write_set(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device", "images.npy")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(UsageError, match="No space left on device"):
            open_set(name, "test", folder=None)
    assert cache_entries() == []


def test_the_first_place_that_has_any_split_is_the_one(tmp_path, monkeypatch):
    for number, data_folder in enumerate(("given", "variable", "cache/crossfire/data")):
        write_parquet(tmp_path / data_folder / "svhn" / "test.parquet", [encode(noise(number))], [number])
    write_parquet(tmp_path / "variable" / "svhn" / "train.parquet", [encode(noise(0))], [0])
    monkeypatch.setenv("CROSSFIRE_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert open_set("svhn", "test", folder=tmp_path / "given").labels.tolist() == [0]
    assert open_set("svhn", "test", folder=None).labels.tolist() == [1]
    with pytest.raises(UsageError, match="given/svhn has no train images, only test"):
        open_set("svhn", "train", folder=tmp_path / "given")
    monkeypatch.delenv("CROSSFIRE_DATA")
    assert open_set("svhn", "test", folder=None).labels.tolist() == [2]
    assert NAMED["svhn"].available(None) and not NAMED["cifar10"].available(None)


def test_where_nothing_is_found_the_line_says_what_was_looked_for_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFIRE_DATA", str(tmp_path / "gone"))
    with pytest.raises(UsageError) as caught:
        open_set("cifar10", "test", folder=tmp_path)
    line = str(caught.value)
    for part in ("cifar10/{train,test,val}*.parquet", "cifar-10-batches-py/", "cifar10/<split>/<class>/",
                 f"{tmp_path} (--data)", "gone ($CROSSFIRE_DATA; no such folder)", "CROSSFIRE_OFFLINE"):  # fmt: skip
        assert part in line
    assert "\n" not in line


def test_a_download_that_fails_is_part_of_that_line(monkeypatch):
    monkeypatch.setenv("CROSSFIRE_OFFLINE", "0")

    def offline(*_, **__):
        assert socket.getdefaulttimeout() <= 10
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    for name in ("cifar10", "cifar100", "svhn", "caltech101", "tiny_imagenet"):
        with pytest.raises(UsageError, match=f"dataset {name} not found.*download: (failed|torchvision does not)"):
            open_set(name, "test", folder=None)
    assert list((memo.cache_folder() / "data").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_what_is_downloaded_is_found_from_then_on(monkeypatch):
    monkeypatch.setenv("CROSSFIRE_OFFLINE", "0")
    archive = b"what the publisher hands out"
    requested, unpacked = [], []

    def download(url, root, file):
        requested.append(url)
        (Path(root) / file).write_bytes(archive)

    def unpack(self, root, train, download):
        assert (Path(root) / "images.tar").read_bytes() == archive
        unpacked.append(train)
        write_parquet(Path(root) / ("train.parquet" if train else "test.parquet"), [encode(noise(0))], [0])

    published = {"CIFAR10": (("https://publisher.test/images.tar", hashlib.sha256(archive).hexdigest()),)}
    monkeypatch.setattr("bench.data.named._PUBLISHED", published)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", unpack)
    assert len(open_set("cifar10", "test", folder=None)) == 1
    assert len(open_set("cifar10", "train", folder=None)) == 1
    assert requested == ["https://publisher.test/images.tar"]
    assert unpacked == [True, False]


def test_a_publishers_hash_is_held_against_the_file(tmp_path):
    name = write_set(tmp_path)
    open_set(name, "test", folder=None)
    about = {"splits": {"test": {"file": "test.parquet", "sha256": "0" * 64}}}
    (tmp_path / "meta.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match=r"test.parquet: its SHA-256 is .*meta.json beside it says 000000000000"):
        open_set(name, "test", folder=None)
