"""Who works on what, among processes and machines that share a store: one small file for each piece of work in hand.

A lease is made exclusively (``O_EXCL``) and touched every few seconds. It has expired when it has not changed while
somebody watched it for :data:`EXPIRY` seconds of their own monotonic clock, or at once when its owner was a process of
this machine that has ended. No two clocks are ever compared, so a clock that jumps changes nothing. Work is named by
its content, so the rare lease that is held twice costs time and never a result.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.types import Ending

#: Seconds between two touches, and without any until a lease is void; file attributes of network file systems may be
#: a minute old.
BEAT = 10.0
EXPIRY = 120.0


class Busy(Ending):
    """Another process has this work in hand."""


class _Seen(NamedTuple):
    text: str
    touched: int


class Leases:
    """The leases of one store, in a folder that is made on the first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[Path, str] = {}
        self._lost: set[Path] = set()
        self._watched: dict[Path, tuple[_Seen, float]] = {}
        self._lock = threading.Lock()
        self._beating: threading.Thread | None = None

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the lease called ``name`` inside the block.

        Raises:
            Busy: another process holds it.
            OSError: the folder cannot be written to.
        """
        path = self.folder / name
        text = self._take(path)
        with self._lock:
            self._held[path] = text
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._beating.start()
        try:
            yield
        finally:
            with self._lock:
                del self._held[path]
                lost = path in self._lost
                self._lost.discard(path)
            if not lost and _read(path) == text:
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises Busy: a lease of ours was taken away, because this process stood still for too long."""
        if self._lost:
            raise Busy

    def at_work(self) -> str | None:
        """Return the name of a lease whose owner lives, if there is one.

        Where an owner on another machine may have died, telling so takes :data:`EXPIRY` seconds.
        """
        first: dict[Path, _Seen | None] = {}
        while waiting := [path for path in sorted(self.folder.glob("[!.]*")) if not self._expired(path)]:
            for path in waiting:
                seen = _look(path)
                if seen is not None and (_is_here(seen.text) or first.setdefault(path, seen) != seen):
                    return path.name
            time.sleep(min(BEAT, 1.0))
        return None

    def _take(self, path: Path) -> str:
        text = json.dumps({**_owner(), "token": secrets.token_hex(8)})
        for _ in range(2):
            try:
                self._create(path, text)
                return text
            except FileExistsError:
                if not self._expired(path) or not self._bury(path):
                    raise Busy from None
        raise Busy

    def _create(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(file, text.encode())
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)

    def _expired(self, path: Path) -> bool:
        seen = _look(path)
        if seen is None:
            return True
        if _has_ended(seen.text):
            return True
        before, since = self._watched.get(path, (None, 0.0))
        if before != seen:
            self._watched[path] = (seen, time.monotonic())
            return False
        return time.monotonic() - since > EXPIRY

    def _bury(self, path: Path) -> bool:
        """Take an expired lease out of the way; only one of many who try succeeds, and never with a fresh one."""
        void = _read(path)
        grave = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return True
        fresh = _read(grave) != void
        if fresh:
            # Between the look and the rename another process had buried it and taken the lease: give it back.
            with suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink(missing_ok=True)
        return not fresh

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                held = dict(self._held)
            for path, text in held.items():
                with suppress(OSError):
                    if _read(path) == text:
                        os.utime(path)
                    elif self._held.get(path) == text:
                        self._lost.add(path)


def _look(path: Path) -> _Seen | None:
    try:
        # Opened, not only looked up: that is when network file systems ask the server.
        with path.open(encoding="utf-8") as file:
            return _Seen(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None


def _read(path: Path) -> str | None:
    seen = _look(path)
    return None if seen is None else seen.text


def _is_here(text: str) -> bool:
    """Say whether the owner of a lease is or was a process of this machine."""
    try:
        return bool(json.loads(text)["machine"] == _machine())
    except (ValueError, KeyError, TypeError):
        return False


def _has_ended(text: str) -> bool:
    """Say whether the owner of a lease was a process of this machine and has ended."""
    if not _is_here(text):
        return False
    owner = json.loads(text)
    return bool(owner["started"] != _started(int(owner["pid"])))


def _owner() -> dict[str, object]:
    return {"machine": _machine(), "host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid())}


@cache
def _machine() -> str:
    """Return what this boot of this machine and its table of processes are called, and nothing else is."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """Return when a process of this machine was started, in its own units, or ``None`` where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        pass
    else:
        # After the name, which may hold blanks and brackets: the state is the first word, the start the twentieth.
        words = text.rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "running"
    return "running"
