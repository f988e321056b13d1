"""Which changes are real: every result is tested against the one before it and the first since the last change.

That of a merge follows its first parent; what another parent brought is no change again if it is marked there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.outcomes import Outcomes
from bench.report.comparison.compare import MIN_EFFECT
from bench.report.timeline.lines import Lane, Point
from bench.report.timeline.parents import Parents, merged, parents
from bench.report.timeline.places import Place
from bench.stats import ALPHA, holm_mcnemar, is_large, mcnemar

PointVerdict = Literal["first", "same measurement", "no change", "worse", "better", "failed", "not tested"]

#: Rounds in which a new change gives later results another first one.
_MAX_ROUNDS = 50
#: In the name of a test, in place of the earlier point: what the parents of a merge make together.
_MERGED = -1


class Test(NamedTuple):
    """A pair of results of one lane, image by image."""

    #: The index of the earlier point.
    against: int
    #: Images right in the earlier only, and in the later only.
    lost: int
    gained: int
    p: float
    #: By Holm, over all tests of the page.
    adjusted: float


class Judged(NamedTuple):
    """What is said of a point."""

    verdict: PointVerdict
    #: Of a change the test that shows it, else that against the result before; ``None`` where none was made.
    test: Test | None = None
    #: Whether only the distance to the first since the last change shows it: it came in small steps.
    drifted: bool = False
    #: Of a merge that differs from its first parent: the index of the last point that is marked for it on a side.
    brought_by: int | None = None

    @property
    def is_change(self) -> bool:
        return self.verdict in ("worse", "better")


@dataclass(frozen=True)
class Changes:
    """The verdict on every point of every lane, by the index of the lane, and how many tests were made."""

    judged: tuple[tuple[Judged, ...], ...]
    tests: int


class _Tests:
    """The tests of a page: counted once each, adjusted together."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.adjusted: dict[tuple[int, int, int], float] = {}
        #: The largest p-value that was clear in the last round.
        self._clear = 0.0

    def test(self, name: tuple[int, int, int], points: Sequence[Point]) -> Test:
        """Return a test of two points of a lane."""
        _, against, index = name
        return self._of(name, _outcomes(points[against]), _outcomes(points[index]))

    def merge(self, name: tuple[int, int, int], points: Sequence[Point], parents: Parents) -> Test:
        """Return a test of a merge against what its parents make of each image."""
        number, first, index = name
        made = merged(points, parents)
        test = self._of((number, _MERGED, index), made, _outcomes(points[index]))
        return test._replace(against=first)

    def _of(self, name: tuple[int, int, int], old: Outcomes, new: Outcomes) -> Test:
        """Return a test; a new one is taken for clear if others of its p-value were."""
        counts = self.counts.get(name)
        if counts is None:
            counts = self.counts[name] = old.but_not(new).count, new.but_not(old).count
        p = mcnemar(*counts)
        return Test(name[1], *counts, p, self.adjusted.get(name, 0.0 if p <= self._clear else 1.0))

    def adjust(self) -> None:
        """Adjust all tests made so far, for each other."""
        self.adjusted = dict(zip(self.counts, holm_mcnemar(list(self.counts.values())), strict=True))
        clear = (mcnemar(*self.counts[name]) for name, adjusted in self.adjusted.items() if adjusted < ALPHA)
        self._clear = max(clear, default=0.0)


def _outcomes(point: Point) -> Outcomes:
    assert point.outcomes is not None
    return point.outcomes


def judge(lanes: Sequence[Lane], places: Sequence[Place], min_effect: float = MIN_EFFECT) -> Changes:
    """Return which points of lanes are real changes.

    Each point has a test against the one before it, and one against the first point since the last change, which finds
    what came in steps too small for the other. A change begins a new stretch, whose first point is that of the change,
    and so adds tests; all tests ever made count in Holm's correction, until no further one is made.

    The point of a merge follows the nearest measured one through its first parent. Where it differs from that, and a
    point that another parent brought is marked for a change in this direction, it is also tested against what the
    parents make of each image: if it does not differ from that, there is nothing new at it.

    Args:
        lanes: of all lines of the page.
        places: of the axis.
        min_effect: the smallest change that counts, in percentage points.
    """
    followed = [parents(lane, places) for lane in lanes]
    tests = _Tests()
    for _ in range(_MAX_ROUNDS):
        made = len(tests.counts)
        judged = [
            _judge_lane(number, lane.points, follows, tests, min_effect)
            for number, (lane, follows) in enumerate(zip(lanes, followed, strict=True))
        ]
        if len(tests.counts) == made:
            break
        tests.adjust()
    return Changes(tuple(map(tuple, judged)), len(tests.counts))


def _judge_lane(
    number: int, points: Sequence[Point], followed: Sequence[Parents], tests: _Tests, min_effect: float
) -> list[Judged]:
    """Return the verdict on each point of a lane, by the tests as they are adjusted by now."""
    #: For each point the first of its stretch.
    firsts: list[int] = []
    verdicts: list[Judged] = []
    for index, (point, of_point) in enumerate(zip(points, followed, strict=True)):
        previous = of_point.first
        firsts.append(index if previous is None else firsts[previous])
        if point.outcomes is None:
            verdicts.append(Judged("failed" if point.error else "not tested"))
        elif previous is None:
            verdicts.append(Judged("first"))
        else:
            name = (number, previous, index)
            judged = _judge_point(name, firsts[previous], points, tests, min_effect)
            if judged.is_change:
                marks = [side for side in of_point.brought if verdicts[side].verdict == judged.verdict]
                if marks and not _is_real(tests.merge(name, points, of_point), point.n, min_effect):
                    judged = Judged("no change", tests.test(name, points), brought_by=marks[-1])
                firsts[index] = index
            verdicts.append(judged)
    return verdicts


def _is_real(test: Test, n: int, min_effect: float) -> bool:
    return test.adjusted < ALPHA and is_large(test.lost, test.gained, n, min_effect)


def _judge_point(
    name: tuple[int, int, int], first: int, points: Sequence[Point], tests: _Tests, min_effect: float
) -> Judged:
    number, previous, index = name
    step = tests.test(name, points)
    drift = step if first == previous else tests.test((number, first, index), points)
    for test in (step, drift):
        if _is_real(test, points[index].n, min_effect):
            return Judged("worse" if test.lost > test.gained else "better", test, drifted=test.against != previous)
    if points[index].carried_from is not None and step.lost + step.gained == 0:
        return Judged("same measurement", step)
    return Judged("no change", step)
