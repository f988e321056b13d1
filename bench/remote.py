"""A second place for finished work, at any address that fsspec knows: ``s3://``, ``gs://``, ``sftp://``, a folder.

Such places have no exclusive creation, so nobody holds a lease there and no run works on one. Finished files are
carried to and fro instead: each is named by its content and never changes, so whichever copy is there first will do.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import cards, files, inventory
from bench.files import Unreadable, write_atomically
from bench.reading import read_result
from bench.seals import unsealed
from bench.store import Store
from bench.types import CellResult, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

_KEY = inventory.KEY
#: Bytes of the largest file that is sent: it is held in memory.
_LARGEST = 2**32
_log = logging.getLogger("crossfire")
#: What is carried, in this order: the file that says "done" follows those that it speaks for.
_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        rf"attack/{_KEY}/{inventory.CHUNK}",
        rf"train/{_KEY}/(weights\.safetensors|log\.jsonl)",
        rf"train/{_KEY}/card\.json",
        rf"records/{_KEY}\.parquet",
        rf"cells/{_KEY}\.json",
    )
)


class Carried(NamedTuple):
    """Files and bytes carried one way."""

    files: int
    size: int


def sync(store: Store, url: str, at: Callable[[str], None] = lambda _: None) -> tuple[Carried, Carried]:
    """Fetch what the store lacks, send what the place lacks, and return both.

    Unfinished trainings, failed cells, leases and logs stay where they are. ``at`` is given every file in words before
    it is carried.

    Raises:
        UsageError: a run is at work on the store, the address cannot be reached, read or written, or a result there
            is not whole.
    """
    if (name := store.leases.at_work()) is not None:
        raise UsageError(f"a run is at work on {store.root} ({name}); wait until it has ended")
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        place, root = url_to_fs(url)
        root = root.rstrip("/")
        there = _there(place, root)
        here = set(_here(store))
        fetched, sent = [0, 0], [0, 0]
        for name in _ordered(there - here):
            at(f"fetching file {fetched[0] + 1}: {name}")
            data: bytes = place.cat_file(f"{root}/{name}")
            _check(data, name, url)
            if name.startswith("records/") and (cell := _done_by(name)) in there:
                result = _check(place.cat_file(f"{root}/{cell}"), cell, url)
                sha = None if result is None else result.records_sha
                if sha is not None and sha != hashlib.sha256(data).hexdigest():
                    raise UsageError(f"{url}/{name}: altered since its result was written; delete both there")
            with store.writing():
                write_atomically(store.root / name, data)
            fetched = [fetched[0] + 1, fetched[1] + len(data)]
        # Beside what another machine left unfinished there, a result or card would not speak for these files.
        for name in _ordered({name for name in here if not {name, _done_by(name)} <= there}):
            at(f"sending file {sent[0] + 1}: {name}")
            try:
                data = files.read(store.root / name, _LARGEST)
            except (FileNotFoundError, Unreadable) as error:
                _log.warning("%s is not sent: %s", store.root / name, error)
                continue
            _put(place, f"{root}/{name}", data)
            sent = [sent[0] + 1, sent[1] + len(data)]
    except UsageError:
        raise
    except Exception as error:  # each kind of place has errors of its own
        about = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{url}: {type(error).__name__}: {about}") from error
    return Carried(*fetched), Carried(*sent)


def _ordered(names: set[str]) -> Iterator[str]:
    # Other names, and those that would leave the folder, are nothing of a store's.
    return (name for pattern in _ORDER for name in sorted(names) if pattern.fullmatch(name))


def _done_by(name: str) -> str:
    """Return the file that says that this one is finished."""
    if name.startswith("records/"):
        return f"cells/{Path(name).stem}.json"
    return f"{name.rpartition('/')[0]}/card.json" if name.startswith("train/") else name


def _there(place: AbstractFileSystem, root: str) -> set[str]:
    place.invalidate_cache()
    return {path.removeprefix(root).lstrip("/") for path in place.find(root)} if place.exists(root) else set()


def _here(store: Store) -> Iterator[str]:
    for result in store.results():
        if result.status == "done" and store.has_records(result):
            yield store.name(store.records(result.key))
            yield store.name(store.cell_file(result.key))
    for key in inventory.keys(store.root / "train", ""):
        if cards.is_trained(folder := store.training(key)):
            own = (folder / name for name in ("weights.safetensors", "log.jsonl", "card.json"))
            yield from (store.name(path) for path in own if files.is_regular(path))
    for key in inventory.keys(store.root / "attack", ""):
        yield from (store.name(path) for path in inventory.chunks(store.adversarial(key)))


def _check(data: bytes, name: str, url: str) -> CellResult | None:
    """Check what was fetched, where it says itself whether it is whole, and return it if it is a result."""
    try:
        if name.endswith("/card.json"):
            unsealed(data)
        return read_result(data) if name.startswith("cells/") else None
    except ValueError as error:
        raise UsageError(f"{url}/{name}: {error}; delete it there") from None


def _put(place: AbstractFileSystem, path: str, data: bytes) -> None:
    folder, _, name = path.rpartition("/")
    beside = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
    place.makedirs(folder, exist_ok=True)
    place.pipe_file(beside, data)
    place.mv(beside, path)
