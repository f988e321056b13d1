"""Accuracy against cost: the defenses that the page and the figure draw, and their Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TypeVar

from bench.report.leaderboard.flags import unproven
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.tables import Table

T = TypeVar("T")


def pareto_front(points: Iterable[T], cost: Callable[[T], float], score: Callable[[T], float]) -> list[T]:
    """Return the points that no cheaper or equally cheap one beats or equals, from cheap to expensive.

    Args:
        points: in any order; of equal ones the first counts.
        cost: of a point, where less is better.
        score: of a point, where more is better.
    """
    front: list[T] = []
    for point in sorted(points, key=lambda point: (cost(point), -score(point))):
        if not front or score(point) > score(front[-1]):
            front.append(point)
    return front


def primary(table: Table) -> list[ThreatSummary]:
    """Return the defenses under the threat by which a table is ranked, the first one."""
    groups = list(dict.fromkeys(column.group for column in table.columns))
    attacked = [summary for summary in table.threats if summary.threat and summary.group in groups]
    first = min((groups.index(summary.group) for summary in attacked), default=None)
    return [summary for summary in attacked if groups.index(summary.group) == first]


def full_knowledge(summary: ThreatSummary) -> Value | None:
    """Return the worst case under an attacker that sees the entire defense: adaptive, or white-box without a step."""
    value = summary.worst.get("adaptive") or summary.worst.get("white-box")
    return value if value and value.number is not None else None


def cost_front(summaries: Iterable[ThreatSummary]) -> list[tuple[float, float]]:
    """Return the Pareto front of defenses: FLOPs per image and worst case in [0, 1], from cheap to expensive.

    What is only the word of a stranger has no part in it.
    """
    points: list[tuple[float, float]] = []
    for summary in summaries:
        value = full_knowledge(summary)
        if summary.cost and value and value.number is not None and not unproven(value.footnotes):
            points.append((summary.cost.test_flops, value.number))
    return pareto_front(points, itemgetter(0), itemgetter(1))
