"""Two runs, image by image: significant changes, changes of cost, and cells that cannot be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import geometric_mean
from typing import Literal, NamedTuple

from bench.differences import Changed, code_changes
from bench.equivalence import paired_ends
from bench.keys import Keys
from bench.report.comparison.hardware import Hardware
from bench.report.comparison.pairing import Pair, Renamed, pair
from bench.report.comparison.seeds import (
    ERROR,
    Equivalence,
    Group,
    Grouping,
    OverSeeds,
    Sides,
    across_machines,
    across_precisions,
    images_needed,
    name_without_seed,
    run,
    same_or_not,
    trained_again_once,
)
from bench.report.comparison.touched import Touched, touched
from bench.stats import ALPHA, holm_mcnemar, is_large, mcnemar
from bench.store.history import Recorded
from bench.store.latest import protocol
from bench.types import CellResult

#: The smallest change of accuracy that counts, in percentage points.
MIN_EFFECT = 0.5
#: Differences within so many percentage points count as the same.
SAME_WITHIN = 0.5
#: Below this, a time was not measured.
_MIN_SECONDS = 1e-12

ChangeVerdict = Literal["regression", "improvement", "same", "not comparable"]


class Counts(NamedTuple):
    """Images right in the base only, in the head only, and all images."""

    lost: int
    gained: int
    n: int


@dataclass(frozen=True)
class Change:
    """One cell in both runs. It is not comparable where the base has no outcome of it."""

    name: str
    verdict: ChangeVerdict
    base: float | None = None
    head: float | None = None
    counts: Counts | None = None
    p: float | None = None
    #: Holm's for discrete tests, over all cells that were measured twice.
    adjusted_p: float | None = None
    notes: tuple[str, ...] = ()
    changed_parameters: tuple[Changed, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    #: Of a cell that was tested: what is said of it, and the ends of the 90 % interval of head - base.
    equivalence: Equivalence | None = None
    low: float | None = None
    high: float | None = None
    #: In percentage points.
    margin: float | None = None
    #: Where it cannot be told: roughly how many images would tell, if a number would.
    images_needed: int | None = None
    #: The same in words, or why more images would not tell; else empty.
    needed: str = ""


@dataclass(frozen=True)
class Lost:
    """A cell that the base measured and that nothing in the head was tested against."""

    name: str
    base: float | None
    #: The cells that may replace it, or why it cannot be compared; empty where there is nothing to say.
    why: tuple[str, ...]


@dataclass(frozen=True)
class CostChange:
    """A cost that is counted, not timed, and that changed."""

    name: str
    what: str
    base: float
    head: float
    regression: bool


@dataclass(frozen=True)
class TimeChange:
    """Seconds per example of the head over those of the base, on one machine and device."""

    name: str
    ratio: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class Comparison:
    base: str
    head: str
    min_effect: float
    same_within: float
    changes: tuple[Change, ...]
    #: Cells that several seeds or machines measured.
    over_seeds: tuple[OverSeeds, ...]
    #: Cells that only the base covers; without ``allow_lost`` the comparison fails because of them.
    lost: tuple[Lost, ...]
    allow_lost: bool
    costs: tuple[CostChange, ...]
    times: tuple[TimeChange, ...]
    #: Cells with the same measurement in both runs.
    identical: int
    only_head: tuple[str, ...]
    notes: tuple[str, ...]
    #: What a change of methods can have touched, of the cells that both have.
    touched: Touched

    @property
    def only_base(self) -> tuple[str, ...]:
        """The lost cells that nothing in the head may replace."""
        return tuple(cell.name for cell in self.lost if not cell.why)

    @property
    def compared(self) -> bool:
        """Say whether any cell was tested, was measured once for both, or fails now."""
        return self.identical > 0 or any(c.verdict != "not comparable" for c in self.changes)

    @property
    def regressed(self) -> bool:
        verdicts = chain((c.verdict for c in self.changes), (c.verdict for c in self.over_seeds))
        return "regression" in verdicts or any(c.regression for c in self.costs)

    @property
    def passed(self) -> bool:
        """Say whether cells were compared, none is worse, and none is missing without permission."""
        return self.compared and not self.regressed and (self.allow_lost or not self.lost)


def judge(
    counts: Sequence[Counts], min_effect: float = MIN_EFFECT, adjusted_values: Sequence[float] | None = None
) -> list[tuple[ChangeVerdict, float, float]]:
    """Return for each cell the verdict, the exact McNemar p-value, and the p-value adjusted by Holm over all cells.

    Args:
        counts: images lost and gained, one entry for each cell.
        min_effect: the smallest change that counts, in percentage points.
        adjusted_values: the adjusted p-values, where other tests were made too.
    """
    if adjusted_values is None:
        adjusted_values = holm_mcnemar([(count.lost, count.gained) for count in counts])
    verdicts: list[tuple[ChangeVerdict, float, float]] = []
    for (lost, gained, n), adjusted in zip(counts, adjusted_values, strict=True):
        verdict: ChangeVerdict = "same"
        if adjusted < ALPHA and is_large(lost, gained, n, min_effect):
            verdict = "regression" if lost > gained else "improvement"
        verdicts.append((verdict, mcnemar(lost, gained), adjusted))
    return verdicts


def compare(
    base: Recorded,
    head: Recorded,
    min_effect: float = MIN_EFFECT,
    *,
    same_within: float = SAME_WITHIN,
    allow_lost: bool = False,
) -> Comparison:
    """Pair the cells of two runs and compare them image by image.

    Args:
        base: the run that the other is measured against.
        head: the run to judge.
        min_effect: the smallest change that counts, in percentage points.
        same_within: differences within so many percentage points count as the same.
        allow_lost: whether cells of the base may be missing from the head.
    """
    pairing = pair(base.results, head.results)
    pairs = sorted(pairing.pairs, key=lambda p: (str(p.new.names), p.new.cell.seed, p.new.key, p.machine or ""))
    keys = Keys()
    found = _sorted_out(pairs, keys)
    for old, why in pairing.unpaired:
        if old.error:
            note = f"{_failed('base', old)}; the head does not have it"
            found.others.append(Change(_name(old), "not comparable", notes=(note,)))
        else:
            found.lost.append(Lost(_name(old), _share(old), why))
    sides = Sides(base.results, head.results, pairing.machines)
    changes, over_seeds, of_seeds = _tests(found.tested, sides, min_effect, same_within, keys)
    # A store that holds both sides of a changed default has such a cell twice: it was tested.
    also_tested = {(p.old.key, p.machine) for p in found.tested}
    return Comparison(
        base=base.name,
        head=head.name,
        min_effect=min_effect,
        same_within=same_within,
        changes=(*changes, *found.others),
        over_seeds=tuple(over_seeds),
        lost=tuple(sorted(found.lost, key=lambda cell: cell.name)),
        allow_lost=allow_lost,
        costs=tuple(_costs(pairs)),
        times=tuple(_times(found.tested)),
        identical=sum((p.old.key, p.machine) not in also_tested for p in found.measured_once),
        only_head=tuple(sorted(map(_name, pairing.only_head))),
        notes=tuple(dict.fromkeys((*base.notes, *head.notes, *of_seeds, *sides.one_sided(pairs)))),
        touched=touched(pairs),
    )


class _SortedOut(NamedTuple):
    """Pairs to test, pairs that are one measurement, and what is said of the others."""

    tested: list[Pair]
    measured_once: list[Pair]
    others: list[Change]
    lost: list[Lost]


def _sorted_out(pairs: Iterable[Pair], keys: Keys) -> _SortedOut:
    found = _SortedOut([], [], [], [])
    for p in pairs:
        failed, obstacle = _failures(p.old, p.new), _obstacle(p.old, p.new, keys)
        if failed is not None:
            found.others.append(_change(p, "not comparable" if p.old.error else "regression", failed))
        elif obstacle is not None:
            found.lost.append(Lost(_name(p.old) + _on(p), _share(p.old), (obstacle,)))
        elif _is_one_measurement(p):
            found.measured_once.append(p)
        else:
            found.tested.append(p)
    return found


def _tests(
    tested: Sequence[Pair], sides: Sides, min_effect: float, same_within: float, keys: Keys
) -> tuple[list[Change], list[OverSeeds], list[str]]:
    """Return what is said of each pair, of each cell over its seeds and machines, and of seeds as a note."""
    runs_of = [(p, run(p)) for p in tested]
    runs = {id(p): images for p, images in runs_of}
    counts = [Counts(lost.bit_count(), gained.bit_count(), p.new.cell.data.n) for p, (lost, gained) in runs_of]
    groups = list(Grouping(keys, sides.machines).of(tested))
    said = [group.joint(runs) for group in groups]
    adjusted = holm_mcnemar([(count.lost, count.gained) for count in counts], [each.p for each in said])
    judged = judge(counts, min_effect, adjusted[: len(counts)])
    changes = [
        _tested(p, count, verdict, same_within) for p, count, verdict in zip(tested, counts, judged, strict=True)
    ]
    over_seeds = [
        group.statement(_name_over(group), each, runs, p, min_effect, same_within, sides.left_out(group))
        for group, each, p in zip(groups, said, adjusted[len(counts) :], strict=True)
    ]
    of_several_seeds = set(map(id, chain.from_iterable(group.pairs for group in groups if len(group.by_seed) > 1)))
    once = trained_again_once([p for p in tested if id(p) not in of_several_seeds], keys)
    note = f"{once} cell{'s' * (once != 1)} trained again, with one seed on each side: this holds for these networks, "
    trained = [f"{note}and says nothing of other seeds of their recipes"] if once else []
    return changes, over_seeds, [*across_machines(tested, sides.machines), *across_precisions(tested), *trained]


def _tested(p: Pair, counts: Counts, judged: tuple[ChangeVerdict, float, float], margin: float) -> Change:
    verdict, raw, adjusted = judged
    ends = paired_ends(counts.lost, counts.gained, counts.n, ERROR)
    equivalence = same_or_not(is_within=ends.within(margin / 100), different=verdict != "same")
    changed = counts.lost + counts.gained
    images, words = images_needed(changed, counts.n, margin) if equivalence == "cannot tell" else (None, "")
    return replace(
        _change(p, verdict, *_notes(p, verdict)),
        counts=counts,
        p=raw,
        adjusted_p=adjusted,
        equivalence=equivalence,
        low=ends.low,
        high=ends.high,
        margin=margin,
        images_needed=images,
        needed=words,
    )


def _change(p: Pair, verdict: ChangeVerdict, *notes: str) -> Change:
    return Change(
        name=_name_of(p),
        verdict=verdict,
        base=_share(p.old),
        head=_share(p.new),
        notes=notes,
        changed_parameters=p.changed,
        renamed=p.renamed,
    )


def _name(r: CellResult) -> str:
    return name_without_seed(r) + (f" seed {r.cell.seed}" if r.cell.seed else "")


def _name_of(p: Pair) -> str:
    return _name(p.new) + _on(p)


def _on(p: Pair) -> str:
    return f" on {p.machine}" if p.machine else ""


def _name_over(group: Group) -> str:
    r = group.pairs[0].new
    return name_without_seed(r) if len(group.by_seed) > 1 else _name(r)


def _share(r: CellResult) -> float | None:
    return r.metrics.accuracy_under_attack if r.metrics else None


def _is_one_measurement(p: Pair) -> bool:
    return (
        p.old.key == p.new.key
        and p.old.provenance == p.new.provenance
        and p.old.adversarial_bits == p.new.adversarial_bits
        and p.old.clean_bits == p.new.clean_bits
    )


def _failures(old: CellResult, new: CellResult) -> str | None:
    failed = [_failed(side, r) for side, r in (("base", old), ("head", new)) if r.error]
    return "; ".join(failed) if failed else None


def _failed(side: str, r: CellResult) -> str:
    return f"{side} failed: {r.error.kind}: {r.error.message}".splitlines()[0] if r.error else ""


def _obstacle(old: CellResult, new: CellResult, keys: Keys) -> str | None:
    """Return why two results of one cell cannot be compared."""
    if old.key != new.key and (versions := (protocol(old, keys), protocol(new, keys)))[0] != versions[1]:
        return f"protocol {versions[0]} against {versions[1]}"
    for side, r in (("base", old), ("head", new)):
        if r.robust_outcomes is None:
            return f"{side}: the outcomes of its images were not kept"
    return None


def _notes(p: Pair, verdict: ChangeVerdict) -> Iterator[str]:
    yield from code_changes(p.old, p.new)
    if p.attack_changed and verdict == "improvement":
        yield "the attack has other parameters: that more images stand may be its weakness"


def _costs(pairs: Iterable[Pair]) -> Iterator[CostChange]:
    """Yield counted costs that changed.

    The cost of a defense may not rise. The cost of an attack depends on when it breaks an image. It may not rise where
    it was the same whole number of passes for all images, and neither the outcomes, nor the attack's parameters, nor
    the precision that led it changed: what bfloat16 says of some images is asked again.
    """
    reported = set()
    for p in pairs:
        old, new = p.old, p.new
        if old.cost and new.cost and old.metrics and new.metrics:
            same_outcomes = (old.clean_bits, old.adversarial_bits) == (new.clean_bits, new.adversarial_bits)
            fixed = old.cost.forwards_per_example.is_integer() and old.cost.backwards_per_example.is_integer()
            same_precision = old.craft_precision == new.craft_precision
            may_not_rise = same_outcomes and fixed and same_precision and not p.attack_changed
            for field in ("forwards_per_example", "backwards_per_example", "flops_per_example"):
                yield from _cost(_name_of(p), field, old.cost, new.cost, may_not_rise=may_not_rise)
        if old.defense_cost and new.defense_cost:
            defense = f"{new.names.dataset}/{new.names.model}/{new.names.defense}"
            for field in ("params", "train_flops_per_epoch", "test_flops", "test_forwards", "test_backwards"):
                for change in _cost(defense, field, old.defense_cost, new.defense_cost, may_not_rise=True):
                    if change not in reported:
                        reported.add(change)
                        yield change


def _cost(name: str, field: str, old: object, new: object, *, may_not_rise: bool) -> Iterator[CostChange]:
    before, after = getattr(old, field), getattr(new, field)
    # Costs are means over images; summing them in another order may change them by a billionth.
    if before is not None and after is not None and abs(after - before) > 1e-9 * max(abs(before), abs(after)):
        yield CostChange(name, field, before, after, may_not_rise and after > before)


def _times(pairs: Iterable[Pair]) -> Iterator[TimeChange]:
    """Yield a ratio of seconds for each cell, over its seeds, where machine, device and parameters are the same."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for p in pairs:
        old, new = p.old, p.new
        if p.changed or _timed_by(old) != _timed_by(new) or old.cost is None or new.cost is None:
            continue
        before, after = old.cost.seconds_per_example, new.cost.seconds_per_example
        if min(before, after) > _MIN_SECONDS:
            ratios[str(new.names)].append(after / before)
    for name, repeats in ratios.items():
        yield TimeChange(name, geometric_mean(repeats), min(repeats), max(repeats), len(repeats))


def _timed_by(r: CellResult) -> tuple[Hardware, int, str]:
    return Hardware.of(r), r.provenance.threads, r.provenance.craft_precision
