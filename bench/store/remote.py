"""A remote copy of finished work, at any address that fsspec knows: ``s3://``, ``gs://``, ``sftp://``, a folder.

A remote has no exclusive creation, so nobody holds a lease there and no run works on one. Finished files are copied
instead: each is named by its content and never changes, so the copy that is there first is as good as any other.

Others may write to a remote. Only files with the harness's own names are read there, no link is followed, no file is
read beyond its largest possible size, and every file is checked against its seal and hashes before it is kept.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.keys import canonical_json
from bench.store import cards, files, inventory, reading
from bench.store.files import Unreadable, write_atomically
from bench.store.seals import sealed_arrays
from bench.store.working_store import Store
from bench.types import CellResult, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

_log = logging.getLogger("crossfire")


class _Kind(NamedTuple):
    name: re.Pattern[str]
    #: Bytes of the largest one that is carried; each is held in memory.
    most: int


#: What is carried, in this order: the file that says "done" follows those that it speaks for.
_KINDS = tuple(
    _Kind(re.compile(inventory.FILES[kind]), most)
    for kind, most in (
        ("adversarial images", 2**31),
        ("weights", 2**32),
        ("training log", cards.LARGEST),
        ("card", cards.LARGEST),
        ("records", 2**32),
        ("result", reading.MAX_RESULT),
    )
)
_FILE, _FOLDER = "a file", "a folder"
_FOLDERS = ("attack", "train", "records", "cells")
#: An address whose path was an unset variable; fsspec would take it for the current folder.
_NO_FOLDER = re.compile(r"(?:\w+::)*(?:file|local):(?://)?")

_PASSWORD = re.compile(r"(//[^/@:\s]*):[^/@\s]*@")


class Carried(NamedTuple):
    """Files and bytes carried one way."""

    files: int
    size: int


class Synced(NamedTuple):
    """The files that were copied, and what is wrong with each damaged or misnamed file on the remote."""

    fetched: Carried
    sent: Carried
    damaged: list[str]


def sync(
    store: Store,
    url: str,
    at: Callable[[str], None] = lambda _: None,
    fetched_result: Callable[[CellResult], None] = lambda _: None,
) -> Synced:
    """Fetch what the store lacks and send what the remote lacks.

    Unfinished trainings, failed cells, leases and logs stay where they are.

    Args:
        store: of this side.
        url: any address that fsspec knows.
        at: is called with a description of each file before it is copied.
        fetched_result: is called with each result that was fetched.

    Raises:
        UsageError: a run is at work on the store, or the address cannot be reached, read or written.
    """
    if (name := store.leases.at_work()) is not None:
        raise UsageError(f"a run is at work on {store.root} ({name}); wait until it has ended")
    if _NO_FOLDER.fullmatch(url):
        raise UsageError(f"{url} names no folder; the current one is '.'")
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        remote = _Remote(_without_password(url), *url_to_fs(url))
        here = set(_here(store))
        fetched, bad = _fetch(store, remote, here, at, fetched_result)
        wanted = _wanted(remote, here)
        bad += _unlike(store, remote, (here & remote.sizes.keys()) - wanted, at)
        return Synced(fetched, _send(store, remote, wanted, at), list(dict.fromkeys(bad)))
    except UsageError:
        raise
    except Exception as error:  # each filesystem has errors of its own
        line = (str(error).splitlines() or [""])[0]
        raise UsageError(_without_password(f"{url}: {type(error).__name__}: {line}")) from error


def _without_password(text: str) -> str:
    return _PASSWORD.sub(r"\1:***@", text)


def _fetch(
    store: Store,
    remote: _Remote,
    here: set[str],
    at: Callable[[str], None],
    fetched_result: Callable[[CellResult], None],
) -> tuple[Carried, list[str]]:
    """Fetch every intact file; return the count, and what is wrong with the others."""
    finished = {name for name in remote.sizes if _done_by(name) in remote.sizes}
    names = list(_ordered(finished - here))
    total = sum(size for name in names if (size := remote.sizes[name] or 0) <= _kind(name).most)
    with store.writing():
        files.make_folders(store.root)
    if total > (free := shutil.disk_usage(store.root).free):
        raise UsageError(f"{remote.url} has {total:,} bytes that {store.root} lacks, and there is room for {free:,}")
    count = size = failed = 0
    # A damaged card or result is found again by each file that it speaks for.
    bad: dict[str, None] = {}
    without: set[str] = set()
    alone: set[str] = set()
    for number, name in enumerate(names, start=1):
        if _done_by(name) in without:
            continue
        at(f"fetching file {number}: {name}")
        try:
            data = remote.checked(name)
            if not _is_complete(store, remote, done := _done_by(name)):
                alone.add(done)
                continue
        except _Failed:
            failed += name.startswith("cells/")
            continue
        except _Damaged as error:
            bad[str(error)] = None
            without.add(_done_by(name))
            continue
        with store.writing():
            write_atomically(store.root / name, data)
        count, size = count + 1, size + len(data)
        if name.startswith("cells/"):
            fetched_result(reading.read_result(data))
    if failed:
        _log.warning("%s: cells that failed there are not fetched: %d", remote.url, failed)
    if alone:
        reason = "cards without their weights and results without their records are not fetched"
        _log.warning("%s: %s: %d", remote.url, reason, len(alone))
    return Carried(count, size), list(bad)


def _is_complete(store: Store, remote: _Remote, done: str) -> bool:
    """Say whether what a card or result speaks for is on the remote, or is here already."""
    name = _speaks_for(done)
    if name is None or name in remote.sizes:
        return True
    try:
        return files.file_sha256(store.root / name, _kind(name).most) == remote.vouched(done)
    except (FileNotFoundError, Unreadable):
        return False


def _wanted(remote: _Remote, here: set[str]) -> set[str]:
    """Return which files here the remote lacks, or has only of what another machine left unfinished."""
    lacking = {name for name in here if not {name, _done_by(name)} <= remote.sizes.keys()}
    # Weights or records go with the card or result that they are of: the one there may be another machine's.
    torn = {done for done in map(_done_by, here) if _speaks_for(done) in lacking and remote.obstacle(done) is None}
    return lacking | {name for name in here if _done_by(name) in torn}


def _unlike(store: Store, remote: _Remote, names: set[str], at: Callable[[str], None]) -> Iterator[str]:
    """Say what is wrong with the files on the remote, of those that both have, whose size shows damage."""
    for name in _ordered(names):
        there = remote.sizes[name]
        try:
            size = files.status(store.root / name).st_size
        except (FileNotFoundError, Unreadable):
            continue
        if there is None or there == size:
            continue
        if there == 0:
            yield f"{remote.url}/{name}: it has 0 bytes, and {size:,} here; delete it there"
        # The others say how long things took, and so have other sizes where two machines did the same.
        elif name.endswith(".safetensors") or there > _kind(name).most:
            at(f"checking {name}")
            try:
                remote.checked(name)
            except _Failed:
                continue
            except _Damaged as error:
                yield str(error)


def _send(store: Store, remote: _Remote, names: set[str], at: Callable[[str], None]) -> Carried:
    count = size = 0
    behind: Counter[str] = Counter()
    for name in _ordered(names):
        if (odd := remote.obstacle(name)) is not None:
            behind[odd] += 1
            continue
        at(f"sending file {count + 1}: {name}")
        try:
            data = files.read(store.root / name, _kind(name).most)
        except (FileNotFoundError, Unreadable) as error:
            _log.warning("%s is not sent: %s", store.root / name, error)
            continue
        remote.put(name, data)
        count, size = count + 1, size + len(data)
    for odd, number in behind.items():
        stay = "" if number == 1 else f"; {number:,} files stay here for it"
        _log.warning("%s is not sent: in its place at %s is %s%s", odd, remote.url, remote.odd[odd], stay)
    return Carried(count, size)


class _Failed(Exception):
    """A file is, or belongs to, the result of a failed cell, as in a remote that is a working store itself."""


class _Damaged(UsageError):
    """A file on the remote is damaged, or not what its name says."""


class _Remote:
    """The files at an address, with their sizes; an entry that is not what its name says is ``odd``.

    Raises:
        _Damaged: by every method that reads, for a file that is too large, damaged, or not what its name says.
        UsageError: it is no folder.
    """

    def __init__(self, url: str, filesystem: AbstractFileSystem, root: str) -> None:
        self.url = url
        self._fs = filesystem
        self._root = root.rstrip("/")
        #: ``None`` where the filesystem does not say.
        self.sizes: dict[str, int | None] = {}
        #: By name, the kind of the entry that is there instead, in words.
        self.odd: dict[str, str] = {}
        self._cards: dict[str, dict[str, Any]] = {}
        filesystem.invalidate_cache()
        try:
            # ``exists`` would not do: most filesystems answer no where they cannot be reached.
            listed = filesystem.ls(self._root or root, detail=True)
        except FileNotFoundError:
            listed = []
        # Object stores may list an empty object for a folder itself, whose name ends as that of a folder does.
        listed = [entry for entry in listed if not (entry["name"].endswith("/") and entry.get("type") == "file")]
        if any(entry["name"] == self._root and entry.get("type") == "file" for entry in listed):
            raise UsageError(f"{url} is a file, not a folder")
        tops = {PurePosixPath(entry["name"]).name: entry for entry in listed}
        for folder in _FOLDERS:
            if (entry := tops.get(folder)) is None:
                continue
            # A link may lead to any folder of that machine.
            if (kind := _kind_of_entry(entry)) != _FOLDER:
                self.odd[folder] = kind
                continue
            for path, inner in filesystem.find(
                f"{self._root}/{folder}", maxdepth=2, withdirs=True, detail=True
            ).items():
                if path.strip("/") != f"{self._root}/{folder}".strip("/"):
                    self._list(path, inner)
        # On object stores folders are only prefixes, so a file of the same name blocks nothing.
        above = {str(PurePosixPath(name).parent) for name in self.sizes}
        self.odd = {name: kind for name, kind in self.odd.items() if kind != _FILE or name not in above}
        if self.odd:
            some = f"{len(self.odd)} names are links or no files, or not the folder that belongs there"
            _log.warning("%s: %s, such as %s; they are left alone", url, some, min(self.odd))

    def _list(self, path: str, entry: Mapping[str, Any]) -> None:
        name = path.removeprefix(self._root).strip("/")
        kind = inventory.kind_of(name)
        # See above.
        actual = _FOLDER if path.endswith("/") else _kind_of_entry(entry)
        if actual == _FILE and _is_ours(name):
            self.sizes[name] = entry.get("size")
        elif kind is not None and actual != (_FOLDER if kind == "folder" else _FILE):
            self.odd[name] = actual

    def obstacle(self, name: str) -> str | None:
        """Return what odd thing is in the place of a file, of one that it is nothing without or of a folder above."""
        done = _done_by(name)
        paths = [PurePosixPath(each) for each in (name, done, _speaks_for(done)) if each is not None]
        ways = chain.from_iterable((path, *path.parents) for path in paths)
        return next((str(each) for each in ways if str(each) in self.odd), None)

    def vouched(self, done: str) -> str | None:
        """Return the hash that a card or result says of what it speaks for."""
        if done.startswith("cells/"):
            return self._result(done).records_sha
        return str(self._card(PurePosixPath(done).parts[1])["weights_sha256"])

    def checked(self, name: str) -> bytes:
        """Return a file that is what its name says and what was written."""
        data = self._read(name)
        try:
            if name.endswith("/log.jsonl"):
                return self._log(name, data)
            self._check(name, data)
        except ValueError as error:
            raise _Damaged(f"{self.url}/{name}: {error}; delete it there") from None
        return data

    def _read(self, name: str) -> bytes:
        size, most = self.sizes[name], _kind(name).most
        if size is not None and size > most:
            reason = f"it has {size:,} bytes, and at most {most:,} are read"
            raise _Damaged(f"{self.url}/{name}: {reason}; delete it there")
        # One byte more than there is, so that what grows is noticed.
        end = 1 + (most if size is None else size)
        data: bytes = b"" if size == 0 else self._fs.cat_file(f"{self._root}/{name}", start=0, end=end)
        if len(data) == end or (size is not None and len(data) != size):
            raise _Damaged(f"{self.url}/{name}: it is too large, or changed while it was read")
        return data

    def _check(self, name: str, data: bytes) -> None:
        folder, key = PurePosixPath(name).parts[:2]
        if folder == "attack":
            _, metadata = sealed_arrays(data)
            if metadata.get("of", of := f"{key}/{PurePosixPath(name).stem}") != of:
                raise ValueError(f"it is that of {metadata['of']}")
        elif folder == "cells":
            self._result(name, data)
        elif folder == "records":
            if self._result(_done_by(name)).records_sha != hashlib.sha256(data).hexdigest():
                raise ValueError("altered since its result was written, which is to be deleted as well")
        elif name.endswith("/weights.safetensors"):
            if self._card(key)["weights_sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("altered since its card was written, which is to be deleted as well")
        else:
            self._card(key, data)

    def _log(self, name: str, data: bytes) -> bytes:
        """Return the rows of a training, of which its sealed card has the same; that of an older version has none."""
        rows = self._card(PurePosixPath(name).parts[1]).get("log")
        if rows is None:
            return b"".join(canonical_json(reading.document(line)).encode() + b"\n" for line in data.splitlines())
        return "".join(canonical_json(row) + "\n" for row in rows).encode()

    def _card(self, key: str, data: bytes | None = None) -> dict[str, Any]:
        if key not in self._cards:
            name = f"train/{key}/card.json"
            try:
                card = cards.parse(self._read(name) if data is None else data, key)
                if "weights_sha256" not in card:
                    raise ValueError("it does not say which weights it is of")
                self._cards[key] = card
            except ValueError as error:
                raise _Damaged(f"{self.url}/{name}: {error}; delete it there") from None
        return self._cards[key]

    def _result(self, name: str, data: bytes | None = None) -> CellResult:
        try:
            result = reading.read_result(self._read(name) if data is None else data)
            if result.key != PurePosixPath(name).stem:
                raise ValueError(f"it is the result of {result.key}")
        except ValueError as error:
            raise _Damaged(f"{self.url}/{name}: {error}; delete it there") from None
        if result.status != "done":
            raise _Failed
        return result

    def put(self, name: str, data: bytes) -> None:
        """Write a file atomically: a reader sees all of it or nothing."""
        folder, _, last = f"{self._root}/{name}".rpartition("/")
        beside = f"{folder}/.{last}.{secrets.token_hex(4)}.part"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.pipe_file(beside, data)
        self._fs.mv(beside, f"{self._root}/{name}")


def _kind(name: str) -> _Kind:
    return next(kind for kind in _KINDS if kind.name.fullmatch(name))


def _is_ours(name: str) -> bool:
    return any(kind.name.fullmatch(name) for kind in _KINDS)


def _ordered(names: set[str]) -> Iterator[str]:
    for kind in _KINDS:
        yield from (name for name in sorted(names) if kind.name.fullmatch(name))


def _done_by(name: str) -> str:
    """Return the file that says that this one is finished."""
    if name.startswith("records/"):
        return f"cells/{Path(name).stem}.json"
    return f"{name.rpartition('/')[0]}/card.json" if name.startswith("train/") else name


def _speaks_for(name: str) -> str | None:
    """Return the file without which a card or result is worth nothing; ``None`` of any other file."""
    if name.startswith("cells/"):
        return f"records/{PurePosixPath(name).stem}.parquet"
    return f"{name.rpartition('/')[0]}/weights.safetensors" if name.endswith("/card.json") else None


def _kind_of_entry(entry: Mapping[str, Any]) -> str:
    """Return what an entry of a listing is, in words."""
    if entry.get("islink") or entry.get("type") == "link":
        return "a link"
    return {"directory": _FOLDER, "file": _FILE}.get(entry.get("type", ""), "no file or folder")


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
