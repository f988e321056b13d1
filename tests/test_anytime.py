import math
from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from bench.anytime import (
    ERROR,
    MARGIN,
    Contender,
    Standings,
    anytime_interval,
    compared,
    log_margin_stake,
    log_stake,
    needed,
)
from bench.outcomes import Outcomes
from bench.stats import mcnemar


def row(name, right):
    return Contender(name, {0: Outcomes.of(right)})


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (1, 0), (0, 1), (7, 3), (3, 7), (30, 11), (0, 40), (300, 200)])
def test_the_stake_is_the_mixture_of_likelihood_ratios(more, fewer):
    def ratio(p):
        return 2 * math.exp(more * math.log(2 * p) + fewer * math.log(2 * (1 - p)) if p < 1 else -math.inf)

    peak = max(0.5, more / max(1, more + fewer))
    whole, _ = quad(ratio, 0.5, 1, points=[peak] if 0.5 < peak < 1 else None, epsabs=0, epsrel=1e-10)
    expected = whole if fewer or not more else 2 * 2**more * (1 - 0.5 ** (more + 1)) / (more + 1)
    assert math.exp(log_stake(more, fewer)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("p", [0.5, 0.4, 0.1])
def test_the_stake_does_not_grow_by_chance(p):
    for more in range(0, 40, 3):
        for fewer in range(0, 40, 3):
            grown = p * math.exp(log_stake(more + 1, fewer)) + (1 - p) * math.exp(log_stake(more, fewer + 1))
            now = math.exp(log_stake(more, fewer))
            assert grown == pytest.approx(now, rel=1e-9) if p == 0.5 else grown < now


def test_the_stake_of_millions_of_images_is_finite():
    assert log_stake(500_000, 500_000) < 0 < log_stake(510_000, 490_000) < math.inf


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 128), (128, 128), (77, 128), (310, 1000), (9_990, 10_000)])
def test_the_interval_ends_where_the_mixture_rejects(k, n):
    value, low, high = anytime_interval(k, n)
    assert 0 <= low <= value == k / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert (n + 1) * binom.pmf(k, n, end) == pytest.approx(ERROR, rel=1e-6)


def test_the_interval_refuses_impossible_counts():
    with pytest.raises(ValueError, match="impossible"):
        anytime_interval(3, 2)


def test_intervals_that_are_looked_at_again_and_again_miss_in_five_percent_at_most():
    rng, truth = np.random.default_rng(0), 0.3
    looks = range(5, 301, 5)
    right = np.cumsum(rng.random((400, 300)) < truth, axis=1)[:, [n - 1 for n in looks]]
    missed = np.zeros(len(right), dtype=bool)
    for at, n in enumerate(looks):
        for k in np.unique(right[:, at]).tolist():
            _, low, high = anytime_interval(k, n)
            missed[right[:, at] == k] |= not low <= truth <= high
    # Three standard errors above what is promised.
    assert missed.mean() <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / len(right))


def says_wrongly(truth, outcomes, seen):
    standings = Standings([row(str(i), each[:n]) for i, (each, n) in enumerate(zip(outcomes, seen, strict=True))])
    pairs = combinations(range(len(truth)), 2)
    return any((above := standings.above(i, j)) and above != np.sign(truth[i] - truth[j]) for i, j in pairs)


@pytest.mark.parametrize("truth", [(0.5, 0.5, 0.5, 0.5), (0.52, 0.5, 0.48, 0.3)])
def test_of_tables_that_stop_when_something_looks_settled_few_say_it_wrongly(truth):
    rng, tables, chunk, wrong = np.random.default_rng(1), 150, 64, 0
    for _ in range(tables):
        outcomes = (rng.random((len(truth), 512)) < np.array(truth)[:, None]).tolist()
        seen = [0] * len(truth)
        # What comes next is decided by what is seen: the pair of rows that looks the most different goes on.
        while min(seen) < 512:
            seen[min(range(len(truth)), key=lambda i: (seen[i], sum(outcomes[i][: seen[i]])))] += chunk
            if says_wrongly(truth, outcomes, seen):
                wrong += 1
                break
    assert wrong / tables <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / tables)


def test_ten_points_on_a_thousand_images_are_settled():
    rng, settled = np.random.default_rng(2), 0
    for _ in range(40):
        hard = rng.random(1000)
        # Images that are hard for one are hard for the others, as in practice.
        rows = [row(str(p), hard + 0.2 * rng.standard_normal(1000) < p) for p in (0.55, 0.45, 0.35)]
        settled += all(rank.is_settled for rank in Standings(rows).ranks())
    assert settled >= 36


def test_a_row_without_images_leaves_every_rank_open():
    best, worst = row("best", [True] * 200), row("worst", [False] * 200)
    assert [(r.name, r.rank, r.is_settled) for r in Standings([worst, best]).ranks()] == [
        ("best", 1, True),
        ("worst", 2, True),
    ]
    ranks = Standings([worst, best, Contender("later", {})]).ranks()
    assert [(r.name, r.is_settled) for r in ranks] == [("best", False), ("worst", False)]


def test_rows_are_compared_on_the_images_and_seeds_that_both_have():
    first = Contender("a", {0: Outcomes.of([True] * 40), 1: Outcomes.of([False] * 40)})
    second = Contender("b", {0: Outcomes.of([False] * 30 + [True] * 90), 2: Outcomes.of([True] * 120)})
    assert Standings([first, second]).above(0, 1) == 1
    assert Standings([second, first]).above(0, 1) == -1
    assert Standings([first, Contender("c", {3: Outcomes.of([False] * 40)})]).above(0, 1) == 0


@pytest.mark.parametrize(("more", "fewer"), [(MARGIN, 0.0), (0.3 + MARGIN, 0.3), (0.5, 0.1)])
def test_the_stake_on_a_margin_does_not_grow_where_shares_are_further_apart(more, fewer):
    for a, b, n in ((0, 0, 0), (0, 0, 500), (3, 1, 40), (0, 30, 60), (200, 200, 1000)):
        after = [(more, (a + 1, b)), (fewer, (a, b + 1)), (1 - more - fewer, (a, b))]
        grown = sum(p * math.exp(log_margin_stake(*counts, n + 1)) for p, counts in after)
        now = math.exp(log_margin_stake(a, b, n))
        assert grown == pytest.approx(now, rel=1e-9) if more - fewer == pytest.approx(MARGIN) else grown < now


def test_counts_that_are_means_over_seeds_stake_no_more_than_images_do():
    # One image that two of four seeds keep gives 1/2; as means of counts it gives half an image of 1 and half of 0.
    stake = np.mean([1 + 2.0**-k * (MARGIN - 0.5) for k in range(8)])
    assert log_margin_stake(0.5, 0, 1) < math.log(stake)


def test_a_comparison_says_above_below_within_a_point_or_nothing():
    n, least = 1000, needed(2, 1)
    first = row("first", [i < 500 for i in range(n)])
    for kept, finding in ((430, "above"), (560, "below"), (500, "equal"), (503, "open"), (492, "open")):
        second = row("second", [i < kept for i in range(n)])
        assert compared(first, second, least) == finding, kept
    assert compared(first, Contender("later", {}), least) == "open"
    assert compared(row("none", [False] * 300), row("neither", [False] * 300), least) == "open"


def test_statements_of_ranks_and_comparisons_share_what_may_be_wrong():
    assert needed(4, 0) == pytest.approx(math.log(12 / ERROR))
    assert needed(4, 5) == pytest.approx(math.log(27 / ERROR))


def answers_wrongly(truth, outcomes, seen, pairs):
    rows = [row(str(i), each[:n]) for i, (each, n) in enumerate(zip(outcomes, seen, strict=True))]
    findings = [(truth[i] - truth[j], compared(rows[i], rows[j], needed(len(rows), len(pairs)))) for i, j in pairs]
    right = {"above": lambda d: d > 0, "below": lambda d: d < 0, "equal": lambda d: abs(d) < MARGIN}
    return any(said != "open" and not right[said](difference) for difference, said in findings)


@pytest.mark.parametrize("truth", [(0.5, 0.5, 0.5, 0.5), (0.03, 0.02, 0.01, 0.01), (0.012, 0.001, 0.0, 1.0)])
def test_of_tables_with_verdicts_that_stop_at_any_chunk_few_say_something_wrong(truth):
    rng, tables, chunk, wrong = np.random.default_rng(3), 40, 128, 0
    pairs = [(0, 1), (1, 2), (2, 3), (0, 3)]
    for _ in range(tables):
        outcomes = (rng.random((len(truth), 768)) < np.array(truth)[:, None]).tolist()
        seen = [chunk] * len(truth)
        is_wrong = False
        while min(seen) < 768 and not is_wrong:
            seen[min(range(len(truth)), key=lambda i: (seen[i], sum(outcomes[i][: seen[i]])))] += chunk
            is_wrong = says_wrongly(truth, outcomes, seen) or answers_wrongly(truth, outcomes, seen, pairs)
        wrong += is_wrong
    assert wrong / tables <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / tables)


def test_verdicts_of_ten_points_and_of_none_are_settled_on_some_thousand_images():
    rng, least, settled = np.random.default_rng(4), needed(5, 3), 0
    for _ in range(40):
        hard = rng.random(1000)
        step, base = (row(str(p), hard + 0.2 * rng.standard_normal(1000) < p) for p in (0.55, 0.45))
        broken = (row("broken", rng.random(4000) < 0.002) for _ in range(2))
        settled += (compared(step, base, least), compared(*broken, least)) == ("above", "equal")
    assert settled >= 36


@pytest.mark.parametrize("comparisons", [1, 12])
def test_what_is_settled_is_significant_by_the_test_at_the_end_too(comparisons):
    least, settled = needed(0, comparisons), 0
    for more, fewer in combinations(range(60), 2):
        if max(log_stake(more, fewer), log_stake(fewer, more)) >= least:
            settled += 1
            # Holm's correction multiplies a p-value by the number of tests at most.
            assert comparisons * mcnemar(more, fewer) < ERROR
    assert settled
