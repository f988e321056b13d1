"""The statistics behind every interval, gap and verdict, without scipy so that tables and comparisons start at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, sqrt
from typing import NamedTuple

#: The 97.5 % point of the standard normal distribution.
Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, n: float) -> Interval:
    """Return a proportion with its 95 % score interval (Wilson, 1927).

    Args:
        successes: in [0, n]; not whole where it is a mean over seeds.
        n: trials, at least 1.

    Raises:
        ValueError: the counts are impossible.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials is impossible")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends of the range the exact limit is 0 or 1; rounding would leave it 1e-17 beside.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high)


def paired_difference(both: float, first_only: float, second_only: float, neither: float) -> Interval:
    """Return P(first) - P(second) on the same examples with its 95 % interval.

    Method 10 of Newcombe (Statistics in Medicine 17, 1998, 2635-2650): the two Wilson intervals, squared and added,
    with the correlation of the pairs and its continuity correction.

    Args:
        both: examples that succeed both times; counts are not whole where they are means over seeds.
        first_only: those that succeed the first time only.
        second_only: those that succeed the second time only.
        neither: those that succeed neither time.

    Raises:
        ValueError: a count is negative or all are zero.
    """
    if min(both, first_only, second_only, neither) < 0:
        raise ValueError("a count of examples is negative")
    n = both + first_only + second_only + neither
    first, second = wilson(both + first_only, n), wilson(both + second_only, n)
    product = both * neither - first_only * second_only
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    phi = product / sqrt(margins) if margins else 0.0

    def spread(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = first.value - second.value
    return Interval(
        difference,
        difference - spread(first.value - first.low, second.high - second.value),
        difference + spread(first.high - first.value, second.value - second.low),
    )


@lru_cache(maxsize=65536)
def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value that success is as likely both times (McNemar, 1947).

    Of the examples that changed, half should have changed each way: the binomial test with p = 1/2. The sums are
    whole numbers, so the value is right to the last digit.
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if 2 * k == n:
        return 1.0
    term = total = comb(n, k)
    for i in range(k, 0, -1):
        term = term * i // (n - i + 1)
        total += term
    return min(1.0, 2 * total / (1 << n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for all tests made (Holm, 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
