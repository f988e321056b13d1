"""Which cells of a plan a change since a commit can have touched, and why."""

from __future__ import annotations

import ast
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from bench import registry
from bench.data.named import named_set, search
from bench.differences import changed, changed_code, differences, methods_by_part, methods_of, other_threat
from bench.keys import EVALUATION_VERSION, Keys, Once, clean_cell, identity, models_of
from bench.methods.syntax import syntax
from bench.schedule import earlier
from bench.schedule.earlier import Earlier, Table
from bench.schedule.files_read import KeyFiles, in_no_key, named_as_now, of_method
from bench.schedule.plan import Work, part
from bench.store import history
from bench.store.commits import Commit
from bench.store.working_store import Store
from bench.store.worktree import because_of_submodules, worktree
from bench.types import (
    Cell,
    CellResult,
    MethodRef,
    PlannedCell,
    RunPlan,
    UsageError,
    WeightsRef,
    listed,
    shown,
)

#: Packages and modules of the harness from which nothing leads to a number that a run measures.
_SHOWING = frozenset({"anytime", "cli", "differences", "display", "library", "report", "visible"})
_KINDS = {
    "attack": "attack",
    "recipe": "recipe",
    "test-time": "step",
    "network": "network",
    "score-recipe": "recipe of a score",
    "score-network": "score network",
}
#: Names that a line lists, and that it lists of files that may well be beside the point.
NAMED = 5
_FEW = 3

ReasonKind = Literal["new", "code", "parameter", "threat", "images", "weights", "protocol", "unknown", "other"]


class Reason(NamedTuple):
    """Why a cell is touched; of code the files that differ."""

    kind: ReasonKind
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Since:
    """What has changed in a plan since a commit.

    Attributes:
        commit: the commit.
        cells: all of the plan now.
        touched: why, by the key of each cell whose key the commit does not have.
        needed: keys of untouched clean cells that touched ones are measured with.
        untouched: all other cells, and those that are needed.
        gone: cells of the commit that no cell of now stands for.
        harness: packages of the harness that differ and that a number can depend on.
        notes: what else a reader must know, one line each.
    """

    commit: Commit
    cells: tuple[PlannedCell, ...]
    touched: Mapping[str, tuple[Reason, ...]]
    needed: frozenset[str]
    untouched: tuple[PlannedCell, ...]
    gone: tuple[PlannedCell, ...]
    harness: tuple[str, ...]
    notes: tuple[str, ...]

    def why(self, key: str) -> str:
        """Return in words why a cell is touched or needed; nothing of any other key."""
        reasons = "; ".join(each.text for each in self.touched.get(key, ()))
        return reasons or ("needed" if key in self.needed else "")


def since(work: Work, commit: Commit, table: Table) -> Since:
    """Return what has changed in all cells that are asked for, those of other shards too.

    Args:
        work: the plan now.
        commit: what it is compared with.
        table: how the plan was asked for.
    """
    cells = work.requested
    if not commit.changed:
        return Since(commit, cells, {}, frozenset(), cells, (), (), ())
    notes, harness = [*_uncommitted(commit), *_outside(commit, cells)], tuple[str, ...]()
    then: Earlier | None = None
    for_all: Reason | None = _NEW
    if (old := _old_name(commit, table.what)) is not None:
        notes.append(f"{table.what} is {old} in {commit.name}")
        table = table._replace(what=old)
    if (origin := _origin(commit, table.what)) is None:
        notes.insert(0, f"{table.what} is not in {commit.name}, so every cell is new")
    else:
        notes.insert(0, origin)
        with worktree(commit.top, commit.sha) as checked_out:
            folder = checked_out.path.resolve()
            harness = tuple(_harness(commit, folder))
            try:
                then = earlier.cells(commit, folder, table, {each.key for each in cells})
                for_all = _protocol(commit)
            except UsageError as error:
                what = f"{table.what} as it is in {commit.name} cannot be planned by this harness"
                cause = because_of_submodules(checked_out, str(error))
                notes.append(f"{what}, so every cell counts as touched: {error}{cause}")
                for_all = Reason("unknown", what)
    touched, gone = ({}, ()) if then is None else _compared(commit, cells, then, table.only)
    if then is not None:
        touched |= _read_as_now(commit, work, then.same - touched.keys(), then.strays)
        notes += _unseen(commit, work, then.same - touched.keys() if for_all is None else ())
    if for_all is not None:
        touched = {each.key: (for_all, *touched.get(each.key, ())) for each in cells}
    untouched = tuple(each for each in cells if each.key not in touched)
    needed = _needed(cells, touched.keys())
    return Since(commit, cells, touched, needed, untouched, gone, harness, tuple(notes))


def narrowed(work: Work, known: Since, shard: tuple[int, int] | None) -> Work:
    """Return the plan of the touched cells and of those that they need, or of a part of it.

    Args:
        work: the plan of all cells.
        known: what has changed in it.
        shard: which part of how many, counted from 1.
    """
    cells = [each for each in work.requested if each.key in known.touched or each.key in known.needed]
    chosen = part(cells, *shard, Keys()) if shard is not None else cells
    return replace(work, plan=RunPlan(name=work.plan.name, cells=tuple(chosen)))


class Known(NamedTuple):
    """Results of cells that are not run, and where they are from, in words."""

    results: list[CellResult]
    words: str


def known_results(known: Since, store: Store) -> Known:
    """Return what a store, or else the recorded runs of the commit, have of the cells that are not run."""
    wanted = {each.key: each for each in known.untouched if each.key not in known.needed}
    results = {key: result for key, each in wanted.items() if (result := store.finished(each)) is not None}
    own, why_not = len(results), ""
    if len(results) < len(wanted):
        try:
            recorded = history.read(known.commit.sha, repository=known.commit.top).results
        except UsageError as error:
            recorded, why_not = [], f" ({str(error).replace(known.commit.sha, known.commit.name)})"
        for result in recorded:
            if result.status == "done" and result.key in wanted:
                # Tables take cells for one row where they are written alike; a file sorts its parameters.
                own_cell = {"names": wanted[result.key].names, "cell": wanted[result.key].cell}
                results.setdefault(result.key, result.model_copy(update=own_cell))
    parts = [f"{own:,} from this store", f"{len(results) - own:,} as recorded for {known.commit.name}"]
    lacking = len(wanted) - len(results)
    parts += [f"{lacking:,} in neither{why_not}: run without --changed-since measures them"] if lacking else []
    return Known(list(results.values()), f"results of untouched cells: {', '.join(parts)}")


# What is touched.

_NEW = Reason("new", "new")


def _compared(
    commit: Commit, cells: Iterable[PlannedCell], then: Earlier, only: str | None
) -> tuple[dict[str, tuple[Reason, ...]], tuple[PlannedCell, ...]]:
    """Return why cells are touched, by key, and the cells of the commit that no cell of now stands for."""
    strays = frozenset(path for path in then.strays if commit.from_top(Path(path)) in commit.changed)
    files = Once[MethodRef, frozenset[str]](lambda ref: frozenset(map(str, registry.code_files_of(ref))))

    def said(ref: MethodRef) -> Reason:
        named = sorted({commit.from_top(Path(path)) for path in files(ref)} & commit.changed)
        return Reason("code", f"code of {_KINDS[ref.kind]} {ref.name}", tuple(named))

    code = Once[MethodRef, Reason](said)
    partners = _partners([each for each in cells if each.key not in then.same], then.unlike)
    touched: dict[str, tuple[Reason, ...]] = {}
    for each in cells:
        if each.key not in then.same:
            old = partners.get(each.key)
            touched[each.key] = (_NEW,) if old is None else tuple(_reasons(old.cell, each.cell, code))
        # The code that was read for the commit is that of now.
        elif strays and (refs := [ref for ref in methods_of(each.cell) if strays & files(ref)]):
            touched[each.key] = tuple(dict.fromkeys(map(code, refs)))
    stood_for = {old.key for old in partners.values()}
    left = (each for each in then.unlike if each.key not in stood_for)
    return touched, tuple(each for each in left if only is None or each.names.match(only))


def _read_as_now(
    commit: Commit, work: Work, same: Collection[str], strays: Collection[str]
) -> dict[str, tuple[Reason, ...]]:
    """Return why cells of one key are touched after all: both sides read a file that changed as it is now.

    That is how weights, images and other files are read that a table or a source names by absolute paths.
    """

    def changed_at(path: Path) -> str:
        name = commit.from_top(path)
        is_changed = bool(name) and any(each == name or each.startswith(f"{name}/") for each in commit.changed)
        return name if is_changed else ""

    def of_method(ref: MethodRef) -> Reason | None:
        # In a source a folder may mean no more than where its files lie: of these the note on what no key shows speaks.
        named = sorted({commit.from_top(path) for path in named_as_now(ref, strays)} & commit.changed)
        return Reason("code", f"a file that {_KINDS[ref.kind]} {ref.name} reads", tuple(named)) if named else None

    methods, images = Once[MethodRef, Reason | None](of_method), _folders_of_images(work)
    touched: dict[str, tuple[Reason, ...]] = {}
    for each in work.requested:
        if each.key not in same:
            continue
        found = [reason for reason, path in _named_by_table(work, each.cell, images) if changed_at(path)]
        found += [reason for ref in methods_of(each.cell) if (reason := methods(ref)) is not None]
        if found:
            touched[each.key] = tuple(dict.fromkeys(found))
    return touched


def _folders_of_images(work: Work) -> Callable[[str], Path | None]:
    """Return what gives the folder of a set of images, by its name; ``None`` for one that is in no folder."""

    def folder_of(name: str) -> Path | None:
        kind, _, folder = name.partition(":")
        if kind in ("folder", "parquet"):
            return Path(folder)
        entry = named_set(name)
        location = None if entry is None or not entry.files else search(entry, work.data_folder).location
        return None if location is None else location.folder

    return cache(folder_of)


def _named_by_table(work: Work, cell: Cell, images: Callable[[str], Path | None]) -> Iterator[tuple[Reason, Path]]:
    """Yield the files and folders of weights and images that a table names for a cell, and what a change of one is."""
    for model in models_of(cell):
        ref = model.weights
        if isinstance(ref, WeightsRef) and (path := work.weights_files.get(ref.sha256)) is not None:
            yield Reason("weights", f"{ref.name} changed"), path
    if (folder := images(cell.data.name)) is not None:
        yield Reason("images", "images changed"), folder
    attacks = [] if cell.attack is None else [cell.attack.attack, *(one.attack for one in cell.attack.after)]
    yield from ((Reason("images", f"{ref.use} changed"), Path(ref.file)) for ref in attacks if ref.file)


def _partners(news: Sequence[PlannedCell], olds: Sequence[PlannedCell]) -> dict[str, PlannedCell]:
    """Return for cells of now, by key, the cell of the commit that asks the same, or else is called the same."""
    keys, taken = Keys(), set[str]()
    partners: dict[str, PlannedCell] = {}

    def question(each: PlannedCell) -> object:
        return keys.comparison_key(each.cell)

    def name(each: PlannedCell) -> object:
        return str(each.names), each.cell.seed

    for identity_of in (question, name):
        free: dict[object, list[PlannedCell]] = defaultdict(list)
        for old in reversed(olds):
            if old.key not in taken:
                free[identity_of(old)].append(old)
        for new in news:
            if new.key not in partners and (same := free.get(identity_of(new))):
                partners[new.key] = same.pop()
                taken.add(partners[new.key].key)
    return partners


def _reasons(old: Cell, new: Cell, code: Callable[[MethodRef], Reason]) -> Iterator[Reason]:
    """Yield in what two cells differ, at least one thing."""
    some = [*map(code, changed_code(old, new)), *_other_parameters(old, new)]
    some += [*(Reason("threat", line) for line in other_threat(old, new, "->")), *_other_images(old, new)]
    yield from dict.fromkeys(some or [Reason("other", line) for line in differences(old, new)])
    if not some and next(differences(old, new), None) is None:
        yield Reason("other", "its key is another")


def _other_parameters(old: Cell, new: Cell) -> Iterator[Reason]:
    before, after = methods_by_part(old), methods_by_part(new)
    names = {part: (before[part].name, after[part].name) for part in before.keys() & after.keys()}
    other = [f"{name}: {' -> '.join(both)}" for name, both in sorted(names.items()) if both[0] != both[1]]
    other += [f"{name}: only on one side" for name in sorted(before.keys() ^ after.keys())]
    yield from (Reason("parameter", line) for line in other)
    if other:
        return
    for each in changed(old, new):
        kind: ReasonKind = "images" if each.parameter == "training images" else "parameter"
        if each.part.endswith("weights"):
            yield Reason("weights", f"{each.method} changed")
        else:
            yield Reason(kind, str(each))


def _other_images(old: Cell, new: Cell) -> Iterator[Reason]:
    if old.data.n != new.data.n:
        yield Reason("images", f"n {old.data.n} -> {new.data.n}")
    elif identity(old.data) != identity(new.data):
        yield Reason("images", "images changed")


def _needed(cells: Iterable[PlannedCell], touched: Collection[str]) -> frozenset[str]:
    """Return the keys of untouched cells that touched ones are measured with: clean, or earlier in a suite."""
    keys = Keys()
    by_key = {each.key: each for each in cells}
    by_set: dict[str, PlannedCell] = {}
    attacks = (by_key[key].cell.attack for key in touched)
    if any(attack is not None and attack.after for attack in attacks):
        by_set = {keys.of(each.cell.attack): each for each in cells if each.cell.attack is not None}
    queue, needed = [by_key[key] for key in touched], set[str]()
    while queue:
        cell = queue.pop().cell
        if cell.attack is None:
            continue
        previous = cell.attack.previous
        before = None if previous is None else by_set.get(keys.of(previous))
        for key in (keys.of(clean_cell(cell)), *(() if before is None else (before.key,))):
            if key in by_key and key not in touched and key not in needed:
                needed.add(key)
                queue.append(by_key[key])
    return frozenset(needed)


# What a reader must know.


def _old_name(commit: Commit, what: str) -> str | None:
    """Return how the file of a table was called in the commit, if it was renamed, seen from the current folder."""
    if not what.endswith(".toml") or commit.inside(Path(what)) is None or commit.has(Path(what)):
        return None
    old = commit.renamed.get(commit.from_top(Path(what)))
    return None if old is None else os.path.relpath(commit.top / old)


def _origin(commit: Commit, what: str) -> str | None:
    """Return where the table of the commit is from; ``None`` where the commit has none."""
    if what.endswith(".toml"):
        if commit.inside(Path(what)) is None:
            return f"{what} is outside of the repository: it is taken to be the same in {commit.name}"
        return f"compared with {what} as it is in {commit.name}" if commit.has(Path(what)) else None
    if commit.inside(earlier.ROOT) is None:
        return f"the harness with its preset {what} is outside of the repository: taken to be the same in {commit.name}"
    there = any(commit.has(earlier.ROOT / folder / f"{what}.toml") for folder in earlier.PRESETS)
    return f"compared with the preset {what} as it is in {commit.name}" if there else None


def _unseen(commit: Commit, work: Work, untouched: Collection[str]) -> Iterator[str]:
    """Yield lines on files that changed and that a method may read without naming them."""
    cells = {each.key: each for each in work.requested}
    is_kept = Once[MethodRef, bool](lambda ref: any(map(commit.keeps, registry.code_files_of(ref))))
    kept = {key for key, each in cells.items() if any(map(is_kept, methods_of(each.cell)))}
    if not kept:
        return
    behind = files_behind(work, work.requested)
    # Weights and images of other cells are hardly read by a method.
    of_table = KeyFiles.of_all([parts[0] for parts in behind.values()])
    own = [(of_table, *behind[key]) for key in kept.intersection(untouched)]
    changed = in_no_key(commit, [(of_table,), *behind.values()], own)
    if changed.of_all:
        some = listed(changed.of_all, _FEW)
        yield f"changed as well and in no key: {some}; if a method reads one, name it in its source"
    if changed.of_some:
        some = listed(changed.of_some, _FEW)
        yield f"changed as well and in the key of some cells only: {some}; a method that reads one must name it"


def files_behind(work: Work, cells: Iterable[PlannedCell]) -> dict[str, tuple[KeyFiles, ...]]:
    """Return by the key of each cell what the table names for it, then the files behind each of its methods.

    Those of a method that several cells have are one object.
    """
    methods, images = Once[MethodRef, KeyFiles](of_method), _folders_of_images(work)
    named = cache(lambda paths: KeyFiles(folders=frozenset(path.resolve() for path in paths)))
    behind: dict[str, tuple[KeyFiles, ...]] = {}
    for each in cells:
        by_table = named(frozenset(path for _, path in _named_by_table(work, each.cell, images)))
        parts = {id(part): part for part in (by_table, *map(methods, methods_of(each.cell)))}
        behind[each.key] = tuple(parts.values())
    return behind


def _uncommitted(commit: Commit) -> Iterator[str]:
    if commit.uncommitted:
        yield f"uncommitted changes count: {listed(sorted(commit.uncommitted), NAMED)}"


def _outside(commit: Commit, cells: Iterable[PlannedCell]) -> Iterator[str]:
    """Yield a line on the methods that the repository does not keep."""
    refs = {ref.code_sha: ref for ref in chain.from_iterable(methods_of(each.cell) for each in cells)}
    names = {ref.name for ref in refs.values() if not any(map(commit.keeps, registry.code_files_of(ref)))}
    if names:
        yield f"not kept in the repository, so taken to be the same in {commit.name}: {listed(sorted(names), NAMED)}"


def _protocol(commit: Commit) -> Reason | None:
    """Return why every cell is touched, if the commit measures by another version of the protocol."""
    path = earlier.ROOT / "bench" / "keys.py"
    if commit.inside(path) is None:
        return None
    tree = ast.parse(commit.text(path) or b"")
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and _assigns(node, "EVALUATION_VERSION")]
    version = ast.literal_eval(values[0]) if values and isinstance(values[0], ast.Constant) else "unknown"
    if version == EVALUATION_VERSION:
        return None
    return Reason("protocol", f"protocol of evaluation {shown(version)} -> {EVALUATION_VERSION}")


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _harness(commit: Commit, folder: Path) -> Iterator[str]:
    """Yield the packages of the harness that a number depends on, in no key, and that do something else in a commit."""
    networks = {entry.path.resolve() for entry in registry.entries("network").values()}
    found: dict[str, None] = {}
    for name in sorted(commit.changed):
        path = commit.top / name
        if path.suffix != ".py" or not path.is_relative_to(earlier.ROOT / "bench") or path in networks:
            continue
        package = path.relative_to(earlier.ROOT / "bench").parts[0].removesuffix(".py")
        if f"bench/{package}" not in found and package not in _SHOWING and not _does_the_same(path, folder / name):
            found[f"bench/{package}"] = None
    yield from found


def _does_the_same(now: Path, then: Path) -> bool:
    try:
        return syntax(now.read_bytes()).sha == syntax(then.read_bytes()).sha
    except (OSError, ValueError):
        return False
