"""The Pareto front of accuracy against cost, which the page and the figure draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(points: Iterable[T], cost: Callable[[T], float], score: Callable[[T], float]) -> list[T]:
    """Return the points that no cheaper or equally cheap one beats or equals, from cheap to expensive.

    Args:
        points: in any order; of equal ones the first counts.
        cost: of a point, where less is better.
        score: of a point, where more is better.
    """
    front: list[T] = []
    for point in sorted(points, key=lambda each: (cost(each), -score(each))):
        if not front or score(point) > score(front[-1]):
            front.append(point)
    return front
