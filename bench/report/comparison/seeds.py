"""Cells that several seeds or machines measured, each with one statement over all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil, inf, log
from statistics import mean
from typing import Any, Literal

from pydantic import BaseModel

from bench.equivalence import Joint, joint, student_quantile
from bench.keys import Keys, Once
from bench.report.comparison.hardware import Hardware
from bench.report.comparison.pairing import Pair
from bench.stats import ALPHA
from bench.types import AttackRef, Cell, CellResult, MethodRef, ModelRef, TrainRef, listed, threat_text

Equivalence = Literal["different", "same", "cannot tell"]

#: Of each of the two one-sided tests of equivalence, for each cell by itself.
ERROR = 0.05
#: Standard errors in a margin with which nine in ten cells without a difference are found to be the same.
_POWERFUL = 2 * 1.6448536269514722
#: Numbers beyond are not of use to anybody: of images, and of networks to train.
_MOST_NEEDED = 10_000_000
MOST_SEEDS = 100
#: What is said where there are as many seeds and images as would do without a difference.
_NEAR_MARGIN = "no more if nothing changed, so that it may differ by about the margin"
#: Seeds and machines that a line names.
_NAMED = 5

#: What a mean of whole images may be off by.
_ROUND_OFF = 1e-12
#: What makes an attack, beside the model, its step and earlier attacks; the images are those of the cell.
_USE = sorted(AttackRef.model_fields.keys() - {"model", "step", "after", "data", "seed"})

#: The images that the base alone and the head alone got right, as the bits of one integer each.
Run = tuple[int, int]


@dataclass(frozen=True)
class OverSeeds:
    """What several seeds or machines say together of one cell."""

    name: str
    seeds: tuple[int, ...]
    #: The machines whose differences are averaged.
    machines: tuple[str, ...]
    #: Images, the same for all.
    n: int
    base: float
    head: float
    difference: float
    #: Ends of the 95 % interval of head - base.
    low: float
    high: float
    p: float
    #: Holm's, over all tests of the comparison.
    adjusted_p: float
    verdict: Literal["regression", "improvement", "same"]
    equivalence: Equivalence
    #: Ends of the 90 % interval, which decides whether it is the same.
    same_low: float
    same_high: float
    margin: float
    #: Where it cannot be told, what would tell, roughly, or why more would not; else empty.
    needed: str
    #: The difference on each of several machines.
    by_machine: Mapping[str, float]
    #: Seeds and machines that measured the cell on a side and are not in the statement, and why, in words.
    left_out: tuple[str, ...]


def same_or_not(*, is_within: bool, different: bool) -> Equivalence:
    """Return the statement of a cell: whether it is different, and whether its 90 % interval is within the margin."""
    if different:
        return "different"
    return "same" if is_within else "cannot tell"


def images_needed(changed: int, n: int, margin: float) -> tuple[int | None, str]:
    """Return with how many images nine in ten cells would be found to be the same where nothing was lost or gained.

    Args:
        changed: images that changed, whose share is assumed.
        n: images there are.
        margin: in points.

    Returns:
        The number, and the same in words. Where there are as many already, or where no number that is of use would be
        enough, the number is ``None`` and the words say so.
    """
    errors = 100 * _POWERFUL / margin if margin > 0 else inf
    if errors > _MOST_NEEDED:
        return None, "a wider margin"
    needed = max(changed / n * errors * errors, log(1 / ERROR) * 100 / margin)
    if needed >= _MOST_NEEDED:
        return None, f"more than {_MOST_NEEDED:,} images"
    if needed <= n:
        return None, _NEAR_MARGIN
    return _rounded(needed), f"about {_rounded(needed):,} images"


def _rounded(number: float) -> int:
    """Return two digits of a number, rounded up."""
    unit = int(10 ** max(len(str(ceil(number))) - 2, 0))
    return ceil(number / unit) * unit


class Grouping:
    """Finds the pairs that differ in seed and machine alone."""

    def __init__(self, keys: Keys, machines: Mapping[Hardware, str]) -> None:
        self._text = keys.text
        self._machines = machines
        self._model = Once[ModelRef, str](lambda model: model.model_dump_json(exclude={"weights": {"seed"}}))
        self._step = Once[MethodRef, str](lambda step: step.model_dump_json(exclude={"score": {"weights": {"seed"}}}))

    def of(self, pairs: Iterable[Pair]) -> Iterator[Group]:
        """Yield each group of several pairs, in which no seed is twice on one machine."""
        alike: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
        for p in pairs:
            alike[p.new.names, p.new.cell.data.n].append(p)
        for candidates in alike.values():
            several = len({(p.new.cell.seed, Hardware.of(p.new)) for p in candidates}) > 1
            # One image has no variance.
            if not several or candidates[0].new.cell.data.n < 2:
                continue
            groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
            for p in candidates:
                groups[(*self._question(p.old.cell), *self._question(p.new.cell))].append(p)
            for group in groups.values():
                where = {(p.new.cell.seed, Hardware.of(p.new)) for p in group}
                if 1 < len(group) == len(where):
                    yield Group.of(group, self._machines)

    def _question(self, cell: Cell) -> tuple[Any, ...]:
        step = None if cell.step is None else self._step(cell.step)
        attack = None if cell.attack is None else self._attack(cell.attack)
        return self._text(cell.data), self._model(cell.model), step, cell.access, attack

    def _attack(self, attack: AttackRef) -> tuple[Any, ...]:
        step = None if attack.step is None else self._step(attack.step)
        after = tuple(map(self._text, attack.after))
        used = (getattr(attack, name) for name in _USE)
        rest = (self._text(value) if isinstance(value, BaseModel) else value for value in used)
        return self._model(attack.model), step, after, *rest


@dataclass(frozen=True)
class Group:
    """Pairs of one cell: of each seed one for each machine, and of all seeds the same machines where any has all."""

    by_seed: Mapping[int, Sequence[Pair]]
    #: What they are called; empty where no machine has all seeds.
    machines: tuple[str, ...]
    #: What all are called that measured any of the pairs.
    anywhere: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Iterable[Pair], names: Mapping[Hardware, str]) -> Group:
        by_seed: dict[int, dict[Hardware, Pair]] = defaultdict(dict)
        for p in pairs:
            by_seed[p.new.cell.seed][Hardware.of(p.new)] = p
        machines = sorted(set.intersection(*map(set, by_seed.values())))
        chosen = {seed: [own[machine] for machine in machines] or [_last(own)] for seed, own in by_seed.items()}
        measured = {names[Hardware.of(p.new)] for p in chain.from_iterable(chosen.values())}
        return cls(chosen, tuple(names[machine] for machine in machines), tuple(sorted(measured)))

    @property
    def pairs(self) -> list[Pair]:
        return list(chain.from_iterable(self.by_seed.values()))

    def joint(self, runs: Mapping[int, Run]) -> Joint:
        """Return what the seeds say together.

        Args:
            runs: of each pair, by its identity, what :func:`run` returns.
        """
        of_seeds = [[runs[id(p)] for p in own] for own in self.by_seed.values()]
        return joint(of_seeds, self.pairs[0].new.cell.data.n, ERROR)

    def is_within(self, margin: float, said: Joint, runs: Mapping[int, Run]) -> bool:
        """Say whether the difference is within a margin, in points, over all and on each machine.

        Two machines whose changes cancel are no two that stayed the same.
        """
        return said.narrow.within(margin / 100) and not self._outside(margin, runs)

    def _outside(self, margin: float, runs: Mapping[int, Run]) -> list[str]:
        """Return those of several machines that are by themselves not within a margin."""
        if len(self.machines) < 2:
            return []
        n = self.pairs[0].new.cell.data.n
        columns = zip(self.machines, zip(*self.by_seed.values(), strict=True), strict=True)
        own = ((machine, joint([[runs[id(p)]] for p in column], n, ERROR)) for machine, column in columns)
        return [machine for machine, each in own if not each.narrow.within(margin / 100)]

    def by_machine(self) -> dict[str, float]:
        """Return the mean difference on each machine, where there are several."""
        if len(self.machines) < 2:
            return {}
        columns = zip(*self.by_seed.values(), strict=True)
        return {
            machine: mean(_accuracy(p.new) - _accuracy(p.old) for p in own)
            for machine, own in zip(self.machines, columns, strict=True)
        }

    def statement(
        self,
        name: str,
        said: Joint,
        runs: Mapping[int, Run],
        adjusted_p: float,
        min_effect: float,
        margin: float,
        left_out: tuple[str, ...] = (),
    ) -> OverSeeds:
        """Return what the seeds say.

        Args:
            name: of the cell, without its seed.
            said: by :meth:`joint`.
            runs: likewise.
            adjusted_p: by Holm, over all tests of the comparison.
            min_effect: the least mean difference that counts, in points.
            margin: differences within it count as the same, in points.
            left_out: by :meth:`Sides.left_out`.
        """
        clear = adjusted_p < ALPHA and not said.interval.low <= 0 <= said.interval.high
        large = abs(said.value) >= min_effect / 100 - _ROUND_OFF
        verdict: Literal["regression", "improvement", "same"] = "same"
        if clear and large:
            verdict = "regression" if said.value < 0 else "improvement"
        equivalence = same_or_not(is_within=self.is_within(margin, said, runs), different=verdict != "same")
        n = self.pairs[0].new.cell.data.n
        return OverSeeds(
            name=name,
            seeds=tuple(self.by_seed),
            machines=self.anywhere,
            n=n,
            base=mean(_accuracy(p.old) for p in self.pairs),
            head=mean(_accuracy(p.new) for p in self.pairs),
            difference=said.value,
            low=said.interval.low,
            high=said.interval.high,
            p=said.p,
            adjusted_p=adjusted_p,
            verdict=verdict,
            equivalence=equivalence,
            same_low=said.narrow.low,
            same_high=said.narrow.high,
            margin=margin,
            needed=self._needed(said, margin, runs) if equivalence == "cannot tell" else "",
            by_machine=self.by_machine(),
            left_out=left_out,
        )

    def _needed(self, said: Joint, margin: float, runs: Mapping[int, Run]) -> str:
        """Return what would tell that a cell is the same, or which machines keep it from that."""
        if not said.narrow.within(margin / 100):
            return _needed(said, len(self.by_seed), self.pairs[0].new.cell.data.n, margin)
        return f"every machine within the margin, which is not so on {listed(self._outside(margin, runs), _NAMED)}"


class Sides:
    """Which seeds and machines measured each cell, on each side of a comparison."""

    def __init__(
        self, base: Iterable[CellResult], head: Iterable[CellResult], machines: Mapping[Hardware, str]
    ) -> None:
        self._base, self._head = _Side(base), _Side(head)
        self.machines = machines

    def left_out(self, group: Group) -> tuple[str, ...]:
        """Return in words which seeds and machines are not in the statement of a group, and why."""
        old, new = group.pairs[0].old, group.pairs[0].new
        before, after = self._base.seeds[name_without_seed(old)], self._head.seeds[name_without_seed(new)]
        own = group.by_seed.keys()
        seeds = {
            "only in the base": before - after - own,
            "only in the head": after - before - own,
            "not tested with these": (before & after) - own,
        }
        words = [f"{_several('seed', names)} ({why})" for why, names in seeds.items() if names]
        if machines := self._machines(group):
            words.append(f"{_several('machine', machines)} (not on both sides of every seed)")
        return tuple(words)

    def _machines(self, group: Group) -> set[str]:
        there, used = set[Hardware](), set[Hardware]()
        for p in group.pairs:
            there |= self._base.machines[p.old.key] | self._head.machines[p.new.key]
            used |= {Hardware.of(p.old), Hardware.of(p.new)}
        return {self.machines[each] for each in there - used}

    def one_sided(self, pairs: Iterable[Pair]) -> list[str]:
        """Return a note where a machine measured a cell of the pairs and is in none of them."""
        used: dict[tuple[str, str], set[Hardware]] = defaultdict(set)
        for p in pairs:
            used[p.old.key, p.new.key] |= {Hardware.of(p.old), Hardware.of(p.new)}
        unused: Counter[str] = Counter()
        for (old, new), compared in used.items():
            there = self._base.machines[old] | self._head.machines[new]
            unused.update(self.machines[each] for each in there - compared)
        if not unused:
            return []
        what = (f"{count} cell{'s' * (count != 1)} on {name}" for name, count in sorted(unused.items()))
        return [f"measured on one side only and not compared: {listed(what, _NAMED)}"]


class _Side:
    """The seeds of each cell, by its name, and the machines of each key."""

    def __init__(self, results: Iterable[CellResult]) -> None:
        self.seeds: dict[str, set[int]] = defaultdict(set)
        self.machines: dict[str, set[Hardware]] = defaultdict(set)
        for r in results:
            self.seeds[name_without_seed(r)].add(r.cell.seed)
            self.machines[r.key].add(Hardware.of(r))


def _several(noun: str, names: set[int] | set[str]) -> str:
    return f"{noun}{'s' * (len(names) > 1)} {listed(sorted(names), _NAMED)}"


def name_without_seed(r: CellResult) -> str:
    threat = f" {threat_text(r.cell.attack.threat)}" if r.cell.attack else ""
    return f"{r.names}{threat}"


def run(p: Pair) -> Run:
    """Return the images that one side alone got right, of results that kept them."""
    before, after = p.old.outcomes_under_attack, p.new.outcomes_under_attack
    assert before is not None and after is not None
    return before.but_not(after).bits, after.but_not(before).bits


def _last(own: Mapping[Hardware, Pair]) -> Pair:
    return max(own.values(), key=lambda p: p.new.provenance.finished)


def _accuracy(r: CellResult) -> float:
    under_attack = r.outcomes_under_attack
    assert under_attack is not None
    return under_attack.share


def _needed(said: Joint, seeds: int, n: int, margin: float) -> str:
    """Return roughly how many seeds, and how many images, would find a cell without a difference to be the same.

    Of more seeds than anybody trains it says no number, but whether more images would do instead. Where there are as
    many as that already, the difference itself is what keeps the interval from lying within the margin.
    """
    # Half of the variance that is allowed is for each of its parts.
    allowed = (margin / 100 / _POWERFUL) ** 2 / 2
    if allowed < 1 / _MOST_NEEDED**2:
        return "a wider margin"
    more_seeds = seeds * said.of_seeds / allowed
    if 2 <= more_seeds <= MOST_SEEDS:
        # Few seeds have a wider quantile.
        more_seeds *= (student_quantile(2 * ERROR, more_seeds - 1) / student_quantile(2 * ERROR, inf)) ** 2
    if more_seeds > MOST_SEEDS:
        # Images lower what seeds and images have together, and not what seeds differ by themselves.
        enough = seeds * said.of_seeds_alone / allowed <= MOST_SEEDS
        return f"more than {MOST_SEEDS:,} seeds{': take more images instead' if enough else ', however many images'}"
    more_images = max(n * said.of_images / allowed, log(1 / ERROR) * 100 / margin)
    if more_images >= _MOST_NEEDED:
        return f"more than {_MOST_NEEDED:,} images"
    words = [f"{_rounded(more_seeds):,} seeds"] if more_seeds > seeds else []
    words += [f"{_rounded(more_images):,} images"] if more_images > n else []
    return f"about {' of '.join(words)}" if words else _NEAR_MARGIN


def across_machines(pairs: Iterable[Pair], machines: Mapping[Hardware, str]) -> list[str]:
    """Return a note where no machine measured both sides of a pair, so that it compares two machines too."""
    moved = [(Hardware.of(p.old), Hardware.of(p.new)) for p in pairs]
    moved = [(old, new) for old, new in moved if old != new]
    if not moved:
        return []
    different = dict.fromkeys(moved)
    places = (f"on {machines[old]} in the base and on {machines[new]} in the head" for old, new in different)
    where = listed(places, 1, between="; ", noun="pair")
    cells = f"{len(moved)} cell{'s' * (len(moved) != 1)}"
    return [f"{cells} measured {where}: a difference may be one of the machines"]


def across_precisions(pairs: Iterable[Pair]) -> list[str]:
    """Return a note where gradients in bfloat16 led an attack on one side only, so that precisions are compared too."""
    one_sided = [p for p in pairs if p.old.craft_precision != p.new.craft_precision]
    if not one_sided:
        return []
    sides = {"base" if p.old.craft_precision == "bf16" else "head" for p in one_sided}
    where = f"in the {sides.pop()} only" if len(sides) == 1 else "on one side only"
    cells = f"{len(one_sided)} cell{'s' * (len(one_sided) != 1)}"
    return [f"{cells}: gradients in bfloat16 led the attack {where}; a difference may be one of precision"]


def trained_again_once(pairs: Iterable[Pair], keys: Keys) -> int:
    """Return in how many pairs a recipe was trained for each side: with other parameters or code, or elsewhere."""

    def again(p: Pair) -> bool:
        old, new = p.old.cell.model, p.new.cell.model
        if not (isinstance(old.weights, TrainRef) and isinstance(new.weights, TrainRef)):
            return False
        elsewhere = Hardware.of(p.old) != Hardware.of(p.new)
        return elsewhere or keys.text(old) != keys.text(new)

    return sum(map(again, pairs))
