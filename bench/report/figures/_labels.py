"""Names beside the points of a chart, apart from each other, from points and from their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from bench.report.figures._choice import natural
from bench.report.figures._layout import LEGEND_POINTS, text_height, widest
from bench.report.figures._plot import SOFT, fold

#: Inches: two points nearer than this look like one.
_OVERLAP = 0.04
#: Inches: half of a marker, and between a point and its name.
_MARKER, _SPACE = 0.04, 0.07
#: Inches: a label is next to its point up to this distance, and between two dots along a line to a label farther away.
_NEXT, _DOT = 0.14, 0.05
#: Places that are tried: half lines above and below a point, and columns to its right and left.
_STEPS, _COLUMNS = 40, 4


class Whisker(NamedTuple):
    """A vertical line in a chart, in data units."""

    x: float
    low: float
    high: float


class _Label(NamedTuple):
    """A text at its place: its left edge, the middle of its height and its size, in inches within the axes."""

    left: float
    middle: float
    width: float
    height: float

    def meets(self, other: _Label) -> bool:
        return (
            abs(self.middle - other.middle) < (self.height + other.height) / 2
            and self.left < other.left + other.width
            and other.left < self.left + self.width
        )


def label_apart(
    axes: Axes, points: Sequence[tuple[float, float, str]], whiskers: Sequence[Whisker] = (), *, letters: float = 1.6
) -> None:
    """Write names beside points, as near as possible without covering another name, a point or a whisker.

    Points that lie on one another share a label. Nothing leaves the axes.

    Args:
        axes: whose place and limits are final.
        points: x, y in data units, and the name.
        whiskers: that names stay clear of.
        letters: inches, the longest line of a label.
    """
    size = _inches(axes)
    names = _names_of_points(axes, points)
    taken = [_Label(x - _MARKER, y, 2 * _MARKER, 2 * _MARKER) for x, y in names]
    taken += [_covered(axes, whisker) for whisker in whiskers]
    labels: list[_Label] = []
    for (x, y), own in names.items():
        text = fold(", ".join(sorted(own, key=natural)), min(letters, size.width), LEGEND_POINTS)
        label = _free(x, y, widest([text], LEGEND_POINTS), text_height(text, LEGEND_POINTS), size, taken, labels)
        labels.append(label)
        taken += [label, *_leader(x, y, label)]
        _write(axes, x, y, text, label)


def _inches(axes: Axes) -> Bbox:
    """Return the size of axes in inches."""
    return axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())


def _within(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Return a point of the data in inches from the lower left corner of the axes."""
    size = _inches(axes)
    right, up = (axes.transData + axes.transAxes.inverted()).transform((x, y))
    return float(right) * size.width, float(up) * size.height


def _covered(axes: Axes, whisker: Whisker) -> _Label:
    x, low = _within(axes, whisker.x, whisker.low)
    _, high = _within(axes, whisker.x, whisker.high)
    # A marker may be at either end.
    return _Label(x - _MARKER, (low + high) / 2, 2 * _MARKER, abs(high - low) + _MARKER)


def _names_of_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> dict[tuple[float, float], list[str]]:
    """Return the names at each point in inches, those at the top and bottom first."""
    names: dict[tuple[float, float], list[str]] = {}
    for data_x, data_y, name in sorted(points, key=lambda point: (-abs(point[1] - 50), *point)):
        x, y = _within(axes, data_x, data_y)
        near = (at for at in names if abs(at[0] - x) < _OVERLAP and abs(at[1] - y) < _OVERLAP)
        names.setdefault(next(near, (x, y)), []).append(name)
    return names


def _free(
    x: float, y: float, width: float, height: float, size: Bbox, taken: Sequence[_Label], labels: Sequence[_Label]
) -> _Label:
    """Return the nearest free place for a label of some width and height; one beside its point where there is none."""
    nearest = [label for _, label in sorted(_places(x, y, width, height, size), key=lambda place: place[0])]
    free = [label for label in nearest if not any(map(label.meets, taken))]
    uncrossed = (label for label in free if not _crosses(x, y, label, labels))
    return next(uncrossed, next(iter(free), nearest[0]))


def _leader(x: float, y: float, label: _Label) -> list[_Label]:
    """Return small boxes along the line from a point to its label; none where the label is next to the point."""
    near_x = min(max(x, label.left), label.left + label.width)
    near_y = min(max(y, label.middle - label.height / 2), label.middle + label.height / 2)
    length = abs(near_x - x) + abs(near_y - y)
    if length <= _NEXT:
        return []
    count = int(length / _DOT)
    # The ends touch the point and the label.
    shares = [step / count for step in range(2, count - 1)]
    return [_Label(x + share * (near_x - x), y + share * (label.middle - y), _DOT / 4, _DOT / 4) for share in shares]


def _crosses(x: float, y: float, label: _Label, others: Sequence[_Label]) -> bool:
    """Say whether the line to a label crosses another."""
    return any(dot.meets(other) for dot, other in product(_leader(x, y, label), others))


def _places(x: float, y: float, width: float, height: float, size: Bbox) -> Iterator[tuple[float, _Label]]:
    """Yield places within the axes, with how far they are from the point."""
    line = text_height("", LEGEND_POINTS)
    centred = min(max(x - width / 2, 0.0), size.width - width)
    lefts = [x + _SPACE + column * (width + _SPACE) for column in range(_COLUMNS)]
    lefts += [x - (column + 1) * (width + _SPACE) for column in range(_COLUMNS)]
    yield 1e9, _Label(centred, min(max(y, height / 2), size.height - height / 2), width, height)
    for step, left in product(range(-_STEPS, _STEPS + 1), [*lefts, centred]):
        middle = y + step * line / 2
        if left >= 0 and left + width <= size.width and height / 2 <= middle <= size.height - height / 2:
            sideways = max(left - x, x - left - width, 0.0)
            yield sideways + abs(middle - y), _Label(left, middle, width, height)


def _write(axes: Axes, x: float, y: float, text: str, label: _Label) -> None:
    """Write a label, with a line to its point where it is not next to it."""
    size = _inches(axes)
    left_of_point = label.left + label.width <= x
    if _leader(x, y, label):
        near = min(max(x, label.left), label.left + label.width)
        ends = [x / size.width, near / size.width], [y / size.height, label.middle / size.height]
        axes.plot(*ends, transform=axes.transAxes, color=SOFT, linewidth=0.4, zorder=1)
    axes.text(
        (label.left + label.width * left_of_point) / size.width,
        label.middle / size.height,
        text,
        transform=axes.transAxes,
        ha="right" if left_of_point else "left",
        va="center",
        fontsize=LEGEND_POINTS,
        linespacing=1.0,
    )
