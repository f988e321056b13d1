"""Every run that was recorded: those of a repository, and those in files, folders of files and stores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from bench.store import reading
from bench.store.git import git, git_bytes
from bench.store.history import RUNS, json_files, parse, read, read_run, root_of_runs
from bench.types import CellResult, UsageError, listed

#: The full name of a commit: SHA-1, or SHA-256 in newer repositories.
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
#: Files of one folder that are looked into.
_MAX_FILES = 20_000
#: Names of files that a note lists.
_FEW = 3

Place = TypeVar("Place", Path, str)


class Run(NamedTuple):
    """The results of one file or store."""

    source: str
    results: list[CellResult]
    #: The commit that the file says it is of: results that an earlier commit measured hold for it too.
    commit: str | None = None
    #: It is of uncommitted changes on that commit.
    dirty: bool = False


class RunReader:
    """Reads runs one by one; ``notes`` says in a line each what was left out, for a reader on another machine too."""

    def __init__(self, repository: Path) -> None:
        self.notes: list[str] = []
        self._root = root_of_runs(repository)
        self._repository = repository
        self._shared = reading.SharedParts()

    def recorded(self) -> Iterator[Run]:
        """Yield the runs in ``results/runs`` of the working tree, and those that HEAD alone holds.

        Damaged files are left out, with a note.

        Raises:
            UsageError: there are none.
        """
        root = self._root
        paths = self._few_enough(sorted((root / RUNS).glob("*/*.json")), root / RUNS)
        known = {path.relative_to(root).as_posix() for path in paths}
        listed = git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD", f"{RUNS.as_posix()}/") or ""
        committed = [name for name in listed.split("\0") if name.endswith(".json") and name not in known]
        if not paths and not committed:
            raise UsageError(
                f"no runs are recorded in {root / RUNS}: run something with --record, or name run files or stores"
            )
        runs = list[str]()
        for run in chain(self._files(paths), self._committed(root, self._few_enough(committed, root / RUNS))):
            runs.append(run.source)
            yield run
        if not runs:
            raise UsageError(f"{root / RUNS} holds no run file that can be read: {'; '.join(self.notes)}")

    def of(self, source: Path) -> Iterator[Run]:
        """Yield the runs of a store, a run file, or all run files in a folder and below.

        Raises:
            UsageError: it is none of these, or a run file that is damaged.
        """
        if source.is_file():
            yield Run(str(source), read_run(source, self._shared).results, *_commit_of(source.stem))
        elif (source / "cells").is_dir():
            recorded = read(source)
            self.notes += (note.replace(str(source), self._brief(source)) for note in recorded.notes)
            yield Run(str(source), recorded.results)
        elif source.is_dir():
            paths = self._few_enough(list(islice(json_files(source), _MAX_FILES + 1)), source)
            runs, noted = list[str](), len(self.notes)
            for run in self._files(paths):
                runs.append(run.source)
                yield run
            if not runs and len(self.notes) > noted:
                raise UsageError(f"{source} holds no run file that can be read: {self.notes.pop()}")
            if not runs:
                raise UsageError(f"{source} is no store and holds no run files, which run --record writes")
        else:
            raise UsageError(f"'{source}' is no run file, store or folder of run files here")

    def _files(self, paths: list[Path]) -> Iterator[Run]:
        """Yield what files hold; of those that cannot be read a note says why."""
        why: dict[str, str] = {}
        for path in paths:
            name = self._brief(path)
            try:
                source = str(path) if name == path.name else name
                run = Run(source, read_run(path, self._shared, name=name).results, *_commit_of(path.stem))
            except UsageError as error:
                why[str(path)] = str(error)
            else:
                yield run
        self._leave_out(why)

    def _committed(self, root: Path, names: list[str]) -> Iterator[Run]:
        """Yield what files hold that HEAD has and the working tree has not."""
        why: dict[str, str] = {}
        for name in names:
            size = int(git(root, "cat-file", "-s", f"HEAD:{name}") or 0)
            try:
                if size > reading.MAX_RUN_FILE:
                    raise UsageError(f"{name} has {size:,} bytes, and at most {reading.MAX_RUN_FILE:,} are read")
                data = git_bytes(root, "cat-file", "blob", f"HEAD:{name}") or b""
                commit = _commit_of(PurePosixPath(name).stem)
                run = Run(f"HEAD:{name}", parse(data, name, self._shared).results, *commit)
            except UsageError as error:
                why[name] = str(error)
            else:
                yield run
        self._leave_out(why)

    def _leave_out(self, why: dict[str, str]) -> None:
        if why:
            count = f"{len(why)} file{'s' * (len(why) > 1)} left out"
            self.notes.append(f"{count}: {listed(why.values(), _FEW, between='; ')}")

    def _brief(self, path: Path) -> str:
        """Return a path as seen from the repository, or its name alone where it lies elsewhere and is absolute."""
        if path.is_relative_to(self._root):
            return path.relative_to(self._root).as_posix()
        return path.name if path.is_absolute() else str(path)

    @staticmethod
    def _few_enough(paths: list[Place], folder: Path) -> list[Place]:
        if len(paths) > _MAX_FILES:
            raise UsageError(f"{folder} has more than {_MAX_FILES:,} files; name fewer, or a folder within it")
        return paths


def _commit_of(stem: str) -> tuple[str | None, bool]:
    """Return the commit that the name of a file says, and whether it is of uncommitted changes on it."""
    commit = stem.removesuffix("-dirty")
    return (commit, commit != stem) if COMMIT.fullmatch(commit) else (None, False)
