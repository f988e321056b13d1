"""The scatter plot of the page: worst cases against the cost of one answer, laid out in the units of its view box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import log10
from typing import Any, NamedTuple

from bench.report.leaderboard.flags import unproven
from bench.report.leaderboard.pareto import cost_front, primary
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.tables import RANKED, Table
from bench.report.render import text
from bench.report.render.names import width_of
from bench.report.render.placement import Box, Labels, Spot, mark, place

_MAX_DEFENSES = 80
#: Keys of results that one number leads to.
_MAX_KEYS = 40
#: Size of the view box, and its margins.
_WIDTH = 480
_HEIGHT = 320
_LEFT = 54
_RIGHT = 16
_TOP = 12
_BOTTOM = 56
#: Size of the letters of a tick, and the least space between two of them.
_TICK_FONT = 15
_TICK_SPACE = 12


class ScatterPoint(NamedTuple):
    """A worst case of one defense."""

    x: float
    y: float
    #: The ends of its interval, as y.
    low: float
    high: float
    #: The attacker does not see the whole defense.
    open: bool
    defense: str
    hint: str
    #: The keys of its first results, and how many more there are.
    keys: str
    more: int
    #: The word of a stranger: nobody repeated it, or its passes are not plausible.
    unproven: bool


class _Axes(NamedTuple):
    """The range of the x axis, in powers of ten of FLOPs. The y axis reaches from 0 to 1."""

    low: float
    high: float

    @classmethod
    def around(cls, flops: Sequence[float]) -> _Axes:
        """Return axes that hold these costs and at least one decade."""
        low, high = log10(min(flops)) - 0.15, log10(max(flops)) + 0.15
        if high - low < 1:
            low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
        return cls(low, high)

    def x(self, flops: float) -> float:
        return _LEFT + (log10(flops) - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    def ticks(self) -> list[tuple[float, str]]:
        """Return where to mark costs, and their labels: 1, 2 and 5 of each decade, or as few decades as have room."""
        decades = range(int(self.low) - 1, int(self.high) + 2)
        steps = [m * 10.0**e for e, m in product(decades, (1, 2, 5))]
        marks = [self._marks(steps)] + [self._marks([10.0**e for e in decades[::every]]) for every in (1, 2, 3)]
        return next(filter(_have_room, marks), marks[-1][:1])

    def _marks(self, costs: Sequence[float]) -> list[tuple[float, str]]:
        return [(self.x(cost), _flops(cost)) for cost in costs if self.low <= log10(cost) <= self.high]


def _have_room(marks: Sequence[tuple[float, str]]) -> bool:
    """Say whether the labels of an axis, each in the middle below its mark, are apart and inside the picture."""
    ends = [(x - _TICK_FONT * width_of(label) / 2, x + _TICK_FONT * width_of(label) / 2) for x, label in marks]
    apart = all(first[1] + _TICK_SPACE <= second[0] for first, second in pairwise(ends))
    return bool(ends) and apart and ends[0][0] >= 0 and ends[-1][1] <= _WIDTH


def scatter(table: Table) -> dict[str, Any] | None:
    """Return worst cases against inference FLOPs per image, laid out; ``None`` for fewer than two defenses."""
    defenses = [summary for summary in primary(table) if summary.cost and summary.cost.test_flops >= 1]
    shown = defenses[:_MAX_DEFENSES]
    if len(shown) < 2:
        return None
    axes = _Axes.around([summary.cost.test_flops for summary in shown if summary.cost])
    points: list[ScatterPoint] = []
    for summary in shown:
        points += _points(summary, axes)
    static, ranked = [p for p in points if p.open], [p for p in points if not p.open]
    labels = _labels(points)
    return {
        "threat": shown[0].group,
        "about": f"the first {_MAX_DEFENSES} of {len(defenses):,} defenses" if len(defenses) > len(shown) else "",
        "points": points,
        "has_open": bool(static),
        "has_unproven": any(point.unproven for point in points),
        "labels": labels.labels,
        "numbered": labels.numbered,
        "links": [(a, b) for a, b in product(static, ranked) if a.defense == b.defense],
        "front": _front(shown, axes),
        "x_ticks": axes.ticks(),
        "y_ticks": [(axes.y(share), f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)],
        "box": (_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM),
    }


def _labels(points: Sequence[ScatterPoint]) -> Labels:
    """Return the names of the defenses, each at its solid point, or at its open point if it has no other."""
    solid = {point.defense for point in points if not point.open}
    named = [point for point in points if not point.open or point.defense not in solid]
    area = Box(_LEFT + 2, _WIDTH - 2, 0, _HEIGHT - _BOTTOM + 8)
    marks = [mark(point.x, point.low, point.high) for point in points]
    return place([Spot(point.x, point.y, (point.defense,)) for point in named], marks, area)


def first_keys(value: Value | None) -> tuple[str, int]:
    """Return the first keys of a number, and how many more there are."""
    keys = value.keys if value else ()
    return " ".join(keys[:_MAX_KEYS]), max(0, len(keys) - _MAX_KEYS)


def _front(summaries: Sequence[ThreatSummary], axes: _Axes) -> str:
    """Return the corners of the Pareto front as a path of steps; empty for a front of one point."""
    front = cost_front(summaries)
    corners: list[tuple[float, float]] = []
    for flops, share in front:
        x, y = axes.x(flops), axes.y(share)
        corners += [(x, corners[-1][1]), (x, y)] if corners else [(x, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners) if len(front) > 1 else ""


def _points(summary: ThreatSummary, axes: _Axes) -> Iterator[ScatterPoint]:
    for access, value in summary.worst.items():
        if access == "any" or value.number is None or value.low is None or value.high is None or summary.cost is None:
            continue
        score = f"{100 * value.number:.1f} % ({text.interval(value)})"
        hint = f"{summary.defense}, {text.access_words(access)}: {score}, {_flops(summary.cost.test_flops)} per image"
        marks = unproven(value.footnotes)
        hint = ", ".join((hint, *marks))
        yield ScatterPoint(
            axes.x(summary.cost.test_flops),
            axes.y(value.number),
            axes.y(value.low),
            axes.y(value.high),
            access not in RANKED,
            summary.defense,
            hint,
            *first_keys(value),
            bool(marks),
        )


def _flops(value: float) -> str:
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP"
