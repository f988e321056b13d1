"""Whether two runs differ by less than a margin: intervals of paired differences, over images and over seeds.

One trained network is one draw of its recipe. Over several seeds the images and the seeds are both samples, crossed:
every seed is measured on the same images. An interval over images alone would be too narrow, and so is a bootstrap over
few seeds, which draws from as many values as there are seeds. The variance of such a mean is known from studies in
which several readers judge the same cases, with seeds for readers and images for cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, product
from math import isfinite, sqrt
from statistics import NormalDist
from typing import NamedTuple

from bench.stats import LEAST_P, changed_images, counted, mcnemar

#: Images that one side alone gets right, as the bits of one integer.
Images = int
_PRECISION = 1e-9
#: Below it the chance of a t quantile has no normal one.
_TINY = 1e-15
#: Of a p-value: steps that change it by less, as a share, are no more taken.
_SETTLED = 1e-4
#: Of a search that mostly ends after five.
_STEPS = 40


class Ends(NamedTuple):
    """The ends of an interval of a difference of shares, in [-1, 1]."""

    low: float
    high: float

    def within(self, margin: float) -> bool:
        return -margin < self.low and self.high < margin


def paired_ends(lost: float, gained: float, n: float, error: float) -> Ends:
    """Return the interval of P(right in the second) - P(right in the first), of the same images.

    Tango's score interval (Statistics in Medicine 17, 1998, 891-908), which does not shrink to nothing where no image
    changed. Where few did, it is too narrow. So the end on the side to which more images changed is at least as far out
    as that of Clopper and Pearson (1934) would be if the images that changed on balance were all that did. A test of
    equivalence with both, whether the interval lies within a margin, is then wrong at most as often as ``error`` says:
    the tests compute that without chance.

    Args:
        lost: images that are right in the first only; fractional where they are a mean over seeds.
        gained: those that are right in the second only.
        n: all images, above 0 and at least as many as changed.
        error: the chance that the truth is beyond one end, in (0, 0.5): 0.05 for two one-sided tests at 5 %.
    """
    return Ends(-_farthest(lost, gained, n, error), _farthest(gained, lost, n, error))


def tango_ends(lost: float, gained: float, n: float, error: float) -> Ends:
    """Return Tango's score interval alone, of the same arguments as :func:`paired_ends`."""
    z = _quantile(error)
    return Ends(-_tango(lost, gained, n, z), _tango(gained, lost, n, z))


def _farthest(up: float, down: float, n: float, error: float) -> float:
    score = _tango(up, down, n, _quantile(error))
    return score if up < down else max(score, _clopper_pearson(up - down, n, error))


@lru_cache(maxsize=64)
def _quantile(error: float) -> float:
    return NormalDist().inv_cdf(1 - error)


@lru_cache(maxsize=65536)
def _clopper_pearson(count: float, n: float, error: float) -> float:
    """Return the upper limit of a share: at it, so few or fewer successes in ``n`` have the chance ``error``."""
    # Loaded here, and not where nothing was measured twice: tables and comparisons are to start at once.
    from scipy.special import betaincinv

    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - error))


@lru_cache(maxsize=4096)
def student_quantile(p: float, degrees: float) -> float:
    """Return the value that a t variable exceeds, to either side, with the chance ``p``, in (0, 1).

    Args:
        p: 0.05 for the ends of a 95 % interval.
        degrees: of freedom, above 0; infinite for the normal distribution.
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - p / 2)) if isfinite(degrees) else _quantile(p / 2)


def _student_p(t: float, degrees: int) -> float:
    """Return the two-sided p-value of a t statistic."""
    from scipy.special import stdtr

    return 2 * float(stdtr(degrees, -abs(t)))


@lru_cache(maxsize=65536)
def _tango(up: float, down: float, n: float, z: float) -> float:
    """Return the difference (up - down) / n that is so much larger than observed that its score is ``z``."""
    low, high = (up - down) / n, 1.0
    x = min(high, low + z * sqrt(max(up + down - (up - down) ** 2 / n, 0.0) + z * z) / n)
    # Newton's method with the variance at hand, within a bracket: the score falls as the difference rises.
    for _ in range(100):
        share = _least_likely(up, down, n, x)
        variance = max(2 * share + x * (1 - x), 0.0) / n
        target = min(1.0, (up - down) / n + z * sqrt(variance))
        low, high = (x, high) if target > x else (low, x)
        step = target if low < target < high else (low + high) / 2
        if abs(target - x) < _PRECISION:
            return target
        x = step
    return x


def _least_likely(up: float, down: float, n: float, difference: float) -> float:
    """Return the likeliest share of images that go down if the share that go up is larger by ``difference``."""
    b = (2 * n - up + down) * difference - up - down
    c = -down * difference * (1 - difference)
    return (sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)


class Joint(NamedTuple):
    """What several runs of one cell say together of a difference of shares, second - first."""

    value: float
    #: The 95 % interval.
    interval: Ends
    #: The interval of two one-sided tests at the error that was asked for.
    narrow: Ends
    #: That the difference is 0.
    p: float
    #: The parts of the variance of the value that fall with more seeds, and with more images alone.
    of_seeds: float
    of_images: float
    #: The part of ``of_seeds`` that more images do not lower.
    of_seeds_alone: float


def joint(seeds: Sequence[Sequence[tuple[Images, Images]]], n: int, error: float) -> Joint:
    """Return what several seeds, or several machines, say together; seeds and images are random and crossed.

    The variance has two parts, in the mean squares of the two-way analysis of variance: MS(seed) / (seeds n), and what
    MS(image) is above MS(seed x image), over the same (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992,
    723-731, with seeds for readers). Each has the quantile of its own degrees of freedom, seeds - 1 and infinitely
    many, and the squares are added (Banerjee, Sankhya 23, 1961, 359-378: then the interval covers at least as often as
    it says). The degrees of freedom of Satterthwaite and Hillis for the sum cover less often with two or three seeds.
    What :func:`paired_ends` adds to the interval of Wald, which matters where few images changed, is added too. Few
    seeds may agree by chance, and MS(seed) then says nothing: the interval is never shorter, nor p lower, than with the
    larger of MS(image) and MS(seed x image) over seeds n, the variance over other images for these seeds.

    Of one seed, the interval is for other images alone.

    Args:
        seeds: for each seed, for each machine that measured it, the images that are right in the first run alone and in
            the second alone. All have the same machines, whose outcomes are averaged: they are no other images, and two
            or three machines are no sample of all there are.
        n: images, the same for all, at least 2.
        error: the chance that the truth is beyond one end of ``narrow``.
    """
    runs = list(chain.from_iterable(seeds))
    lost, gained = (sum(run[side].bit_count() for run in runs) / len(runs) for side in (0, 1))
    value = (gained - lost) / n
    wald = _wald(lost, gained, n)
    spread = _spread(seeds, n) if len(seeds) > 1 else _Spread(0.0, wald, wald, 0, 0.0)

    def ends(beyond: float) -> Ends:
        # What the score interval has beyond Wald's, squared.
        known = _quantile(beyond) ** 2 * wald
        low, high = paired_ends(lost, gained, n, beyond)
        down, up = (spread.half(beyond, max((end - value) ** 2 - known, 0.0)) for end in (low, high))
        return Ends(max(value - down, -1.0), min(value + up, 1.0))

    p = spread.p(value, 2 / n**2) if len(seeds) > 1 else mcnemar(*changed_images(runs))
    return Joint(value, ends(0.025), ends(error), p, spread.of_seeds, spread.of_images, spread.of_seeds_alone)


def _wald(lost: float, gained: float, n: float) -> float:
    """Return the variance of the difference as the images of one run show it."""
    return (lost + gained - (gained - lost) ** 2 / n) / n**2


class _Spread(NamedTuple):
    """The two parts of a variance, and the degrees of freedom of the first; those of the second are many.

    ``alone`` is the variance over images were the seeds the only ones there are; ``of_seeds_alone`` what
    ``of_seeds`` is above MS(seed x image) and would be of any number of images.
    """

    of_seeds: float
    of_images: float
    alone: float
    degrees: int
    of_seeds_alone: float

    def half(self, beyond: float, more: float) -> float:
        """Return half the length of an interval: ``beyond`` is the chance to be beyond one end, ``more`` squared."""
        squared = _quantile(beyond) ** 2 * self.of_images
        if self.of_seeds > 0:
            squared += student_quantile(2 * beyond, self.degrees) ** 2 * self.of_seeds
        return sqrt(max(squared, _quantile(beyond) ** 2 * self.alone) + more)

    def p(self, value: float, more: float) -> float:
        """Return at which error the interval ends at 0; ``more`` is added to the variance over images.

        With two images more, one lost and one gained, it is no lower than McNemar's exact one where few images changed
        (Bonett and Price, Journal of Educational and Behavioral Statistics 37, 2012, 479-488).
        """
        of_alone = 2 * NormalDist().cdf(-abs(value) / sqrt(self.alone + more))
        return max(of_alone, self._p_of_both(value, more) if self.of_seeds > 0 else 0.0, LEAST_P)

    def _p_of_both(self, value: float, more: float) -> float:
        of_images = self.of_images + more
        p, ratio = 1.0, 1.0
        # The quantiles of both parts have one p-value. Each step raises the first and lowers p, so the last is no lower
        # than the solution.
        for _ in range(_STEPS):
            t = abs(value) / sqrt(self.of_seeds + ratio**2 * of_images)
            before, p = p, _student_p(t, self.degrees)
            if t == 0 or before - p <= _SETTLED * before:
                break
            ratio = NormalDist().inv_cdf(1 - p / 2) / t if p > _TINY else ratio
        return p


def _spread(seeds: Sequence[Sequence[tuple[Images, Images]]], n: int) -> _Spread:
    """Return the variance of the mean over seeds, which holds what seeds and images have together, and over images."""
    machines, count = len(seeds[0]), len(seeds)
    totals = [sum(gained.bit_count() - lost.bit_count() for lost, gained in seed) for seed in seeds]
    mean = sum(totals) ** 2 / (count * n)
    of_seeds = sum(total**2 for total in totals) / n - mean
    of_images = _squares(list(chain.from_iterable(seeds))) / count - mean
    together = max(sum(map(_squares, seeds)) - mean - of_seeds - of_images, 0.0)
    scale = machines**2 * count * n
    seed_square, both_square = of_seeds / (count - 1), together / ((count - 1) * (n - 1))
    image_square = of_images / (n - 1)
    return _Spread(
        of_seeds=max(seed_square, 0.0) / scale,
        of_images=max(image_square - both_square, 0.0) / scale,
        alone=max(image_square, both_square) / scale,
        degrees=count - 1,
        of_seeds_alone=max(seed_square - both_square, 0.0) / scale,
    )


def _squares(runs: Sequence[tuple[Images, Images]]) -> int:
    """Return the sum over images of the square of how often each was gained less how often it was lost."""
    lost, gained = counted(run[0] for run in runs), counted(run[1] for run in runs)
    return _product(lost, lost) + _product(gained, gained) - 2 * _product(lost, gained)


def _product(first: Sequence[Images], second: Sequence[Images]) -> int:
    """Return the sum over images of the product of two counts, each in binary digits, the lowest first."""
    return sum((a & b).bit_count() << (i + j) for (i, a), (j, b) in product(enumerate(first), enumerate(second)))
