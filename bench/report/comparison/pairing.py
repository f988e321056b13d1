"""Which cell of the head belongs to which cell of the base: the same key, a changed parameter, or a renamed method."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, product
from typing import Any, NamedTuple

from bench import registry
from bench.differences import SOURCE, Changed, Renames, all_methods, changed, differences, methods_by_part
from bench.report.comparison.hardware import Hardware, names_of
from bench.store.latest import newest
from bench.types import Cell, CellResult, TrainRef

CellPair = tuple[CellResult, CellResult]

#: The kind in the registry of each part of a cell.
_KINDS = {"network": "network", "recipe": "recipe", "step": "test-time", "attack": "attack"}

#: Cells that are named as possible replacements of a lost one.
_MAX_REPLACEMENTS = 3
#: Candidates that are compared for one cell or method. Among more cells there is no nearest one: fabricated results may
#: give thousands of cells one label, and comparing each with every other takes quadratic time.
_MAX_RIVALS = 20


class Renamed(NamedTuple):
    """A method that has another name, with the same parameters and code."""

    part: str
    base: str
    head: str

    def __str__(self) -> str:
        return f"{self.part} renamed: {self.base} -> {self.head}"


@dataclass(frozen=True)
class Pair:
    """Two results that are tested against each other, and how their methods differ."""

    old: CellResult
    new: CellResult
    changed: tuple[Changed, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    #: What the machine of both is called, where several measured the cell on both sides.
    machine: str | None = None

    @property
    def attack_changed(self) -> bool:
        return any(change.part == "attack" or change.part.startswith(SOURCE) for change in self.changed)


class Unpaired(NamedTuple):
    """A cell of the base without a partner, and a line for each cell of the head that may replace it."""

    old: CellResult
    why: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]
    #: Cells that only the head has.
    only_head: tuple[CellResult, ...]
    #: What the machines of both runs are called.
    machines: Mapping[Hardware, str]


def pair(base: Iterable[CellResult], head: Iterable[CellResult]) -> Pairing:
    """Pair the newest results of two runs.

    Where several machines measured a cell with the same code on both sides, there is a pair for each of them.

    Cells with one comparison key come first. Of the others, two pair if their methods, images, threat, access and seeds
    are the same, so that only parameters differ, and if no other cell is as likely. A renamed method counts as the same
    if its parameters and its code are.
    """
    base, head = _in_order(base), _in_order(head)
    before, after = newest(base), newest(head)
    exact = [Pair(before[key], after[key]) for key in before if key in after]
    olds = [r for key, r in before.items() if key not in after]
    news = [r for key, r in after.items() if key not in before]
    names = _MethodNames(before.values(), after.values())
    renames = names.renames(olds, news) if olds and news else {}
    old_groups, new_groups = _by_method_names(olds, renames), _by_method_names(news)
    matches: list[CellPair] = []
    for group, cells in old_groups.items():
        matches += _match(cells, new_groups.get(group, []))
    taken = {new.key for _, new in matches}
    matches += _measured_later(exact, _by_method_names(r for r in news if r.key not in taken))
    pairs = [*exact, *(_with_changes(old, new, renames) for old, new in matches)]
    paired_old = {p.old.key for p in pairs}
    paired_new = {p.new.key for p in pairs}
    only_head = [r for r in news if r.key not in paired_new]
    replacements = _Replacements(names, renames, only_head)
    unpaired = [Unpaired(old, tuple(replacements.of(old))) for old in olds if old.key not in paired_old]
    machines = names_of(map(Hardware.of, chain(base, head)))
    return Pairing(tuple(_on_each_machine(pairs, base, head, machines)), tuple(unpaired), tuple(only_head), machines)


def _in_order(results: Iterable[CellResult]) -> list[CellResult]:
    """Return results so that of several with one key, which several machines measured, the last one is last."""
    results = list(results)
    if len({r.key for r in results}) == len(results):
        return results
    return sorted(results, key=lambda r: r.provenance.finished)


def _on_each_machine(
    pairs: Iterable[Pair], base: Iterable[CellResult], head: Iterable[CellResult], names: Mapping[Hardware, str]
) -> Iterator[Pair]:
    """Yield for each pair the results of every machine that has both: what machines differ by is no change."""
    before, after = _by_machine(base), _by_machine(head)
    for p in pairs:
        if p.old.key not in before and p.new.key not in after:
            yield p
            continue
        olds = before.get(p.old.key) or {Hardware.of(p.old): p.old}
        news = after.get(p.new.key) or {Hardware.of(p.new): p.new}
        common = sorted(olds.keys() & news.keys())
        for hardware in common:
            name = names[hardware] if len(common) > 1 else None
            yield replace(p, old=olds[hardware], new=news[hardware], machine=name)
        if not common:
            yield p


def _by_machine(results: Iterable[CellResult]) -> dict[str, dict[Hardware, CellResult]]:
    """Return the results of each key that several machines measured, by machine and device."""
    machines: dict[str, dict[Hardware, CellResult]] = defaultdict(dict)
    for r in results:
        machines[r.key][Hardware.of(r)] = r
    return {key: by_machine for key, by_machine in machines.items() if len(by_machine) > 1}


def _conditions(cell: Cell) -> tuple[Any, ...]:
    """Return the images, threat, access and seeds of a cell."""
    # The name of the set, and how its rows were chosen, do not change the images.
    data, attack = cell.data, cell.attack
    resizing = (data.image_shape, data.interpolation, data.preprocessing)
    images = (data.split, data.n, data.indices_sha, data.data_sha, *resizing)
    models = [cell.model, *([attack.model] if attack else [])]
    seeds = tuple(model.weights.seed if isinstance(model.weights, TrainRef) else None for model in models)
    threat = (attack.threat, attack.seed) if attack else None
    return images, data.num_classes, cell.access, cell.seed, threat, seeds


def _conditions_and_names(cell: Cell, renames: Renames | None = None) -> tuple[Any, ...]:
    """Return what two cells share that differ in parameters alone."""
    return *_conditions(cell), tuple((part, method.name) for part, method in methods_by_part(cell, renames).items())


def _conditions_and_settings(cell: Cell, renames: Renames | None = None) -> tuple[Any, ...]:
    """Return what two cells share that differ in names and code of methods alone."""
    methods = methods_by_part(cell, renames).items()
    return *_conditions(cell), tuple((part, repr(sorted(method.settings.items()))) for part, method in methods)


def _by_method_names(
    results: Iterable[CellResult], renames: Renames | None = None
) -> dict[tuple[Any, ...], list[CellResult]]:
    groups: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
    for r in results:
        groups[_conditions_and_names(r.cell, renames)].append(r)
    return groups


def _match(olds: Sequence[CellResult], news: Sequence[CellResult]) -> list[CellPair]:
    """Pair cells that differ in parameters alone.

    Those of the same labels come first, then those whose labels show the same parameters. A label shows a parameter as
    soon as it is swept or tells two rows apart, so a changed default may change it too: of the others two pair if they
    are the last ones.
    """
    matches: list[CellPair] = []
    left_old, left_new = list(olds), list(news)
    for label_of in (_labels, _label_parameters):
        new_groups = _by_label(label_of, left_new)
        for label, cells in _by_label(label_of, left_old).items():
            matches += _mutually_nearest(cells, new_groups.get(label, []))
        taken = {r.key for r in chain.from_iterable(matches)}
        left_old, left_new = ([r for r in cells if r.key not in taken] for cells in (left_old, left_new))
    if len(left_old) == len(left_new) == 1:
        matches.append((left_old[0], left_new[0]))
    return matches


def _by_label(label_of: Callable[[CellResult], object], results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    groups: dict[str, list[CellResult]] = defaultdict(list)
    for r in results:
        groups[repr(label_of(r))].append(r)
    return groups


def _labels(r: CellResult) -> tuple[str, str, str]:
    return r.names.model, r.names.defense, r.names.attack


def _label_parameters(r: CellResult) -> list[dict[str, str]]:
    """Return the parameters that each label shows: ``jpeg[quality=50]`` shows ``{"quality": "50"}``."""
    brackets = (re.search(r"\[(.*)\]", label) for label in _labels(r))
    return [dict(re.findall(r"([\w.-]+)=([^,\]]*)", match[1])) if match else {} for match in brackets]


def _labels_access_and_seed(r: CellResult) -> tuple[Any, ...]:
    return *_labels(r), r.names.access, r.cell.seed


def _mutually_nearest(olds: Sequence[CellResult], news: Sequence[CellResult]) -> Iterator[CellPair]:
    for old in olds:
        new = _nearest(old, news)
        if new is not None and _nearest(new, olds) is old:
            yield old, new


def _nearest(to: CellResult, among: Sequence[CellResult]) -> CellResult | None:
    """Return the one cell whose parameters differ least; ``None`` where several do, or there are too many to say."""
    if len(among) < 2:
        return among[0] if among else None
    if len(among) > _MAX_RIVALS:
        return None
    counts = [len(changed(to.cell, candidate.cell)) for candidate in among]
    return among[counts.index(min(counts))] if counts.count(min(counts)) == 1 else None


def _measured_later(
    exact: Iterable[Pair], unmatched: Mapping[tuple[Any, ...], Sequence[CellResult]]
) -> Iterator[CellPair]:
    """Yield cells of the base with the cell that the head measured later with other parameters.

    A store in which both sides were run still holds the base's cells. The later measurement counts.

    Args:
        exact: cells with one comparison key.
        unmatched: other cells of the head, by conditions and names of methods.
    """
    groups = {names: _by_label(_label_parameters, cells) for names, cells in unmatched.items()}
    for p in exact if unmatched else ():
        if p.old.key == p.new.key and p.old.provenance == p.new.provenance:
            group = groups.get(_conditions_and_names(p.old.cell), {})
            candidates = group.get(repr(_label_parameters(p.old)), [])
            finished = p.old.provenance.finished
            later = list(islice((r for r in candidates if r.provenance.finished > finished), _MAX_RIVALS + 1))
            if (nearest := _nearest(p.old, later)) is not None:
                yield p.old, nearest


def _with_changes(old: CellResult, new: CellResult, renames: Renames) -> Pair:
    new_methods = methods_by_part(new.cell)
    renamed = tuple(
        Renamed(part, method.name, new_methods[part].name)
        for part, method in methods_by_part(old.cell).items()
        if method.name != new_methods[part].name
    )
    return Pair(old, new, changed(old.cell, new.cell, renames), renamed)


class _MethodNames:
    """The names of all methods in two runs, and which of them may be one method."""

    def __init__(self, before: Collection[CellResult], after: Collection[CellResult]) -> None:
        self._before, self._after = before, after

    @cached_property
    def _old(self) -> set[tuple[str, str]]:
        return _part_names(self._before)

    @cached_property
    def _new(self) -> set[tuple[str, str]]:
        return _part_names(self._after)

    def may_be_renamed(self, part: str, old: str, new: str) -> bool:
        """Say whether one name went and the other came, and equal code would make them one method."""
        if not self.is_perhaps_renamed(part, old, new):
            return False
        # A file with several methods has one hash, and it may have moved to another folder.
        in_files = ".py:" in old and ".py:" in new
        return not in_files or old.rpartition(":")[2] == new.rpartition(":")[2]

    def is_perhaps_renamed(self, part: str, old: str, new: str) -> bool:
        """Say whether one name went and the other came, and the registry does not list them as two methods."""
        if old == new or (part, old) in self._new or (part, new) in self._old:
            return False
        if part == "weights" or (".py:" in old and ".py:" in new):
            return True
        # All methods of a library have the hash of its adapter.
        if ":" in old or ":" in new:
            return False
        known = registry.entries(_KINDS[part])
        return not (old in known and new in known)

    def renames(self, olds: Iterable[CellResult], news: Iterable[CellResult]) -> Renames:
        """Return the renamed methods: code and parameters are those of exactly one method that came."""
        gone, come = _names_by_content(olds), _names_by_content(news)
        candidates: set[tuple[str, str, str]] = set()
        for (part, content), old_names in gone.items():
            new_names = come.get((part, content), ())
            if max(len(old_names), len(new_names)) > _MAX_RIVALS:
                continue
            pairs = product(old_names, new_names)
            candidates |= {(part, old, new) for old, new in pairs if self.may_be_renamed(part, old, new)}
        went = Counter((part, old) for part, old, _ in candidates)
        came = Counter((part, new) for part, _, new in candidates)
        return {(part, old): new for part, old, new in candidates if went[part, old] == 1 and came[part, new] == 1}


def _part_names(results: Iterable[CellResult]) -> set[tuple[str, str]]:
    """Return the part and name of every method."""
    methods = chain.from_iterable(all_methods(r.cell) for r in results)
    return {(part, method.name) for part, method in methods}


def _names_by_content(results: Iterable[CellResult]) -> dict[tuple[str, str], set[str]]:
    """Return the names of methods by their part and their content: code and settings."""
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for part, method in chain.from_iterable(all_methods(r.cell) for r in results):
        settings = sorted((key, repr(value)) for key, value in method.settings.items())
        names[part, f"{method.code} {settings}"].add(method.name)
    return names


class _Replacements:
    """The cells that only the head has, which may replace a cell that it lacks."""

    def __init__(self, names: _MethodNames, renames: Renames, only_head: Sequence[CellResult]) -> None:
        self._names, self._renames = names, renames
        self._by_names = _by_method_names(only_head)
        self._by_settings: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
        self._by_labels: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
        for r in only_head:
            self._by_settings[_conditions_and_settings(r.cell)].append(r)
            self._by_labels[_labels_access_and_seed(r)].append(r)

    def of(self, old: CellResult) -> Iterator[str]:
        """Yield a line for each cell that may replace this one."""
        rivals = self._by_names.get(_conditions_and_names(old.cell, self._renames), [])
        if rivals:
            yield "other parameters under this name, and no telling which cell took its place"
            for new in rivals[:_MAX_REPLACEMENTS]:
                yield f"{new.names}: {'; '.join(map(str, changed(old.cell, new.cell, self._renames)))}"
            return
        if namesakes := self._by_labels.get(_labels_access_and_seed(old), [])[:_MAX_RIVALS]:
            same_dataset = [r for r in namesakes if r.names.dataset == old.names.dataset] or namesakes
            yield from min((list(differences(old.cell, r.cell)) for r in same_dataset), key=len)
            return
        candidates = self._by_settings.get(_conditions_and_settings(old.cell, self._renames), [])[:_MAX_RIVALS]
        renamed = ((r, why) for r in candidates if (why := self._perhaps_renamed(old.cell, r.cell)))
        for new, why in islice(renamed, _MAX_REPLACEMENTS):
            yield f"perhaps renamed: {new.names} has {why}"

    def _perhaps_renamed(self, old: Cell, new: Cell) -> str:
        """Return what two cells share if they are the same except for the name of one method, and maybe its code."""
        before, after = methods_by_part(old, self._renames), methods_by_part(new)
        if before.keys() != after.keys() or any(before[part].settings != after[part].settings for part in before):
            return ""
        renamed = [part for part in before if before[part].name != after[part].name]
        if len(renamed) != 1:
            return ""
        was, now = before[renamed[0]], after[renamed[0]]
        if not self._names.is_perhaps_renamed(renamed[0].removeprefix(SOURCE), was.name, now.name):
            return ""
        if was.code == now.code:
            return "the same parameters and code; so would another method of the same file"
        return "the same parameters and other code"
