import itertools
import math
import statistics
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from bench.stats import Interval, changed_images, holm_mcnemar, mcnemar, p_text, paired_difference, spread, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (186, 200), (7, 33), (9321, 10000)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((k / n, expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        wilson(k, n)


def test_paired_difference_is_the_published_one() -> None:
    # Altman et al., Statistics with Confidence (2nd edition, 2000), table 6.2: 0.122, 95 % CI 0.011 to 0.226.
    assert [round(v, 3) for v in paired_difference(14, 5, 0, 22)] == [0.122, 0.011, 0.226]


def test_paired_difference_is_antisymmetric_and_contains_its_value() -> None:
    rng = np.random.default_rng(0)
    for a, b, c, d in rng.integers(0, 40, (300, 4)).tolist():
        if a + b + c + d == 0:
            continue
        forward, backward = paired_difference(a, b, c, d), paired_difference(a, c, b, d)
        assert -1 <= forward.low <= forward.value <= forward.high <= 1
        assert backward == pytest.approx((-forward.value, -forward.high, -forward.low), abs=1e-12)


@pytest.mark.parametrize("shares", [(0.0, 0.8, 0.0, 0.2), (0.5, 0.02, 0.0, 0.48), (0.3, 0.15, 0.1, 0.45)])
def test_paired_difference_covers_the_truth(shares: tuple[float, ...]) -> None:
    truth = shares[1] - shares[2]
    draws = np.random.default_rng(1).multinomial(500, shares, 2000).tolist()
    covered = [low <= truth <= high for _, low, high in (paired_difference(*counts) for counts in draws)]
    assert np.mean(covered) >= 0.925


def test_mcnemar_is_the_binomial_test() -> None:
    for b in range(0, 60, 7):
        for c in range(0, 60, 5):
            expected = binomtest(b, b + c).pvalue if b + c else 1.0
            assert mcnemar(b, c) == pytest.approx(expected, rel=1e-10)
    assert mcnemar(1000, 1100) == pytest.approx(binomtest(1000, 2100).pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("rarer", "changed"),
    [(480, 1001), (1400, 3001), (49_500, 100_000), (499_000, 10**6), (25 * 10**6 - 8000, 5 * 10**7)],
)
def test_mcnemar_of_millions_is_the_binomial_test(rarer: int, changed: int) -> None:
    assert mcnemar(rarer, changed - rarer) == pytest.approx(2 * binom.cdf(rarer, changed, 0.5), rel=1e-6)


def test_a_p_value_is_never_zero_and_never_written_as_zero() -> None:
    # 2 / 2^2000 is no number of double precision.
    assert 0 < mcnemar(0, 2000) < 1e-300
    written = {0.5: "p = 0.5", 0.0123: "p = 0.012", 0.001: "p = 0.001", 0.00099: "p < 0.001", 0.0: "p < 0.001"}
    assert {p: p_text(p) for p in written} == written
    assert p_text(0.03, "Holm") == "Holm = 0.03"


def test_of_millions_that_changed_equally_often_nothing_is_clear() -> None:
    assert mcnemar(25 * 10**6, 25 * 10**6) == 1.0
    few, many = (12, 2), (25 * 10**6, 25 * 10**6 + 20_000)
    p = [mcnemar(*few), mcnemar(*many)]
    for single, adjusted in zip(p, holm_mcnemar([few, many]), strict=True):
        assert single <= adjusted <= 2 * max(p) < 0.05


@given(
    st.lists(
        st.tuples(st.lists(st.booleans(), min_size=9, max_size=9), st.lists(st.booleans(), min_size=9, max_size=9)),
        max_size=7,
    )
)
def test_an_image_has_one_vote_for_all_runs(runs: list[tuple[list[bool], list[bool]]]) -> None:
    votes = [sum(first[i] - second[i] for first, second in runs) for i in range(9)]
    pairs = [(int("".join("01"[b] for b in a), 2), int("".join("01"[b] for b in c), 2)) for a, c in runs]
    assert changed_images(pairs) == (sum(v > 0 for v in votes), sum(v < 0 for v in votes))


def test_the_values_of_a_whole_family_follow_holm() -> None:
    # Holm's rule by hand, for pairs with 12 changed examples, which share the possible p-values: 4 x, 3 x, 2 x, 1 x.
    pairs = [(11, 1), (2, 10), (12, 0), (3, 9)]
    p = [binomtest(a, 12).pvalue for a, _ in pairs]
    assert holm_mcnemar(pairs) == pytest.approx([3 * p[0], 2 * p[1], 4 * p[2], max(p[3], 2 * p[1])])
    assert holm_mcnemar([]) == []
    assert holm_mcnemar([(3, 3), (9, 7)]) == [1.0, 1.0]


def test_a_pair_that_no_outcome_could_make_clear_costs_the_others_nothing() -> None:
    alone = mcnemar(12, 2)
    assert holm_mcnemar([(12, 2), *[(0, 0)] * 500, *[(2, 1)] * 500])[0] == alone
    # Eight changes can give 2/256, the next is 18/256: only the first is below what 12 against 2 gives.
    assert holm_mcnemar([(12, 2), (4, 4)])[0] == pytest.approx(alone + 2 / 256)


def test_adjusted_values_are_between_the_single_one_and_holms() -> None:
    rng = np.random.default_rng(3)
    for pairs in rng.integers(0, 25, (200, 6, 2)).tolist():
        p = [mcnemar(a, b) for a, b in pairs]
        plain, largest = [0.0] * 6, 0.0
        for rank, i in enumerate(sorted(range(6), key=p.__getitem__)):
            largest = plain[i] = max(largest, min(1.0, (6 - rank) * p[i]))
        for single, adjusted, holm in zip(p, holm_mcnemar([(a, b) for a, b in pairs]), plain, strict=True):
            assert single - 1e-12 <= adjusted <= holm + 1e-12


@pytest.mark.parametrize("changed", [(6, 12), (3, 7, 9), (5, 8, 11, 12), (10, 10, 10)])
def test_the_family_wise_error_is_kept_exactly(changed: tuple[int, ...]) -> None:
    # Every outcome of these numbers of changed examples, with its probability under the null: a fair coin each.
    false = 0.0
    for losses in itertools.product(*(range(m + 1) for m in changed)):
        if min(holm_mcnemar([(a, m - a) for a, m in zip(losses, changed, strict=True)])) < 0.05:
            false += math.prod(math.comb(m, a) / 2**m for a, m in zip(losses, changed, strict=True))
    assert 0 < false <= 0.05


def test_it_imports_no_scientific_package() -> None:
    code = "import bench.stats, sys; assert not {'torch', 'scipy', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interval_is_named() -> None:
    assert wilson(1, 2)._fields == Interval._fields == ("value", "low", "high")


def test_the_spread_is_that_of_the_standard_library():
    values = [0.1, 0.4, 0.35, 0.8]
    assert spread(values) == pytest.approx(statistics.stdev(values), rel=1e-14)
    assert spread([0.5]) is None
