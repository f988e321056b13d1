"""The statistics behind every interval, gap and verdict, without scipy so that tables and comparisons start at once."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import zip_longest
from math import exp, fsum, lgamma, log, sqrt
from sys import float_info
from typing import NamedTuple

#: The 97.5 % point of the standard normal distribution.
Z95 = 1.959963984540054

#: At which a test of a change calls it real, after the correction for all tests that were made.
ALPHA = 0.05
#: No p-value is below it: a smaller one could not be told from 0, which no test of finitely many examples gives.
LEAST_P = float_info.min
#: Smaller p-values are not written out: their digits say nothing.
_LEAST_WRITTEN = 0.001
#: Up to this many changed examples, p-values are exact integer sums.
_COUNTED = 1_000


def is_large(lost: int, gained: int, n: int, points: float) -> bool:
    """Say whether a share changed by at least so many percentage points.

    Args:
        lost: examples that succeed the first time only.
        gained: those that succeed the second time only.
        n: all examples.
        points: the least change that counts.
    """
    return Fraction(abs(lost - gained), n) >= _share(points)


@lru_cache(maxsize=16)
def _share(points: float) -> Fraction:
    # As text, so that 0.5 points of 1,000 images are 5 images and not 4.999.
    return Fraction(str(points)) / 100


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, ``None`` for a single value."""
    if len(values) < 2:
        return None
    mean = fsum(values) / len(values)
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def wilson(successes: float, n: float) -> Interval:
    """Return a proportion with its 95 % score interval (Wilson, 1927).

    Args:
        successes: in [0, n]; fractional if it is a mean over seeds.
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
        both: examples that succeed both times; counts are fractional if they are means over seeds.
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


def changed_images(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many images succeed more often the first time, and how many the second, over several runs.

    The runs share their images, which are what was drawn at random: so an image has one vote, for the time at which it
    succeeds in more of the runs. Of one run these are the two counts of McNemar's test, of several of the sign test,
    which is the same test of them.

    Args:
        pairs: for each run which images succeed, as the bits of one integer each.
    """
    for_first = counted(first & ~second for first, second in pairs)
    for_second = counted(second & ~first for first, second in pairs)
    more = fewer = 0
    # The highest digit in which the two counts of an image differ decides.
    for a, b in reversed(list(zip_longest(for_first, for_second, fillvalue=0))):
        more, fewer = more | (a & ~b & ~fewer), fewer | (b & ~a & ~more)
    return more.bit_count(), fewer.bit_count()


def counted(sets: Iterable[int]) -> list[int]:
    """Return how many of the sets each image is in, in binary: for each digit, the lowest first, where it is one.

    Args:
        sets: of images, as the bits of one integer each.
    """
    digits: list[int] = []
    for carry in sets:
        for position, digit in enumerate(digits):
            digits[position], carry = digit ^ carry, digit & carry
        if carry:
            digits.append(carry)
    return digits


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value that success is as likely both times (McNemar, 1947).

    Of the examples that changed, half should have changed each way: the binomial test with p = 1/2.
    """
    rarer, changed = min(first_only, second_only), first_only + second_only
    return _mcnemar_values(changed)[rarer] if changed <= _COUNTED else _mcnemar_of_many(rarer, changed)


@lru_cache(maxsize=_COUNTED + 1)
def _mcnemar_values(changed: int) -> list[float]:
    """Return every p-value that as many changed examples can give, rising, by how many changed the rarer way.

    The sums are integers, so each is exact.
    """
    term = total = 1
    values = []
    for k in range(changed // 2 + 1):
        values.append(min(1.0, 2 * total / (1 << changed)))
        term = term * (changed - k) // (k + 1)
        total += term
    return values


@lru_cache(maxsize=65536)
def _mcnemar_of_many(rarer: int, changed: int) -> float:
    """Return the p-value where integers would be too long, accurate to seven digits for 50 million images."""
    log_term = lgamma(changed + 1) - lgamma(rarer + 1) - lgamma(changed - rarer + 1) - changed * log(2)
    term = total = 1.0
    for k in range(rarer, 0, -1):
        term *= k / (changed - k + 1)
        total += term
        if term < 1e-17 * total:
            break
    return max(min(1.0, 2 * exp(log_term) * total), LEAST_P)


def p_number(p: float) -> str:
    """Return a p-value for a column: ``0.012`` or ``< 0.001``, and never 0."""
    return f"< {_LEAST_WRITTEN}" if p < _LEAST_WRITTEN else f"{p:.2g}"


def p_text(p: float, name: str = "p") -> str:
    """Return a p-value for a line: ``p = 0.012`` or ``p < 0.001``."""
    number = p_number(p)
    return f"{name} {number}" if number.startswith("<") else f"{name} = {number}"


def holm_mcnemar(pairs: Sequence[tuple[int, int]], others: Sequence[float] = ()) -> list[float]:
    """Return the p-values of exact McNemar tests, and those of others, adjusted for all tests made, in the order given.

    Holm's procedure (1979) with the bound of Westfall and Wolfinger (The American Statistician 51, 1997, 3-8). To
    adjust a p-value, every test adds the largest p-value that it can give without exceeding that one, instead of that
    one. So a pair in which hardly anything changed, and which no outcome could make clear, costs the others nothing.
    The chance of any false rejection is at most that of plain Holm's bound, whatever the dependence, and every
    adjusted value at most Holm's.

    Args:
        pairs: examples that succeed the first time only, and the second time only.
        others: p-values of tests that can give any.
    """
    p_values = [*(mcnemar(first, second) for first, second in pairs), *others]
    left, others_left = Counter(first + second for first, second in pairs), len(others)
    adjusted = [1.0] * len(p_values)
    largest, last = 0.0, -1.0
    for i in sorted(range(len(p_values)), key=p_values.__getitem__):
        # Of several equal ones the first has the largest sum.
        if p_values[i] > last:
            of_pairs = sum(tests * _at_most(p_values[i], changed) for changed, tests in left.items())
            largest = max(largest, of_pairs + others_left * p_values[i])
            last = p_values[i]
        if largest >= 1:
            break
        adjusted[i] = largest
        if i < len(pairs):
            left[sum(pairs[i])] -= 1
        else:
            others_left -= 1
    return adjusted


def _at_most(p_value: float, changed: int) -> float:
    if changed > _COUNTED:
        # Its p-values are so dense that the largest below is almost the same.
        return p_value
    values = _mcnemar_values(changed)
    position = bisect_right(values, p_value)
    return values[position - 1] if position else 0.0
