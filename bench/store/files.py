"""Files in folders that others write to as well: read only where they are files, and written whole or not at all.

Whatever may lie at a path (a folder, a pipe, a link that leads to itself, a file of a terabyte), reading it ends at
once with the bytes or with the reason why there are none, and writing loses nothing that somebody else has put there.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from bench.types import UsageError

_log = logging.getLogger("crossfire")
#: What an operating system says of a path that is there and gives no bytes, whoever asks again.
_UNREADABLE = {
    errno.ELOOP,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
}
#: What it says of the process that asks, and not of the path.
_LACKS = {
    errno.EMFILE: "this process has too many files open; let it have more (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.ENOMEM: "memory ran out; give the process more",
}
#: How often, and how far apart, a file is written to until it must have another time.
_LOOKS, _LOOK_EVERY_S = 10, 0.005
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
#: Streams that this process has open, as they are named in the file system.
_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


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
            # It is the folder that is none or cannot be entered, and not each of its files that is damaged.
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
        if error.errno not in _UNREADABLE:
            raise
        raise Unreadable((error.strerror or type(error).__name__).lower()) from None


def _require_regular(about: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(about.st_mode):
        raise Unreadable(f"it is {kind_of(about.st_mode)}, not a file")
    return about


def read(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: what lies there is no regular file, is larger, or cannot be read.
    """
    with _unreadable(path), _number(path) as number:
        # One that grows meanwhile is read as it was when it was looked at.
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

    Folders above it are made. A folder in its place is moved aside, with a warning. To be used for files of the
    harness's own; what a user names is written by :func:`write_named`.

    Raises:
        OSError: it cannot be written; ``filename`` says where, whatever step failed.
    """
    make_folders(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        _write_beside(beside, data)
        try:
            beside.replace(path)
        except IsADirectoryError:
            move_aside(path)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(path.parent)


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


def about(error: OSError) -> str | None:
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
        _write_beside(probe, b"0")
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


def _write_beside(beside: Path, data: bytes, mode: int | None = None) -> None:
    with named(beside), beside.open("xb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
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
    """Take what lies at a path out of the way, under a name beside it; an empty folder and a link to itself go.

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
    """Make a folder inside ``root``, and those between; what lies in their way is moved aside, with a warning.

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


def write_named(path: Path, data: bytes, *, option: str = "--out") -> bool:
    """Write to what a user named, and say whether that is a regular file.

    A regular file, also at the end of links, is replaced as a whole and keeps its permissions; the links stay. A pipe,
    a device or a stream of this process is written to. Missing folders of a path without links are made.

    Args:
        path: of the file.
        data: its bytes.
        option: how the user named it, for messages.

    Raises:
        UsageError: it is a folder or a socket, a link into a folder that is not there, or cannot be written.
        BrokenPipeError: nobody reads the pipe any more.
    """
    with _unwritable(path, option):
        stream = _own_stream(path)
        if stream is not None:
            _write_stream(stream, data)
            return False
        about = _stat(path)
        if about is not None and (stat.S_ISFIFO(about.st_mode) or stat.S_ISCHR(about.st_mode)):
            with path.open("wb") as file:
                file.write(data)
            return False
        _write_file(path, about, data, option)
        return True


def write_into(path: Path, data: bytes, *, option: str = "--out") -> None:
    """Write a file into a folder that a user named, as :func:`write_named` does, but to no pipe and no device.

    Raises:
        UsageError: something else than a file is in its place, or it cannot be written.
    """
    with _unwritable(path, option):
        _write_file(path, _stat(path), data, option)


@contextmanager
def _unwritable(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{option} {path} cannot be written: {why}") from None


def _write_file(path: Path, about: os.stat_result | None, data: bytes, option: str) -> None:
    if about is None:
        _replace(_file_to_create(path), data, None)
    elif stat.S_ISREG(about.st_mode):
        _replace(Path(os.path.realpath(path)), data, stat.S_IMODE(about.st_mode))
    else:
        raise UsageError(f"{option} {path} is {kind_of(about.st_mode)}; name a file")


def _own_stream(path: Path) -> int | None:
    """Return the number of the open stream of this process that a path names, such as /dev/stdout or /dev/fd/63."""
    # Link by link: at the end of /proc/self/fd/1 stands a name that means nothing, or a file that others append to.
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
    # Short, for the user's own name may be as long as names can be.
    beside = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        _write_beside(beside, data, mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(path.parent)
