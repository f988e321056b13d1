"""Writing to a path that a user names: a file is replaced, a pipe or device written into, anything else refused.

The harness's own files are written by :mod:`bench.store.files`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bench.store.files import Unreadable, flush_folder, kind_of, make_folders, move_aside, opened, write_beside
from bench.types import UsageError

#: Streams that this process has open, as they are named in the file system.
_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def write_named(path: Path, data: bytes, *, option: str = "--out") -> bool:
    """Write to what a user named, and say whether that is a regular file.

    A regular file, also at the end of links, is replaced atomically and keeps its permissions; the links stay. A pipe,
    a device or a stream of this process is written to. Missing folders of a path without links are made.

    Args:
        path: of the file.
        data: its bytes.
        option: how the user named it, for messages.

    Raises:
        UsageError: it is a folder or a socket, a link into a folder that is not there, or cannot be written.
        BrokenPipeError: the reader of the pipe has closed it.
    """
    with _unwritable(path, option):
        stream = _own_stream(path)
        if stream is not None:
            _write_stream(stream, data)
            return False
        existing = _stat(path)
        if existing is not None and (stat.S_ISFIFO(existing.st_mode) or stat.S_ISCHR(existing.st_mode)):
            with path.open("wb") as file:
                file.write(data)
            return False
        _write_file(path, existing, data, option)
        return True


def write_into(path: Path, data: bytes, *, option: str = "--out") -> None:
    """Write a file into a folder that a user named, as :func:`write_named` does, but to no pipe and no device.

    Raises:
        UsageError: something else than a file is in its place, or it cannot be written.
    """
    with _unwritable(path, option):
        _write_file(path, _stat(path), data, option)


@contextmanager
def new_file(path: Path, *, option: str = "--out") -> Iterator[BinaryIO]:
    """Yield a file to write a new one with; it appears under its name, whole, once the block ends without an error.

    Missing folders are made.

    Args:
        path: of the file.
        option: how the user named it, for messages.

    Raises:
        UsageError: something lies there already, or it cannot be written, such as on a full disk.
    """
    with _new(path, option) as beside, beside.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(path: Path, *, option: str = "--out") -> Iterator[Path]:
    """Yield a folder to write a new one with, as :func:`new_file` does a file."""
    with _new(path, option) as beside:
        beside.mkdir()
        yield beside


def require_new(path: Path, *, option: str = "--out") -> None:
    """Raises UsageError: something lies at a path already, or it cannot be looked at."""
    with _unwritable(path, option):
        try:
            path.lstat()
        except FileNotFoundError:
            return
    raise UsageError(f"{option} {path} is there already and is not overwritten; delete it, or name another")


@contextmanager
def _new(path: Path, option: str) -> Iterator[Path]:
    """Yield the path under which something new is written before it is renamed, and remove it if that fails."""
    # A short name: that of the user's file may have the largest length already.
    beside = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.part")
    with _unwritable(path, option):
        make_folders(path.parent)
        try:
            yield beside
            require_new(path, option=option)
            beside.replace(path)
        finally:
            if beside.is_dir():
                shutil.rmtree(beside, ignore_errors=True)
            beside.unlink(missing_ok=True)
        flush_folder(path.parent)


def move_foreign_aside(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Move a file aside that lies where the harness writes into a folder of the user's, unless it is the harness's own.

    Args:
        path: the file. What is none, or cannot be read or moved, stays: it is said where the file is written.
        is_ours: says so by its first 4,096 bytes.
    """
    with suppress(OSError, Unreadable):
        with opened(path) as file:
            head = file.read(4096)
        if head and not is_ours(head):
            move_aside(path)


@contextmanager
def _unwritable(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{option} {path} cannot be written: {why}") from None


def _write_file(path: Path, existing: os.stat_result | None, data: bytes, option: str) -> None:
    if existing is None:
        _replace(_file_to_create(path), data, None)
    elif stat.S_ISREG(existing.st_mode):
        _replace(Path(os.path.realpath(path)), data, stat.S_IMODE(existing.st_mode))
    else:
        raise UsageError(f"{option} {path} is {kind_of(existing.st_mode)}; name a file")


def _own_stream(path: Path) -> int | None:
    """Return the number of the open stream of this process that a path names, such as /dev/stdout or /dev/fd/63."""
    # Link by link: /proc/self/fd/1 resolves to a name that does not exist, or to a file that others append to.
    target = os.path.abspath(path)
    for _ in range(40):
        if target in _STANDARD:
            return _STANDARD[target]
        folder, name = os.path.split(target)
        real = os.path.join(os.path.realpath(folder), name)
        match = _STREAM.fullmatch(real)
        if match is not None:
            own = real.startswith(("/dev/", "/proc/self/", "/proc/thread-self/", f"/proc/{os.getpid()}/"))
            return int(match[1]) if own else None
        try:
            target = os.path.abspath(os.path.join(os.path.dirname(real), os.readlink(real)))
        except OSError:
            return None
    return None


def _write_stream(number: int, data: bytes) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    left = memoryview(data)
    while left:
        left = left[os.write(number, left) :]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _file_to_create(path: Path) -> Path:
    """Return the file that is to be made: at the end of a link that leads nowhere yet, or in folders that are made."""
    if path.is_symlink():
        return Path(os.path.realpath(path))
    make_folders(path.parent)
    return path


def _replace(path: Path, data: bytes, mode: int | None) -> None:
    # A short name: that of the user's file may have the largest length already.
    beside = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        write_beside(beside, data, mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)
