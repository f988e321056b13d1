"""Functions whose slope says nothing, or whose boundary only luck finds: what an attack must find is known."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from bench.api import Threat
from bench.draws import Draws
from tests.attacks.driving import Case, drive, right

EPS = Threat(eps="1/10")
THRESHOLD = 0.12


def wave(t: Tensor) -> Tensor:
    """A triangle of height 0.04 and period 0.01: half of all points have the slope 8 and half -8."""
    phase = (100 * t) % 1
    return 0.04 * torch.minimum(2 * phase, 2 - 2 * phase)


class Rugged(nn.Module):
    """The margin rises with t, the mean of signed pixels, under a wave so fine that it alone decides the slope.

    Smoothed over a few periods the wave is a constant, and the slope that of t.
    """

    def __init__(self, signs: Tensor, draws: Draws | None = None) -> None:
        super().__init__()
        self.signs, self.draws = nn.Parameter(signs), draws

    def forward(self, x: Tensor) -> Tensor:
        t = ((x - 0.5) * self.signs).mean((1, 2, 3))
        margin = t + wave(t) - THRESHOLD
        if self.draws is not None:
            margin = margin + 0.002 * self.draws.normal(margin)
        return torch.stack((torch.zeros_like(margin), margin), 1)


@pytest.fixture
def grey() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signs of the pixels, images far from the box with t from -0.05 to 0.05, labels, and which can be broken."""
    signs = torch.where(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    t = torch.linspace(-0.05, 0.05, 40)
    # In Linf every t within eps can be reached, so the largest margin is that over an interval.
    best = t[:, None] + torch.linspace(-0.1, 0.1, 20001)
    breakable = (best + wave(best)).amax(1) > THRESHOLD
    return signs, 0.5 + t[:, None, None, None] * signs, torch.zeros(40, dtype=torch.int64), breakable


def test_smoothing_finds_all_that_a_rugged_loss_hides_from_the_plain_gradient(grey) -> None:
    signs, x, y, breakable = grey
    net = Rugged(signs)
    assert 10 < int(breakable.sum()) < 35
    for settings in ({}, {"step_size": "1/100"}, {"start": "clean"}):
        plain = drive(net, "pgd", x, y, EPS, steps=60, loss="margin", **settings).images
        assert int((~right(net, plain, y)).sum()) < int(breakable.sum()) / 4
    x_adv = drive(net, "smoothed-pgd", x, y, EPS).images
    assert torch.equal(~right(net, x_adv, y), breakable)


def test_smoothing_sees_through_a_random_function_too(grey) -> None:
    signs, x, y, breakable = grey
    draws = Draws()
    x_adv = drive(Rugged(signs, draws), "smoothed-pgd", x, y, EPS, draws=draws).images
    # Judged without the noise; one image nearer to the boundary than the noise is wide may fall to either side.
    is_adv = ~right(Rugged(signs), x_adv, y)
    assert not bool((is_adv & ~breakable).any())
    assert int(is_adv.sum()) >= int(breakable.sum()) - 3


class Lock(nn.Module):
    """Broken only where three columns are moved by all of eps, each the way that a key says."""

    def __init__(self, key: tuple[int, ...]) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.tensor(key, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        moved = ((x - 0.5) * self.key / 0.1).amin((1, 2, 3))
        return torch.stack((torch.zeros_like(moved), moved - 0.99), 1)


@pytest.mark.parametrize("restarts", [1, 3, 8])
def test_every_restart_of_square_begins_with_stripes_of_its_own(restarts: int) -> None:
    n = 2000
    x, y = torch.full((n, 1, 3, 3), 0.5), torch.zeros(n, dtype=torch.int64)
    net = Lock((1, -1, 1))
    driven = drive(net, "square", x, y, EPS, queries=1, restarts=restarts)
    # One query is one of eight patterns of stripes.
    chance = 1 - (7 / 8) ** restarts
    share = float((~right(net, driven.images, y)).float().mean())
    assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / n)


def test_rays_starts_from_all_signs_up_and_then_from_stripes() -> None:
    x, y = torch.full((500, 1, 3, 3), 0.5), torch.zeros(500, dtype=torch.int64)

    def share(key: tuple[int, ...], restarts: int) -> float:
        # Enough queries to bisect down to eps on a ray that is right at once, too few to turn three columns.
        net = Lock(key)
        driven = drive(net, "rays", x, y, EPS, queries=12, restarts=restarts)
        return float((~right(net, driven.images, y)).float().mean())

    assert share((1, 1, 1), 1) == 1
    assert share((1, -1, 1), 1) == 0
    # Eight starts are one of eight patterns each; one turn may find some more.
    assert share((1, -1, 1), 9) > 1 - (7 / 8) ** 8 - 0.05


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"steps": 4}),
        ("smoothed-pgd", {"steps": 4, "samples": 2}),
        ("square", {"queries": 15}),
        ("rays", {"queries": 60}),
    ],
)
def test_restarts_break_more_and_lose_nothing(robust: Case, name: str, settings: dict) -> None:
    # In double precision, as a user's network may be, and with images that nothing breaks.
    net = copy.deepcopy(robust.net).double()
    x, y = robust.x.double(), robust.y
    x_adv = [drive(net, name, x, y, Threat(eps="15/100"), restarts=n, **settings).images for n in (1, 2, 4)]
    is_adv = [~right(net, images, y) for images in x_adv]
    assert not bool((is_adv[0] & ~is_adv[1]).any())
    assert not bool((is_adv[1] & ~is_adv[2]).any())
    assert int(is_adv[2].sum()) > int(is_adv[0].sum())
    # The first search is the same with and without others after it.
    if name != "pgd":
        assert torch.equal(x_adv[2][is_adv[0]], x_adv[0][is_adv[0]])
