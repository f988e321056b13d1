"""Leases: one small file for each piece of work in progress, so that processes and machines can share a store.

A lease is made exclusively (``O_EXCL``), and every few seconds its owner touches it and adds a line end, for a file
system may keep no times. It has expired when it has not changed while somebody watched it for :data:`EXPIRY` seconds of
their own monotonic clock, or at once when its owner was a process of this machine that has ended. No two clocks are
ever compared, so a clock that jumps changes nothing. Work is named by its content, so the rare lease that is held twice
costs time and never a result. For the same reason work continues without a lease where none can be had.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import secrets
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.store.files import make_folders, named
from bench.types import Ending

#: Seconds between two touches, and without any until a lease is void; file attributes of network file systems may be
#: a minute old.
BEAT = 10.0
EXPIRY = 120.0
#: Seconds until a lease is void that does not name its owner: one is written at once when it is made.
UNSIGNED = 5.0
#: What an operating system says of a disk that is full, over its quota, read-only or broken.
BROKEN_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})

_NAME = re.compile(r"\.?(train|attack|cell|plan)-[0-9a-f]{64}(-\d{6,})?(\.[0-9a-f]{8})?")
#: Every lease begins so, and names its owner within so many bytes.
_BEGIN, _LONGEST = b'{"machine":', 1024
_log = logging.getLogger("crossfire")


class Busy(Ending):
    """Another process has this work in hand."""


class _Owner(BaseModel):
    """The process that holds a lease. ``started`` is in the units of its machine, ``None`` where that does not say."""

    model_config = ConfigDict(frozen=True, strict=True)

    machine: str
    host: str
    pid: int = Field(gt=0, lt=2**31)
    started: str | None
    token: str

    def has_ended(self) -> bool:
        """Say whether it was a process of this machine and has ended; of other machines nothing is known."""
        return self.is_here() and not _lives(self.pid, self.started)

    def is_here(self) -> bool:
        return self.machine == _machine()


class _Seen(NamedTuple):
    """A look at what has the name of a lease: the first bytes of a file that can be read, and what a touch changes."""

    data: bytes | None
    mode: int
    size: int
    touched: int

    @property
    def text(self) -> bytes | None:
        return self.data and self.data.rstrip(b"\n")

    @property
    def owner(self) -> _Owner | None:
        try:
            return _Owner.model_validate_json(self.text or b"")
        except ValidationError:
            return None

    @property
    def may_be_lease(self) -> bool:
        """Whether the harness may have made it. What cannot be read may be the lease of another user."""
        if not stat.S_ISREG(self.mode):
            return False
        if self.data is None or self.owner is not None:
            return True
        # A power cut leaves a file without its bytes, or with zeros for them.
        return self.size <= _LONGEST and (self.data.startswith(_BEGIN) or not self.data.strip(b"\0"))


class Leases:
    """The leases of one store, in a folder that is made on the first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[Path, bytes] = {}
        self._lost: set[Path] = set()
        self._watched: dict[Path, tuple[_Seen, float]] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._beating: threading.Thread | None = None
        self._touched = 0.0

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the lease called ``name`` inside the block; where none can be had, with a warning, none.

        Raises:
            Busy: another process holds it.
            OSError: the disk is full, read-only or broken.
        """
        path = self.folder / name
        try:
            make_folders(self.folder)
            text = self._take(path)
        except OSError as error:
            if error.errno in BROKEN_DISK:
                raise
            # An error of one lease is an error of all, unless something else has its name.
            where = error.filename if error.errno == errno.EEXIST else self.folder
            self._warn(f"{where} cannot hold a lease ({error.strerror})")
            yield
            return
        self._keep(path, text)
        try:
            yield
        finally:
            with self._lock:
                del self._held[path]
                lost = path in self._lost
                self._lost.discard(path)
            if not lost and _is_ours(path, text):
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises Busy: a lease of ours was taken away, because this process stood still for too long."""
        if self._held and _clock() - self._touched > EXPIRY / 2:
            self._touch()
        if self._lost:
            raise Busy

    def is_held(self, name: str) -> bool:
        """Say whether the owner of a lease may live; of one on another machine that is not known at once."""
        return self._valid(self.folder / name) is not None

    def at_work(self) -> str | None:
        """Return the name of a lease whose owner lives, if there is one.

        Where an owner on another machine may have died, telling so takes :data:`EXPIRY` seconds.
        """
        first: dict[Path, _Seen] = {}
        while waiting := [(path, seen) for path in _files(self.folder) if (seen := self._valid(path)) is not None]:
            for path, seen in waiting:
                if (seen.owner is not None and seen.owner.is_here()) or first.setdefault(path, seen) != seen:
                    return path.name
            time.sleep(min(BEAT, 1.0))
        return None

    def _take(self, path: Path) -> bytes:
        text = _signed()
        for _ in range(2):
            try:
                _create(path, text)
                return text
            except FileExistsError as error:
                seen = _look(path)
                if seen is not None and not seen.may_be_lease:
                    raise OSError(errno.EEXIST, "something else is in its place", str(path)) from error
                if self._valid(path) is not None or not _bury(path, seen):
                    raise Busy from None
                if seen is not None and seen.owner is None:
                    _log.warning("%s was removed: a lease that does not say whose it is", path)
        raise Busy

    def _keep(self, path: Path, text: bytes) -> None:
        with self._lock:
            if not self._held:
                self._touched = _clock()
            self._held[path] = text
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._beating.start()

    def _warn(self, why: str) -> None:
        if why not in self._warned:
            self._warned.add(why)
            _log.warning("%s; the work continues, but another process may do the same", why)

    def _valid(self, path: Path) -> _Seen | None:
        """Return a look at a lease that may still be held."""
        seen = _look(path)
        if seen is None or not seen.may_be_lease:
            return None
        owner = seen.owner
        if owner is not None and owner.has_ended():
            return None
        before, since = self._watched.get(path, (None, 0.0))
        if before != seen:
            self._watched[path] = (seen, time.monotonic())
            return seen
        unsigned = owner is None and seen.data is not None
        return seen if time.monotonic() - since <= (UNSIGNED if unsigned else EXPIRY) else None

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            self._touch()

    def _touch(self) -> None:
        with self._lock:
            held = dict(self._held)
        for path, text in held.items():
            with suppress(OSError):
                if _is_ours(path, text):
                    _touch(path)
                elif self._held.get(path) == text:
                    self._lost.add(path)
        self._touched = _clock()


def is_lease(path: Path) -> bool:
    """Say whether the harness made what is at ``path`` of a store's ``leases``: by its name and by what is in it.

    Also one that was cut short, or taken out of the way by a process that then died.
    """
    if not _NAME.fullmatch(path.name):
        return False
    seen = _look(path)
    return seen is not None and seen.data is not None and seen.may_be_lease


def _signed() -> bytes:
    pid = os.getpid()
    owner = _Owner(machine=_machine(), host=platform.node(), pid=pid, started=_started(pid), token=secrets.token_hex(8))
    return owner.model_dump_json().encode()


def _create(path: Path, text: bytes) -> None:
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with named(path):
            os.write(file, text)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)


def _touch(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # Either will do: a full disk takes no line end, and some file systems take no time.
        with suppress(OSError):
            os.utime(file)
        with suppress(OSError):
            os.write(file, b"\n")
    finally:
        os.close(file)


def _bury(path: Path, void: _Seen | None) -> bool:
    """Take an expired lease out of the way; only one of many who try succeeds, and never with a fresh one."""
    grave = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return True
    if void is None or (dead := _look(grave)) is None or dead.data != void.data:
        # Since the look another process had buried it and taken the lease: give it back.
        grave.rename(path)
        return False
    grave.unlink(missing_ok=True)
    return True


def _look(path: Path) -> _Seen | None:
    """Look at a lease.

    Raises:
        OSError: there is something, and nothing can be learned of it.
    """
    try:
        # Opened, not only looked up: that is when network file systems ask the server.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        status, data = path.lstat(), None
    else:
        try:
            status = os.fstat(file)
            data = os.read(file, _LONGEST) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(file)
    return _Seen(data, status.st_mode, status.st_size, status.st_mtime_ns)


def _is_ours(path: Path, text: bytes) -> bool:
    seen = _look(path)
    return seen is not None and seen.text == text


def _files(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError:
        return []


def _clock() -> float:
    """Return seconds of a monotonic clock, which runs on while the machine sleeps where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@cache
def _machine() -> str:
    """Return a name that is unique to this boot of this machine and its process table."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"


def _lives(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It is another user's.
        pass
    now = _started(pid)
    return now is None or (now != "" and started in (None, now))


def _started(pid: int) -> str | None:
    """Return when a process of this machine was started, in its own units.

    Nothing (``None``) where the machine does not say, and an empty text where it has ended and is still in the table.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name, which may hold blanks and brackets: the state is the first word, the start the twentieth.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
