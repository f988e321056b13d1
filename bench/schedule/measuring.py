"""What one cell gives at a commit: planned there by the commit's own code, looked up, and run only where it is new.

A cell is looked up under its key, so commits that plan the same cell are measured once. Keys hold methods, parameters,
images and weights, but not the harness, nor files that a method reads without naming them. Where these changed, a
result may come from another version of them; each version then has, besides the common store, a store of its own, and
:class:`Measuring` says which is used.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from bench.schedule.at_commit import CellAt, NotMeasurable, PlanAt, has_own_harness, plan_at, reason, run_at
from bench.schedule.earlier import ROOT
from bench.schedule.files_read import KeyFiles, behind_texts, may_be_code, may_be_read_at
from bench.schedule.search_memory import SearchMemory
from bench.store import files
from bench.store.lineage import History
from bench.store.provenance import harness
from bench.store.working_store import Store
from bench.store.worktree import Worktree, common_folder, scratch, worktree
from bench.types import CellResult, UsageError, listed, shown

#: Files of a finished training; the one that says so comes last.
_TRAINING = ("weights.safetensors", "log.jsonl", "card.json")
_CHUNK = re.compile(r"[0-9]{6,}-[0-9]{6,}\.safetensors")
#: Cells that a message names.
_NAMED = 5
#: How near a name is that may be meant, from 0 to 1; names of one table are long and alike.
_NEAR = 0.8


@dataclass(frozen=True)
class Question:
    """Which cell is measured at each commit.

    Attributes:
        repository: a folder of the repository; paths in the configuration are relative to it, in each commit.
        inside: the same, relative to the root of the repository.
        configuration: a preset, or the file for all commits.
        own_file: that file, relative to the root of a commit, for commits that do not know what the first one names;
            ``None`` for a preset and for a file outside of the repository.
        cell: its name, or a pattern as for ``--only``.
        options: of ``plan`` and ``run`` alike.
        store: where finished work is looked up; nothing is written there.
        retry: commits that could not be measured in an earlier search of the same are tried again.
        texts: all texts of the configuration, which may name files.
    """

    repository: Path
    inside: Path
    configuration: str
    own_file: Path | None
    cell: str
    options: tuple[str, ...]
    store: Path
    retry: bool = False
    texts: tuple[str, ...] = ()

    def memory(self, folder: Path) -> SearchMemory:
        """Return what earlier searches of the same have kept in a folder."""
        table = Path(self.configuration)
        asked = table.read_text(encoding="utf-8", errors="replace") if table.suffix == ".toml" else "preset"
        name = str(self.own_file) if self.own_file else table.name
        return SearchMemory(folder, [name, asked, str(self.inside), self.cell, *self.options, str(harness())])


class Measured(NamedTuple):
    """What the cell gave at a commit; ``own_file`` says whether it was planned by the configuration there."""

    commit: str
    name: str
    result: CellResult
    own_file: bool


class NoSuchCell(NotMeasurable):
    """A commit that does not have the cell."""


class Remembered(NotMeasurable):
    """A commit that is not tried, as it could not be measured in an earlier search of the same."""


class _Planned(NamedTuple):
    cell: CellAt
    plan: PlanAt
    own_file: bool


class Measuring:
    """Measures one cell at commits, each in a worktree of its own.

    Attributes:
        apart: whether each version of what no key holds looks up results in a store of its own.
        in_no_key: files that changed, that a method of the cell may read, and that its key does not hold; of a version
            besides the harness.
        elsewhere: sources and settings that changed and that the key does not hold, but that are hardly read by it.
        runs: how many commits were run.
        found: how many needed no run.
        remembered: how many are not tried, as they could not be measured in an earlier search.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._history = History(question.repository)
        self._folder = common_folder(question.repository) / "crossfire" / "bisect"
        self._planned: dict[str, _Planned] = {}
        self._measured: dict[tuple[str, bool], Measured] = {}
        self._failed: dict[tuple[str, bool], NotMeasurable] = {}
        self._remembered = [question.memory(self._folder / f"failed-{each}") for each in ("common", "apart")]
        self._reached = question.memory(self._folder / "reached")
        self._names = [question.cell]
        self.apart = False
        self.in_no_key: tuple[str, ...] = ()
        self.elsewhere: tuple[str, ...] = ()
        self.runs = self.found = self.remembered = 0

    def __call__(self, commit: str, *, again: bool = False) -> Measured:
        """Return what the cell gives at a commit.

        Args:
            commit: its full hash.
            again: try it even if it could not be measured in an earlier search.

        Raises:
            NotMeasurable: it cannot be planned or run there, or several cells have the name.
            UsageError: the commit cannot be checked out, or the store cannot be written.
        """
        at = commit, self.apart
        if at in self._failed:
            raise self._failed[at]
        if at not in self._measured:
            remembered = self._remembered[self.apart]
            try:
                if not again and not self._question.retry and (why := remembered.get(commit)) is not None:
                    self.remembered += 1
                    raise Remembered(why)
                self._measured[at] = self._measure(commit)
            except NotMeasurable as error:
                self._failed[at] = error
                if not isinstance(error, Remembered):
                    remembered.keep(commit, str(error))
                raise
            remembered.forget(commit)
        return self._measured[at]

    def is_no_further(self, good: str, bad: str) -> bool:
        """Say whether a search that ends early came no further than the last one between two commits; keep how far."""
        looked_at = sorted(commit for commit, _ in self._measured | self._failed)
        ends, now = f"{good} {bad}", f"{len(self._measured)} {' '.join(looked_at)}"
        was = self._reached.get(ends)
        self._reached.keep(ends, now)
        return was == now and self.runs == 0

    def harness(self, commit: str) -> str | None:
        """Return the hash of the harness that a commit has of its own; ``None`` where the installed one is used."""
        of = self._history.hash_of
        if of(commit, "run_bench.py") is None or of(commit, "bench/cli/__init__.py") is None:
            return None
        return of(commit, "bench")

    def _version(self, commit: str) -> str | None:
        """Return the hash of what no key holds at a commit; ``None`` where that is the installed harness alone."""
        harness = self.harness(commit)
        if not self.in_no_key:
            return harness
        hashes = self._history.hashes_of(commit, self.in_no_key)
        return sha256(json.dumps([harness, sorted(hashes.items())]).encode()).hexdigest()

    def changed_in_no_key(self, old: str, new: str) -> list[str]:
        """Return what differs between two commits and is in no key: files, and the harness."""
        harness = ["the harness (bench/)"] if self.harness(old) != self.harness(new) else []
        before, after = (self._history.hashes_of(commit, self.in_no_key) for commit in (old, new))
        return [*harness, *(name for name in self.in_no_key if before.get(name) != after.get(name))]

    def is_of_its_version(self, measured: Measured) -> bool:
        """Say whether a result was measured with what no key holds as its commit has it, as far as provenance tells."""
        by = measured.result.provenance
        if by.commit is None or by.dirty or not self._is_known(by.commit):
            return False
        if by.harness and self.harness(measured.commit) is not None:
            return False
        return self._version(by.commit) == self._version(measured.commit)

    def _is_known(self, commit: str) -> bool:
        return self._history.hash_of(commit, "") is not None

    def find_in_no_key(self, good: Measured, bad: Measured) -> None:
        """Find the files that changed between two commits, and that the key of the cell does not hold at one of them.

        Those that changed since a result was measured count too. Files that a method of the cell may well read are told
        from other sources and settings.
        """
        names = self._history.changed(good.commit, bad.commit)
        for each in (good, bad):
            by = each.result.provenance.commit
            if by is not None and by != each.commit and self._is_known(by):
                names |= self._history.changed(by, each.commit)
        found, other = set[str](), set[str]()
        for each in (good, bad) if names else ():
            read, elsewhere = self._in_no_key(each.commit, names)
            found |= read
            other |= elsewhere
        self.in_no_key, self.elsewhere = tuple(sorted(found)), tuple(sorted(other - found))

    def _in_no_key(self, commit: str, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return those of some files that the cell may read at a commit and that are in no key, and other sources."""
        question, planned = self._question, self._planned[commit]
        with worktree(question.repository, commit) as tree:
            top = tree.path.resolve()
            texts = question.texts, top if has_own_harness(top) else ROOT
            of_table = behind_texts(top, question.inside, *texts)
            behind = of_table if planned.cell.behind is None else planned.cell.behind.at(top)
            others = [cell.behind.at(top) for cell in planned.plan.cells if cell.behind is not None]
            left = set(may_be_read_at(top, behind, names, texts[1]))
            if not behind.by_name:
                # Each method has sources beside those of others, which are no reason to measure it again.
                left = {name for name in left if not _is_source_of(top / name, (of_table, *others))}
            code = filter(may_be_code, names)
            elsewhere = {name for name in code if (top / name).is_file() and not behind.holds((top / name).resolve())}
        left, elsewhere = ({name for name in some if not self._is_harness(tree, name)} for some in (left, elsewhere))
        return left, elsewhere - left

    def _is_harness(self, tree: Worktree, name: str) -> bool:
        return name.startswith(("bench/", "run_bench.py")) and self.harness(tree.commit) is not None

    def _store(self, commit: str) -> Store:
        """Return the store in which a commit works."""
        version = self._version(commit) if self.apart else None
        name = "installed" if self.apart else "common"
        return Store(self._folder / (name if version is None else version[:16]))

    def _measure(self, commit: str) -> Measured:
        planned, store = self._planned.get(commit), self._store(commit)
        if planned is not None and (result := self._known(planned, store)) is not None:
            self.found += 1
            return Measured(commit, planned.cell.name, result, planned.own_file)
        with worktree(self._question.repository, commit) as tree, self._in_own_words(tree):
            planned = self._planned[commit] = planned or self._plan(tree, store)
            if (known := self._known(planned, store)) is not None:
                self.found += 1
            else:
                self.runs += 1
            result = known or self._run(tree, planned, store)
        return Measured(commit, planned.cell.name, result, planned.own_file)

    def is_planned(self, commit: str) -> bool:
        """Say whether a commit has the cell."""
        with suppress(NotMeasurable), worktree(self._question.repository, commit) as tree:
            self._planned[commit] = self._planned.get(commit) or self._plan(tree, self._store(commit))
        return commit in self._planned

    def key_at(self, commit: str) -> str | None:
        """Return the key of the cell at a commit, which takes a plan and no run; ``None`` where it has none."""
        known = commit in self._planned or self.is_planned(commit)
        return self._planned[commit].cell.key if known else None

    def held_between(self, old: str, new: str) -> list[str]:
        """Return the files behind the cell that differ between two commits, seen from the root of the repository."""
        names = sorted(self._history.changed(old, new))
        behind = [self._planned[each].cell.behind for each in (old, new) if each in self._planned]
        if not behind or None in behind:
            return names
        held = KeyFiles.of_all([each for each in behind if each is not None])
        return [name for name in names if held.holds(Path(name))]

    @contextmanager
    def _in_own_words(self, tree: Worktree) -> Iterator[None]:
        """Take the folders of a commit and of the copied configuration out of a message, for they do not stay."""
        folders = [tree.path, tree.path.resolve(), Path(self._question.configuration).parent]
        try:
            yield
        except NotMeasurable as error:
            text = str(error)
            for folder in filter(Path.is_absolute, folders):
                text = text.replace(f"{folder}/", "")
            raise type(error)(text) from None

    def _known(self, planned: _Planned, store: Store) -> CellResult | None:
        others = [] if self.apart else [Store(self._question.store)]
        for each in (store, *others):
            result = each.get(planned.cell.key) if files.is_regular(each.cell_file(planned.cell.key)) else None
            if result is None or result.status != "done" or result.outcomes_under_attack is None:
                continue
            # Harnesses were once without a hash of records.
            if result.records_sha is None or each.has_records(result):
                return result
        return None

    def learn_names(self, good: str, bad: str) -> bool:
        """Learn what the cell was called before a method of it was renamed; say whether another name was found.

        A commit that renames a method changes the configuration with it, in which the method keeps its place. So each
        commit that changed the configuration is planned with the one before it, each by its own, until a name is found
        that the cell has in ``good``.
        """
        file, known = self._question.own_file, len(self._names)
        if file is None:
            return False
        with suppress(NotMeasurable):
            first = {cell.name for cell in self._planned_by_own(good)}
            for commit in self._history.changing(str(file), good, bad):
                parents = self._history.parents(commit)
                if len(parents) == 1 and self._table(commit) != self._table(parents[0]):
                    with suppress(NotMeasurable):
                        self._learn(self._planned_by_own(parents[0]), self._planned_by_own(commit))
                if not first.isdisjoint(self._names):
                    break
        if found := len(self._names) > known:
            self._failed.clear()
        return found

    def _learn(self, before: Sequence[CellAt], after: Sequence[CellAt]) -> None:
        """Learn a name from the cells of a commit and the one before it, where one has taken another's place."""
        old, new = {cell.name for cell in before}, {cell.name for cell in after}
        if len(before) != len(after):
            return
        for was, now in zip(before, after, strict=True):
            if now.name in self._names and now.name not in old and was.name not in new:
                self._names.append(was.name)

    def _table(self, commit: str) -> object:
        """Return what a configuration says at a commit; comments and layout say nothing."""
        text = self._history.bytes_of(commit, str(self._question.own_file))
        try:
            return tomllib.loads((text or b"").decode())
        except (ValueError, RecursionError):
            return text

    def _planned_by_own(self, commit: str) -> list[CellAt]:
        with worktree(self._question.repository, commit) as tree:
            return self._plan_by_own(tree, self._store(commit)).cells

    def _plan(self, tree: Worktree, store: Store) -> _Planned:
        """Return the cell as a commit plans it, by its own configuration if the common one does not fit its code."""
        question = self._question
        try:
            only = [question.configuration, "--only", question.cell, *question.options, "--store", str(store.root)]
            plan = plan_at(tree, only, inside=question.inside)
            return _Planned(self._chosen(plan.cells, tree.commit), plan, own_file=False)
        except NotMeasurable as error:
            own = question.own_file and tree.path / question.own_file
            if own is None or not own.is_file() or own.read_bytes() == Path(question.configuration).read_bytes():
                raise self._with_names(error, tree, store) from None
            try:
                plan = self._plan_by_own(tree, store)
                return _Planned(self._chosen(plan.cells, tree.commit), plan, own_file=True)
            except NoSuchCell:
                raise NoSuchCell(str(error)) from None
            except NotMeasurable:
                raise self._with_names(error, tree, store) from None

    def _with_names(self, error: NotMeasurable, tree: Worktree, store: Store) -> NotMeasurable:
        """Return an error that names cells of the commit, where it is that none of them is meant."""
        question = self._question
        if isinstance(error, NoSuchCell) or "no cell matches" not in str(error):
            return error
        options = [*question.options, "--store", str(store.root)]
        try:
            plan = plan_at(tree, [question.configuration, *options], inside=question.inside)
        except NotMeasurable:
            return error
        return NoSuchCell(self._none_of(plan.cells, tree.commit))

    def _none_of(self, cells: Sequence[CellAt], commit: str) -> str:
        """Return the line that says that none of the cells of a commit is meant, with those of the nearest names."""
        names = list(dict.fromkeys(cell.name for cell in cells))
        near = difflib.get_close_matches(self._question.cell, names, n=1, cutoff=_NEAR)
        hint = f"did you mean {near[0]}?" if near else f"it has {listed(names, _NAMED)}"
        return f"the commit {commit[:10]} has no cell {shown(self._question.cell)}; {hint}"

    def _plan_by_own(self, tree: Worktree, store: Store) -> PlanAt:
        """Return all that a commit plans by its own configuration, in which the cell may have another name."""
        options = [*self._question.options, "--store", str(store.root)]
        return plan_at(tree, [str(tree.path / str(self._question.own_file)), *options], inside=self._question.inside)

    def _chosen(self, cells: Sequence[CellAt], commit: str) -> CellAt:
        """Return the one cell that is meant: by a name that it has or had, by its key at another commit, or by pattern.

        Raises:
            NotMeasurable: there is none, or there are several.
        """
        wanted, keys = self._question.cell, {planned.cell.key for planned in self._planned.values()}
        matches = [cell for cell in cells if cell.name in self._names]
        matches = matches or [cell for cell in cells if cell.key in keys]
        matches = matches or [cell for cell in cells if wanted in cell.name or fnmatch.fnmatchcase(cell.name, wanted)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise NoSuchCell(self._none_of(cells, commit))
        names = list(dict.fromkeys(each.name for each in matches))
        some = listed(names, _NAMED)
        if len(names) == 1:
            raise NotMeasurable(f"{some} is measured with {len(matches)} seeds: choose one with --seed")
        raise NotMeasurable(f"{len(matches)} cells match {shown(wanted)}: {some}; give the whole name of one")

    def _run(self, tree: Worktree, planned: _Planned, store: Store) -> CellResult:
        question = self._question
        store.check_writable()
        if not self.apart:
            carry(Store(question.store), store, planned.plan)
        configuration = question.configuration
        if planned.own_file and question.own_file is not None:
            configuration = str(tree.path / question.own_file)
        # A harness of the commit may be so old that it writes a page in any case.
        with scratch(question.repository) as report:
            where = ["--store", str(store.root), "--report", str(report)]
            only = [configuration, "--only", planned.cell.name]
            code, errors = run_at(tree, [*only, *question.options, *where], inside=question.inside)
        result = store.get(planned.cell.key)
        at = f"the commit {tree.commit[:10]}"
        if result is not None and result.error is not None:
            first = (result.error.message.splitlines() or [""])[0]
            kind = "" if result.error.kind == UsageError.__name__ else f"{result.error.kind}: "
            raise NotMeasurable(f"at {at[4:]} the cell fails: {kind}{first}")
        if result is None or result.status != "done":
            why = reason(code, errors) if code else "its result cannot be read here"
            raise NotMeasurable(f"{at} cannot run it: {why}")
        if result.outcomes_under_attack is None:
            raise NotMeasurable(f"{at} does not keep the outcomes of its images")
        return result


def _is_source_of(path: Path, methods: Iterable[KeyFiles]) -> bool:
    return path.suffix == ".py" and any(each.holds(path.resolve()) for each in methods)


def carry(source: Store, target: Store, plan: PlanAt) -> None:
    """Copy what a plan needs and one store has finished, trainings and adversarial sets, to another store.

    Raises:
        StoreError: the other store cannot be written.
    """
    for key in plan.trainings:
        if all(_is_plain(source.training(key) / name) for name in ("weights.safetensors", "card.json")):
            _copy(source.training(key), target.training(key), _TRAINING, target)
    for key in plan.sets:
        folder = source.adversarial(key)
        if folder.is_dir() and not folder.is_symlink():
            names = sorted(name for name in os.listdir(folder) if _CHUNK.fullmatch(name))
            _copy(folder, target.adversarial(key), names, target)


def _is_plain(path: Path) -> bool:
    return files.is_regular(path) and not path.is_symlink()


def _copy(source: Path, target: Path, names: Iterable[str], store: Store) -> None:
    for name in names:
        if _is_plain(source / name) and not (target / name).exists():
            store.make_folder(target)
            with store.writing():
                part = target / f".{name}.{os.getpid()}.{os.urandom(4).hex()}.part"
                shutil.copyfile(source / name, part)
                part.replace(target / name)
