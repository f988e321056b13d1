"""Two runs, image by image: what changed for sure, what it cost, and what cannot be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import geometric_mean
from typing import Literal, NamedTuple

from bench.keys import Keys
from bench.report.comparison.pairing import Pair, Renamed, pair
from bench.report.comparison.parts import Changed, code_changes
from bench.report.leaderboard.summaries import threat_text
from bench.stats import holm_mcnemar, mcnemar
from bench.store.history import Recorded
from bench.store.latest import protocol
from bench.types import CellResult

ALPHA = 0.05
#: The least change of accuracy, in points, that is called one.
MIN_EFFECT = 0.5
#: Seconds that no clock measures.
_NO_TIME = 1e-12

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


@dataclass(frozen=True)
class Lost:
    """A cell that the base measured and that nothing in the head was tested against."""

    name: str
    base: float | None
    #: What stands in its place; empty where nothing does.
    why: tuple[str, ...]


@dataclass(frozen=True)
class CostChange:
    """A cost that is counted, not timed, and is not what it was."""

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
    changes: tuple[Change, ...]
    #: Coverage that the head lacks; without ``allow_lost`` the comparison fails for it.
    lost: tuple[Lost, ...]
    allow_lost: bool
    costs: tuple[CostChange, ...]
    times: tuple[TimeChange, ...]
    #: Cells whose measurement is one and the same in both.
    identical: int
    only_head: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def only_base(self) -> tuple[str, ...]:
        """The lost cells in whose place nothing stands."""
        return tuple(each.name for each in self.lost if not each.why)

    @property
    def compared(self) -> bool:
        """Say whether anything was: a cell tested, measured once for both, or one that fails now."""
        return self.identical > 0 or any(c.verdict != "not comparable" for c in self.changes)

    @property
    def regressed(self) -> bool:
        return any(c.verdict == "regression" for c in self.changes) or any(c.regression for c in self.costs)

    @property
    def passed(self) -> bool:
        """Say whether cells were compared, none is worse, and none is missing, or may be."""
        return self.compared and not self.regressed and (self.allow_lost or not self.lost)


def judge(counts: Sequence[Counts], min_effect: float = MIN_EFFECT) -> list[tuple[ChangeVerdict, float, float]]:
    """Return for each cell the verdict, the exact McNemar p-value, and Holm's over all cells given.

    Args:
        counts: images lost and gained, one entry for each cell.
        min_effect: the least change, in points, that is called one.
    """
    adjusted_values = holm_mcnemar([(each.lost, each.gained) for each in counts])
    # As text, so that 0.5 points of 1,000 images are 5 images and not 4.999.
    least = Fraction(str(min_effect)) / 100
    verdicts: list[tuple[ChangeVerdict, float, float]] = []
    for (lost, gained, n), adjusted in zip(counts, adjusted_values, strict=True):
        verdict: ChangeVerdict = "same"
        if adjusted < ALPHA and Fraction(abs(lost - gained), n) >= least:
            verdict = "regression" if lost > gained else "improvement"
        verdicts.append((verdict, mcnemar(lost, gained), adjusted))
    return verdicts


def compare(base: Recorded, head: Recorded, min_effect: float = MIN_EFFECT, *, allow_lost: bool = False) -> Comparison:
    """Pair the cells of two runs and compare them image by image.

    Args:
        base: the run that the other is measured against.
        head: the run in question.
        min_effect: the least change, in points, that is called one.
        allow_lost: whether cells of the base may be missing from the head.
    """
    pairing = pair(base.results, head.results)
    pairs = sorted(pairing.pairs, key=lambda p: (str(p.new.names), p.new.cell.seed, p.new.key))
    tested: list[Pair] = []
    others: list[Change] = []
    lost: list[Lost] = []
    once: list[Pair] = []
    keys = Keys()
    for p in pairs:
        failed, obstacle = _failures(p.old, p.new), _obstacle(p.old, p.new, keys)
        if failed is not None:
            others.append(_change(p, "not comparable" if p.old.error else "regression", failed))
        elif obstacle is not None:
            lost.append(Lost(_name(p.old), _share(p.old), (obstacle,)))
        elif _is_one_measurement(p):
            once.append(p)
        else:
            tested.append(p)
    for each in pairing.unpaired:
        if each.old.error:
            note = f"{_failed('base', each.old)}; the head does not have it"
            others.append(Change(_name(each.old), "not comparable", notes=(note,)))
        else:
            lost.append(Lost(_name(each.old), _share(each.old), each.why))
    counts = [_counts(p.old, p.new) for p in tested]
    # A store that holds both sides of a changed default has such a cell twice: it was tested.
    also_tested = {p.old.key for p in tested}
    judged = zip(tested, counts, judge(counts, min_effect), strict=True)
    changes = [
        replace(_change(p, verdict, *_notes(p, verdict)), counts=count, p=raw, adjusted_p=adjusted)
        for p, count, (verdict, raw, adjusted) in judged
    ]
    return Comparison(
        base=base.name,
        head=head.name,
        min_effect=min_effect,
        changes=(*changes, *others),
        lost=tuple(sorted(lost, key=lambda each: each.name)),
        allow_lost=allow_lost,
        costs=tuple(_costs(pairs)),
        times=tuple(_times(tested)),
        identical=sum(p.old.key not in also_tested for p in once),
        only_head=tuple(sorted(map(_name, pairing.fresh))),
        notes=tuple(dict.fromkeys((*base.notes, *head.notes))),
    )


def _change(p: Pair, verdict: ChangeVerdict, *notes: str) -> Change:
    return Change(
        name=_name(p.new),
        verdict=verdict,
        base=_share(p.old),
        head=_share(p.new),
        notes=notes,
        changed_parameters=p.changed,
        renamed=p.renamed,
    )


def _name(r: CellResult) -> str:
    threat = f" {threat_text(r.cell.attack.threat)}" if r.cell.attack else ""
    return f"{r.names}{threat}" + (f" seed {r.cell.seed}" if r.cell.seed else "")


def _share(r: CellResult) -> float | None:
    return r.metrics.accuracy_under_attack if r.metrics else None


def _counts(old: CellResult, new: CellResult) -> Counts:
    before, after = old.outcomes_under_attack, new.outcomes_under_attack
    assert before is not None and after is not None
    return Counts(before.but_not(after).count, after.but_not(before).count, new.cell.data.n)


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
    """Return why two answers to one question cannot be compared."""
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

    What a defense costs may not rise. What an attack spends depends on when it breaks an image; it may not rise where
    it was one whole number for all images, every outcome is what it was, and so are the attack's parameters.
    """
    reported = set()
    for p in pairs:
        old, new = p.old, p.new
        if old.cost and new.cost and old.metrics and new.metrics:
            alike = (old.clean_bits, old.adversarial_bits) == (new.clean_bits, new.adversarial_bits)
            alike = alike and not p.attack_changed
            whole = old.cost.forwards_per_example.is_integer() and old.cost.backwards_per_example.is_integer()
            for what in ("forwards_per_example", "backwards_per_example", "flops_per_example"):
                yield from _cost(_name(new), what, old.cost, new.cost, counts=alike and whole)
        if old.defense_cost and new.defense_cost:
            defense = f"{new.names.dataset}/{new.names.model}/{new.names.defense}"
            for what in ("params", "train_flops_per_epoch", "test_flops", "test_forwards", "test_backwards"):
                for change in _cost(defense, what, old.defense_cost, new.defense_cost, counts=True):
                    if change not in reported:
                        reported.add(change)
                        yield change


def _cost(name: str, what: str, old: object, new: object, *, counts: bool) -> Iterator[CostChange]:
    before, after = getattr(old, what), getattr(new, what)
    # Means over images; a billionth is the round-off of summing them in another order.
    if before is not None and after is not None and abs(after - before) > 1e-9 * max(abs(before), abs(after)):
        yield CostChange(name, what, before, after, counts and after > before)


def _times(pairs: Iterable[Pair]) -> Iterator[TimeChange]:
    """Yield seconds as ratios, one for each cell over its seeds, where machine, device and parameters are the same."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for old, new in ((p.old, p.new) for p in pairs if not p.changed):
        same = (old.provenance.machine, old.provenance.device, old.provenance.threads) == (
            new.provenance.machine,
            new.provenance.device,
            new.provenance.threads,
        )
        if not same or old.cost is None or new.cost is None:
            continue
        before, after = old.cost.seconds_per_example, new.cost.seconds_per_example
        if min(before, after) > _NO_TIME:
            ratios[str(new.names)].append(after / before)
    for name, found in ratios.items():
        yield TimeChange(name, geometric_mean(found), min(found), max(found), len(found))
