"""Files of a store that no plan needs, and files in it that are not the harness's own.

Whatever is deleted is the harness's own by its name and by its contents: a seal, a format, a place in a folder that a
seal speaks for. A stranger's file is left, also under such a name or in such a folder, and so is one of ours that is
damaged so far that it could be anyone's. No link is followed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bench.keys import Keys, clean_cell, models_of, training_key
from bench.schedule.plan import Work
from bench.store import cards, files, inventory, partial, planned
from bench.store.inventory import LEFTOVER, Entry
from bench.store.lease import is_lease
from bench.store.reading import document
from bench.store.records import ALL_COLUMNS
from bench.store.seals import head_metadata, unsealed
from bench.store.working_store import Store
from bench.types import ModelRef, UsageError

_log = logging.getLogger("crossfire")
#: Bytes that are read to recognize a file: all of a document, the head of any other.
_LARGEST_DOCUMENT, _LARGEST_HEAD = 2**28, 2**24
#: Kinds that go with their folder.
_IN_FOLDERS = {"attack": "adversarial set", "train": "training"}


class Unneeded(NamedTuple):
    """Something no plan needs: a file or folder, its kind, its size in bytes and the files to delete.

    A folder goes with its last file; if a stranger's is in it too, it stays.
    """

    path: Path
    what: str
    size: int
    files: tuple[Path, ...]


class Left(NamedTuple):
    """Something that is kept though no plan needs it, why, and its own size in bytes."""

    path: Path
    why: str
    size: int


class Garbage(NamedTuple):
    """What no plan needs, and what else is in the store."""

    unneeded: list[Unneeded]
    left: list[Left]


def garbage(works: Iterable[Work], store: Store) -> Garbage:
    """Return what no plan needs, and what is left alone.

    The first are results, records, adversarial sets, trainings, what runs requested beyond the plans, and what
    dead processes left behind.

    Raises:
        UsageError: a run is using the store, or it is not a readable folder.
    """
    store.require_folder()
    if store.root.is_dir() and not _may_look(store.root):
        raise UsageError(f"the store {store.root} cannot be looked into: permission denied; name another with --store")
    if (name := store.leases.at_work()) is not None:
        raise UsageError(f"a run is at work on {store.root} ({name}); wait until it has ended")
    needed = {store.name(path) for path in chain.from_iterable(_needed(work, store) for work in works)}
    return _Sorter(store, needed).sorted()


def delete(unneeded: Iterable[Unneeded]) -> None:
    """Delete what no plan needs.

    Raises:
        OSError: something cannot be deleted; everything before it is already deleted.
    """
    for each in unneeded:
        for file in each.files:
            file.unlink(missing_ok=True)
        if each.path not in each.files:
            try:
                each.path.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise


def _needed(work: Work, store: Store) -> Iterator[Path]:
    keys = Keys()
    models: dict[int, ModelRef] = {}
    sets: set[str] = set()
    for each in work.plan.cells:
        cell = each.cell
        for key in (each.key, keys.of(clean_cell(cell))):
            yield store.cell_file(key)
            yield store.records(key)
        if not files.is_regular(store.cell_file(each.key)):
            yield partial.path_of(store, each.key)
        models |= {id(model): model for model in models_of(cell)}
        attack = cell.attack
        # The earlier sets of a suite were visited with the first set that continues from them.
        while attack is not None and (key := keys.of(attack)) not in sets:
            sets.add(key)
            yield store.adversarial(key)
            attack = attack.previous
    for model in models.values():
        yield store.training(training_key(model))


class _Sorter:
    """Sorts the entries of a store into needed, unneeded and left alone."""

    def __init__(self, store: Store, needed: set[str]) -> None:
        self._store, self._needed = store, needed
        self._garbage = Garbage([], [])
        self._folders: dict[str, list[Entry]] = defaultdict(list)

    def sorted(self) -> Garbage:
        for entry in inventory.entries(self._store.root):
            self._sort(entry)
        for name, inside in self._folders.items():
            self._sort_folder(name, inside)
        # Misplaced entries may be in a folder that is deleted; a result is deleted before its records.
        order = [
            "empty folder",
            "link to itself",
            "result",
            "partial result",
            "records",
            *_IN_FOLDERS.values(),
            "plan",
            "left behind",
        ]
        self._garbage.unneeded.sort(key=lambda each: (order.index(each.what), each.path))
        self._garbage.left.sort()
        return self._garbage

    def _sort(self, entry: Entry) -> None:
        top, _, rest = entry.name.partition("/")
        if entry.kind is None:
            self._leave(entry, "not Crossfire's")
        elif entry.kind == "folder":
            if not entry.is_folder and top == "plans" and rest:
                # A plan may have any name, so the name proves nothing.
                self._leave(entry, "not Crossfire's")
            elif not entry.is_folder:
                self._sort_misplaced(entry)
            elif not _may_look(entry.path):
                self._leave(entry, "cannot be looked into: permission denied")
            elif rest and top in _IN_FOLDERS and entry.name not in self._needed:
                self._folders[entry.name] = []
        elif not entry.is_file:
            self._sort_misplaced(entry)
        elif entry.name.rpartition("/")[0] in self._folders:
            self._folders[entry.name.rpartition("/")[0]].append(entry)
        elif (what := self._unneeded_as(entry)) is not None:
            if _is_ours(entry):
                self._drop(entry.path, what, [entry])
            else:
                self._leave(entry, "damaged, or not Crossfire's")

    def _unneeded_as(self, entry: Entry) -> str | None:
        """Return what a file of our own is called if no plan needs it."""
        if entry.kind in ("result", "partial result", "records"):
            return None if entry.name in self._needed else entry.kind
        if entry.kind == "plan":
            table = planned.read_file(entry.path)
            # A table whose plan names a deleted cell would count as incomplete for ever.
            stays = table is not None and all(self._has_cell(key) for key in table.keys)
            return None if stays else "plan"
        if entry.kind == "training state":
            return "left behind" if files.is_regular(entry.path.parent / "card.json") else None
        return "left behind" if entry.kind in (LEFTOVER, "lease") else None

    def _has_cell(self, key: str) -> bool:
        return self._store.name(self._store.cell_file(key)) in self._needed

    def _sort_misplaced(self, entry: Entry) -> None:
        """Sort an entry of the wrong type, where a file or folder belongs; empty folders and self-links go."""
        if entry.is_folder and not _has_anything(entry.path):
            self._garbage.unneeded.append(Unneeded(entry.path, "empty folder", 0, ()))
        elif entry.is_link and files.leads_to_itself(entry.path):
            self._drop(entry.path, "link to itself", [entry])
        elif entry.is_link:
            self._leave(entry, "a link, which is not followed")
        else:
            self._leave(entry, "not Crossfire's")

    def _sort_folder(self, name: str, inside: list[Entry]) -> None:
        """Sort the files of a training or an adversarial set that is not needed."""
        proven = {entry.name for entry in inside if _is_ours(entry)}
        speak = {entry.kind for entry in inside if entry.name in proven and entry.size and entry.kind != LEFTOVER}
        for entry in inside:
            if entry.kind == "weights" and speak and self._are_weights(entry, sealed="card" in speak):
                proven.add(entry.name)
            if entry.name not in proven:
                self._leave(entry, "damaged, or not Crossfire's")
        # Weights before the card that describes them.
        own = [entry for entry in reversed(inside) if entry.name in proven]
        folder = self._store.root / name
        if own or not _has_anything(folder):
            self._drop(folder, _IN_FOLDERS[name.partition("/")[0]], own)

    def _are_weights(self, entry: Entry, *, sealed: bool) -> bool:
        """Return whether weights are those of a training: by the hash on its card, else by being weights at all."""
        card = cards.read(entry.path.parent) if sealed else None
        try:
            if card is not None:
                sha, limit = card.get("weights_sha256", ""), cards.largest_weights(card)
                return self._store.known.is_intact(entry.name, entry.path, sha, limit)
            _metadata(entry.path)
        except (OSError, ValueError):
            return False
        return True

    def _drop(self, path: Path, what: str, own: list[Entry]) -> None:
        size = sum(entry.size for entry in own)
        self._garbage.unneeded.append(Unneeded(path, what, size, tuple(entry.path for entry in own)))

    def _leave(self, entry: Entry, why: str) -> None:
        self._garbage.left.append(Left(entry.path, why, entry.size))


def _has_anything(folder: Path) -> bool:
    try:
        return any(True for _ in folder.iterdir())
    except OSError:
        return True


def _is_ours(entry: Entry) -> bool:
    """Return whether a file with one of our names is ours by its contents; an empty file counts as ours."""
    if entry.size == 0:
        return True
    try:
        if entry.kind == LEFTOVER:
            return _is_begun(entry)
        check = _CHECKS.get(entry.kind or "")
        return check is not None and check(entry.path)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return False


def _is_begun(entry: Entry) -> bool:
    """Return whether the remains of a file, left by a killed process, begin as it would; a power cut leaves zeros."""
    with files.opened(entry.path) as file:
        head = file.read(16)
    kind = inventory.unfinished(entry.name)
    if kind is None:
        return not head.strip(b"0")
    if not head.strip(b"\0"):
        return True
    if kind == "records":
        return b"PAR1".startswith(head[:4])
    if kind in ("adversarial images", "training state", "weights"):
        return int.from_bytes(head[:8], "little") <= _LARGEST_HEAD and b'{"'.startswith(head[8:10])
    return b'{"'.startswith(head[:2])


def _may_look(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _is_result(path: Path) -> bool:
    return {"key", "status", "cell"} <= unsealed(files.read(path, _LARGEST_DOCUMENT)).keys()


def _is_partial(path: Path) -> bool:
    return bool(document(_first_line(path))["format"] == partial.FORMAT)


def _is_failure(path: Path) -> bool:
    return unsealed(files.read(path, _LARGEST_DOCUMENT)).keys() == {"message"}


def _is_card(path: Path) -> bool:
    # Those of the first versions have no seal.
    card = document(files.read(path, _LARGEST_DOCUMENT))
    parts = isinstance(card, dict) and (card.get("training"), card.get("network"))
    return isinstance(parts, tuple) and all(isinstance(each, dict) for each in parts) and "weights_sha256" in card


def _is_plan(path: Path) -> bool:
    return bool(document(_first_line(path))["format"] == planned.FORMAT)


def _is_log(path: Path) -> bool:
    rows = [document(line) for line in files.read(path, cards.LARGEST).splitlines()]
    return all(isinstance(row, dict) and {"epoch", "loss", "learning_rate"} <= row.keys() for row in rows)


def _first_line(path: Path) -> bytes:
    with files.opened(path) as file:
        return file.readline(_LARGEST_HEAD)


def _is_chunk(path: Path) -> bool:
    return {"seconds", "notes", "batch", "sha256"} <= _metadata(path).keys()


def _is_state(path: Path) -> bool:
    state = document(_metadata(path)["state"].encode())
    return isinstance(state, dict) and {"identity", "epoch", "sha256"} <= state.keys()


def _metadata(path: Path) -> Mapping[str, str]:
    return head_metadata(path, _LARGEST_HEAD)


def _are_records(path: Path) -> bool:
    with files.opened(path) as file:
        return tuple(pq.read_schema(pa.PythonFile(file, mode="r")).names) in ALL_COLUMNS


_CHECKS: Mapping[str, Callable[[Path], bool]] = {
    "result": _is_result,
    "partial result": _is_partial,
    "records": _are_records,
    "adversarial images": _is_chunk,
    "training state": _is_state,
    "training log": _is_log,
    "card": _is_card,
    "failure": _is_failure,
    "plan": _is_plan,
    "lease": is_lease,
}
