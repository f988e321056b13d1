"""What the point of a commit follows: one through first parents, and what merges brought since from other branches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.outcomes import Outcomes
from bench.report.timeline.lines import Lane, Point
from bench.report.timeline.places import Origin, Place


class Side(NamedTuple):
    """The last point of a branch that was merged."""

    tip: int
    #: The nearest point that it and the first parent both contain; ``None`` where there is none.
    fork: int | None


class Parents(NamedTuple):
    """By the indices of points in their lane."""

    #: The point that this one follows, which it is tested against and joined with.
    first: int | None
    sides: tuple[Side, ...] = ()
    #: All points that it contains and the first does not, in their order.
    brought: tuple[int, ...] = ()


def parents(lane: Lane, places: Sequence[Place], *, failures: bool = False) -> list[Parents]:
    """Return what each point follows: the nearest measured commit through first parents, else the nearest ancestor.

    Commits that the repository does not know stand by time: such a point follows the one before it, and so does that of
    a known commit before which only unknown ones were measured. A known commit of which no ancestor was measured has
    nothing before it otherwise: the last one is of an unrelated branch. Where time does not tell either, a point only
    follows the measurement that it repeats. What was measured with uncommitted changes is followed by nothing, and so
    is what kept no outcomes. Failures are followed only if that is asked for.
    """
    # By the rank of its commit, the index of the point.
    of_rank: dict[int, int] = {}
    ranks = 0
    by_time = _ByTime(lane.points, places)
    result: list[Parents] = []
    for index, point in enumerate(lane.points):
        place = places[point.place]
        measured = place.ancestors & ranks
        if measured:
            result.append(_parents(place, lane.points, places, measured, of_rank))
        else:
            is_unrelated = place.known and ranks
            result.append(Parents(None if is_unrelated else by_time.before(index)))
        counts = point.outcomes is not None or (failures and point.error)
        if not counts or place.origin.dirty:
            continue
        by_time.add(index, result[index].first)
        if place.rank is not None:
            ranks |= 1 << place.rank
            of_rank[place.rank] = index
    return result


class _ByTime:
    """The last points of a lane by the times of their places; with several, which of them came first is not known."""

    def __init__(self, points: Sequence[Point], places: Sequence[Place]) -> None:
        self._points = points
        self._places = [places[point.place] for point in points]
        self._of_origin: dict[Origin, int] = {}
        self._last: list[int] = []
        #: What the first of the last ones follows.
        self._before_last: int | None = None

    def before(self, index: int) -> int | None:
        """Return the point that one follows by time; ``None`` where there is none, or it is not known which."""
        if self._places[index].measured is None:
            return self._repeated(index)
        alike = {self._points[each].outcomes for each in self._last}
        if not self._has_time_of(index):
            return self._last[-1] if len(alike) == 1 else None
        # Between results that are one and the same, their order makes no difference.
        return self._last[-1] if alike == {self._points[index].outcomes} else self._before_last

    def add(self, index: int, follows: int | None) -> None:
        """Add a point, of which it is known what it follows, so that later ones may follow it."""
        place = self._places[index]
        self._of_origin[place.origin] = index
        if place.only_repeats:
            return
        by_ancestry = place.known and all(self._places[each].known for each in self._last)
        if self._has_time_of(index) and not by_ancestry:
            self._last.append(index)
        else:
            self._last, self._before_last = [index], follows

    def _has_time_of(self, index: int) -> bool:
        """Say whether one of the last points has the time of another."""
        measured = self._places[index].measured
        return measured is not None and any(self._places[each].measured == measured for each in self._last)

    def _repeated(self, index: int) -> int | None:
        """Return the point whose measurement another one repeats."""
        point = self._points[index]
        first = self._of_origin.get(point.carried_from) if point.carried_from is not None else None
        # By two versions of the code, two results may be of one place, of which the lane has one.
        is_same = first is not None and self._points[first].finished == point.finished
        return first if is_same else None


def _parents(
    place: Place, points: Sequence[Point], places: Sequence[Place], measured: int, of_rank: dict[int, int]
) -> Parents:
    """Return the parents of a place, of whose ancestors some were measured."""
    first = _highest(place.mainline & measured or measured)
    in_first = _with_ancestors(first, points, places, of_rank)
    brought = measured & ~in_first
    sides: list[Side] = []
    left = brought
    while left:
        tip = _highest(left)
        in_tip = _with_ancestors(tip, points, places, of_rank)
        shared = in_tip & in_first & measured
        sides.append(Side(of_rank[tip], of_rank[_highest(shared)] if shared else None))
        left &= ~in_tip
    return Parents(of_rank[first], tuple(sides), tuple(of_rank[rank] for rank in _ranks(brought)))


def _with_ancestors(rank: int, points: Sequence[Point], places: Sequence[Place], of_rank: dict[int, int]) -> int:
    return places[points[of_rank[rank]].place].ancestors | 1 << rank


def failures_begun(lane: Lane, places: Sequence[Place]) -> list[bool]:
    """Say of each point whether the cell begins to fail there: neither what it follows nor what it merges failed."""
    points = lane.points
    if not any(point.error for point in points):
        return [False] * len(points)
    begun: list[bool] = []
    for point, of_point in zip(points, parents(lane, places, failures=True), strict=True):
        before = [] if of_point.first is None else [of_point.first, *(side.tip for side in of_point.sides)]
        begun.append(bool(point.error and before) and not any(points[index].error for index in before))
    return begun


def _highest(ranks: int) -> int:
    return ranks.bit_length() - 1


def _ranks(bits: int) -> Iterator[int]:
    """Yield the ranks that are set, the lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def merged(points: Sequence[Point], parents: Parents) -> Outcomes:
    """Return what the parents of a merge make together, image by image, as a three-way merge makes it of lines.

    An image is as at the first parent, and as at the tip of a side where it changed there since the fork.
    """
    assert parents.first is not None
    own = _of(points, parents.first)
    bits = own.bits
    for side in parents.sides:
        tip, fork = _of(points, side.tip), _of(points, side.fork) if side.fork is not None else own
        changed = tip.bits ^ fork.bits
        bits = bits & ~changed | tip.bits & changed
    return Outcomes(bits, own.n)


def _of(points: Sequence[Point], index: int) -> Outcomes:
    outcomes = points[index].outcomes
    assert outcomes is not None
    return outcomes
