"""The scatter plot of the page: worst cases against the cost of one answer, laid out in the units of its view box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import log10
from typing import Any, NamedTuple

from bench.report.leaderboard.pareto import cost_front, primary
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.tables import RANKED, Table
from bench.report.render import text

_MAX_DEFENSES = 80
#: Keys of results that one number leads to.
_MAX_KEYS = 40
#: Size of the view box, and its margins.
_WIDTH = 480
_HEIGHT = 320
_LEFT = 50
_RIGHT = 16
_TOP = 12
_BOTTOM = 48
#: Size of the letters of a label.
_LABEL_HEIGHT = 16
_LETTER_WIDTH = 8
#: Two points nearer than this look like one.
_OVERLAP = 4
_MAX_TICKS = 7


class ScatterPoint(NamedTuple):
    """A worst case of one defense."""

    x: float
    y: float
    #: The ends of its interval, as y.
    low: float
    high: float
    #: The attacker does not see the whole defense.
    open: bool
    label: str
    label_y: float
    #: The label is to the left of the point.
    left: bool
    hint: str
    #: The keys of its first results, and how many more there are.
    keys: str
    more: int
    #: The label as far as there is room for it.
    shown: str = ""


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

    def ticks(self) -> list[float]:
        """Return costs to mark: 1, 2 and 5 of each decade, or whole decades where these are too many."""
        steps = (m * 10.0**e for e, m in product(range(int(self.low) - 1, int(self.high) + 2), (1, 2, 5)))
        ticks = [tick for tick in steps if self.low <= log10(tick) <= self.high]
        return ticks if len(ticks) <= _MAX_TICKS else [tick for tick in ticks if f"{tick:e}".startswith("1")]


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
    points = _with_labels(points)
    static, ranked = [p for p in points if p.open], [p for p in points if not p.open]
    return {
        "threat": shown[0].group,
        "about": f"the first {_MAX_DEFENSES} of {len(defenses):,} defenses" if len(defenses) > len(shown) else "",
        "points": points,
        "links": [(a, b) for a, b in product(static, ranked) if a.label == b.label],
        "front": _front(shown, axes),
        "x_ticks": [(axes.x(tick), _flops(tick)) for tick in axes.ticks()],
        "y_ticks": [(axes.y(share), f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)],
        "box": (_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM),
    }


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
        hint = f"{summary.defense}, {access}: {score}, {_flops(summary.cost.test_flops)} per image"
        x, y = axes.x(summary.cost.test_flops), axes.y(value.number)
        yield ScatterPoint(
            x,
            y,
            axes.y(value.low),
            axes.y(value.high),
            access not in RANKED,
            summary.defense,
            y,
            x > 0.72 * _WIDTH,
            hint,
            *first_keys(value),
        )


def _with_labels(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """Write each name at the nearest free height beside its point; where there is none, only the hint has it.

    Points that lie on one another share a label.
    """
    order = sorted(points, key=lambda p: (-abs(2 * p.y - _HEIGHT), p.label))
    names = _names(order)
    placed: list[ScatterPoint] = []
    for point in order:
        label = ", ".join(names.get(point, []))
        room = int(((point.x - _LEFT) if point.left else (_WIDTH - point.x)) / _LETTER_WIDTH) - 2
        named = point._replace(shown=label if len(label) <= room else f"{label[: room - 1]}…")
        placed.append(_at_free_height(named, placed) or point if label else point)
    return placed


def _names(points: Sequence[ScatterPoint]) -> dict[ScatterPoint, list[str]]:
    """Return the points that have a label, with the names of all points that lie on them.

    A defense is named at its solid point, or at its open point if it has no other.
    """
    solid = {point.label for point in points if not point.open}
    names: dict[ScatterPoint, list[str]] = {}
    for point in points:
        if not point.open or point.label not in solid:
            near = (p for p in names if abs(p.x - point.x) < _OVERLAP and abs(p.y - point.y) < _OVERLAP)
            names.setdefault(next(near, point), []).append(point.label)
    return names


def _at_free_height(point: ScatterPoint, placed: Sequence[ScatterPoint]) -> ScatterPoint | None:
    """Return the point with its label at the nearest height where it meets no other label."""
    for step, sign in product(range(19), (-1, 1)):
        label_y = point.y + sign * step * _LABEL_HEIGHT / 2
        meets = (p for p in placed if abs(label_y - p.label_y) < _LABEL_HEIGHT and _meet(point, p))
        if _TOP <= label_y <= _HEIGHT - _BOTTOM and not any(meets):
            return point._replace(label_y=label_y)
    return None


def _meet(one: ScatterPoint, other: ScatterPoint) -> bool:
    """Say whether two labels would meet if they had one height."""
    (start, end), (other_start, other_end) = _extent(one), _extent(other)
    return start < other_end and other_start < end


def _extent(point: ScatterPoint) -> tuple[float, float]:
    """Return where the label of a point starts and ends."""
    width = _LETTER_WIDTH * (len(point.shown) + 2) if point.shown else 0
    return (point.x - width, point.x) if point.left else (point.x, point.x + width)


def _flops(value: float) -> str:
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP"
