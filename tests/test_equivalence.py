import math
import random
import time

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, minimize_scalar

from bench.equivalence import Ends, joint, paired_ends, tango_ends
from bench.stats import mcnemar
from tests.perf.equivalence import ERROR, IMAGES, MARGIN, World, drawn


def test_tangos_interval_is_the_published_one():
    # Fagerland, Lydersen and Laake (Statistics in Medicine 33, 2014, 2850-2875), airway hyper-responsiveness before and
    # after stem cell transplantation in 21 children: 1 and 7 changed; Tango's interval is -0.517 to -0.026.
    assert [round(end, 3) for end in tango_ends(7, 1, 21, 0.025)] == [-0.517, -0.026]


def score(up, down, n, difference):
    """The score statistic of a difference, with the likeliest shares under it found by search."""

    def likelihood(share):
        terms = ((up, share + difference), (down, share), (n - up - down, 1 - 2 * share - difference))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in terms if count)

    least, most = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(likelihood, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
    return (up - down - n * difference) / math.sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize(("lost", "gained", "n"), [(12, 2, 50), (0, 7, 300), (30, 33, 1000), (5, 0, 41)])
def test_tangos_interval_solves_its_equation(lost, gained, n):
    z = stats.norm.isf(0.05)
    value = (gained - lost) / n
    high = brentq(lambda x: score(gained, lost, n, x) + z, value + 1e-9, 0.9)
    low = brentq(lambda x: score(gained, lost, n, x) - z, -0.9, value - 1e-9)
    assert tango_ends(lost, gained, n, 0.05) == pytest.approx((low, high), abs=1e-5)


def test_where_no_image_changed_the_interval_is_that_of_three_in_n():
    exact = 1 - 0.05 ** (1 / 1000)
    assert paired_ends(0, 0, 1000, 0.05) == pytest.approx((-exact, exact), rel=1e-9)
    assert paired_ends(0, 0, 598, 0.05).within(0.005)
    assert not paired_ends(0, 0, 597, 0.05).within(0.005)


def test_an_interval_turns_with_its_sides_and_holds_its_value():
    rng = np.random.default_rng(0)
    for lost, gained, rest in rng.integers(0, 40, (200, 3)).tolist():
        n = lost + gained + rest + 1
        ends, turned = paired_ends(lost, gained, n, 0.05), paired_ends(gained, lost, n, 0.05)
        assert -1 <= ends.low <= (gained - lost) / n <= ends.high <= 1
        assert turned == pytest.approx((-ends.high, -ends.low))
        assert ends.low <= paired_ends(lost, gained, n, 0.1).low


@pytest.mark.parametrize("n", [300, 550, 600, 1000, 1500])
@pytest.mark.parametrize("churn", [0, 0.001, 0.005, 0.04])
def test_what_differs_by_the_margin_is_called_the_same_at_most_one_time_in_twenty(n, churn):
    # Every outcome that is likely at all, with its chance: no simulation.
    margin = 0.005
    down, up = churn, churn + margin
    most = [int(stats.binom.isf(1e-7, n, share)) + 1 for share in (up, down)]
    wrong = 0.0
    for gained in range(most[0]):
        at_all = stats.binom.pmf(gained, n, up)
        for lost, chance in enumerate(stats.binom.pmf(range(most[1]), n - gained, down / (1 - up))):
            # Otherwise the value itself is beyond.
            if abs(gained - lost) < margin * n and paired_ends(lost, gained, n, 0.05).within(margin):
                wrong += at_all * chance
    assert wrong <= 0.0501


def test_one_seed_has_the_interval_of_its_images():
    rng = random.Random(0)
    lost, gained = rng.getrandbits(40) << 300, rng.getrandbits(30)
    said = joint([[(lost, gained)]], 400, 0.05)
    counts = lost.bit_count(), gained.bit_count()
    assert said.interval == pytest.approx(paired_ends(*counts, 400, 0.025))
    assert said.narrow == pytest.approx(paired_ends(*counts, 400, 0.05))
    assert said.p == mcnemar(*counts)


def test_the_variance_is_that_of_a_table_of_seeds_and_images():
    rng = np.random.default_rng(1)
    table = rng.choice([-1, 0, 1], (4, 50), p=[0.2, 0.6, 0.2]) * (rng.random((1, 50)) < 0.7)
    runs = [[(as_bits(row < 0), as_bits(row > 0))] for row in table]
    seeds, images, rest = mean_squares(table)
    said = joint(runs, 50, 0.05)
    assert said.value == pytest.approx(table.mean())
    assert said.of_seeds == pytest.approx(seeds / table.size)
    assert said.of_images == pytest.approx(max(images - rest, 0) / table.size)
    assert said.of_seeds_alone == pytest.approx(max(seeds - rest, 0) / table.size)
    # The p-value: at it, the two quantiles give the value back.
    t, z = stats.t.isf(said.p / 2, 3), stats.norm.isf(said.p / 2)
    assert t**2 * said.of_seeds + z**2 * (said.of_images + 2 / 50**2) == pytest.approx(said.value**2, rel=1e-3)


def as_bits(images):
    return int("".join("01"[bool(each)] for each in images), 2)


def mean_squares(table):
    """The mean squares of seeds, images and both together, from the definition."""
    mean, rows, columns = table.mean(), table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    count, images = table.shape
    seeds = images * ((rows - mean) ** 2).sum() / (count - 1)
    rest = ((table - rows - columns + mean) ** 2).sum() / ((count - 1) * (images - 1))
    return seeds, count * ((columns - mean) ** 2).sum() / (images - 1), rest


def test_a_second_machine_that_gives_the_same_adds_nothing():
    (runs,) = drawn(World(0.01, 0.01, 0.5, 3), 1, np.random.default_rng(2))
    once, twice = joint(runs, IMAGES, 0.05), joint([[*seed, *seed] for seed in runs], IMAGES, 0.05)
    assert twice[0] == pytest.approx(once[0])
    assert twice.interval == pytest.approx(once.interval)
    assert twice.p == pytest.approx(once.p)


def test_seeds_that_differ_make_the_interval_wider_than_their_images_do():
    lost = [(1 << count) - 1 for count in (5, 60, 110)]
    said = joint([[(each, 0)] for each in lost], 1000, 0.05)
    of_images = paired_ends(sum(each.bit_count() for each in lost) / 3, 0, 1000, 0.025)
    assert said.interval.low < of_images.low
    assert said.interval.high > 0 > of_images.high
    assert said.p > 0.05


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("spread", [0.0, 0.005, 0.02])
def test_statements_over_seeds_are_right_as_often_as_they_say(seeds, spread):
    # tests/perf/equivalence.py does the same many more times. Three standard errors are allowed for.
    repeats = 250
    rng = np.random.default_rng(3)
    said = [joint(runs, IMAGES, ERROR) for runs in drawn(World(-MARGIN, spread, 0.55, seeds), repeats, rng)]
    error = 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert np.mean([each.interval.low <= -MARGIN <= each.interval.high for each in said]) >= 0.95 - error
    assert np.mean([each.narrow.within(MARGIN) for each in said]) <= 0.05 + error


def test_an_interval_over_images_alone_would_not_cover():
    # What the test before would catch: the plain interval of all seeds' images together.
    rng = np.random.default_rng(4)
    covered = []
    for runs in drawn(World(0, 0.02, 0.55, 3), 200, rng):
        lost, gained = (sum(seed[0][side].bit_count() for seed in runs) for side in (0, 1))
        ends = paired_ends(lost, gained, 3 * IMAGES, 0.025)
        covered.append(ends.low <= 0 <= ends.high)
    assert np.mean(covered) < 0.8


def test_extremes_are_answered_fast():
    started = time.process_time()
    every = (1 << 1000) - 1
    for runs in ([[(0, 0)]] * 1000, [[(every, 0)], [(0, every)]], [[(every, 0)]] * 3, [[(1, 2)], [(2, 1)]]):
        said = joint(runs, 1000, 0.05)
        assert -1 <= said.interval.low <= said.narrow.low <= said.value <= said.narrow.high <= said.interval.high <= 1
        assert 0 < said.p <= 1
    assert joint([[(3, 0)], [(3, 0)]], 2, 0.05).value == -1
    assert paired_ends(25 * 10**6, 25 * 10**6, 5 * 10**7, 0.05) == pytest.approx((-2.33e-4, 2.33e-4), abs=1e-5)
    assert paired_ends(10**7, 0, 5 * 10**7, 0.05).high < -0.19
    assert time.process_time() - started < 1


def test_ends_on_the_margin_are_not_within():
    assert Ends(-0.4, 0.4).within(0.5)
    assert not Ends(-0.5, 0.4).within(0.5)


@pytest.mark.parametrize(("seeds", "lost", "gained"), [(3, 30, 20), (2, 28, 20), (4, 6, 1), (2, 90, 60)])
def test_seeds_that_agree_by_chance_prove_no_more_than_their_images(seeds, lost, gained):
    # Every seed loses and gains as many, of other images: the seeds have no variance at all.
    table = np.zeros((seeds, 1000))
    for i, row in enumerate(table):
        changed = np.random.default_rng(i).permutation(1000)
        row[changed[:lost]], row[changed[lost : lost + gained]] = -1, 1
    said = joint([[(as_bits(row < 0), as_bits(row > 0))] for row in table], 1000, 0.05)
    # Of the same seeds and other images: the t test of the images' means, and McNemar's of all changes.
    alone = stats.ttest_1samp(table.mean(0), 0.0)
    assert said.p >= 0.9 * alone.pvalue and said.p >= 0.9 * mcnemar(seeds * lost, seeds * gained)
    low, high = alone.confidence_interval(0.95)
    assert said.interval.low <= low + 1e-4 and said.interval.high >= high - 1e-4


def test_without_a_change_p_is_small_as_rarely_as_it_says():
    rng, small = np.random.default_rng(5), 0
    for _ in range(2000):
        draws = rng.random((2, 1000))
        runs = [[(as_bits(row < 0.02), as_bits(row > 0.98))] for row in draws]
        small += joint(runs, 1000, 0.05).p < 0.001
    # 2 are expected, and 8 or more happen once in a thousand times.
    assert small < 8
