"""The working store: one folder per trained network, one per adversarial set, one file per result.

Every file is written beside its place, flushed to the disk and renamed; the file that says "done" comes last. So a
reader never sees half a file, and whatever a dead process left behind is ignored.

    train/<key>/    state.safetensors, log.jsonl, weights.safetensors, card.json (last)
    attack/<key>/   <first>-<last>.safetensors, one for each chunk of images
    cells/<key>.json
    records/<key>.parquet
    plans/          what runs were asked for (see bench/planned.py)
    verified.json   size and times of the records that were found whole, so that they are hashed once
    leases/         who works on what (see bench/lease.py)
    log/            what runs did (see bench/runlog.py)
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from bench.keys import canonical_json, sha256_hex
from bench.lease import BROKEN_DISK, Leases
from bench.reading import MAX_RESULT, read_bytes, read_result
from bench.seals import KnownFiles
from bench.types import CellResult, PlannedCell, StoreError, UsageError, jsonable

_KEY = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("crossfire")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either what it held before or all of ``data``, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def default_root() -> Path:
    """Return ``$CROSSFIRE_STORE``, or ``.crossfire`` in the current folder."""
    return Path(os.environ.get("CROSSFIRE_STORE") or ".crossfire")


class Store:
    """The store in a folder, which is made on the first write.

    Records count as whole while they keep the size and the times with which they were last hashed. With ``trusting``
    off every one is hashed again.
    """

    def __init__(self, root: Path, *, trusting: bool = True) -> None:
        self.root = root
        self.leases = Leases(root / "leases")
        self._trusting = trusting

    @cached_property
    def _known(self) -> KnownFiles:
        return KnownFiles(_bytes(self.root / "verified.json") if self._trusting else None)

    def check_writable(self) -> None:
        """Raises UsageError: the folder cannot be written to."""
        probe = self.root / f".probe.{os.getpid()}.{secrets.token_hex(4)}.part"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the store {self.root} cannot be written: {error.strerror}; choose another with --store"
            ) from None

    def marks(self) -> dict[str, int]:
        """Return for every result and failed training what changes when it is written again, by :meth:`name`."""
        files = (*self.root.glob("cells/*.json"), *self.root.glob("train/*/failed.json"))
        return {self.name(path): path.stat().st_mtime_ns for path in files}

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the operating system says of a full, broken or read-only disk into one clear line.

        Raises:
            StoreError: instead of such an ``OSError`` in the block.
        """
        try:
            yield
        except OSError as error:
            inside = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(self.root)
            denied = inside and error.errno in (errno.EACCES, errno.EPERM)
            if error.errno not in BROKEN_DISK and not denied:
                raise
            raise StoreError(
                f"the store {self.root} cannot be written: {error.strerror}; what is finished is kept, and the same "
                "command goes on once it can"
            ) from error

    def training(self, key: str) -> Path:
        return self.root / "train" / _checked(key)

    def adversarial(self, key: str) -> Path:
        return self.root / "attack" / _checked(key)

    def records(self, key: str) -> Path:
        return self.root / "records" / f"{_checked(key)}.parquet"

    def cell_file(self, key: str) -> Path:
        return self.root / "cells" / f"{_checked(key)}.json"

    def put(self, result: CellResult) -> None:
        """Keep a result; it is then done, or failed, for every later run."""
        body = jsonable(result)
        text = canonical_json({**body, "sha256": sha256_hex(canonical_json(body))})
        write_atomically(self.cell_file(result.key), text.encode() + b"\n")
        if result.records_sha is not None and (records := self.records(result.key)).is_file():
            self._known.note(self.name(records), records, result.records_sha)

    def get(self, key: str) -> CellResult | None:
        """Return the result under ``key``; ``None`` where there is none or, with a warning, where it is not whole."""
        return self._read(key, None)

    def finished(self, planned: PlannedCell) -> CellResult | None:
        """Return the result of a cell that is done and has its records; ``None`` if anything of it is not whole."""
        known = self._read(planned.key, planned)
        return known if known is not None and known.status == "done" and self.has_records(known) else None

    def has_records(self, result: CellResult) -> bool:
        """Say whether the records of a result are those that were written with it; if altered, with a warning."""
        path = self.records(result.key)
        if result.records_sha is None:  # It is of an older version.
            return False
        try:
            whole = self._known.is_whole(self.name(path), path, result.records_sha)
        except FileNotFoundError:
            return False
        if not whole:
            _log.warning("%s does not count and is made again: cut short or altered since it was written", path)
        return whole

    def remember(self) -> None:
        """Keep which records were found whole for later processes; a store that cannot be written goes without."""
        path = self.root / "verified.json"
        before = _bytes(path)
        if self._known.has_news and (after := self._known.merged(before)) != before:
            with suppress(OSError):
                write_atomically(path, after)

    def _read(self, key: str, planned: PlannedCell | None) -> CellResult | None:
        path = self.cell_file(key)
        try:
            result = read_result(read_bytes(path, MAX_RESULT), planned)
            if result.key != key:
                raise ValueError(f"it is the result of {result.key}")
            return result
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            _log.warning("%s does not count: %s", path, error)
            return None

    def results(self) -> Iterator[CellResult]:
        """Yield every readable result, in the order of their keys."""
        for path in sorted((self.root / "cells").glob("*.json")):
            if (result := self.get(path.stem)) is not None:
                yield result

    def find(self, text: str) -> list[CellResult]:
        """Return the results whose key starts with ``text`` or whose name is ``text``."""
        return [result for result in self.results() if result.key.startswith(text) or str(result.names) == text]


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key")
    return key
