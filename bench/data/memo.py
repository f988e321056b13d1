"""The user's cache folder, and small things remembered in it; each is sealed, so that a damaged one does not count."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.data.foreign import regular
from bench.keys import sha256_hex
from bench.store import files
from bench.store.files import write_atomically
from bench.store.seals import sealed, unsealed
from bench.types import UsageError

# A file changed twice within one tick of the clock keeps its stamp: a hash that young is not remembered.
_TICK_NS = 2 * 10**9
#: Largest size in bytes of the memo of one set: a hash for each of its files.
_LARGEST = 2**28
_log = logging.getLogger("crossfire")


class CacheError(UsageError):
    """The user's cache cannot be used; no set of images is to blame."""


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/crossfire``, or ``~/.cache/crossfire``.

    Raises:
        CacheError: there is no home folder, as for a user that the machine does not know.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossfire"
    except RuntimeError:
        raise CacheError("this user has no home folder for the cache: set XDG_CACHE_HOME to a folder") from None


def recall(path: Path) -> dict[str, Any]:
    """Return what :func:`keep` kept.

    Raises:
        FileNotFoundError: nothing.
        ValueError: it is not what was kept.
    """
    try:
        return unsealed(files.read(path, _LARGEST))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def keep(path: Path, body: dict[str, Any]) -> None:
    """Write a JSON object with a seal over it.

    Raises:
        CacheError: the cache folder cannot be written.
    """
    try:
        write_atomically(path, sealed(body))
    except OSError as error:
        raise unwritable(error) from None


def remember(path: Path, body: dict[str, Any]) -> None:
    """Keep a value that only saves time; nothing is kept in a cache that this user may only read."""
    try:
        keep(path, body)
    except CacheError as error:
        # A caller that must write there raises the error instead.
        _log.debug("%s", error)


def hashes(files: tuple[Path, ...], *, thorough: bool = False) -> tuple[str, ...]:
    """Return the SHA-256 of each file; remembered for as long as no path, size or time of change differs.

    ``thorough``: remembered or not, every file is read again, and one that has changed nevertheless is said.

    Raises:
        UsageError: a file cannot be read.
    """
    stats = [regular(path).stat() for path in files]
    stamps = [f"{os.path.abspath(path)} {stamp(stat)}" for path, stat in zip(files, stats, strict=True)]
    memo = cache_folder() / "hashes" / f"{sha256_hex(*stamps)}.json"
    known: list[str] | None = None
    with suppress(OSError, ValueError, KeyError):
        known = recall(memo)["hashes"]
    if known is not None and not thorough:
        return tuple(known)
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            current = tuple(pool.map(_hash, files))
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    for path, before, now in zip(files, known or (), current, strict=False):
        if before != now:
            _log.warning("%s holds other bytes than before, though its size and times are the same", path)
    # Where files have no times, a later change could not be noticed.
    if all(stat.st_mtime_ns < time.time_ns() - _TICK_NS and stat.st_ctime_ns > 0 for stat in stats):
        remember(memo, {"hashes": list(current)})
    return current


def stamp(stat: os.stat_result) -> list[int]:
    """Return a text that changes when a file is written: its size and the times of its last changes."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def unwritable(error: OSError) -> CacheError:
    where = error.filename or cache_folder()
    return CacheError(f"the cache cannot be written: {where}: {error.strerror}; set XDG_CACHE_HOME to another folder")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
