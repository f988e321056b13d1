"""What a table may say at any stop: ranks, comparisons and intervals that hold however often somebody looks, and when.

An interval for a fixed number of images is right 19 times out of 20 if one looks at it once. A run with a time budget
looks after every chunk and decides by what it sees what to do next, so sooner or later such an interval misleads. Here
every statement is a bet against chance whose stake multiplies image by image. Where chance is all there is, the stake
does not grow on average, and the chance that it ever reaches 1 / a is at most a (Ville, 1939). So it does not matter
when a run stops, nor why (Robbins, Annals of Mathematical Statistics 41, 1970, 1397-1409; Howard, Ramdas, McAuliffe
and Sekhon, Annals of Statistics 49, 2021, 1055-1080).

Assumed is that the images of a set, in the order of their list, are exchangeable: in random order, as in official test
sets as far as their publishers mixed them, or drawn in random order (:func:`bench.data.select`). The order is fixed
before anything is measured, and what is known of a row are its first images. So what is measured next may depend on all
that was seen. What is settled is settled about images of that kind, not about the listed ones alone. Where a list is in
an order of its own, such as that of its classes, its first images are not of that kind, and a statement about a part of
them means nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from math import exp, lgamma, log, log1p
from statistics import fmean
from typing import Literal, NamedTuple

from bench.outcomes import Outcomes
from bench.stats import Interval, changed_images, mcnemar

#: Of all tables at most this share ever says that something is settled which is not so; of intervals, that misses.
ERROR = 0.05

#: Two shares that differ by less are as good as equal: a point.
MARGIN = 0.01

#: What is settled of two shares: that the first is above the second, or below; that they are within :data:`MARGIN` of
#: each other; or nothing yet.
Finding = Literal["above", "below", "equal", "open"]

#: Statements that a comparison may make, each of which may err.
STATEMENTS = 3

#: How much of the stake goes on an image, as parts of all: the halves, quarters, ... of what could be lost at once.
_STAKES = tuple(2.0**-halvings for halvings in range(8))

#: Halvings of an interval of numbers in [0, 1] until floats have no more.
_HALVINGS = 60


class Contender(NamedTuple):
    """A row of a table: which of its first images survive, by seed; nothing where none were measured yet.

    Each seed has the same number of images.
    """

    name: str
    survivors: Mapping[int, Outcomes]

    @property
    def n(self) -> int:
        """How many images were measured."""
        return min((outcomes.n for outcomes in self.survivors.values()), default=0)

    @property
    def share(self) -> float:
        """The mean share of images that survive, in [0, 1]; 0 where none were measured."""
        counts = [outcomes.share for outcomes in self.survivors.values()] if self.n else [0.0]
        return sum(counts) / len(counts)


class Rank(NamedTuple):
    """The place of a row among all rows, 1 for the best, and whether it is settled."""

    name: str
    rank: int
    is_settled: bool
    #: How many images it rests on.
    n: int


def log_stake(more: int, fewer: int) -> float:
    """Return the logarithm of what a bet on the first of two rows has become, from the images that tell them apart.

    Under the hypothesis that the first row keeps at most as many of such images as the second, so that each is the
    first's with probability p <= 1/2, the stake is a supermartingale that begins at 1: the likelihood ratio of p
    against 1/2, mixed over p uniform on [1/2, 1]. With k = ``more`` of m images it is in closed form
    sum_{j <= k} C(m + 1, j) / ((m + 1) C(m, k)), since the mixture is an incomplete beta function.

    Args:
        more: images that the first row alone keeps.
        fewer: images that the second row alone keeps.
    """
    m = more + fewer
    ways = lgamma(m + 1) - lgamma(more + 1) - lgamma(fewer + 1)
    if more >= fewer:
        # All subsets but the tail above k, which is that of McNemar's test of one more image.
        return (m + 1) * log(2) + log1p(-mcnemar(more + 1, fewer) / 2) - log(m + 1) - ways
    term = total = 1.0
    for j in range(more, 0, -1):
        term *= j / (m + 2 - j)
        total += term
    return log(total) - log(fewer + 1)


def log_margin_stake(more: float, fewer: float, n: int) -> float:
    """Return the logarithm of what a bet has become that one share exceeds another by less than :data:`MARGIN`.

    An image gives x = 1 if the first share alone has it, -1 if the second alone has it, and 0 else. Under the
    hypothesis that the mean of x is at least the margin, the product of 1 + s (margin - x) is a supermartingale for
    each s in [0, 1], and so is its mean over several s (Waudby-Smith and Ramdas, Journal of the Royal Statistical
    Society B 86, 2024, 1-27). Means over seeds are numbers in [-1, 1], of which it holds as well: the logarithm is
    concave, so counts that are means give no more than the images do.

    Args:
        more: images that the first share alone has; fractional if it is a mean over seeds.
        fewer: images that the second share alone has, likewise.
        n: all images.
    """
    logs = [
        more * log1p(s * (MARGIN - 1)) + fewer * log1p(s * (MARGIN + 1)) + (n - more - fewer) * log1p(s * MARGIN)
        for s in _STAKES
    ]
    largest = max(logs)
    return largest + log(sum(exp(each - largest) for each in logs) / len(logs))


def anytime_interval(successes: float, n: int) -> Interval:
    """Return a proportion with an interval that covers the truth at every number of images at once, 19 times in 20.

    The proportions that a uniform mixture of binomial likelihoods does not reject (Robbins, 1970): p is inside while
    (n + 1) C(n, k) p^k (1 - p)^(n - k) > 1/20. Means over seeds are numbers in [0, 1] instead of 0 or 1, of which it
    holds as well, for the likelihood ratio is convex in them.

    Args:
        successes: in [0, n]; fractional if it is a mean over seeds.
        n: images, at least 1.

    Raises:
        ValueError: the counts are impossible.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials is impossible")
    share, failures = successes / n, n - successes
    least = log(ERROR) - (lgamma(n + 2) - lgamma(successes + 1) - lgamma(failures + 1))

    def is_inside(p: float) -> bool:
        likelihood = (successes * log(p) if successes else 0.0) + (failures * log1p(-p) if failures else 0.0)
        return likelihood > least

    def end(outside: float) -> float:
        inside = share
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        return outside

    return Interval(share, 0.0 if successes == 0 else end(0.0), 1.0 if successes == n else end(1.0))


def needed(rows: int, comparisons: int) -> float:
    """Return the logarithm of the stake at which a statement of a table is settled.

    Of k rows there are k (k - 1) statements that one is above another, and of each comparison beside them
    :data:`STATEMENTS`. Each may err with an equal part of :data:`ERROR`, so all of a table together with at most
    :data:`ERROR` (Bonferroni), however they depend on each other.

    Args:
        rows: that are ranked.
        comparisons: of two shares each, such as a test-time step with the classifier under it.
    """
    return log(max(1, rows * (rows - 1) + STATEMENTS * comparisons) / ERROR)


def compared(first: Contender, second: Contender, least: float) -> Finding:
    """Return what is settled of two shares, on the first images of both and under the seeds that both have.

    Above or below counts images, each of which has one vote (:func:`bench.stats.changed_images`); within a margin
    counts means over seeds. One that is within the margin may yet turn out to be above or below, by less than that.

    Args:
        first: one share.
        second: the other, on the same list of images.
        least: logarithm of the stake that settles a statement (:func:`needed`).
    """
    pairs, n = _pairs(first, second)
    if sign := _sign(pairs, least):
        return "above" if sign > 0 else "below"
    if pairs:
        more = fmean((a & ~b).bit_count() for a, b in pairs)
        fewer = fmean((b & ~a).bit_count() for a, b in pairs)
        if log_margin_stake(more, fewer, n) >= least and log_margin_stake(fewer, more, n) >= least:
            return "equal"
    return "open"


def _pairs(first: Contender, second: Contender) -> tuple[list[tuple[int, int]], int]:
    """Return the images of two rows that survive, as bits, for each seed of both, and of how many images."""
    n = min(first.n, second.n)
    seeds = first.survivors.keys() & second.survivors.keys() if n else ()
    return [(first.survivors[seed].first(n).bits, second.survivors[seed].first(n).bits) for seed in seeds], n


def _sign(pairs: Sequence[tuple[int, int]], least: float) -> int:
    """Return 1 if the first of two rows is settled to be above the second, -1 if below, 0 if neither."""
    more, fewer = changed_images(pairs)
    if log_stake(max(more, fewer), min(more, fewer)) < least:
        return 0
    return 1 if more > fewer else -1


def ranking_order(rows: Mapping[tuple[str, str], Collection[object]]) -> dict[str, tuple[int, int]]:
    """Return what threats are ordered by, the least first; tables are ranked under the first one.

    It is the one with the most attacks that at least half of all rows have, so that a row that was attacked with much
    that others were not takes no part; of several the one with the most rows of all attacks.

    Args:
        rows: those that have each attack, by the threat and the attack.
    """
    every = set(chain.from_iterable(rows.values()))
    counts: dict[str, tuple[int, int]] = {}
    for (threat, _), own in rows.items():
        common, all_of = counts.get(threat, (0, 0))
        counts[threat] = common - (2 * len(own) >= len(every)), all_of - len(own)
    return counts


class Standings:
    """The rows of one table in pairs: which of two is above the other, beyond what chance does in any such table.

    Two rows are compared on the first images of both, under the seeds that both have, where an image has one vote
    (:func:`bench.stats.changed_images`). Rows that have no images yet count, for they were to be compared from the
    beginning.

    Args:
        rows: that are ranked.
        comparisons: made beside the ranks of the same table (:func:`needed`).
    """

    def __init__(self, rows: Iterable[Contender], comparisons: int = 0) -> None:
        self.rows = list(rows)
        self._needed = needed(len(self.rows), comparisons)
        self._above: dict[tuple[int, int], int] = {}

    def update(self, place: int, row: Contender) -> None:
        """Replace a row by what is known of it now."""
        self.rows[place] = row
        for other in range(len(self.rows)):
            self._above.pop((min(place, other), max(place, other)), None)

    def above(self, first: int, second: int) -> int:
        """Return 1 if the first of two rows, by their places, is above the second, -1 if below, 0 if undecided."""
        if first > second:
            return -self.above(second, first)
        if (first, second) not in self._above:
            pairs, _ = _pairs(self.rows[first], self.rows[second])
            self._above[first, second] = _sign(pairs, self._needed)
        return self._above[first, second]

    def _is_settled(self, at: int, order: Sequence[int]) -> bool:
        """Say whether a row is above or below each of the others, given the places of all rows, the best first."""
        row, better = order[at], order[:at][::-1]
        # The nearest first, which are the last to be told apart.
        others = chain.from_iterable(zip_longest(better, order[at + 1 :]))
        return all(other is None or self.above(row, other) for other in others)

    def ranks(self) -> list[Rank]:
        """Return the ranks of the rows that have images, the best first; those of equal rows are equal."""
        ranks: list[Rank] = []
        shares = [row.share for row in self.rows]
        order = sorted(range(len(self.rows)), key=shares.__getitem__, reverse=True)
        known = [shares[place] for place in order if self.rows[place].n]
        for at, place in enumerate(order):
            row = self.rows[place]
            if not row.n:
                continue
            is_settled = self._is_settled(at, order)
            above = sum(self.above(place, other) < 0 for other in order) if is_settled else None
            rank = 1 + (known.index(row.share) if above is None else above)
            ranks.append(Rank(row.name, rank, is_settled, row.n))
        return sorted(ranks, key=lambda rank: (rank.rank, not rank.is_settled))
