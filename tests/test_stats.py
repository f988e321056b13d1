import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.stats import Interval, holm, mcnemar, paired_difference, wilson


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


def test_holm_is_the_textbook_example() -> None:
    # Holm's rule by hand: 4 x 0.01, 3 x 0.013 (raised to the one before), 2 x 0.03, 1 x 0.06.
    assert holm([0.06, 0.01, 0.03, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([]) == []
    assert max(holm([0.9, 0.8])) == 1.0


def test_holm_keeps_the_family_wise_error() -> None:
    p = np.random.default_rng(2).uniform(size=(4000, 20))
    assert np.mean([min(holm(row)) < 0.05 for row in p.tolist()]) == pytest.approx(0.05, abs=0.012)


def test_it_imports_no_scientific_package() -> None:
    code = "import bench.stats, sys; assert not {'torch', 'scipy', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interval_is_named() -> None:
    assert wilson(1, 2)._fields == Interval._fields == ("value", "low", "high")
