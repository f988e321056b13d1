"""Names beside the points of a chart: none on another name or on a mark; where there is no room, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from bench.report.render.names import width_of

#: Size of the letters, and how high a line of them is.
_FONT = 16
_LINE = 19
#: From a point to its name, and from a point to the edge of its mark.
_AWAY = 11
_RADIUS = 7
#: Two points nearer than this look like one.
_OVERLAP = 4
#: How far above or below its point a name may be, in half lines, and a number.
_NAME_STEPS = 4
_NUMBER_STEPS = 40
#: A label that is further away has a line to its point.
_FAR = 6


class Box(NamedTuple):
    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Say whether two boxes have a place in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Say whether a box is inside this one."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


class Spot(NamedTuple):
    """A point, with the names of everything that lies there."""

    x: float
    y: float
    names: tuple[str, ...]


class Label(NamedTuple):
    """A text beside a point: it ends at ``x`` if it is to the left of its point, and else starts there."""

    text: str
    x: float
    y: float
    left: bool
    #: The ends of a line to its point, where that is far.
    leader: tuple[float, float, float, float] | None
    box: Box


class Labels(NamedTuple):
    labels: list[Label]
    #: The names that the numbers among the labels stand for.
    numbered: list[tuple[int, str]]
    #: How many names stand in the chart themselves.
    names: int


def mark(x: float, low: float, high: float) -> Box:
    """Return what a point with its interval covers, given the y of the ends of the interval."""
    top, bottom = sorted((low, high))
    return Box(x - _RADIUS, x + _RADIUS, top - _RADIUS, bottom + _RADIUS)


def place(spots: Sequence[Spot], marks: Sequence[Box], area: Box) -> Labels:
    """Return labels that lie inside the area, and neither on one another nor on a mark.

    Names stand beside their point. Where there is no room for them, neighbors share the numbers of a list; where names
    leave no room for these, there are numbers alone.

    Args:
        spots: the points that are to be named, one name each.
        marks: what all points cover.
        area: where labels may be.
    """
    labels = _place(spots, marks, area, _NAME_STEPS)
    shown = len(labels.numbered) + labels.names
    return labels if shown == len(spots) else _place(spots, marks, area, None)


def _place(spots: Sequence[Spot], marks: Sequence[Box], area: Box, name_steps: int | None) -> Labels:
    """Return names at most so many half lines from their point, and numbers for the rest; ``None``: numbers alone."""
    found: list[Label] = []
    crowded: list[Spot] = []
    middle = (area.top + area.bottom) / 2
    together = _clusters(spots, _OVERLAP, _OVERLAP)
    names = 0
    for spot in sorted(together, key=lambda spot: (-abs(spot.y - middle), spot.names)):
        taken = [*marks, *(label.box for label in found)]
        label = None if name_steps is None else _beside(spot, ", ".join(spot.names), name_steps, taken, area)
        if label is None:
            crowded.append(spot)
        else:
            found.append(label)
            names += len(spot.names)
    numbered: list[tuple[int, str]] = []
    for spot in _clusters(crowded, 2 * _OVERLAP, _LINE):
        first, last = len(numbered) + 1, len(numbered) + len(spot.names)
        shown = f"{first}" if first == last else f"{first}–{last}"
        label = _beside(spot, shown, _NUMBER_STEPS, [*marks, *(label.box for label in found)], area)
        if label is not None:
            found.append(label)
            numbered += enumerate(spot.names, first)
    return Labels(found, numbered, names)


def _clusters(spots: Iterable[Spot], near_x: float, near_y: float) -> list[Spot]:
    """Return points with those that lie near them, from left to right and from the top down."""
    clusters: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (round(spot.x), spot.y, spot.names)):
        near = (
            index
            for index, other in enumerate(clusters)
            if abs(other.x - spot.x) < near_x and abs(other.y - spot.y) < near_y
        )
        index = next(near, None)
        if index is None:
            clusters.append(spot)
        else:
            clusters[index] = clusters[index]._replace(names=clusters[index].names + spot.names)
    return clusters


def _beside(spot: Spot, shown: str, steps: int, taken: Sequence[Box], area: Box) -> Label | None:
    """Return a label at the nearest free height to the right or the left of its point; ``None`` if there is none."""
    width = _FONT * width_of(shown)
    for step, sign, left in product(range(steps + 1), (-1, 1), (False, True)):
        y = spot.y + sign * step * _LINE / 2
        x = spot.x - _AWAY if left else spot.x + _AWAY
        ends = (x - width, x) if left else (x, x + width)
        box = Box(*ends, y - _LINE / 2, y + _LINE / 2)
        if area.holds(box) and not any(box.meets(other) for other in taken):
            is_far = step * _LINE / 2 > _FAR
            leader = (spot.x, spot.y, x + (2 if left else -2), y) if is_far else None
            return Label(shown, x, y, left, leader, box)
    return None
