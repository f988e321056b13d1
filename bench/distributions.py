"""The beta and Student's t distribution, without scipy so that comparisons start at once."""

from __future__ import annotations

from functools import lru_cache
from math import exp, floor, inf, lgamma, log, log1p, log2, sqrt

#: Relative, where continued fractions and searches end.
_PRECISION = 1e-13
_TINY = 1e-300
#: The fraction takes about as many steps as the root of the larger shape.
_MOST_STEPS = 100_000
#: Of degrees of freedom: with more it is the normal distribution to eight digits.
_MANY = 1e8


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b): the chance that a beta variable is at most ``x``.

    By its continued fraction (Abramowitz and Stegun, 1964, 26.5.8), evaluated by Lentz's method.

    Args:
        x: in [0, 1].
        a: the first shape, above 0.
        b: the second shape, above 0.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # Beyond its mean it converges slowly.
    if x > (a + 1) / (a + b + 2):
        return 1 - _below(1 - x, b, a)
    return _below(x, a, b)


def _below(x: float, a: float, b: float) -> float:
    return exp(_log_density(x, a, b) + log(x) + log1p(-x)) / a * _fraction(x, a, b)


def _log_density(x: float, a: float, b: float) -> float:
    return lgamma(a + b) - lgamma(a) - lgamma(b) + (a - 1) * log(x) + (b - 1) * log1p(-x)


def _fraction(x: float, a: float, b: float) -> float:
    numerator = 1.0
    denominator = 1 / (1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            denominator = 1 / ((1 + term * denominator) or _TINY)
            numerator = (1 + term / numerator) or _TINY
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < _PRECISION:
            break
    return value


def beta_quantile(p: float, a: float, b: float) -> float:
    """Return the ``x`` at which :func:`beta_cdf` is ``p``, by Newton's method within a bracket that shrinks.

    Args:
        p: in (0, 1).
        a: the first shape, above 0.
        b: the second shape, above 0.
    """
    low, high = 0.0, 1.0
    x = a / (a + b)
    while high - low > _PRECISION * high:
        excess = beta_cdf(x, a, b) - p
        low, high = (low, x) if excess > 0 else (x, high)
        density = exp(_log_density(x, a, b))
        step = excess / density if density > 0 else inf
        if abs(step) < _PRECISION * x:
            break
        x = x - step if low < x - step < high else (low + high) / 2
    return x


def student_p(t: float, degrees: float) -> float:
    """Return the two-sided p-value of a t statistic.

    Args:
        t: the statistic.
        degrees: of freedom, above 0, which need not be whole; infinite for the normal distribution.
    """
    degrees = min(degrees, _MANY)
    return beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5)


def student_quantile(p: float, degrees: float) -> float:
    """Return the value that a t variable exceeds, to either side, with the chance ``p``.

    Args:
        p: in (0, 1): 0.05 for the ends of a 95 % interval.
        degrees: of freedom, at least 1. Where they are not whole they are rounded down, to a twentieth of a power of
            two, so that few values are computed for many intervals.
    """
    degrees = min(float(degrees), _MANY)
    return _student_quantile(p, degrees if degrees.is_integer() else 2 ** (floor(20 * log2(degrees)) / 20))


@lru_cache(maxsize=4096)
def _student_quantile(p: float, degrees: float) -> float:
    x = beta_quantile(p, degrees / 2, 0.5)
    return sqrt(degrees * (1 - x) / x)
