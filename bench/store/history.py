"""Results in git: one file for each machine and commit, one cell a line, readable again from any commit.

    results/runs/<machine>/<commit>.json

The first line says which schema the file has, and what the runs had planned; every further line is a result as the
store keeps it, with its own checksum, so that a cut or merged file is noticed. Lines are sorted by name and key and
carry the outcome of every example as bits, so two commits are compared image by image from git alone.
"""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import FailFast, Field

from bench.keys import canonical_json, sha256_hex
from bench.store import files, partial, planned, reading
from bench.store.commits import Commit
from bench.store.git import git, git_bytes
from bench.store.outputs import write_into
from bench.store.planned import PlannedTable
from bench.store.provenance import harness, own_repository, source
from bench.store.working_store import Store
from bench.types import CellResult, Frozen, PartialResult, UsageError, jsonable, listed, shown

_log = logging.getLogger("crossfire")

#: Of the file as a whole; each line also has the schema of a result.
SCHEMA = 1

RUNS = Path("results") / "runs"
#: Files that a warning names.
_NAMED = 3
#: Files of a folder that are looked into for what it is.
_MAX_LOOKED_AT = 1000


class Recorded(NamedTuple):
    """Results and what they are called: a commit, a file or a store."""

    name: str
    results: list[CellResult]
    #: What a reader must know of them, one line each: what was left out, or whose results they are.
    notes: tuple[str, ...] = ()
    #: The commit whose run this is, where it is one.
    commit: str | None = None
    #: The tables that the runs had planned, as far as that is kept.
    planned_tables: tuple[PlannedTable, ...] = ()
    #: Cells of a store that are begun and not done.
    begun: tuple[PartialResult, ...] = ()


class RunFile(NamedTuple):
    """What a file of recorded results holds: these, and the tables that the runs had planned, as far as it says."""

    results: list[CellResult]
    planned_tables: tuple[PlannedTable, ...]


class _Head(Frozen):
    """The first line of a run file."""

    format: Literal["crossfire-run"]
    schema_: int = Field(alias="schema", ge=1, le=SCHEMA)
    asked: Annotated[tuple[PlannedTable, ...], FailFast()] = Field((), max_length=10_000)


def root_of_runs(folder: Path) -> Path:
    """Return where ``results/runs`` of a folder lies: the root of its repository, or itself outside of one."""
    return Path(git(folder, "rev-parse", "--show-toplevel") or folder)


def write_run(results: Iterable[CellResult], root: Path, planned_tables: Iterable[PlannedTable] = ()) -> Path:
    """Write what holds for the code as it is now to ``root/results/runs/<machine>/<commit>.json``; return the file.

    A cell whose code did not change since an earlier commit belongs to this one too, with the provenance that it has.
    The earlier content of the file stays, except for the same cells, of which a warning tells if they were measured
    again, and the same tables of a plan. With uncommitted changes the file is called ``<commit>-dirty``, outside a
    checkout ``no-commit``. Sources in no commit, which may be what was measured, and edits of the harness beside a
    repository of one's own get a warning too.

    Raises:
        UsageError: the file is there and cannot be read, or cannot be written, or would be larger than what is read.
    """
    commit, dirty = source()
    machine = re.sub(r"[^A-Za-z0-9_.-]+", "-", platform.node()).strip(".-") or "unnamed"
    path = root / RUNS / machine / f"{commit or 'no-commit'}{'-dirty' if dirty else ''}.json"
    before = read_run(path) if os.path.exists(path) else RunFile([], ())
    results = list(results)
    data = serialise([*before.results, *results], [*before.planned_tables, *planned_tables]).encode()
    if len(data) > reading.MAX_RUN_FILE:
        size = f"{len(data):,} bytes, and run files have at most {reading.MAX_RUN_FILE:,}"
        raise UsageError(f"{path} would have {size}; compare stores instead, which have no limit")
    write_into(path, data, option="--record")
    _warn_of_replaced(path, before.results, results)
    if commit is not None and (top := own_repository(Path.cwd())) is not None:
        _warn_of_unknown(Commit(top, commit, commit))
        if harness()[1]:
            _log.warning(
                "recorded as with uncommitted changes: the checkout of Crossfire has some, which count as well"
            )
    return path


def _warn_of_replaced(path: Path, before: Iterable[CellResult], now: Iterable[CellResult]) -> None:
    measured = {r.key: r for r in before}
    replaced = [r.key for r in now if r.key in measured and measured[r.key].provenance != r.provenance]
    if replaced:
        days = sorted({measured[key].provenance.finished[:10] for key in replaced})
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        cells = f"{len(replaced)} cell{'s' * (len(replaced) > 1)}"
        _log.warning("%s had other results of %s, measured %s: they are replaced", path, cells, when)


def _warn_of_unknown(commit: Commit) -> None:
    try:
        unknown = sorted(commit.unknown_sources)
    except UsageError as error:
        # The run is recorded; that git does not answer in time is no reason to fail.
        _log.warning("%s", error)
        return
    if unknown:
        named = listed(map(shown, unknown), _NAMED)
        _log.warning("recorded as of commit %s, in which these files are not: %s", commit.sha[:10], named)


def serialise(results: Iterable[CellResult], planned_tables: Iterable[PlannedTable] = ()) -> str:
    """Return results and planned tables as the text of a run file; of two with one key the later one."""
    unique = {r.key: r for r in results}
    plans = [jsonable(each) for _, each in sorted({(each.plan, each.table): each for each in planned_tables}.items())]
    head = {"format": "crossfire-run", "schema": SCHEMA, **({"asked": plans} if plans else {})}
    lines = [canonical_json(head)]
    for r in sorted(unique.values(), key=lambda r: (str(r.names), r.cell.seed, r.key)):
        body = jsonable(r)
        lines.append(canonical_json({**body, "sha256": sha256_hex(canonical_json(body))}))
    return "\n".join(lines) + "\n"


def parse(data: bytes, name: str, shared: reading.SharedParts | None = None) -> RunFile:
    """Return what the bytes of a run file hold; of several files, results share the parts in ``shared``.

    Raises:
        UsageError: it is no run file, of a newer schema, or one of its lines is damaged or has the key of another.
    """
    lines = _lines(data)
    head = _head(next(lines), name)
    results: dict[str, CellResult] = {}
    shared = shared or reading.SharedParts()
    for number, line in enumerate(lines, start=2):
        try:
            result = reading.read_result(line, shared=shared)
            if result.key in results:
                raise ValueError("the key of a line before it")
        except ValueError as error:
            raise UsageError(f"{name}, line {number}: {error}") from None
        results[result.key] = result
    return RunFile(list(results.values()), head.asked)


def _lines(data: bytes) -> Iterator[bytes]:
    """Yield lines one by one: a file of millions may be refused after its first."""
    start = 0
    while start < len(data) or start == 0:
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end + 1


def _head(line: bytes, name: str) -> _Head:
    if len(line) > reading.MAX_DOCUMENT:
        raise UsageError(f"{name}, line 1: it has {len(line):,} bytes, and at most {reading.MAX_DOCUMENT:,} are read")
    try:
        head = reading.document(line)
        schema = head["schema"] if head["format"] == "crossfire-run" else None
    except (ValueError, KeyError, TypeError):
        schema = None
    if schema is None:
        hint = reading.what_else(line)
        raise UsageError(f"{name} is no run file of Crossfire: its first line does not say so{hint}")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UsageError(f"{name} has schema {shown(schema)}, this version reads up to {SCHEMA}: update Crossfire")
    try:
        return reading.validated(_Head, line)
    except ValueError as error:
        raise UsageError(f"{name}, line 1: what was asked for is damaged: {error}") from None


def read_run(path: Path, shared: reading.SharedParts | None = None, *, name: str = "") -> RunFile:
    """Return what a run file holds; of several files, results share the parts in ``shared``.

    Args:
        path: of the file.
        shared: likewise.
        name: what an error calls the file, if not by its path.

    Raises:
        UsageError: it cannot be read, or :func:`parse` says so.
    """
    try:
        data = files.read(path, reading.MAX_RUN_FILE)
    except OSError as error:
        raise UsageError(f"{name or path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{name or path} cannot be read as a run file: {error}") from None
    return parse(data, name or str(path), shared)


def read(origin: str | Path, *, repository: Path | None = None) -> Recorded:
    """Return the results of a store, a run file, or a commit (``abc123``, ``main``, ``HEAD~1``) recorded in git.

    A commit means its own run files. They are looked for in the working tree and in what the commit and HEAD hold,
    since results of a commit can only be committed after it. Those of its nearest ancestors belong to it as long as
    their code is the same: no file differs but in ``results/``, ``docs/`` and Markdown.

    Raises:
        UsageError: ``origin`` is none of these, or holds no results.
    """
    path = Path(origin)
    if os.path.isfile(path):
        run = read_run(path)
        recorded = Recorded(str(origin), run.results, planned_tables=run.planned_tables)
    elif os.path.isdir(path / "cells") or (os.path.isdir(path) and not _is_commit(str(origin), repository)):
        recorded = _read_store(path)
    elif isinstance(origin, Path):
        raise UsageError(f"no store at {origin}: run first, or name another with --store")
    else:
        recorded = _read_commit(origin, repository or Path.cwd())
    if not recorded.results:
        raise UsageError(
            f"{origin} holds no results"
            + (f" ({'; '.join(recorded.notes)})" if recorded.notes else ": run something first")
        )
    return recorded


def require_no_run_files(folder: Path) -> None:
    """Require that a folder which is to be read as a store is none of run files, of which each is a run of its own.

    Raises:
        UsageError: it is; the line names one of its files.
    """
    if os.path.isdir(folder / "cells"):
        return
    below = next(filter(_is_run_file, islice(json_files(folder), _MAX_LOOKED_AT)), None)
    if below is not None:
        raise UsageError(
            f"{folder} is no store but a folder with run files, each of which is a run of its own: name one, such as "
            f"{below}; history {folder} shows them all"
        )


def json_files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files of a folder and those below it, in the order of their names; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if name.endswith(".json"))


def _is_run_file(path: Path) -> bool:
    try:
        with files.opened(path) as file:
            _head(file.readline(reading.MAX_DOCUMENT + 1), str(path))
    except (OSError, ValueError, UsageError):
        return False
    return True


def _read_store(root: Path) -> Recorded:
    require_no_run_files(root)
    store = Store(root)
    store.warn_of_strangers()
    results = list(store.results())
    damaged = sorted({*store.all_keys()} - {r.key for r in results})
    notes = (
        (f"{len(damaged)} damaged result files in {root} are left out: {', '.join(key[:12] for key in damaged[:3])}",)
        if damaged
        else ()
    )
    tables = tuple(planned.read(store))
    return Recorded(str(root), results, notes, planned_tables=tables, begun=tuple(partial.read(store)))


def read_both(base: str | Path, head: str | Path, *, repository: Path | None = None) -> tuple[Recorded, Recorded]:
    """Return the two sides of a comparison.

    Where results have a commit of their own, the commit before it and this one mean one run. Then the base is the last
    run before that of other code, and a note says so.

    Raises:
        UsageError: a side is none or holds no results, or both are one file or store, or the run of one commit.
    """
    if os.path.exists(base) and os.path.exists(head) and os.path.samefile(base, head):
        raise UsageError(f"'{base}' and '{head}' are one and the same: nothing to compare")
    old, new = read(base, repository=repository), read(head, repository=repository)
    if old.commit is None or old.commit != new.commit:
        return old, new
    runs = _Runs(repository or Path.cwd(), str(head))
    first, last = runs.named(str(base)), runs.named(str(head))
    same = f"'{base}' and '{head}' mean one and the same run, that of commit {old.commit[:10]}"
    if not runs.recorded_between(first, last):
        raise UsageError(f"{same}: nothing to compare; name commits whose code differs")
    earlier = runs.before(old.commit)
    if earlier is None:
        raise UsageError(f"{same}, and no commit before it has results of other code: nothing to compare it with")
    note = f"{same}; it is compared with the last run before it, that of commit {earlier[:10]}"
    return Recorded(f"run before {base} ({earlier[:10]})", runs.results(runs.of_code(earlier)), (note,), earlier), new


def _read_commit(name: str, repository: Path) -> Recorded:
    runs = _Runs(repository, name)
    commit = runs.named(name)
    commits = runs.of_code(commit)
    if commits:
        others = ", ".join(each[:10] for each in commits if each != commit)
        own = "has results" if commit in commits else "has no results of its own"
        notes = (f"{name} ({commit[:10]}) {own}; those of {others} are of the same code",) if others else ()
        return Recorded(f"{name} ({commits[0][:10]})", runs.results(commits), notes, commits[0])
    if f"{commit}-dirty" in runs.commits:
        raise UsageError(
            f"commit {commit[:10]} ('{name}') only has results with uncommitted changes; name their file to use it"
        )
    raise UsageError(
        f"commit {commit[:10]} ('{name}') has no results in {RUNS.as_posix()}; record some with run --record"
    )


class _Runs:
    """The run files that a repository has in its working tree, in HEAD and in one commit.

    Raises:
        UsageError: there is no such commit here.
    """

    #: What may differ between two commits whose code is the same, as pathspecs of git.
    _NO_CODE = (":(exclude)results", ":(exclude)docs", ":(exclude)*.md")

    def __init__(self, repository: Path, name: str) -> None:
        top = git(repository, "rev-parse", "--show-toplevel")
        if top is None:
            raise UsageError(f"'{name}' is no commit, run file or store here")
        self._root = Path(top)
        #: For each commit the paths of its run files and the tree that holds them; ``None`` is the working tree.
        self.commits: dict[str, dict[str, str | None]] = {}
        for path in sorted((self._root / RUNS).glob("*/*.json")):
            self.commits.setdefault(path.stem, {})[path.relative_to(self._root).as_posix()] = None
        for tree in ("HEAD", self.named(name)):
            listed = git(self._root, "ls-tree", "-r", "-z", "--name-only", tree, f"{RUNS.as_posix()}/") or ""
            for name in listed.split("\0"):
                self.commits.setdefault(PurePosixPath(name).stem, {}).setdefault(name, tree)

    def named(self, name: str) -> str:
        """Return the full name of a commit."""
        commit = git(self._root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if commit is None:
            raise UsageError(f"'{name}' is no commit, run file or store here")
        return commit

    def results(self, commits: Iterable[str]) -> list[CellResult]:
        """Return what the run files of some commits hold."""
        results: list[CellResult] = []
        for path, tree in chain.from_iterable(self.commits[commit].items() for commit in commits):
            file = self._root / path
            run = read_run(file) if tree is None else parse(self._committed(f"{tree}:{path}"), str(file))
            results += run.results
        return results

    def _committed(self, path: str) -> bytes:
        """Return a file as a tree of git has it.

        Raises:
            UsageError: it is too large.
        """
        size = int(git(self._root, "cat-file", "-s", path) or 0)
        if size > reading.MAX_RUN_FILE:
            raise UsageError(f"{path} has {size:,} bytes, and at most {reading.MAX_RUN_FILE:,} are read")
        return git_bytes(self._root, "cat-file", "blob", path) or b""

    def recorded_ancestors(self, commit: str) -> Iterator[str]:
        """Yield the ancestors of a commit that have results, nearest first."""
        listed = git(self._root, "rev-list", "--topo-order", commit) or ""
        yield from (each for each in listed.splitlines() if each in self.commits and each != commit)

    def of_code(self, commit: str) -> list[str]:
        """Return the commits whose runs are of the code of this one, nearest first.

        These are the commit itself and its ancestors up to the first run of other code, or else the nearest ancestor to
        whose code it went back.
        """
        own = [commit] if commit in self.commits else []
        commits = own + list(takewhile(lambda each: self.same_code(each, commit), self.recorded_ancestors(commit)))
        return commits or [each for each in self.recorded_ancestors(commit) if self.same_code(each, commit)][:1]

    def same_code(self, first: str, second: str) -> bool:
        return git(self._root, "diff", "--quiet", first, second, "--", ".", *self._NO_CODE) is not None

    def before(self, commit: str) -> str | None:
        """Return the nearest ancestor with results whose code is another."""
        return next((each for each in self.recorded_ancestors(commit) if not self.same_code(each, commit)), None)

    def recorded_between(self, first: str, last: str) -> bool:
        """Say whether ``first`` is an ancestor of ``last`` and results were committed since."""
        if first == last or git(self._root, "merge-base", "--is-ancestor", first, last) is None:
            return False
        return git(self._root, "diff", "--quiet", first, last, "--", RUNS.as_posix()) is None


def _is_commit(name: str, repository: Path | None) -> bool:
    return git(repository or Path.cwd(), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is not None
