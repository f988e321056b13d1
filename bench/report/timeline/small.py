"""Small lines of the terminal: accuracy in blocks over commits, with a bar where two sides are not compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.report.timeline.build import Told, ToldLane, ToldLine

BAR = "│"
#: Letters, without bars.
_WIDTH = 40
_BLOCKS = "▁▂▃▄▅▆▇█"
#: A line of less than this range looks flat.
_LEAST_RANGE = 0.05


class _Shown(NamedTuple):
    """A point in a column of a small line."""

    lane: ToldLane
    number: int
    share: float


def rows(line: ToldLine) -> list[list[ToldLane]]:
    """Return the lanes of each small line: one that begins where the lane before it goes on has a line of its own."""
    found: list[list[ToldLane]] = []
    for lane in line.lanes:
        if found and not lane.lane.is_beside:
            found[-1].append(lane)
        else:
            found.append([lane])
    return found


def drawn(line: ToldLine, places: int) -> list[str]:
    """Return the small line of each row of lanes; all have the same range from bottom to top.

    A column shows the last accuracy in a part of the axis. Of several branches in one part that is the branch on which
    the lane ends.
    """
    known = [told.point.share for _, told in line.points if told.point.share is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = max(high - low, _LEAST_RANGE)
    low -= (spread - (high - low)) / 2
    return [_row(lanes, places, low, spread) for lanes in rows(line)]


def _row(lanes: Sequence[ToldLane], places: int, low: float, spread: float) -> str:
    letters: list[str] = []
    before: _Shown | None = None
    for shown in _columns(lanes, places):
        if shown is None:
            letters.append(" ")
            continue
        if before is not None and not _is_followed(before, shown):
            # An empty column has room for the bar.
            if letters[-1] == " ":
                letters.pop()
            letters.append(BAR)
        letters.append(_BLOCKS[min(int((shown.share - low) / spread * len(_BLOCKS)), len(_BLOCKS) - 1)])
        before = _first_of(shown)
    return "".join(letters)


def _columns(lanes: Sequence[ToldLane], places: int) -> list[_Shown | None]:
    width = min(_WIDTH, places)
    columns: list[_Shown | None] = [None] * width
    for lane in lanes:
        ends = [index for index, told in enumerate(lane.points) if not told.place.only_repeats]
        trunk = set(_back(lane.points, ends[-1])) if ends else set()
        for index, told in enumerate(lane.points):
            column = told.point.place * width // places
            old = columns[column]
            is_behind = old is not None and old.lane is lane and old.number in trunk and index not in trunk
            if told.point.share is not None and not is_behind:
                columns[column] = _Shown(lane, index, told.point.share)
    return columns


def _first_of(shown: _Shown) -> _Shown:
    """Return the point whose measurement a commit repeats of which nothing else is known: it stands for that one."""
    told = shown.lane.points[shown.number]
    return shown._replace(number=told.follows) if told.place.only_repeats and told.follows is not None else shown


def _back(points: Sequence[Told], index: int) -> Iterator[int]:
    """Yield a point, the one that it follows, and so on."""
    step: int | None = index
    while step is not None:
        yield step
        step = points[step].follows


def _is_followed(old: _Shown, new: _Shown) -> bool:
    if old.lane is not new.lane:
        return False
    return any(index == old.number for index in _back(new.lane.points, new.number) if index >= old.number)
