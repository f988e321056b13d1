"""Files beside the sources of methods: which a method names, and which have changed and are in no key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bench import registry
from bench.methods.sources import code_of
from bench.methods.syntax import LONGEST_PATH, syntax
from bench.methods.tree import text_of
from bench.schedule.earlier import ROOT
from bench.store.commits import Commit
from bench.types import MethodRef, UsageError

#: Folders, and endings, of what no method reads.
_ASIDE = frozenset({".github", "docs", "results", "tests"})
_PROSE = frozenset({".md"})
#: Endings of what is seldom data: it counts only beside a user's own method, and comes last there.
_SELDOM_DATA = frozenset({".cfg", ".ipynb", ".py", ".rst", ".sh", ".toml", ".yaml", ".yml"})
_HARNESS = tuple(ROOT / name for name in ("attacks", "bench", "defenses"))
_ABSOLUTE = ("/", "~")
#: What loads a source by a name that may be put together.
_BY_NAME = re.compile(
    rb"\b(importlib|import_module|__import__|pkgutil|pydoc|runpy|subprocess|pickle)\b|(?<![\w.])(exec|eval)\("
)


def is_within(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def named_as_now(ref: MethodRef, strays: Collection[str]) -> Iterator[Path]:
    """Yield the files that a method names and that are read as they are now, whatever commit the method is of.

    These are the ones that it names by absolute paths, and all of a source that is itself read as it is now.

    Args:
        ref: the method.
        strays: sources that are read as they are now.
    """
    for source in registry.code_files_of(ref):
        is_stray = str(source) in strays
        for text in _texts(source):
            if is_stray or text.startswith(_ABSOLUTE):
                yield _real(source.parent, text)
    for value in ref.params.values():
        if isinstance(value, str) and value.startswith(_ABSOLUTE):
            yield _real(Path(), value)


class KeyFiles(NamedTuple):
    """The files behind a key, each by its whole path or, as :meth:`below` gives them, seen from a folder.

    Attributes:
        files: sources, and the files that these name.
        folders: of which all counts, as sources and parameters name them.
        homes: the folders of users' own methods.
        by_name: whether such a method may load sources by names that are put together.
    """

    files: frozenset[Path] = frozenset()
    folders: frozenset[Path] = frozenset()
    homes: frozenset[Path] = frozenset()
    by_name: bool = False

    @classmethod
    def of_all(cls, parts: Collection[KeyFiles]) -> KeyFiles:
        """Return the files of several together."""
        files = frozenset(chain.from_iterable(part.files for part in parts))
        folders = frozenset(chain.from_iterable(part.folders for part in parts))
        homes = frozenset(chain.from_iterable(part.homes for part in parts))
        return cls(files, folders, homes, any(part.by_name for part in parts))

    def holds(self, path: Path) -> bool:
        return path in self.files or is_within(path, self.folders)

    def below(self, folder: Path) -> dict[str, Any]:
        """Return those that are there, below a folder, as they are seen from it, for JSON."""
        named = zip(("files", "folders", "homes"), self[:3], strict=True)
        return {**{name: _seen_from(folder, paths) for name, paths in named}, "by_name": self.by_name}

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> KeyFiles:
        """Return what :meth:`below` gave.

        Raises:
            KeyError: something is missing.
            TypeError: something is of another type.
        """
        files, folders, homes = (frozenset(map(Path, given[name])) for name in ("files", "folders", "homes"))
        return cls(files, folders, homes, bool(given["by_name"]))

    def at(self, top: Path) -> KeyFiles:
        """Return the files by their whole paths, where the folder that they are seen from is."""
        files, folders, homes = (frozenset(top / path for path in paths) for paths in self[:3])
        return self._replace(files=files, folders=folders, homes=homes)


def _seen_from(folder: Path, paths: Iterable[Path]) -> list[str]:
    # Most texts in sources name no file.
    there = (path for path in paths if path.is_relative_to(folder) and os.path.exists(path))
    return sorted(str(path.relative_to(folder)) for path in there)


def of_method(ref: MethodRef) -> KeyFiles:
    """Return the files behind the key of a method; one that is not there any more is named as before."""
    sources = registry.code_files_of(ref)
    files, folders = set(sources), set[Path]()
    for source in sources:
        places = (source.parent,) if is_within(source, _HARNESS) else (source.parent, Path())
        for text in _texts(source):
            # As in bench.methods.sources, where a folder counts only if it is put together as a path.
            joined = "/" in text and not text.startswith((*_ABSOLUTE, ".."))
            (folders if joined else files).update(_real(folder, text) for folder in places)
    try:
        home = registry.entry_of(ref).path.resolve().parent
    except UsageError:
        return KeyFiles(frozenset(files), frozenset(folders))
    for value in ref.params.values():
        if isinstance(value, str) and value:
            folders.update(_real(folder, value) for folder in (Path(), home))
    homes = frozenset() if is_within(home, _HARNESS) else frozenset({home})
    by_name = any(_loads_by_name(source) for source in sources if not is_within(source, _HARNESS))
    return KeyFiles(frozenset(files), frozenset(folders), homes, by_name)


class InNoKey(NamedTuple):
    """Files that changed and that a method may read: those in no key, and those in the key of some cells only."""

    of_all: list[str]
    of_some: list[str]


def in_no_key(
    commit: Commit, cells: Iterable[Collection[KeyFiles]], untouched: Iterable[Collection[KeyFiles]]
) -> InNoKey:
    """Return the files that changed since a commit, that a method may read, and that are in no key, data first.

    Sources are listed only where they lie in the folder of a user's own method, or below, and those anywhere that a
    cell which loads some by name does not hold.

    Args:
        commit: the commit.
        cells: for each cell the files behind its methods, and those that the table names for it.
        untouched: the same for cells whose keys are as in the commit, and whose methods the repository keeps.
    """
    every = {id(part): part for part in chain.from_iterable(cells)}.values()
    homes = frozenset[Path]().union(*(part.homes for part in every))
    by_name = any(part.by_name for part in every)
    changed = sorted(commit.changed)
    read = [name for name in changed if _may_be_read(commit.top / name, name, homes, by_name)]
    paths = {name: (commit.top / name).resolve() for name in read}
    held = {id(part): {name for name, path in paths.items() if part.holds(path)} for part in every}
    of_all = set(paths).difference(*held.values())
    of_some = set[str]()
    for parts in untouched:
        others = set(paths).difference(of_all, *(held[id(part)] for part in parts))
        loads = any(part.by_name for part in parts)
        of_some |= {name for name in others if loads or paths[name].suffix != ".py"}
    return InNoKey(sorted(of_all, key=_data_first), sorted(of_some, key=_data_first))


def _data_first(name: str) -> tuple[bool, str]:
    return Path(name).suffix in _SELDOM_DATA, name


def held_at(top: Path, inside: Path, texts: Iterable[str], root: Path) -> Iterator[Path]:
    """Yield the files and folders that keys of a configuration hold where a commit is checked out.

    Nothing is run: sources are read, and what they import and name is looked up.

    Args:
        top: where it is checked out.
        inside: the current folder, seen from there.
        texts: of the configuration: they may name sources, weights and images.
        root: the folder of the harness that reads them.
    """
    for piece in dict.fromkeys(chain.from_iterable(text.split(":") for text in texts)):
        if not piece or "\0" in piece or len(piece) > LONGEST_PATH:
            continue
        path = _real(top / inside, piece)
        # Of a folder with the whole commit in it nothing is known.
        if not top.resolve().is_relative_to(path):
            yield path
        if path.suffix == ".py" and path.is_file():
            yield from _held_by(path, top / inside, root)


def _held_by(path: Path, here: Path, root: Path) -> Iterator[Path]:
    try:
        sources = list(code_of(path, root).texts)
    except UsageError:
        return
    for source in sources:
        yield source
        for text in _texts(source):
            yield from (_real(folder, text) for folder in (source.parent, here))


def behind_texts(top: Path, inside: Path, texts: Collection[str], root: Path) -> KeyFiles:
    """Return what :func:`held_at` yields, where more is not known of a cell than the whole configuration.

    Args:
        top: where a commit is checked out.
        inside: the current folder, seen from there.
        texts: of the configuration.
        root: the folder of the harness that reads them.
    """
    pieces = chain.from_iterable(text.split(":") for text in texts)
    homes = frozenset(_real(top / inside, piece).parent for piece in pieces if piece.endswith(".py"))
    held = frozenset(held_at(top, inside, texts, root))
    return KeyFiles(held, held, homes)


def may_be_read_at(top: Path, behind: KeyFiles, names: Iterable[str], root: Path) -> list[str]:
    """Return those of some files that a cell may read where a commit is checked out, and that its key does not hold.

    Args:
        top: where it is checked out.
        behind: the files behind the key of the cell there.
        names: of files, seen from the top.
        root: the folder of the harness that reads them.
    """
    harness = tuple(root / each.name for each in _HARNESS)
    left = (name for name in names if _may_be_read(top / name, name, behind.homes, behind.by_name, harness))
    return [name for name in left if (top / name).is_file() and not behind.holds((top / name).resolve())]


def may_be_code(name: str) -> bool:
    """Say whether a file, by its name, is a source or settings that a method may load, however unlikely that is."""
    return Path(name).suffix in _SELDOM_DATA and not _is_aside(Path(name))


def _is_aside(path: Path) -> bool:
    is_aside = path.suffix in _PROSE or path.name.startswith((".git", "test_"))
    return is_aside or not _ASIDE.isdisjoint(path.parts)


def _may_be_read(
    path: Path, name: str, homes: Collection[Path], by_name: bool, harness: Collection[Path] = _HARNESS
) -> bool:
    if _is_aside(Path(name)):
        return False
    if path.suffix not in _SELDOM_DATA:
        return True
    own = (by_name and path.suffix == ".py") or is_within(path, homes)
    return own and not is_within(path, harness) and path.is_file() and not _is_table(path)


def _is_table(path: Path) -> bool:
    try:
        return path.suffix == ".toml" and "schema" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False


def _real(folder: Path, text: str) -> Path:
    return Path(os.path.realpath(os.path.join(folder, os.path.expanduser(text))))


def _texts(source: Path) -> tuple[str, ...]:
    """Return the texts of a source that may name files; none where it cannot be read any more."""
    try:
        return syntax(text_of(source)).strings if source.suffix == ".py" else ()
    except (OSError, ValueError):
        return ()


def _loads_by_name(source: Path) -> bool:
    """Say whether a source mentions what loads others by a name that may be put together as it runs."""
    try:
        return source.suffix == ".py" and _BY_NAME.search(text_of(source)) is not None
    except (OSError, ValueError):
        return False
