"""Files beside the sources of methods: which a method names, and which have changed and are in no key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

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


def in_no_key(commit: Commit, refs: Sequence[MethodRef], named: Iterable[Path]) -> list[str]:
    """Return the files that changed since a commit, that a method may read, and that are in no key, data first.

    Sources are listed only where they lie in the folder of a user's own method, or below; nothing is where the
    repository keeps no method of the table.

    Args:
        commit: the commit.
        refs: the methods of all cells.
        named: files and folders that the table names itself, such as weights and images.
    """
    if not any(map(commit.keeps, chain.from_iterable(map(registry.code_files_of, refs)))):
        return []
    homes = set(_homes(refs))
    candidates = [name for name in sorted(commit.changed) if _may_be_read(commit.top / name, name, homes)]
    if not candidates:
        return []
    files, folders = set[Path](), {each.resolve() for each in named}
    for ref in refs:
        for path, is_folder in _in_key(ref):
            (folders if is_folder else files).add(path)
    paths = {name: (commit.top / name).resolve() for name in candidates}
    left = [name for name, path in paths.items() if path not in files and not is_within(path, folders)]
    return sorted(left, key=lambda name: (Path(name).suffix in _SELDOM_DATA, name))


def _homes(refs: Iterable[MethodRef]) -> Iterator[Path]:
    """Yield the folders of the users' own methods."""
    for ref in refs:
        try:
            path = registry.entry_of(ref).path.resolve()
        except UsageError:
            continue
        if not is_within(path, _HARNESS):
            yield path.parent


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


def candidates_at(top: Path, inside: Path, texts: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """Yield those of some files that a method may read where a commit is checked out.

    Args:
        top: where it is checked out.
        inside: the current folder, seen from there.
        texts: of the configuration.
        names: of files, seen from the top.
    """
    pieces = chain.from_iterable(text.split(":") for text in texts)
    homes = {_real(top / inside, piece).parent for piece in pieces if piece.endswith(".py")}
    harness = tuple(top.resolve() / each.name for each in _HARNESS) if (top / "run_bench.py").is_file() else _HARNESS
    for name in names:
        path = top.resolve() / name
        if _may_be_read(path, name, homes, harness):
            yield name


def _may_be_read(path: Path, name: str, homes: Collection[Path], harness: Collection[Path] = _HARNESS) -> bool:
    parts = Path(name).parts
    if path.suffix in _PROSE or _ASIDE.intersection(parts) or path.name.startswith((".git", "test_")):
        return False
    if path.suffix not in _SELDOM_DATA:
        return True
    own = is_within(path, homes) and not is_within(path, harness)
    return own and path.is_file() and not _is_table(path)


def _is_table(path: Path) -> bool:
    try:
        return path.suffix == ".toml" and "schema" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False


def _in_key(ref: MethodRef) -> Iterator[tuple[Path, bool]]:
    """Yield what the key of a method holds, and whether all below counts as well.

    A file that is not there any more is named as before.
    """
    for source in registry.code_files_of(ref):
        yield source, False
        for text in _texts(source):
            # As in bench.methods.sources, where a folder counts only if it is put together as a path.
            joined = "/" in text and not text.startswith((*_ABSOLUTE, ".."))
            yield from ((_real(folder, text), joined) for folder in (source.parent, Path()))
    try:
        home = registry.entry_of(ref).path.parent
    except UsageError:
        return
    for value in ref.params.values():
        if isinstance(value, str) and value:
            yield from ((_real(folder, value), True) for folder in (Path(), home))


def _real(folder: Path, text: str) -> Path:
    return Path(os.path.realpath(os.path.join(folder, os.path.expanduser(text))))


def _texts(source: Path) -> tuple[str, ...]:
    """Return the texts of a source that may name files; none where it cannot be read any more."""
    try:
        return syntax(text_of(source)).strings if source.suffix == ".py" else ()
    except (OSError, ValueError):
        return ()
