"""What a timeline says, in the words of every format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.report.timeline.build import Timeline, Told, ToldLane, ToldLine
from bench.report.timeline.costs import NAMES, SECONDS, cost_of
from bench.stats import ALPHA, p_text

SIGNS = {"worse": "-", "better": "+", "failed": "!"}
_NO_ANCESTOR = "no commit that it was built on has a result here"
_NO_ORDER = "which result came before it is not known"


def counted(count: int, what: str) -> str:
    """Return a number of things: ``1 commit``, ``1,200 commits``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def summary(t: Timeline) -> str:
    """Return what was found, in one sentence."""
    failures = sum(told.fails_now for _, _, told in t.points)
    costs = sum(len(line.cost_changes) for line in t.lines)
    found = [counted(t.changed, "real change") if t.tests or t.changed else "nothing to compare yet"]
    found += [f"{counted(failures, 'cell')} began to fail"] if failures else []
    found += [f"{counted(costs, 'change')} of counted cost"] if costs else []
    return f"{counted(commits(t), 'commit')}, {counted(len(t.lines), 'line')}: {', '.join(found)}"


def commits(t: Timeline) -> int:
    """Return how many commits the axis has, whether or not the repository knows them."""
    return len({place.origin.commit for place in t.places if place.origin.commit})


def method(t: Timeline) -> str:
    """Return how changes were told from chance, in one sentence."""
    if not t.tests and all(len(lane.points) == 1 for lane in t.lanes):
        return (
            "Every line has one point in its lane, so there is nothing to compare: run --record on further commits "
            "of this machine adds points"
        )
    if not t.tests:
        return f"No two results of a lane can be compared: {'; '.join(_obstacles(t))}"
    return (
        f"{counted(t.measurements, 'result')}, each tested image by image against the run before and the first since "
        f"the last change: {counted(t.tests, 'test')} (exact McNemar, Holm at {100 * ALPHA:g} %, at least "
        f"{t.min_effect:g} points)"
    )


def _obstacles(t: Timeline) -> Iterator[str]:
    """Yield why results that are not alone in their lane have no test."""
    told = [told for _, lane, told in t.points if len(lane.points) > 1]
    if any(each.point.is_without_outcomes for each in told):
        yield "outcomes of images were not kept"
    if any(each.point.error for each in told):
        yield "cells failed"
    if sum(each.follows is None and each.point.outcomes is not None for each in told) > 1:
        yield "nothing says which of them was built on which"


def remarks(t: Timeline) -> Iterator[str]:
    """Yield what a reader must know of the axis, and what was left out."""
    yield from t.notes
    unknown = sum(place.is_unknown_commit for place in t.places)
    homeless = sum(place.origin.commit is None for place in t.places)
    dirty = sum(place.origin.dirty for place in t.places)
    if unknown:
        yield (
            f"{counted(unknown, 'commit')} that this repository does not know: placed by the time of "
            f"{'its' if unknown == 1 else 'their'} first result, not by ancestry"
        )
    if repeats := sum(place.only_repeats for place in t.places):
        yield (
            "without a result of their own, so that nothing tells when they were, and nothing is compared with them "
            f"later: {counted(repeats, 'commit')} of these"
        )
    if homeless:
        yield f"{counted(homeless, 'source')} without a commit, measured outside a repository: placed by time"
    if without := sum(told.point.is_without_outcomes for _, _, told in t.points):
        yield f"{counted(without, 'result')} without outcomes of images: drawn, and compared with none"
    if dirty:
        yield f"{counted(dirty, 'place')} with uncommitted changes: marked, and nothing is compared with them later"


def percent(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.2f} %"


def change(lane: ToldLane, told: Told) -> str:
    """Return a change in numbers."""
    if told.fails_now:
        return f"fails{_where(lane)}: {told.point.error}"
    test = told.judged.test
    assert test is not None
    earlier = lane.points[test.against]
    old, new = earlier.point.share, told.point.share
    points = f" ({100 * (new - old):+.2f})" if old is not None and new is not None else ""
    counts = f"{test.lost} lost and {test.gained} gained of {told.point.n:,}"
    since = f"in small steps since {earlier.place.label}" if told.judged.drifted else f"against {earlier.place.label}"
    return (
        f"{percent(old)} -> {percent(new)}{points}{_where(lane)}, {counts} "
        f"{since}, {p_text(test.p)}, {p_text(test.adjusted, 'Holm')}"
    )


def _where(lane: ToldLane) -> str:
    return f" {lane.where}" if lane.where else ""


def cost_change(lane: ToldLane, told: Told) -> str:
    """Return the counted costs that changed at a point; empty where none did."""
    changes = ", ".join(f"{NAMES[each.field]} {_amount(each.old)} -> {_amount(each.new)}" for each in told.costs)
    return changes and f"{changes}{_where(lane)}"


def _amount(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.6g} {unit}"
    return f"{value:,.6g}"


def remarks_of(lane: ToldLane, told: Told) -> list[str]:
    """Return what else is known of a point, a line each."""
    lines = list(told.remarks)
    if told.judged.is_change and told.judged.test is not None:
        skipped = _between(lane, told, told.judged.test.against)
        lines += [f"{counted(skipped, 'commit')} between the two without a result here"] if skipped else []
    if told.point.is_without_outcomes:
        lines.append("the outcomes of its images were not kept: compared with none")
    if told.judged.brought_by is not None:
        lines.append(f"a merge brought the change of {lane.points[told.judged.brought_by].place.label}")
    if told.follows is None and told is not lane.points[0] and told.point.outcomes is not None:
        lines.append(f"{_NO_ANCESTOR if told.place.known else _NO_ORDER}: compared with none")
    lines += [told.place.remark] if told.place.remark else []
    return lines


def _between(lane: ToldLane, told: Told, against: int) -> int:
    """Return how many known commits since an earlier point have no result: each may have made the change."""
    old = lane.points[against].place
    if old.rank is None or not told.place.ancestors >> old.rank & 1:
        return 0
    between = told.place.ancestors & ~old.ancestors & ~(1 << old.rank)
    for other in lane.points:
        if other.place.rank is not None and other.point.outcomes is not None:
            between &= ~(1 << other.place.rank)
    return between.bit_count()


def record(line: ToldLine, lane: ToldLane, told: Told) -> dict[str, Any]:
    """Return a point as flat data, for CSV and JSON."""
    point, place = told.point, told.place
    test = told.judged.test
    against = lane.points[test.against].place.origin if test else None
    return {
        "commit": place.origin.commit,
        "dirty": place.origin.dirty,
        "accuracy_under_attack": point.share,
        "ci_low": point.low,
        "ci_high": point.high,
        "n": point.n,
        "verdict": told.judged.verdict,
        "drifted": told.judged.drifted,
        "against": against.commit if against else None,
        "lost": test.lost if test else None,
        "gained": test.gained if test else None,
        "p": test.p if test else None,
        "adjusted_p": test.adjusted if test else None,
        **{field: cost_of(point, field) for field in (*NAMES, SECONDS)},
        "cost_change": cost_change(lane, told),
        "remarks": "; ".join((*remarks_of(lane, told), *([point.error] if point.error else []))),
        "measured_at": point.carried_from.commit if point.carried_from else place.origin.commit,
        "finished": point.finished,
    }
