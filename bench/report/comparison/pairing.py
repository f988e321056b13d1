"""Which cell of the head answers which cell of the base: the same question, a changed parameter, or another name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Any, NamedTuple

from bench import registry
from bench.report.comparison.parts import SOURCE, Changed, Renames, changed, differences, methods, parts
from bench.store.latest import newest
from bench.types import Cell, CellResult, TrainRef

#: The registry's word for each part of a cell.
_KINDS = {"network": "network", "recipe": "recipe", "step": "test-time", "attack": "attack"}

#: How many of the cells that may have taken the place of a lost one are told.
_TOLD = 3
#: Among more cells than this no nearest one is looked for, and no more candidates are looked at for one cell or method.
#: Whoever makes results up may give thousands of them one label, and each would be held against every other.
_MOST_RIVALS = 20


class Renamed(NamedTuple):
    """A method whose parameters and code are what they were under another name."""

    part: str
    base: str
    head: str

    def __str__(self) -> str:
        return f"{self.part} renamed: {self.base} -> {self.head}"


@dataclass(frozen=True)
class Pair:
    """Two answers that are tested against each other, and in what their questions differ."""

    old: CellResult
    new: CellResult
    changed: tuple[Changed, ...] = ()
    renamed: tuple[Renamed, ...] = ()

    @property
    def attack_changed(self) -> bool:
        return any(each.part == "attack" or each.part.startswith(SOURCE) for each in self.changed)


@dataclass(frozen=True)
class Unpaired:
    """A cell of the base without a partner, and what the head has in its place, one line each."""

    old: CellResult
    why: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]
    #: Cells that only the head has.
    fresh: tuple[CellResult, ...]


def pair(base: Iterable[CellResult], head: Iterable[CellResult]) -> Pairing:
    """Pair the newest answers of two runs.

    First come cells that ask the same. Of the others, those pair whose methods, images, threat, access and seeds are
    the same, so that only parameters differ, and where no other cell could be meant as well. A method that was renamed
    counts as the same if its parameters and its code are.
    """
    before, after = newest(base), newest(head)
    exact = [Pair(before[asked], after[asked]) for asked in before if asked in after]
    olds = [r for asked, r in before.items() if asked not in after]
    news = [r for asked, r in after.items() if asked not in before]
    names = _Names(before.values(), after.values())
    renames = names.renames(olds, news) if olds and news else {}
    first, second = _by_row(olds, renames), _by_row(news)
    found: list[tuple[CellResult, CellResult]] = []
    for row, cells in first.items():
        found += _match(cells, second.get(row, []))
    taken = {new.key for _, new in found}
    found += _remade(exact, _by_row(r for r in news if r.key not in taken))
    pairs = [*exact, *(_told(old, new, renames) for old, new in found)]
    paired = {p.new.key for p in pairs}
    fresh = [r for r in news if r.key not in paired]
    paired = {p.old.key for p in pairs}
    replacements = _Replacements(names, renames, fresh)
    unpaired = [Unpaired(old, tuple(replacements.of(old))) for old in olds if old.key not in paired]
    return Pairing(tuple(pairs), tuple(unpaired), tuple(fresh))


def _row(cell: Cell, renames: Renames | None = None) -> tuple[Any, ...]:
    """Return what two cells share that differ in parameters alone."""
    return *_place(cell), tuple((what, part.name) for what, part in parts(cell, renames).items())


def _place(cell: Cell) -> tuple[Any, ...]:
    """Return the images, threat, access and seeds of a cell."""
    # What the set is called, and how its rows were chosen, does not change the images.
    data, made = cell.data, cell.attack
    images = (data.split, data.n, data.indices_sha, data.data_sha, data.image_shape, data.interpolation)
    models = [cell.model, *([made.model] if made else [])]
    seeds = tuple(model.weights.seed if isinstance(model.weights, TrainRef) else None for model in models)
    threat = (made.threat, made.seed) if made else None
    return images, data.num_classes, cell.access, cell.seed, threat, seeds


def _by_row(results: Iterable[CellResult], renames: Renames | None = None) -> dict[tuple[Any, ...], list[CellResult]]:
    found: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
    for r in results:
        found[_row(r.cell, renames)].append(r)
    return found


def _match(olds: Sequence[CellResult], news: Sequence[CellResult]) -> list[tuple[CellResult, CellResult]]:
    """Pair cells of one row that differ in parameters.

    Those of the same labels come first, then those whose labels show the same parameters. A label shows a parameter as
    soon as it is swept or tells two rows apart, so a changed default may change it too: of the others two pair if they
    are the last ones.
    """
    found: list[tuple[CellResult, CellResult]] = []
    left_old, left_new = list(olds), list(news)
    for told in (_labels, _shown):
        alike = _by(told, left_new)
        for label, cells in _by(told, left_old).items():
            found += _mutual(cells, alike.get(label, []))
        taken = {r.key for both in found for r in both}
        left_old, left_new = ([r for r in cells if r.key not in taken] for cells in (left_old, left_new))
    if len(left_old) == len(left_new) == 1:
        found.append((left_old[0], left_new[0]))
    return found


def _by(told: Callable[[CellResult], object], results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    found: dict[str, list[CellResult]] = defaultdict(list)
    for r in results:
        found[repr(told(r))].append(r)
    return found


def _labels(r: CellResult) -> tuple[str, str, str]:
    return r.names.model, r.names.defense, r.names.attack


def _mutual(olds: Sequence[CellResult], news: Sequence[CellResult]) -> Iterator[tuple[CellResult, CellResult]]:
    for old in olds:
        new = _nearest(old, news)
        if new is not None and _nearest(new, olds) is old:
            yield old, new


def _nearest(to: CellResult, among: Sequence[CellResult]) -> CellResult | None:
    """Return the one cell whose parameters differ least; ``None`` where several do, or there are too many to say."""
    if len(among) < 2:
        return among[0] if among else None
    if len(among) > _MOST_RIVALS:
        return None
    counts = [len(changed(to.cell, each.cell)) for each in among]
    return among[counts.index(min(counts))] if counts.count(min(counts)) == 1 else None


def _shown(r: CellResult) -> list[dict[str, str]]:
    """Return the parameters that each label shows: ``jpeg[quality=50]`` shows ``{"quality": "50"}``."""
    inside = (re.search(r"\[(.*)\]", label) for label in _labels(r))
    return [dict(re.findall(r"([\w.-]+)=([^,\]]*)", found[1])) if found else {} for found in inside]


def _remade(
    exact: Iterable[Pair], left: Mapping[tuple[Any, ...], Sequence[CellResult]]
) -> Iterator[tuple[CellResult, CellResult]]:
    """Yield cells of the base with what the head measured later in their place, besides the base's own measurement.

    A store in which both sides were run still holds the base's cells. What the last run made in their place counts.
    """
    alike = {row: _by(_shown, cells) for row, cells in left.items()}
    for p in exact if left else ():
        if p.old.key == p.new.key and p.old.provenance == p.new.provenance:
            shown = alike.get(_row(p.old.cell), {}).get(repr(_shown(p.old)), [])
            made = p.old.provenance.finished
            later = list(islice((r for r in shown if r.provenance.finished > made), _MOST_RIVALS + 1))
            if (last := _nearest(p.old, later)) is not None:
                yield p.old, last


def _told(old: CellResult, new: CellResult, renames: Renames) -> Pair:
    second = parts(new.cell)
    renamed = tuple(
        Renamed(what, part.name, second[what].name)
        for what, part in parts(old.cell).items()
        if part.name != second[what].name
    )
    return Pair(old, new, changed(old.cell, new.cell, renames), renamed)


class _Names:
    """The names of all methods in two runs, and which of them may be one method."""

    def __init__(self, before: Collection[CellResult], after: Collection[CellResult]) -> None:
        self._before, self._after = before, after

    @cached_property
    def _old(self) -> set[tuple[str, str]]:
        return {(what, part.name) for r in self._before for what, part in methods(r.cell)}

    @cached_property
    def _new(self) -> set[tuple[str, str]]:
        return {(what, part.name) for r in self._after for what, part in methods(r.cell)}

    def may_be_renamed(self, what: str, old: str, new: str) -> bool:
        """Say whether one name went and the other came, and whether these cannot be two methods that there are."""
        if old == new or (what, old) in self._new or (what, new) in self._old:
            return False
        if what == "weights":
            return True
        if ".py:" in old and ".py:" in new:
            # One file may hold several methods under one hash; it may lie elsewhere.
            return old.rpartition(":")[2] == new.rpartition(":")[2]
        # All methods of a library have the hash of the door to it.
        if ":" in old or ":" in new:
            return False
        known = registry.entries(_KINDS[what])
        return not (old in known and new in known)

    def renames(self, olds: Iterable[CellResult], news: Iterable[CellResult]) -> Renames:
        """Return the methods whose name alone changed: their code and parameters are those of just one that came."""
        gone, come = _identities(olds), _identities(news)
        candidates: set[tuple[str, str, str]] = set()
        for (what, identity), old_names in gone.items():
            new_names = come.get((what, identity), ())
            if max(len(old_names), len(new_names)) > _MOST_RIVALS:
                continue
            pairs = product(old_names, new_names)
            candidates |= {(what, old, new) for old, new in pairs if self.may_be_renamed(what, old, new)}
        went = Counter((what, old) for what, old, _ in candidates)
        came = Counter((what, new) for what, _, new in candidates)
        return {(what, old): new for what, old, new in candidates if went[what, old] == 1 and came[what, new] == 1}


def _identities(results: Iterable[CellResult]) -> dict[tuple[str, str], set[str]]:
    """Return the names of methods by their part and by what they are: code and settings."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for r in results:
        for what, part in methods(r.cell):
            settings = sorted((key, repr(value)) for key, value in part.settings.items())
            found[what, f"{part.code} {settings}"].add(part.name)
    return found


class _Replacements:
    """What the head has in the place of a cell that it does not have."""

    def __init__(self, names: _Names, renames: Renames, fresh: Sequence[CellResult]) -> None:
        self._names, self._renames = names, renames
        self._rows = _by_row(fresh)
        self._settings: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
        self._namesakes: dict[tuple[Any, ...], list[CellResult]] = defaultdict(list)
        for r in fresh:
            self._settings[_settings(r.cell)].append(r)
            self._namesakes[_seat(r)].append(r)

    def of(self, old: CellResult) -> Iterator[str]:
        rivals = self._rows.get(_row(old.cell, self._renames), [])
        if rivals:
            yield "other parameters under this name, and no telling which cell took its place"
            for new in rivals[:_TOLD]:
                yield f"{new.names}: {'; '.join(map(str, changed(old.cell, new.cell, self._renames)))}"
            return
        if namesakes := self._namesakes.get(_seat(old), [])[:_MOST_RIVALS]:
            here = [r for r in namesakes if r.names.dataset == old.names.dataset] or namesakes
            yield from min((list(differences(old.cell, r.cell)) for r in here), key=len)
            return
        alike = self._settings.get(_settings(old.cell, self._renames), [])[:_MOST_RIVALS]
        for new in islice((r for r in alike if self._alike(old.cell, r.cell)), _TOLD):
            yield f"perhaps renamed: {new.names} has the same parameters and other code"

    def _alike(self, old: Cell, new: Cell) -> bool:
        """Say whether two cells are the same but for the name of one method, and its code."""
        first, second = parts(old, self._renames), parts(new)
        if first.keys() != second.keys() or any(first[what].settings != second[what].settings for what in first):
            return False
        other = [what for what in first if first[what].name != second[what].name]
        return len(other) == 1 and all(
            self._names.may_be_renamed(what.removeprefix(SOURCE), first[what].name, second[what].name) for what in other
        )


def _settings(cell: Cell, renames: Renames | None = None) -> tuple[Any, ...]:
    """Return what two cells share that differ in names and code of methods alone."""
    methods = parts(cell, renames).items()
    return *_place(cell), tuple((what, repr(sorted(part.settings.items()))) for what, part in methods)


def _seat(r: CellResult) -> tuple[Any, ...]:
    return *_labels(r), r.names.access, r.cell.seed
