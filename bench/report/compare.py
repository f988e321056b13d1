"""Two runs, image by image: what changed for sure, what it cost, and what cannot be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import geometric_mean
from typing import Any, Literal, NamedTuple

from bench.report.board import newest, protocol
from bench.report.record import Recorded
from bench.report.rows import robust_bits, threat_text
from bench.stats import holm_mcnemar, mcnemar
from bench.types import Cell, CellResult, MethodRef, TrainRef

ALPHA = 0.05
#: The least change of accuracy, in points, that is called one.
MIN_EFFECT = 0.5

Verdict = Literal["regression", "improvement", "same", "not comparable"]


class Counts(NamedTuple):
    """Images right in the base only, in the head only, and all images."""

    lost: int
    gained: int
    n: int


@dataclass(frozen=True)
class Change:
    """One cell in both runs."""

    name: str
    verdict: Verdict
    base: float | None = None
    head: float | None = None
    counts: Counts | None = None
    p: float | None = None
    #: Holm's for discrete tests, over all cells that were measured twice.
    adjusted_p: float | None = None
    notes: tuple[str, ...] = ()


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
    costs: tuple[CostChange, ...]
    times: tuple[TimeChange, ...]
    #: Cells whose measurement is one and the same in both.
    identical: int
    only_base: tuple[str, ...]
    only_head: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def compared(self) -> bool:
        """Say whether anything was: a cell tested, measured once for both, or one that fails now."""
        return self.identical > 0 or any(c.verdict != "not comparable" for c in self.changes)

    @property
    def regressed(self) -> bool:
        return any(c.verdict == "regression" for c in self.changes) or any(c.regression for c in self.costs)


def judge(counts: Sequence[Counts], min_effect: float = MIN_EFFECT) -> list[tuple[Verdict, float, float]]:
    """Return for each cell the verdict, the exact McNemar p-value, and Holm's over all cells given.

    Args:
        counts: images lost and gained, one entry for each cell.
        min_effect: the least change, in points, that is called one.
    """
    adjusted_values = holm_mcnemar([(each.lost, each.gained) for each in counts])
    # As text, so that 0.5 points of 1,000 images are 5 images and not 4.999.
    least = Fraction(str(min_effect)) / 100
    verdicts: list[tuple[Verdict, float, float]] = []
    for (lost, gained, n), adjusted in zip(counts, adjusted_values, strict=True):
        clear = adjusted < ALPHA and Fraction(abs(lost - gained), n) >= least
        verdicts.append(
            ("same" if not clear else "regression" if lost > gained else "improvement", mcnemar(lost, gained), adjusted)
        )
    return verdicts


def compare(base: Recorded, head: Recorded, min_effect: float = MIN_EFFECT) -> Comparison:
    """Pair the cells of two runs by what they ask and compare them image by image."""
    before, after = newest(base.results), newest(head.results)
    pairs = [(before[asked], after[asked]) for asked in before if asked in after]
    pairs.sort(key=lambda pair: (str(pair[1].names), pair[1].cell.seed, pair[1].key))
    singles = (
        [r for asked, r in before.items() if asked not in after],
        [r for asked, r in after.items() if asked not in before],
    )
    misfits, only_base, only_head = _misfits(*singles)
    tested, refused, identical = [], [], 0
    for old, new in pairs:
        reason = _obstacle(old, new)
        if reason is not None:
            refused.append(
                Change(
                    _name(new),
                    "regression" if new.error and not old.error else "not comparable",
                    *_shares(old, new),
                    notes=(reason,),
                )
            )
        elif (
            old.key == new.key
            and old.provenance == new.provenance
            and old.adversarial_bits == new.adversarial_bits
            and old.clean_bits == new.clean_bits
        ):
            identical += 1
        else:
            tested.append((old, new))
    counts = [_counts(old, new) for old, new in tested]
    judged = zip(tested, counts, judge(counts, min_effect), strict=True)
    changes = [
        Change(_name(new), verdict, *_shares(old, new), count, p, adjusted, tuple(_code_changes(old, new)))
        for (old, new), count, (verdict, p, adjusted) in judged
    ]
    return Comparison(
        base.name,
        head.name,
        min_effect,
        (*changes, *refused, *misfits),
        tuple(_costs(pairs)),
        tuple(_times(tested)),
        identical,
        only_base,
        only_head,
        (*base.notes, *head.notes),
    )


def _name(r: CellResult) -> str:
    threat = f" {threat_text(r.cell.attack.threat)}" if r.cell.attack else ""
    return f"{r.names}{threat}" + (f" seed {r.cell.seed}" if r.cell.seed else "")


def _shares(old: CellResult, new: CellResult) -> tuple[float | None, float | None]:
    return (old.metrics.robust_accuracy if old.metrics else None, new.metrics.robust_accuracy if new.metrics else None)


def _counts(old: CellResult, new: CellResult) -> Counts:
    first, second = robust_bits(old), robust_bits(new)
    return Counts((first & ~second).bit_count(), (second & ~first).bit_count(), new.cell.data.n)


def _obstacle(old: CellResult, new: CellResult) -> str | None:
    """Return why two answers to one question cannot be compared."""
    if new.error or old.error:
        failed = [
            f"{side} failed: {r.error.kind}: {r.error.message}" for side, r in (("base", old), ("head", new)) if r.error
        ]
        return "; ".join(line.splitlines()[0] for line in failed)
    if old.key != new.key and (versions := (protocol(old), protocol(new)))[0] != versions[1]:
        return f"protocol {versions[0]} against {versions[1]}"
    return None


def _misfits(
    before: Sequence[CellResult], after: Sequence[CellResult]
) -> tuple[list[Change], tuple[str, ...], tuple[str, ...]]:
    """Return cells of one name that ask different things, with the differences, and the names that only one run has."""
    waiting: dict[tuple[str, int], list[CellResult]] = defaultdict(list)
    for r in before:
        waiting[str(r.names), r.cell.seed].append(r)
    changes, only_head = [], []
    for new in after:
        namesakes = waiting.get((str(new.names), new.cell.seed))
        if not namesakes:
            only_head.append(_name(new))
            continue
        old = namesakes.pop(0)
        changes.append(
            Change(_name(new), "not comparable", *_shares(old, new), notes=tuple(_differences(old.cell, new.cell)))
        )
    only_base = [_name(r) for left in waiting.values() for r in left]
    return sorted(changes, key=lambda c: c.name), tuple(sorted(only_base)), tuple(sorted(only_head))


def _differences(old: Cell, new: Cell) -> Iterator[str]:
    """Yield in what two cells differ, but for their code."""
    if (old.data.indices_sha, old.data.n) != (new.data.indices_sha, new.data.n):
        lists = [f"{data.subset} {data.n} (#{data.indices_sha[:4]})" for data in (old.data, new.data)]
        yield f"other example lists: {' against '.join(lists)}"
    elif old.data.data_sha != new.data.data_sha:
        yield f"other images: data #{old.data.data_sha[:4]} against #{new.data.data_sha[:4]}"
    seen = {"data.indices_sha", "data.n", "data.subset", "data.data_sha"}
    first, second = (dict(_flat(cell.model_dump(mode="json"))) for cell in (old, new))
    for field in sorted(first.keys() | second.keys()):
        repeated = field.startswith(("attack.model.", "attack.data.", "attack.step."))
        if (
            field not in seen
            and not field.endswith("code_sha")
            and not repeated
            and first.get(field) != second.get(field)
        ):
            yield f"{field}: {_short(first.get(field))} against {_short(second.get(field))}"


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return f"#{text[:8]}" if len(text) == 64 else text


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _code_changes(old: CellResult, new: CellResult) -> Iterator[str]:
    for before, after in zip(_methods(old.cell), _methods(new.cell), strict=True):
        if before.code_sha != after.code_sha:
            yield f"code of {after.name} changed"


def _methods(cell: Cell) -> list[MethodRef]:
    recipe = [cell.model.weights.recipe] if isinstance(cell.model.weights, TrainRef) else []
    return [
        cell.model.network,
        *recipe,
        *([cell.step] if cell.step else []),
        *([cell.attack.attack] if cell.attack else []),
    ]


def _costs(pairs: Iterable[tuple[CellResult, CellResult]]) -> Iterator[CostChange]:
    """Yield counted costs that changed.

    What a defense costs may not rise. What an attack spends depends on when it breaks an image; it may not rise where
    it was one whole number for all images and every outcome is what it was.
    """
    reported = set()
    for old, new in pairs:
        if old.cost and new.cost and old.metrics and new.metrics:
            alike = (old.clean_bits, old.adversarial_bits) == (new.clean_bits, new.adversarial_bits)
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


def _times(pairs: Iterable[tuple[CellResult, CellResult]]) -> Iterator[TimeChange]:
    """Yield seconds as ratios, one for each cell over its seeds, where machine and device are the same."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for old, new in pairs:
        same = (old.provenance.machine, old.provenance.device, old.provenance.threads) == (
            new.provenance.machine,
            new.provenance.device,
            new.provenance.threads,
        )
        if same and old.cost and new.cost and old.cost.seconds_per_example > 0 and new.cost.seconds_per_example > 0:
            ratios[str(new.names)].append(new.cost.seconds_per_example / old.cost.seconds_per_example)
    for name, found in ratios.items():
        yield TimeChange(name, geometric_mean(found), min(found), max(found), len(found))
