"""The content of a store: which names are the harness's own, and which files are not.

No link is followed, so nothing outside the store is looked at.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.store.files import lacks

_log = logging.getLogger("crossfire")
KEY = r"[0-9a-f]{64}"
CHUNK = r"[0-9]{6,}-[0-9]{6,}\.safetensors"
#: The state that a training continues from; the one at the end of its last epoch, once the former lies within the next.
STATE, EPOCH = "state.safetensors", "epoch.safetensors"
#: The names of the harness's own files below the root of a store, by what they are.
FILES = {
    "result": rf"cells/{KEY}\.json",
    "partial result": rf"partial/{KEY}\.json",
    "records": rf"records/{KEY}\.parquet",
    "adversarial images": rf"attack/{KEY}/{CHUNK}",
    "training state": rf"train/{KEY}/(?:state|epoch)\.safetensors",
    "weights": rf"train/{KEY}/weights\.safetensors",
    "training log": rf"train/{KEY}/log\.jsonl",
    "card": rf"train/{KEY}/card\.json",
    "failure": rf"train/{KEY}/failed\.json",
    "plan": r"plans/[A-Za-z0-9_.-]+/[0-9a-f]{16}\.json",
    # One that a process was just taking over, when it died, has a point before its name.
    "lease": rf"leases/\.?(?:(?:cell|train|plan)-{KEY}|attack-{KEY}-[0-9]{{6,}})(?:\.[0-9a-f]{{8}})?",
    "run log": r"log/[0-9]{8}T[0-9]{6}\.[0-9]{6}-[A-Za-z0-9.-]+-[0-9]+\.jsonl",
    "known files": r"verified\.json",
    "event file": r"tensorboard/[A-Za-z0-9_.-]+/(?:events\.out\.tfevents\.[^/]+|written\.jsonl)",
    "list of what was logged": r"trackers/[a-z]+-[0-9a-f]{12}-[A-Za-z0-9_.-]+\.jsonl",
}
#: Folders in the root of a store.
FOLDERS = ("cells", "partial", "records", "attack", "train", "plans", "leases", "log")
_KINDS = tuple(FILES)
_FILE = re.compile("|".join(f"(?P<k{number}>{name})" for number, name in enumerate(FILES.values())))
_FOLDER = re.compile(
    rf"{'|'.join(FOLDERS)}|(?:attack|train)/{KEY}|(?:plans|tensorboard)/[A-Za-z0-9_.-]+|trackers|tensorboard"
)
_KEYED = re.compile(rf"(?:attack|train)/{KEY}")
#: What a process that was killed while it wrote a file leaves beside it.
_PART = re.compile(r"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+?)(?:\.[0-9]+)?\.[0-9a-f]{8}\.part")
_PROBE = re.compile(r"\.probe\.[0-9]+\.[0-9a-f]{8}\.part")
#: What such leftovers are called among the kinds.
LEFTOVER = "leftover"


class Entry(NamedTuple):
    """Something in a store: its name below the root, and what it is by that (a key of ``FILES``, ``folder``,
    ``leftover``; ``None`` for a stranger's).
    """

    name: str
    kind: str | None
    dir_entry: os.DirEntry[str]

    @property
    def path(self) -> Path:
        return Path(self.dir_entry.path)

    @property
    def is_file(self) -> bool:
        return self.dir_entry.is_file(follow_symlinks=False)

    @property
    def is_folder(self) -> bool:
        return self.dir_entry.is_dir(follow_symlinks=False)

    @property
    def is_link(self) -> bool:
        return self.dir_entry.is_symlink()

    @property
    def size(self) -> int:
        """Bytes of a file, or of a link itself; 0 of what has gone."""
        try:
            return self.dir_entry.stat(follow_symlinks=False).st_size
        except OSError:
            return 0


def kind_of(name: str) -> str | None:
    """Return what a file or folder is by its name below the root of a store; ``None`` for no name of the harness."""
    match = _FILE.fullmatch(name)
    if match is not None and match.lastgroup is not None:
        return _KINDS[int(match.lastgroup[1:])]
    if _FOLDER.fullmatch(name):
        return "folder"
    return LEFTOVER if _PROBE.fullmatch(name) or unfinished(name) is not None else None


def unfinished(name: str) -> str | None:
    """Return what a file would have become by its name, of which a killed process left a part; else ``None``."""
    part = _PART.fullmatch(name)
    match = part and _FILE.fullmatch(part["folder"] + part["name"])
    return _KINDS[int(match.lastgroup[1:])] if match and match.lastgroup else None


def is_keyed(name: str) -> bool:
    """Say whether a name below the root of a store is that of a training or an adversarial set."""
    return _KEYED.fullmatch(name) is not None


def finished_name(name: str) -> str:
    """Return the final name of a file, given that or the temporary name under which it is written."""
    part = _PART.fullmatch(name)
    return part["folder"] + part["name"] if part else name


def entries(root: Path, *, shallow: bool = False) -> Iterator[Entry]:
    """Yield everything in a store, folders before what is in them, each folder in the order of names.

    Folders that are not the harness's own are yielded and not entered, nor are links.

    Args:
        root: of the store; it may be missing, or a link to a folder.
        shallow: folders named by a key, of which there are many, are not entered either.

    Raises:
        OSError: this process lacks memory or may open no more files.
    """
    yield from _inside(root, "", shallow)


def named(root: Path, folder: str, kind: str) -> Iterator[Path]:
    """Yield what one of the folders of a store has under the names of a kind, in the order of names."""
    yield from (entry.path for entry in _inside(root / folder, f"{folder}/", shallow=True) if entry.kind == kind)


def _inside(folder: Path, prefix: str, shallow: bool) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as listing:
            listed = sorted(listing, key=lambda each: each.name)
    except OSError as error:
        # It does not say that there is nothing.
        if lacks(error):
            raise
        return
    for each in listed:
        name = prefix + each.name
        entry = Entry(name, kind_of(name), each)
        yield entry
        if entry.kind == "folder" and entry.is_folder and not (shallow and _KEYED.fullmatch(name)):
            yield from _inside(entry.path, f"{name}/", shallow)


def chunks(folder: Path) -> list[Path]:
    """Return what a folder has under the names of chunks of adversarial images, sorted; there may be no folder."""
    own = re.compile(CHUNK)
    return [folder / name for name in sorted(_listed(folder)) if own.fullmatch(name)]


def keys(folder: Path, ending: str) -> list[str]:
    """Return the keys that files or folders of a folder are named by, sorted; other names are none.

    Args:
        folder: such as ``cells``; there may be none.
        ending: what follows the key in each name, such as ``.json``.
    """
    own = re.compile(KEY + re.escape(ending))
    return sorted(name.removesuffix(ending) for name in _listed(folder) if own.fullmatch(name))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if lacks(error):
            raise
        _log.warning("%s is left out: %s", folder, (error.strerror or type(error).__name__).lower())
        return []
