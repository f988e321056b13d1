"""Files in folders that others may write to: only regular files are read, and every write is atomic.

A path may be a folder, a pipe, a link to itself or a file of a terabyte. Reading it returns the bytes or the reason why
it has none, without waiting. Writing never destroys what someone else put there.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from bench.store.account import spending

_log = logging.getLogger("crossfire")
#: Errors of a path that exists and cannot be read, now or later.
_UNREADABLE = {
    errno.ELOOP,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
}
#: Errors of the reading process and not of the path.
_LACKS = {
    errno.EMFILE: "this process has too many files open; let it have more (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.ENOMEM: "memory ran out; give the process more",
}
#: How often, and at which interval, a file is written to until its time must have changed.
_LOOKS, _LOOK_EVERY_S = 10, 0.005
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unreadable(ValueError):
    """Something lies at a path that cannot be read as a file; the text says why, without the path."""


def kind_of(mode: int) -> str:
    """Return what the mode of a file says that it is, such as "a folder"."""
    return next((name for test, name in _KINDS if test(mode)), "a file")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; neither a pipe nor a device is waited for.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: what lies there is no regular file, or cannot be read, also later inside the block.
    """
    with _unreadable(path), _number(path) as number, os.fdopen(number, "rb", closefd=False) as file:
        yield file


@contextmanager
def _number(path: Path) -> Iterator[int]:
    """Open a regular file for reading, and close it at the end of the block."""
    # Looked at first: to open a device may already do something.
    _require_regular(path.stat())
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(number))
        yield number
    finally:
        os.close(number)


def status(path: Path) -> os.stat_result:
    """Return size, times and mode of a regular file.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: what lies there is no regular file, or cannot be looked at.
    """
    with _unreadable(path):
        return _require_regular(path.stat())


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOTDIR or (error.errno in _UNREADABLE and not os.access(path.parent, os.X_OK)):
            # The folder is missing or cannot be entered; its files are not damaged.
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
        if error.errno not in _UNREADABLE:
            raise
        raise Unreadable((error.strerror or type(error).__name__).lower()) from None


def _require_regular(stat_result: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(stat_result.st_mode):
        raise Unreadable(f"it is {kind_of(stat_result.st_mode)}, not a file")
    return stat_result


def read(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: what lies there is no regular file, is larger, or cannot be read.
    """
    with _unreadable(path), _number(path) as number:
        # A file that grows while it is read is cut at the size that was checked.
        size = _size_within(number, limit)
        data = os.read(number, size)
        while len(data) < size and (more := os.read(number, size - len(data))):
            data += more
        return data


def _size_within(number: int, limit: int) -> int:
    size = os.fstat(number).st_size
    if size > limit:
        raise Unreadable(f"it has {size:,} bytes, and at most {limit:,} are read")
    return size


def file_sha256(path: Path, limit: int | None = None) -> str:
    """Return the SHA-256 of a regular file, of at most ``limit`` bytes if there is one.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: what lies there is no regular file, is larger, or cannot be read.
    """
    with opened(path) as file:
        if limit is not None:
            _size_within(file.fileno(), limit)
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_regular(path: Path) -> bool:
    """Say whether a path is a regular file, or a link to one; whatever is in the way says no."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def leads_to_itself(path: Path) -> bool:
    """Say whether a path is a link that leads to itself, by way of others or not."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP and path.is_symlink()
    return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either what it held before or all of ``data``, even after a power cut.

    Folders above it are made. A folder in its place is moved aside, with a warning. Use it for the harness's own files;
    :mod:`bench.store.outputs` writes to the paths that a user names.

    Raises:
        OSError: it cannot be written; ``filename`` says where, whatever step failed.
    """
    make_folders(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        write_beside(beside, data)
        try:
            beside.replace(path)
        except IsADirectoryError:
            move_aside(path)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def link(path: Path, other: Path) -> None:
    """Let ``other`` also name the file at ``path``, as it is now, in place of what it named; both are in one folder.

    On a file system without hard links it becomes a copy.

    Raises:
        FileNotFoundError: nothing is at ``path``.
        OSError: it cannot be done.
    """
    beside = other.with_name(f".{other.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        try:
            os.link(path, beside)
        except FileNotFoundError:
            raise
        except OSError:
            write_beside(beside, path.read_bytes())
        beside.replace(other)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an ``OSError`` inside the block say which file it is about: what fails in the middle of one does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def lacks(error: BaseException) -> str | None:
    """Return what a process lacks to open or read a file, and what would help; ``None`` for other errors."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    return _LACKS.get(number or 0)


def path_of(error: OSError) -> str | None:
    """Return the path of the file that an error is about, where it says so."""
    # Of a file that was opened by its number it holds that.
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None


def keeps_times(folder: Path) -> bool:
    """Say whether a file in a folder gets another time when it is written to, within some twentieths of a second.

    On some network file systems times stand still, or are kept to the second or two.

    Raises:
        OSError: the folder cannot be written to.
    """
    probe = folder / f".probe.{os.getpid()}.{secrets.token_hex(4)}.part"
    try:
        write_beside(probe, b"0")
        first = probe.stat().st_mtime_ns
        for _ in range(_LOOKS):
            time.sleep(_LOOK_EVERY_S)
            with probe.open("ab") as file:
                file.write(b"0")
            if probe.stat().st_mtime_ns != first:
                return True
        return False
    finally:
        probe.unlink(missing_ok=True)


@spending("saving")
def write_beside(beside: Path, data: bytes, mode: int | None = None) -> None:
    """Write a new file, with this mode where one is given, and flush it to disk.

    Raises:
        OSError: there is one of that name, or it cannot be written; ``filename`` says where.
    """
    with named(beside), beside.open("xb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@spending("saving")
def flush_folder(path: Path) -> None:
    """Flush the entries of a folder to disk, so that a renamed file survives a power cut.

    Raises:
        OSError: the disk failed; a file system that flushes no folders is no error.
    """
    with named(path):
        try:
            folder = os.open(path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            # Some file systems flush no folders, and one that may not be listed cannot be opened.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
                raise


def move_aside(path: Path) -> None:
    """Rename what is at a path to a new name beside it; an empty folder or a link to itself is deleted.

    Raises:
        OSError: it cannot be moved.
    """
    with suppress(OSError):
        path.unlink() if leads_to_itself(path) else path.rmdir()
        return
    aside = path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}")
    try:
        kind = kind_of(path.lstat().st_mode)
        path.rename(aside)
    except FileNotFoundError:
        return
    _log.warning("%s: %s lay in the place of the harness's own and was moved to %s", path, kind, aside.name)


def remove(path: Path) -> None:
    """Delete a file or link of the harness's own, if there is one; a folder in its place is moved aside.

    Raises:
        OSError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        move_aside(path)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, however many.

    Raises:
        OSError: one cannot be made, or something else is in its place.
    """
    # Not by parents=True, which calls itself once for each: a path of two thousand folders is too many for Python.
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)


def make_folder(path: Path, root: Path) -> None:
    """Make a folder inside ``root``, and those between; anything in their way is moved aside, with a warning.

    Raises:
        OSError: it cannot be made, or ``root`` is no folder.
    """
    make_folders(root)
    for relative in [*reversed(path.relative_to(root).parents), path.relative_to(root)]:
        folder = root / relative
        if not folder.is_dir():
            if os.path.lexists(folder):
                move_aside(folder)
            folder.mkdir(exist_ok=True)
