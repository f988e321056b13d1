"""Surroundings that are not as usual: no home, no folder, strange paths, times that stand still, disks elsewhere."""

import errno
import itertools
import os
import time

import pytest

from bench.cli import main
from bench.data import memo
from bench.store import files, inventory
from bench.store.seals import KnownFiles
from bench.store.working_store import Store
from bench.types import StoreError
from bench.visible import visible
from tests.schedule import small


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(tmp_path / "cache")))


def error_of(capsys):
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("error: ")]
    # Before it there may be what went on.
    assert line == said[-1] and not any("Traceback" in each for each in said), said
    return line


@pytest.mark.parametrize("name", [b"sp ace \xc3\xa9\xe4\xb8\xad new\nline \x1b[31m", b"not \xff\xfe utf-8"])
def test_a_path_of_any_bytes_works_for_every_file_and_folder(tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    config = folder / f"{folder.name}.toml"
    config.write_text(small.ONE, encoding="utf-8")
    store, report = folder / folder.name, folder / "report"
    run = ["run", str(config), "--store", str(store), "--report", str(report), "--data", str(folder)]
    assert main(run) == 0
    # Once more, everything is read back.
    assert main([*run, "--verify", "100%"]) == 0
    assert main(["leaderboard", "--store", str(store), "--out", str(folder / "table.html")]) == 0
    assert main(["gc", str(config), "--store", str(store), "--json"]) == 0
    assert main(["sync", str(folder / "remote"), "--store", str(store)]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err and visible(err, lines=True) == err and visible(out, lines=True) == out
    assert len(list((folder / "remote").rglob("*.json"))) > 2


@pytest.mark.parametrize(
    "verb", ["run", "plan", "leaderboard", "show x", "gc quick", "doctor", "sync /nowhere", "figures"]
)
@pytest.mark.parametrize("kind", ["long", "deep", "below a file", "loop"])
def test_a_store_that_cannot_be_is_one_line(tmp_path, capsys, verb, kind):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    store = {
        "long": tmp_path / ("x" * 300),
        "deep": tmp_path.joinpath(*["deep"] * 1000),
        "below a file": tmp_path / "file" / "store",
        "loop": tmp_path / "loop" / "store",
    }[kind]
    assert main([*verb.split(), "--store", str(store)]) == 2
    said = error_of(capsys)
    if kind == "deep":
        assert "argument --store: " in said and "cannot be a path: it has 5,0" in said and "at most 4,095" in said
    else:
        assert "the store " in said and "choose another with --store" in said


@pytest.fixture
def nobody(monkeypatch):
    """A user that the machine does not know, without HOME, as in a container that is run by a number."""
    import pwd

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_user_without_a_home_lists_and_is_told_what_to_set(nobody, monkeypatch, tmp_path, capsys):
    assert main(["list"]) == 0
    capsys.readouterr()
    config = tmp_path / "one.toml"
    config.write_text(small.ONE)
    plan = ["plan", str(config), "--store", str(tmp_path / "store")]
    assert main(plan) == 2
    assert error_of(capsys) == "error: this user has no home folder for the cache: set XDG_CACHE_HOME to a folder"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(plan) == 0


@pytest.mark.parametrize("kind", ["file", "long"])
def test_a_cache_that_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "file").write_text("")
    cache = {"file": tmp_path / "file", "long": tmp_path / ("x" * 300)}[kind]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    config = tmp_path / "one.toml"
    config.write_text(small.ONE)
    assert main(["plan", str(config), "--store", str(tmp_path / "store")]) == 2
    assert error_of(capsys).startswith("error: the cache cannot be written: ")


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    source = tmp_path / "set.bin"
    source.write_bytes(b"pixels")
    os.utime(source, (1e9, 1e9))
    hashes = memo.hashes((source,))

    def denied(path, data):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(memo, "write_atomically", denied)
    other = tmp_path / "other.bin"
    other.write_bytes(b"pixels")
    os.utime(other, (1e9, 1e9))
    assert memo.hashes((other,)) == memo.hashes((source,)) == hashes


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        for verb in ("list", "run", "leaderboard", "compare HEAD HEAD~1"):
            assert main(verb.split()) == 2
            assert error_of(capsys) == "error: the current folder is not there any more: change to another one"
    finally:
        os.chdir(tmp_path)


class StillTimes:
    """A disk where the times of files never change, as some network file systems have it."""

    def __init__(self, monkeypatch, at):
        status, of_path = os.stat, files.status

        def still(stat_result):
            fields = {name: getattr(stat_result, name) for name in ("st_mode", "st_ino", "st_size", "st_dev")}
            return type("stat", (), {**fields, "st_mtime_ns": at, "st_ctime_ns": at, "st_mtime": at, "st_ctime": at})()

        monkeypatch.setattr(files, "status", lambda path: still(of_path(path)))
        monkeypatch.setattr("pathlib.Path.stat", lambda self, **more: still(status(self, **more)))


@pytest.mark.parametrize("at", [0, 10**18])
def test_where_times_stand_still_a_file_written_again_is_another(tmp_path, monkeypatch, at):
    StillTimes(monkeypatch, at)
    store, path = Store(tmp_path), tmp_path / "cells" / f"{'a' * 64}.json"
    files.write_atomically(path, b"one")
    first = store.stamp(path)
    assert store.stamp(path) == first
    files.write_atomically(path, b"two")
    assert store.stamp(path) != first


@pytest.mark.parametrize("at", [0, 10**18])
def test_where_times_stand_still_nothing_is_remembered_as_whole(tmp_path, monkeypatch, at):
    assert files.keeps_times(tmp_path)
    StillTimes(monkeypatch, at)
    assert not files.keeps_times(tmp_path)
    store = Store(tmp_path)
    record = tmp_path / "record"
    record.write_bytes(b"one")
    known = store.known
    assert isinstance(known, KnownFiles)
    known.note("record", record, files.file_sha256(record))
    store.remember()
    assert list(tmp_path.iterdir()) == [record]
    # Without a time of change, an edit of the same size would go unseen.
    memo.hashes((record,))
    record.write_bytes(b"two")
    (again,) = memo.hashes((record,))
    assert at != 0 or again == files.file_sha256(record)


def test_a_clock_that_jumps_at_every_look_changes_no_result(tmp_path, monkeypatch):
    (tmp_path / "calm").mkdir()
    assert small.run(tmp_path / "calm", text=small.ONE) == 0
    now, jumps = time.time_ns, itertools.cycle((-(10**18), 10**18, 0, 10**15))
    monkeypatch.setattr(time, "time_ns", lambda: now() + next(jumps))
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    assert small.run(tmp_path, text=small.ONE) == 0
    assert small.outcome(tmp_path) == small.outcome(tmp_path / "calm")


METHOD = '''
from bench.api import attack

@attack(norms=("linf",), passes="0")
def full(target, x, y, threat):
    """It writes to a disk of its own that is full."""
    WHAT
    return x
'''


@pytest.mark.parametrize(
    "statement",
    [
        "raise OSError(30, 'Read-only file system', '/elsewhere/scratch.bin')",
        "open('/dev/full', 'w').write('x' * 10**6)",
    ],
)
def test_what_a_method_cannot_write_is_its_own_failure(tmp_path, capsys, statement):
    (tmp_path / "full.py").write_text(METHOD.replace("WHAT", statement))
    text = (
        small.ONE.replace('use = "fgsm"\neps', f'use = "{tmp_path}/full.py:full"\neps')
        + '[[attacks]]\nuse = "fgsm"\neps = "0.1"\n'
    )
    assert small.run(tmp_path, text=text) == 3
    failed = [r for r in Store(tmp_path / "store").results() if r.status == "failed"]
    assert len(failed) == 1 and failed[0].error.kind == "OSError"
    assert any(r.names.attack == "fgsm" and r.status == "done" for r in Store(tmp_path / "store").results())
    assert "the store" not in capsys.readouterr().err


def test_only_what_is_said_of_its_own_files_is_the_store_s(tmp_path):
    store = Store(tmp_path / "store")
    for mine in (str(tmp_path / "store" / "x"), os.fsencode(tmp_path / "store" / "x")):
        with pytest.raises(StoreError), store.writing():
            raise OSError(errno.ENOSPC, "No space left on device", mine)
    for foreign in (None, 3, "/elsewhere", str(tmp_path)):
        with pytest.raises(OSError, match="No space") as kept, store.writing():
            raise OSError(errno.ENOSPC, "No space left on device", foreign)
        assert not isinstance(kept.value, StoreError)


def test_a_folder_that_cannot_be_listed_for_want_of_files_is_not_empty(tmp_path, monkeypatch):
    def lacking(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), os.fspath(path))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, lacking)
    for look in (
        inventory.chunks,
        lambda folder: inventory.keys(folder, ".json"),
        lambda f: list(inventory.entries(f)),
    ):
        with pytest.raises(OSError, match="Too many open files"):
            look(tmp_path)
