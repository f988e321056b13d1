"""AutoAttack on images of sizes at which its package's Square cannot run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks import _official
from attacks._official import OWN_SQUARE, square_runs
from bench.api import Draws, MethodError, Threat
from tests.attacks.driving import Linear, drive, right

SHORT = {"version": "standard", "steps": 30, "targets": 3, "queries": 300}
#: Sizes at which the package fails: tiles past the edge, or no tile.
UNFIT = [(12, 12), (14, 14), (24, 24), (12, 7), (13, 12), (2, 2), (1, 1), (4, 9)]


class Flat(nn.Module):
    """A network without a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).detach() + 0.0 * x.flatten(1)[:, :1]


def linear(channels: int, height: int, width: int, classes: int = 5) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear network, rightly classified images far from the box, and the least L2 norm that breaks each."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(classes, channels * height * width, generator=generator)
    net = Linear(weight, -0.5 * weight.sum(1))
    x = 0.5 + 0.02 * torch.randn(8, channels, height, width, generator=generator)
    with torch.no_grad():
        logits = net(x)
        y = logits.argmax(1)
        gap = logits.gather(1, y[:, None]) - logits
        far = (weight[None] - weight[y][:, None]).norm(dim=2)
    return net, x, y, (gap / far).scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", ["L2", "L1", "Linf"])
@pytest.mark.parametrize("height", [1, 4, 5, 9, 12, 13, 14, 19, 20, 24])
def test_it_is_known_at_which_sizes_the_packages_square_runs(norm: str, height: int) -> None:
    package = pytest.importorskip("pyautoattack.square")
    for width in (1, 2, 4, 7, 10, 12, 13, 14, 16, 18, 24, 27):
        x, y = torch.full((2, 1, height, width), 0.5), torch.zeros(2, dtype=torch.int64)
        with torch.random.fork_rng(devices=[]):
            attack = package.SquareAttack(
                lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1),
                **{"norm": norm, "eps": 0.1, "n_queries": 1, "seed": 0, "device": "cpu"},
            )
            try:
                attack.perturb(x, y)
                runs = True
            except (RuntimeError, ZeroDivisionError):
                runs = False
        assert square_runs(norm.lower(), height, width) == runs


@pytest.mark.parametrize(("height", "width"), UNFIT)
@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_linear_network_those_images_fall_whose_boundary_is_within_eps(
    channels: int, height: int, width: int
) -> None:
    net, x, y, least = linear(channels, height, width)
    eps = float(least.median()) * 1.02
    driven = drive(net, "autoattack", x, y, Threat(norm="l2", eps=eps), **SHORT)
    assert torch.equal(right(net, driven.images, y), least > eps)
    assert float((driven.images - x).flatten(1).norm(dim=1).max()) <= eps * (1 + 1e-5)
    assert (OWN_SQUARE in driven.notes) == bool((least > eps).any())
    assert "autoattack-square-beats-gradient" not in driven.notes


@pytest.mark.parametrize("size", [(12, 12), (14, 13)])
def test_without_a_gradient_the_square_that_stands_in_breaks_what_is_near(size: tuple[int, int]) -> None:
    net, x, y, least = linear(1, *size)
    eps = float(least.max()) * 6
    assert eps < 0.4
    threat = Threat(norm="l2", eps=eps)
    driven = drive(Flat(net).eval(), "autoattack", x, y, threat, **SHORT)
    alone = drive(net, "square", x, y, threat, queries=SHORT["queries"])
    assert not bool(right(net, driven.images, y).any())
    assert not bool(right(net, alone.images, y).any())
    assert {OWN_SQUARE, "autoattack-square-beats-gradient", "autoattack-zero-gradient"} <= set(driven.notes)
    assert float((driven.images - x).flatten(1).norm(dim=1).max()) <= eps * (1 + 1e-5)


def test_it_takes_as_many_queries_as_were_asked_for() -> None:
    net, x, y, least = linear(1, 12, 12)
    few, more = (
        drive(net, "autoattack", x, y, Threat(norm="l2", eps=float(least.min()) / 3), **SHORT | {"queries": queries})
        for queries in (100, 150)
    )
    assert torch.equal(few.images, x)
    assert torch.equal(more.forwards - few.forwards, torch.full((8,), 50.0))


def test_cascade_keeps_what_it_found_at_such_a_size() -> None:
    net, x, y, least = linear(1, 12, 12)
    eps = float(least.max()) * 6
    short = {"steps": 5, "queries": 20, "long_steps": 5, "long_queries": 300}
    driven = drive(Flat(net).eval(), "cascade", x, y, Threat(norm="l2", eps=eps), **short)
    assert not bool(right(net, driven.images, y).any())


@pytest.mark.parametrize(("norm", "size"), [("linf", (12, 12)), ("l2", (16, 16)), ("l2", (16, 12)), ("l1", (10, 10))])
def test_where_the_packages_square_runs_no_other_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, norm: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(_official, "square_search", None)
    net, x, y, least = linear(1, *size)
    driven = drive(net, "autoattack", x, y, Threat(norm=norm, eps=float(least.min()) / 50), **SHORT)
    assert OWN_SQUARE not in driven.notes
    assert torch.equal(driven.images, x)


def test_in_l1_one_line_says_that_it_cannot_run() -> None:
    net, x, y, _ = linear(1, 12, 10)
    with pytest.raises(MethodError, match="AutoAttack in L1 cannot run on images of 12x10: the Square of its package"):
        drive(net, "autoattack", x, y, Threat(norm="l1", eps=1), **SHORT)


def test_a_random_function_gets_the_square_that_stands_in_as_a_candidate() -> None:
    net, x, y, least = linear(1, 12, 12)
    eps = float(least.max()) * 6
    driven = drive(Flat(net).eval(), "autoattack", x, y, Threat(norm="l2", eps=eps), draws=Draws(), **SHORT)
    assert not bool(right(net, driven.images, y).any())
    assert OWN_SQUARE in driven.notes
