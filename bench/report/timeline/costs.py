"""Costs over time: counted ones have no chance in them, and seconds are of one machine alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.report.timeline.lines import Lane, Point
from bench.report.timeline.parents import Parents

#: Counted costs of an attack, and how a reader knows them.
COUNTED = {
    "forwards_per_example": "forward passes per image",
    "backwards_per_example": "backward passes per image",
    "flops_per_example": "FLOPs per image",
}
#: Counted costs of a defense by itself, which stand at its clean cell.
OWN = {
    "params": "parameters",
    "test_flops": "FLOPs of an answer",
    "train_flops_per_epoch": "training FLOPs of an epoch",
}
NAMES = {**COUNTED, **OWN}
SECONDS = "seconds_per_example"
#: Costs are means over images; summing them in another order may change them by a billionth.
_ROUND_OFF = 1e-9


class CostChange(NamedTuple):
    """A counted cost that is another one than before."""

    field: str
    #: The index of the point that it is compared with.
    against: int
    old: float
    new: float


def cost_of(point: Point, field: str) -> float | None:
    """Return one cost of a point; ``None`` where it was not measured."""
    value: float | None = getattr(point.own_cost if field in OWN else point.cost, field, None)
    return value


def cost_changes(lane: Lane, followed: Sequence[Parents]) -> list[tuple[CostChange, ...]]:
    """Return for each point of a lane the counted costs that changed.

    An attack that stops early takes other passes whenever an image falls sooner. So a change counts where all images
    took one whole number of passes both times. What a merge took over from a side stands there, and not at the merge.
    """
    changes = []
    for point, of_point in zip(lane.points, followed, strict=True):
        first = of_point.first
        found = () if first is None else tuple(_changes(lane.points[first], first, point))
        changes.append(tuple(each for each in found if not _is_brought(each, lane.points, of_point)))
    return changes


def _is_brought(change: CostChange, points: Sequence[Point], parents: Parents) -> bool:
    """Say whether a side has the new cost, and the first parent still that of their fork."""
    return any(
        cost_of(points[side.fork], change.field) == change.old and cost_of(points[side.tip], change.field) == change.new
        for side in parents.sides
        if side.fork is not None
    )


def _changes(old: Point, against: int, new: Point) -> Iterator[CostChange]:
    for field in NAMES if _is_fixed(old) and _is_fixed(new) else OWN:
        before, after = cost_of(old, field), cost_of(new, field)
        if before is not None and after is not None and abs(after - before) > _ROUND_OFF * max(before, after):
            yield CostChange(field, against, before, after)


def _is_fixed(point: Point) -> bool:
    cost = point.cost
    return cost is not None and cost.forwards_per_example.is_integer() and cost.backwards_per_example.is_integer()
