"""Draws that belong to an image: their distribution, and what they do and do not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench import draws
from bench.api import MethodError

SHAPE = torch.Size((3, 8, 8))
seeds = st.integers(0, 2**63 - 1)
image_lists = st.lists(st.integers(0, 2**40), min_size=1, max_size=12, unique=True)


def splitmix64(state):
    """Return the next state and output of Steele, Lea and Flood's generator, in plain integers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return state, z ^ (z >> 31)


@given(seeds)
def test_the_mixer_is_that_of_splitmix64(seed):
    state, outputs = seed, []
    for _ in range(5):
        state, output = splitmix64(state)
        outputs.append(output)
    counters = torch.tensor([seed]) + torch.arange(1, 6) * draws._GOLDEN
    assert [int(z) % 2**64 for z in draws._mix(counters)] == outputs


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_uniform_draws_are_uniform(seed):
    values = draws.uniform(seed, torch.arange(400), 1, SHAPE).numpy().astype(np.float64).ravel()
    assert values.min() >= 0 and values.max() < 1
    assert np.array_equal(values * 2**24, np.round(values * 2**24))
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    for bins in (2, 16, 256):
        counts, _ = np.histogram(values, bins, (0, 1))
        assert stats.chisquare(counts).pvalue > 1e-3
    # The lowest of the 24 bits as well as the highest.
    for bit in (1, 2, 2**22):
        ones = int(((values * 2**24).astype(np.int64) & bit).astype(bool).sum())
        assert stats.binomtest(ones, len(values)).pvalue > 1e-3


def test_normal_draws_are_normal():
    values = draws.normal(7, torch.arange(400), 3, SHAPE).numpy().astype(np.float64).ravel()
    assert np.isfinite(values).all()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(values)) < 5 * np.sqrt(24 / len(values))


@given(seeds, image_lists, st.integers(0, 100), st.randoms(use_true_random=False))
@settings(max_examples=40)
@pytest.mark.parametrize("draw", [draws.uniform, draws.normal])
def test_a_draw_depends_neither_on_the_batch_nor_on_its_order(draw, seed, images, call, random):
    all_values = draw(seed, torch.tensor(images), call, SHAPE)
    assert all_values.shape == (len(images), *SHAPE) and all_values.dtype == torch.float32
    order = list(range(len(images)))
    random.shuffle(order)
    assert torch.equal(draw(seed, torch.tensor(images)[order], call, SHAPE), all_values[order])
    for row, image in enumerate(images):
        assert torch.equal(draw(seed, torch.tensor([image]), call, SHAPE)[0], all_values[row])


@given(seeds)
def test_a_seed_may_lie_on_the_device(seed):
    images = torch.tensor([3, 1, 4])
    for draw in (draws.uniform, draws.normal):
        assert torch.equal(draw(torch.tensor(seed), images, 2, SHAPE), draw(seed, images, 2, SHAPE))


def test_the_same_image_twice_draws_the_same():
    twice = draws.uniform(3, torch.tensor([5, 5]), 1, SHAPE)
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize(
    "other",
    [
        lambda: draws.uniform(4, torch.arange(200), 1, SHAPE),
        lambda: draws.uniform(5, torch.arange(200), 2, SHAPE),
        lambda: draws.uniform(5, torch.arange(200) + 1, 1, SHAPE),
        lambda: draws.uniform(5, torch.arange(200) + 2**32, 1, SHAPE),
    ],
    ids=["next seed", "next call", "next image", "far image"],
)
def test_neighbouring_streams_are_uncorrelated(other):
    streams = draws.uniform(5, torch.arange(200), 1, SHAPE), other()
    one, two = (stream.numpy().astype(np.float64).ravel() for stream in streams)
    assert stats.pearsonr(one, two).pvalue > 1e-3
    assert (one == two).mean() < 1e-3


def test_pixels_of_one_image_are_uncorrelated_with_their_neighbours():
    values = draws.uniform(11, torch.arange(300), 1, torch.Size((256,))).numpy().astype(np.float64)
    for lag in (1, 2, 16):
        assert stats.pearsonr(values[:, lag:].ravel(), values[:, :-lag].ravel()).pvalue > 1e-3


def test_no_two_images_share_a_stream():
    values = draws.uniform(0, torch.arange(20_000), 1, torch.Size((4,)))
    assert len(np.unique(values.numpy(), axis=0)) == 20_000


@pytest.mark.parametrize("extreme", [0.0, 1.0 - 2.0**-24])
def test_no_uniform_draw_makes_a_normal_one_infinite(monkeypatch, extreme):
    monkeypatch.setattr(draws, "uniform", lambda seed, images, call, shape: torch.full((len(images), *shape), extreme))
    assert draws.normal(0, torch.arange(2), 1, SHAPE).isfinite().all()


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    draws.normal(1, torch.arange(3), 1, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("draw", "function"), [(draws.Draws.uniform, draws.uniform), (draws.Draws.normal, draws.normal)]
)
def test_a_steps_draws_belong_to_the_images_that_it_is_told(draw, function):
    like, own = torch.rand(6, *SHAPE), draws.Draws()
    own.begin(3, torch.arange(10, 16))
    all_values, again = draw(own, like), draw(own, like)
    own.begin(3, torch.tensor([14, 11]))
    assert torch.equal(draw(own, like[:2]), all_values[[4, 1]])
    assert torch.equal(draw(own, like[:2]), again[[4, 1]])
    assert not torch.equal(all_values, again), "each call draws anew"
    with pytest.raises(MethodError, match="draws 6 rows for a batch of 2 images"):
        draw(own, like)
    own.begin(3)
    assert torch.equal(draw(own, like), function(3, torch.arange(6), 1, SHAPE)), "untold, by their place"
