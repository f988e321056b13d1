"""Which changes are real: every result is tested against the one before it and the first since the last change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from bench.report.comparison.compare import MIN_EFFECT
from bench.report.comparison.seeds import ALPHA
from bench.report.timeline.lines import Lane, Point
from bench.report.timeline.places import Place
from bench.stats import holm_mcnemar, mcnemar

PointVerdict = Literal["first", "same measurement", "no change", "worse", "better", "failed", "not tested"]

#: Rounds in which a new change gives later results another first one.
_MAX_ROUNDS = 50


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

    @property
    def is_change(self) -> bool:
        return self.verdict in ("worse", "better")


@dataclass(frozen=True)
class Changes:
    """The verdict on every point of every lane, by the index of the lane, and how many tests were made."""

    judged: tuple[tuple[Judged, ...], ...]
    tests: int


def before(lane: Lane, places: Sequence[Place]) -> list[int | None]:
    """Return for each point the index of the one that it follows: its nearest ancestor that was measured.

    Where there is none, it is the point before it. What was measured with uncommitted changes is followed by nothing,
    and so are failures and what kept no outcomes.
    """
    # By the rank of its commit, the index of the point.
    of_rank: dict[int, int] = {}
    ranks = 0
    last: int | None = None
    result: list[int | None] = []
    for index, point in enumerate(lane.points):
        place = places[point.place]
        nearest = place.ancestors & ranks
        result.append(of_rank[nearest.bit_length() - 1] if nearest else last)
        if point.outcomes is None or place.origin.dirty:
            continue
        last = index
        if place.rank is not None:
            ranks |= 1 << place.rank
            of_rank[place.rank] = index
    return result


class _Tests:
    """The tests of a page: counted once each, adjusted together."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.adjusted: dict[tuple[int, int, int], float] = {}
        #: The largest p-value that was clear in the last round.
        self._clear = 0.0

    def test(self, name: tuple[int, int, int], points: Sequence[Point]) -> Test:
        """Return a test of two points of a lane; a new one is taken for clear if others of its p-value were."""
        _, against, index = name
        counts = self.counts.get(name)
        if counts is None:
            old, new = points[against].outcomes, points[index].outcomes
            assert old is not None and new is not None
            counts = self.counts[name] = old.but_not(new).count, new.but_not(old).count
        p = mcnemar(*counts)
        return Test(against, *counts, p, self.adjusted.get(name, 0.0 if p <= self._clear else 1.0))

    def adjust(self) -> None:
        """Adjust all tests made so far, for each other."""
        self.adjusted = dict(zip(self.counts, holm_mcnemar(list(self.counts.values())), strict=True))
        clear = (mcnemar(*self.counts[name]) for name, adjusted in self.adjusted.items() if adjusted < ALPHA)
        self._clear = max(clear, default=0.0)


def judge(lanes: Sequence[Lane], places: Sequence[Place], min_effect: float = MIN_EFFECT) -> Changes:
    """Return which points of lanes are real changes.

    Each point has a test against the one before it, and one against the first point since the last change, which finds
    what came in steps too small for the other. A change begins a new stretch, whose first point is that of the change,
    and so adds tests; all tests ever made count in Holm's correction, until no further one is made.

    Args:
        lanes: of all lines of the page.
        places: of the axis.
        min_effect: the smallest change that counts, in percentage points.
    """
    # As text, so that 0.5 points of 1,000 images are 5 images and not 4.999.
    least = Fraction(str(min_effect)) / 100
    followed = [before(lane, places) for lane in lanes]
    tests = _Tests()
    for _ in range(_MAX_ROUNDS):
        made = len(tests.counts)
        judged = [
            list(_judge_lane(number, lane.points, follows, tests, least))
            for number, (lane, follows) in enumerate(zip(lanes, followed, strict=True))
        ]
        if len(tests.counts) == made:
            break
        tests.adjust()
    return Changes(tuple(map(tuple, judged)), len(tests.counts))


def _judge_lane(
    number: int, points: Sequence[Point], follows: Sequence[int | None], tests: _Tests, least: Fraction
) -> Iterator[Judged]:
    """Yield the verdict on each point of a lane, by the tests as they are adjusted by now."""
    #: For each point the first of its stretch.
    firsts: list[int] = []
    for index, (point, previous) in enumerate(zip(points, follows, strict=True)):
        firsts.append(index if previous is None else firsts[previous])
        if point.outcomes is None:
            yield Judged("failed" if point.error else "not tested")
        elif previous is None:
            yield Judged("first")
        else:
            judged = _judge_point((number, previous, index), firsts[previous], points, tests, least)
            if judged.is_change:
                firsts[index] = index
            yield judged


def _judge_point(
    name: tuple[int, int, int], first: int, points: Sequence[Point], tests: _Tests, least: Fraction
) -> Judged:
    number, previous, index = name
    n = points[index].n
    step = tests.test(name, points)
    drift = step if first == previous else tests.test((number, first, index), points)
    for test in (step, drift):
        if test.adjusted < ALPHA and Fraction(abs(test.lost - test.gained), n) >= least:
            return Judged("worse" if test.lost > test.gained else "better", test, drifted=test.against != previous)
    if points[index].carried_from is not None and step.lost + step.gained == 0:
        return Judged("same measurement", step)
    return Judged("no change", step)
