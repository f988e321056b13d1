"""What the cascade gives up, what it does not trust, and what it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Threat
from bench.evaluation.passes import passes_of
from tests.attacks.driving import Case, Linear, assert_within, drive, right

#: An AutoAttack for masked images that is over soon.
SHORT: dict[str, Any] = {"targets": 3, "long_steps": 10, "long_queries": 60}


@pytest.fixture(scope="module")
def linear() -> Case:
    """A linear network with images far from the box, which it classifies rightly."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 64, generator=generator)
    # No class is ahead by the grey of all images.
    net = Linear(weight - weight.mean(1, keepdim=True), torch.zeros(10)).eval().requires_grad_(False)
    x = 0.4 + 0.2 * torch.rand(200, 1, 8, 8, generator=generator)
    with torch.no_grad():
        return Case(net, x, net(x).argmax(1))


def distances(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The least L∞ distance of each image to another class of a linear network."""
    with torch.no_grad():
        logits = net(x)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (net.weight[y][:, None] - net.weight[None]).norm(p=1, dim=2)  # type: ignore[operator, index, union-attr]
    return (gaps / slopes).scatter(1, y[:, None], torch.inf).amin(1)


def test_of_a_linear_network_it_breaks_what_can_be_broken_and_gives_the_rest_up(linear: Case) -> None:
    threat = Threat(norm="linf", eps="1/300")
    least = distances(linear.net, linear.x, linear.y)
    near = (least / float(threat.eps or 0)).log().abs() < 0.02
    x, y, breakable = linear.x[~near], linear.y[~near], least[~near] < float(threat.eps or 0)
    driven = drive(linear.net, "cascade", x, y, threat)
    assert 20 < int(breakable.sum()) < len(x) - 20
    assert torch.equal(right(linear.net, driven.images, y), ~breakable)
    assert driven.notes == []
    # What is far takes what is stated, a few one more run.
    entry = registry.find("attack", "cascade")
    stated = passes_of(entry.meta["passes"], entry.defaults())
    far = least[~near] > 1.5 * float(threat.eps or 0)
    assert stated is not None and int(far.sum()) > 20
    assert float(driven.forwards[far].median()) == stated.forwards
    assert float(driven.backwards[far].median()) == stated.backwards
    assert int(driven.forwards[far].max()) <= stated.forwards + 2 * 32
    assert int(driven.forwards[breakable].max()) < 40


def test_it_breaks_what_long_runs_towards_all_classes_break(robust: Case) -> None:
    threat = Threat(norm="linf", eps="15/100")
    x, y = robust.x[:40], robust.y[:40]
    long = drive(robust.net, "apgd-t", x, y, threat, steps=40, targets=9)
    ours = drive(robust.net, "cascade", x, y, threat)
    survives, ours_survives = (right(robust.net, each.images, y) for each in (long, ours))
    assert 5 < int(survives.sum()) < 35
    assert not bool((ours_survives & ~survives).any())


class Quantised(nn.Module):
    """Pixels rounded to five levels: no gradient anywhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((4 * x).round() / 4)


class Probabilities(nn.Module):
    """A softmax so sharp that gradients are a millionth and less of what the logits have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return (3 * self.net(x)).softmax(1)


class Foreign(nn.Module):
    """The logits of one network with the gradient of another, small enough to look harmless."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.other = Linear(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        other = 1e-4 * self.other(x)
        return self.net(x).detach() + other - other.detach()


@pytest.mark.parametrize("wrap", [Quantised, Probabilities, Foreign])
def test_where_gradients_lead_nowhere_an_image_gets_all_of_autoattack(robust: Case, wrap: type[nn.Module]) -> None:
    net, threat = wrap(robust.net).eval().requires_grad_(False), Threat(norm="linf", eps="15/100")
    kept = right(net, robust.x, robust.y)
    x, y = robust.x[kept][:12], robust.y[kept][:12]
    ensemble = drive(net, "autoattack", x, y, threat, version="standard", steps=10, targets=3, queries=60)
    ours = drive(net, "cascade", x, y, threat, **SHORT)
    assert_within(ours.images, x, threat)
    assert "masked-gradients" in ours.notes and "autoattack-reduced" in ours.notes
    # No image takes more than is stated at most, and more than is counted for most.
    entry = registry.find("attack", "cascade")
    counted, most = (passes_of(entry.meta[name], entry.arguments(SHORT)) for name in ("passes", "most"))
    assert counted is not None and most is not None
    assert counted.forwards < int(ours.forwards.max()) <= most.forwards
    assert int(ours.backwards.max()) <= most.backwards
    # A search of 60 queries may miss one where round-off, which processors differ in, leads it elsewhere.
    assert int((right(net, ours.images, y) & ~right(net, ensemble.images, y)).sum()) <= 1
