"""From runs to a timeline: places, lines, and what is said of every point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench.report.comparison.compare import MIN_EFFECT
from bench.report.timeline.changes import Judged, judge
from bench.report.timeline.costs import CostChange, cost_changes
from bench.report.timeline.lines import Collected, Lane, Line, Point, hardware
from bench.report.timeline.parents import failures_begun, parents
from bench.report.timeline.places import Place, places
from bench.store.ancestry import commit_pages, known_commits
from bench.store.runs import COMMIT, Run
from bench.types import UsageError


class Told(NamedTuple):
    """A point with all that is said of it."""

    point: Point
    place: Place
    judged: Judged
    costs: tuple[CostChange, ...]
    #: The index of the point that it follows.
    follows: int | None
    #: What changed at it without a break.
    remarks: tuple[str, ...]
    #: The cell fails, and did not at the commits before.
    fails_now: bool

    @property
    def is_change(self) -> bool:
        return self.judged.is_change or self.fails_now


@dataclass(frozen=True)
class ToldLane:
    lane: Lane
    points: tuple[Told, ...]
    #: Its machine or device, where the timeline has several: ``on box``; else empty.
    where: str = ""


@dataclass(frozen=True)
class ToldLine:
    line: Line
    lanes: tuple[ToldLane, ...]

    @property
    def points(self) -> Iterator[tuple[ToldLane, Told]]:
        """All points with their lanes, lane by lane."""
        for lane in self.lanes:
            for told in lane.points:
                yield lane, told

    @cached_property
    def changes(self) -> list[tuple[ToldLane, Told]]:
        """The points at which accuracy changed, or the cell began to fail, by their places."""
        return sorted((each for each in self.points if each[1].is_change), key=lambda each: each[1].point.place)

    @cached_property
    def cost_changes(self) -> list[tuple[ToldLane, Told]]:
        return sorted((each for each in self.points if each[1].costs), key=lambda each: each[1].point.place)


@dataclass(frozen=True)
class Timeline:
    places: tuple[Place, ...]
    #: Lines with changes first, and within these by name.
    lines: tuple[ToldLine, ...]
    min_effect: float
    #: Pairs of results that were tested, of which Holm's correction takes account.
    tests: int
    measurements: int
    notes: tuple[str, ...]

    @property
    def lanes(self) -> Iterator[Lane]:
        """The lanes of all lines."""
        for line in self.lines:
            yield from (told.lane for told in line.lanes)

    @property
    def points(self) -> Iterator[tuple[ToldLine, ToldLane, Told]]:
        """All points with their lines and lanes."""
        for line in self.lines:
            for lane, told in line.points:
                yield line, lane, told

    @property
    def machines(self) -> list[str]:
        return sorted({lane.machine for lane in self.lanes})

    @property
    def changed(self) -> int:
        """How many changes of accuracy are real."""
        return sum(told.judged.is_change for _, _, told in self.points)


def build(
    runs: Iterable[Run], repository: Path, *, only: str | None = None, min_effect: float = MIN_EFFECT
) -> Timeline:
    """Return the timeline of runs.

    Args:
        runs: to show, in any order; those of one measurement count once.
        repository: a folder within the repository whose commits are known.
        only: a part of the names of cells, or a pattern of them.
        min_effect: the smallest change that counts, in percentage points.

    Raises:
        UsageError: there are no results, none matches, or too many do.
    """
    collected = Collected(only)
    for run in runs:
        collected.add(run)
    measured = collected.measured
    if not measured:
        raise UsageError(f"no result matches --only {only}" if only else "the runs hold no results")
    commits = {origin.commit for origin in measured if origin.commit and COMMIT.fullmatch(origin.commit)}
    axis = places(measured, known_commits(repository, commits), commit_pages(repository))
    lines = collected.lines({place.origin: number for number, place in enumerate(axis)})
    lanes = list(chain.from_iterable(line.lanes for line in lines))
    changes = judge(lanes, axis, min_effect)
    told_lanes = iter(_tell(lanes, changes.judged, axis))
    told = [ToldLine(line, tuple(next(told_lanes) for _ in line.lanes)) for line in lines]
    return Timeline(
        places=tuple(axis),
        lines=tuple(sorted(told, key=lambda each: (not each.changes, not each.cost_changes))),
        min_effect=min_effect,
        tests=changes.tests,
        measurements=collected.measurements,
        notes=tuple(collected.left_out()),
    )


def _tell(lanes: Sequence[Lane], judged: Sequence[Sequence[Judged]], axis: Sequence[Place]) -> Iterator[ToldLane]:
    for lane, verdicts, where in zip(lanes, judged, hardware(lanes), strict=True):
        followed = parents(lane, axis)
        costs_of = cost_changes(lane, followed)
        parts = zip(lane.points, verdicts, costs_of, followed, failures_begun(lane, axis), strict=True)
        points = [
            Told(
                point,
                axis[point.place],
                verdict,
                costs,
                of_point.first,
                lane.remarks(index, of_point.first),
                fails_now,
            )
            for index, (point, verdict, costs, of_point, fails_now) in enumerate(parts)
        ]
        yield ToldLane(lane, tuple(points), f"on {where}" if where else "")
