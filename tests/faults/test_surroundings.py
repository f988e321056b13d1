"""Full and read-only disks, limits of the system, and names that hide packages: each is one line or a success.

Commands run in a mount namespace of their own, where the system allows one.
"""

import ctypes
import os
import re
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from bench.methods.unloadable import not_loaded
from tests.faults import child
from tests.schedule import small

ROOT = Path(__file__).parents[2]
NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY = 1
REMOUNT = 1 << 5
BIND = 1 << 12
RECURSIVE = 1 << 14
PRIVATE = 1 << 18


def system_call(name, *words):
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*words) != 0:
        raise OSError(ctypes.get_errno(), f"{name}{words}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, kind, flags, options=None):
    words = (os.fsencode(each) if each is not None else None for each in (source, target, kind))
    system_call("mount", *words, ctypes.c_ulong(flags), options and options.encode())


def own_mounts():
    """Give this process mounts of its own; one that may not have them becomes root of its own users first."""
    user, group = os.geteuid(), os.getegid()
    system_call("unshare", NEW_MOUNTS if user == 0 else NEW_MOUNTS | NEW_USER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", None, RECURSIVE | PRIVATE)


def tmpfs(folder, options, flags=0):
    own_mounts()
    mount("none", folder, "tmpfs", flags, options)


def read_only(folder, inside):
    """Make a folder one that may only be read, and go into one in it."""
    own_mounts()
    mount(folder, folder, None, BIND)
    mount(None, folder, None, REMOUNT | BIND | READ_ONLY)
    os.chdir(inside)


@pytest.fixture(scope="module")
def mounts():
    process = child.CONTEXT.Process(target=own_mounts)
    process.start()
    process.join()
    if process.exitcode != 0:
        pytest.skip("the system allows this user no mounts of its own")


@pytest.fixture
def folder(tmp_path):
    for name in ("store", "cache", "logs"):
        (tmp_path / name).mkdir()
    return tmp_path


def ended(folder, fault, *more, words=None):
    """Run a command after a fault; return its exit code and what it wrote as its last line of errors."""
    words = words or small.command_line(folder, "--quiet", *more, text=small.ONE)
    code = child.finish(child.start(folder / "logs", words, fault))
    said = child.errors(folder / "logs")
    assert "Traceback" not in said
    return code, (said.splitlines() or [""])[-1]


FULL = (
    r"cannot be written: No space left on device \((records|(records|cells)/[0-9a-f]{64}\.(json|parquet))\); what is "
    "finished is kept, and the same command continues once it can"
)


@pytest.mark.parametrize(
    ("options", "flags", "says"),
    [
        ("nr_inodes=12", 0, FULL),
        ("size=64k", 0, FULL),
        ("size=1m", READ_ONLY, "cannot be written: Read-only file system; choose another with --store"),
    ],
)
def test_a_store_without_files_without_room_or_read_only_is_one_line(folder, mounts, options, flags, says):
    code, said = ended(folder, partial(tmpfs, str(folder / "store"), options, flags))
    assert code == 2 and re.fullmatch(f"error: the store {re.escape(str(folder))}/store {says}", said)


def test_a_finished_store_that_may_only_be_read_is_read(folder, mounts):
    assert ended(folder, None)[0] == 0
    for verb in ("leaderboard", "show"):
        words = [verb, "--store", str(folder / "store")]
        if verb == "show":
            words.insert(1, next((folder / "store" / "cells").iterdir()).stem[:12])
        assert ended(folder, partial(read_only, str(folder), str(folder)), words=words)[0] == 0
    # The current folder, in which the store lies by default, too.
    words = ["run", str(folder / "small.toml"), "--quiet"]
    code, said = ended(folder, partial(read_only, str(folder), str(folder)), words=words)
    assert code == 2 and said.startswith("error: the store .crossfire cannot be written: Read-only file system")


def a_cache(folder, options, flags):
    tmpfs(folder, options, flags)
    os.environ["XDG_CACHE_HOME"] = folder


def test_an_empty_cache_that_may_only_be_read_is_one_line(folder, mounts):
    code, said = ended(folder, partial(a_cache, str(folder / "cache"), "size=1m", READ_ONLY))
    assert code == 2 and said.startswith(f"error: the cache cannot be written: {folder}/cache/crossfire")
    assert said.endswith(": Read-only file system; set XDG_CACHE_HOME to another folder")


def bare():
    """Take away what most processes have: shared memory, /proc, temporary files, many open files."""
    own_mounts()
    for folder in ("/dev/shm", "/proc"):
        mount("none", folder, "tmpfs", READ_ONLY)
    os.environ["TMPDIR"], tempfile.tempdir = "/nonexistent", None
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_a_run_needs_no_shared_memory_no_proc_no_temporary_folder_and_few_files(folder, mounts):
    assert ended(folder, bare)[0] == 0


def test_a_limit_on_the_size_of_files_is_one_line(folder):
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (8192, 8192))
    code, said = ended(folder, limit)
    assert code == 2 and f"the store {folder}/store cannot be written: File too large" in said


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_home_that_is_a_file_is_one_line(folder, monkeypatch, capsys, kind):
    (folder / "home").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder / "home" / ("x" if kind == "below a file" else "")))
    assert small.run(folder, text=small.ONE) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert not any("cache" in line for line in before)
    assert said.startswith("error: the cache cannot be written: ") and said.endswith(
        "; set XDG_CACHE_HOME to another folder"
    )


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("libtorch_cpu.so: failed to map segment from shared object", "memory ran out"),
        ("libc10.so: cannot create shared object descriptor: Cannot allocate memory", "memory ran out"),
        ("libc10.so: cannot open shared object file: Too many open files", "ulimit -n"),
        # Of these there is no more for more memory.
        ("libgomp.so: cannot allocate memory in static TLS block", "install it again"),
        ("libc10.so: failed to map segment from shared object: Operation not permitted", "install it again"),
        ("libc10.so: invalid ELF header", "install it again"),
    ],
)
def test_a_package_that_finds_no_memory_or_files_is_not_called_damaged(says, remedy):
    said = not_loaded(ImportError(says, name="_C", path="/x/_C.so"))
    assert says in said and remedy in said and (remedy == "install it again") == ("install it again" in said)


@pytest.mark.parametrize("name", ["json", "bench", "numpy", "pydantic"])
def test_names_on_the_path_that_hide_packages(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("x = 1\n")
    line = [sys.executable, str(ROOT / "run_bench.py"), "list", "attacks"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": ""}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    if name in ("numpy", "pydantic"):
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith(f"error: {name}") and len(done.stderr.splitlines()) == 1
        assert "cannot be loaded: " in done.stderr and "PYTHONPATH" in done.stderr
    else:
        # The standard library and the harness come first.
        assert done.returncode == 0 and done.stderr == "" and "pgd" in done.stdout
