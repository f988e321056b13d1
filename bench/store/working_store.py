"""The working store: one folder per trained network, one per adversarial set, one file per result.

Every file is written under a temporary name, flushed to disk and renamed; the file that says "done" comes last. A
reader never sees half a file, and the leftovers of a dead process are ignored.

    train/<key>/    state.safetensors, epoch.safetensors, log.jsonl, weights.safetensors, card.json (last)
    attack/<key>/   <first>-<last>.safetensors, one for each chunk of images
    cells/<key>.json
    partial/<key>.json   of a cell that is not finished (see bench/store/partial.py)
    records/<key>.parquet
    plans/          what runs have planned (see bench/store/planned.py)
    verified.json   size and times of the records that were intact, so that they are hashed once
    leases/         who works on what (see bench/store/lease.py)
    log/            what runs did (see bench/store/run_log.py)
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.keys import canonical_json, sha256_hex
from bench.store import cards, files, inventory
from bench.store.files import Unreadable, write_atomically
from bench.store.lease import Leases
from bench.store.reading import MAX_RESULT, SharedParts, read_result
from bench.store.records import largest_records
from bench.store.seals import KnownFiles
from bench.types import CellResult, PlannedCell, StoreError, UsageError, jsonable, listed

_KEY = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("crossfire")
#: Largest size of ``verified.json`` in bytes: that of two hundred thousand records.
_LARGEST_MEMORY = 64 * 2**20
#: How many names a warning lists, and how many results that do not count are named.
_NAMED, _SAID = 3, 100


def default_root() -> Path:
    """Return ``$CROSSFIRE_STORE``, or ``.crossfire`` in the current folder."""
    return Path(os.environ.get("CROSSFIRE_STORE") or ".crossfire")


class Store:
    """The store in a folder, which is made on the first write.

    Records count as intact while they keep the size and the times with which they were last hashed. Without
    ``trusting`` all of them are hashed again.
    """

    def __init__(self, root: Path, *, trusting: bool = True) -> None:
        self.root = root
        self.leases = Leases(root / "leases")
        self._trusting = trusting
        self._unsound = 0
        self._shared = SharedParts()

    @cached_property
    def known(self) -> KnownFiles:
        """Which of its files were intact when they were last hashed."""
        return KnownFiles(self._remembered() if self._trusting else None)

    def _remembered(self) -> bytes | None:
        try:
            return files.read(self.root / "verified.json", _LARGEST_MEMORY)
        except (FileNotFoundError, Unreadable):
            return None

    def require_folder(self) -> None:
        """Raises UsageError: something is in the place of the store, or of a folder above it, that is no folder."""
        nearest = next((each for each in (self.root, *self.root.parents) if os.path.lexists(each)), self.root)
        if os.path.lexists(nearest) and not nearest.is_dir():
            kind = files.kind_of(nearest.lstat().st_mode)
            which = "it" if nearest == self.root else nearest
            raise UsageError(
                f"the store {self.root} cannot be written: {which} is {kind}, not a folder; choose another with --store"
            )

    def check_writable(self) -> None:
        """Move aside, with a warning, anything in the way of the store's own folders.

        Raises:
            UsageError: the root is no folder, or cannot be written to.
        """
        probe = self.root / f".probe.{os.getpid()}.{secrets.token_hex(4)}.part"
        self.require_folder()
        try:
            files.make_folders(self.root)
            probe.write_bytes(b"0")
            probe.unlink()
            for name in inventory.FOLDERS:
                if os.path.lexists(self.root / name):
                    files.make_folder(self.root / name, self.root)
        except OSError as error:
            raise UsageError(
                f"the store {self.root} cannot be written: {error.strerror}; choose another with --store"
            ) from None

    def stamps(self) -> dict[str, str]:
        """Return the :meth:`stamp` of every result and failed training, by :meth:`name`."""
        paths = [self.cell_file(key) for key in self.all_keys()]
        paths += [self.training(key) / "failed.json" for key in inventory.keys(self.root / "train", "")]
        pairs = ((self.name(path), self.stamp(path)) for path in paths)
        return {name: stamp for name, stamp in pairs if stamp is not None}

    def stamp(self, path: Path) -> str | None:
        """Return a text that changes when a file is written again; ``None`` where there is no file."""
        try:
            now = files.status(path)
        except (FileNotFoundError, Unreadable):
            return None
        # On a disk that keeps no times, the new file still has another inode: both existed at once.
        return f"{now.st_ino} {now.st_size} {now.st_mtime_ns}"

    def all_keys(self) -> list[str]:
        """Return the keys of all results, damaged ones too, sorted."""
        return inventory.keys(self.root / "cells", ".json")

    def make_folder(self, folder: Path) -> None:
        """Make a folder of the store; anything in its way is moved aside, with a warning.

        Raises:
            StoreError: it cannot be made.
        """
        with self.writing():
            files.make_folder(folder, self.root)

    def warn_of_strangers(self) -> None:
        """Warn of foreign files: one line for each folder, and one for all trainings or all adversarial sets."""
        strangers = defaultdict(list)
        for entry in inventory.entries(self.root):
            if entry.kind is None or (entry.kind == "folder" and not (entry.is_folder or entry.path.is_dir())):
                folder = entry.path.parent
                # Of trainings and adversarial sets there are many: what is in all of them is one line.
                if inventory.is_keyed(self.name(folder)):
                    folder = folder.parent
                strangers[folder].append(entry.path.relative_to(folder).as_posix())
        for folder, names in strangers.items():
            _log.warning("%s: not Crossfire's and left alone: %s", folder, listed(names, _NAMED))

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the error of a full, broken or read-only disk under the store into one clear line.

        Raises:
            StoreError: instead of an ``OSError`` about a file of the store in the block.
        """
        try:
            yield
        except OSError as error:
            # A method that cannot write outside the store has failed itself, even if its disk is full.
            where = files.path_of(error)
            if where is None or not Path(where).is_relative_to(self.root):
                raise
            raise StoreError(
                f"the store {self.root} cannot be written: {error.strerror} ({self._below(where)}); what is finished "
                "is kept, and the same command continues once it can"
            ) from error

    def _below(self, path: str) -> str:
        return inventory.finished_name(os.path.relpath(path, self.root))

    def training(self, key: str) -> Path:
        return self.root / "train" / _checked(key)

    def adversarial(self, key: str) -> Path:
        return self.root / "attack" / _checked(key)

    def records(self, key: str) -> Path:
        return self.root / "records" / f"{_checked(key)}.parquet"

    def cell_file(self, key: str) -> Path:
        return self.root / "cells" / f"{_checked(key)}.json"

    def put(self, result: CellResult) -> None:
        """Keep a result: later runs return it if it is done, and try again if it failed."""
        body = jsonable(result)
        text = canonical_json({**body, "sha256": sha256_hex(canonical_json(body))})
        write_atomically(self.cell_file(result.key), text.encode() + b"\n")
        if result.records_sha is not None and files.is_regular(records := self.records(result.key)):
            self.known.note(self.name(records), records, result.records_sha)

    def get(self, key: str) -> CellResult | None:
        """Return the result under ``key``; ``None`` where there is none or, with a warning, where it is damaged."""
        return self._read(key, None)

    def finished(self, planned: PlannedCell) -> CellResult | None:
        """Return the result of a cell that is done and has its records; ``None`` if any of these is damaged."""
        known = self._read(planned.key, planned)
        return known if known is not None and known.status == "done" and self.has_records(known) else None

    def has_records(self, result: CellResult) -> bool:
        """Say whether the records of a result are those that were written with it; if altered, with a warning."""
        path = self.records(result.key)
        if result.records_sha is None:  # It is of an older version.
            return False
        try:
            n = result.cell.data.n
            is_intact = self.known.is_intact(self.name(path), path, result.records_sha, largest_records(n))
        except FileNotFoundError:
            return False
        except Unreadable as error:
            _log.warning("%s does not count and is made again: %s", path, error)
            return False
        if not is_intact:
            _log.warning("%s does not count and is made again: cut short or altered since it was written", path)
        return is_intact

    def has_weights(self, folder: Path, card: Mapping[str, Any]) -> bool:
        """Say whether the weights of a training are those of its card, or not there; if altered, with a warning.

        They are hashed again if their size or times have changed.
        """
        path = folder / "weights.safetensors"
        sha, limit = card.get("weights_sha256", ""), cards.largest_weights(card)
        try:
            is_intact = self.known.is_intact(self.name(path), path, sha, limit)
            why = "cut short or altered since it was written"
        except FileNotFoundError:
            return True
        except Unreadable as error:
            is_intact, why = False, str(error)
        if not is_intact:
            _log.warning("%s does not count and is trained again: %s", path, why)
        return is_intact

    def remember(self) -> None:
        """Keep for later processes which records were intact.

        Nothing is kept in a store that cannot be written, or on a disk that keeps no times.
        """
        path = self.root / "verified.json"
        before = self._remembered()
        if self.known.has_news and (after := self.known.merged(before)) != before:
            with suppress(OSError):
                if files.keeps_times(self.root):
                    write_atomically(path, after)

    def _read(self, key: str, planned: PlannedCell | None) -> CellResult | None:
        path = self.cell_file(key)
        try:
            result = read_result(files.read(path, MAX_RESULT), planned, self._shared)
            if result.key != key:
                raise ValueError(f"it is the result of {result.key}")
            return result
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._unsound += 1
            if self._unsound <= _SAID:
                _log.warning("%s does not count: %s", path, error)
            elif self._unsound == _SAID + 1:
                _log.warning("%s: further results that do not count are not named", path.parent)
            return None

    def results(self) -> Iterator[CellResult]:
        """Yield every readable result, in the order of their keys."""
        for key in self.all_keys():
            if (result := self.get(key)) is not None:
                yield result


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key")
    return key
