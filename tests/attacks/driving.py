"""Running a registered attack as the engine does, with every pass counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Threat
from bench.draws import Draws
from bench.evaluation.replays import Replays
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.isolation import frozen

#: A threat for each norm, large enough that attacks succeed on the small networks of these tests.
THREATS = {
    "linf": Threat(norm="linf", eps="1/5"),
    "l2": Threat(norm="l2", eps="3/2"),
    "l1": Threat(norm="l1", eps=6),
    "l0": Threat(norm="l0", eps=16),
    "wasserstein": Threat(norm="wasserstein", eps="1/20"),
    "flow": Threat(norm="flow", eps=None),
    "corruption": Threat(norm="corruption", eps=None),
}
#: Settings that keep these tests fast; an attack that is not named here runs with its defaults.
CHEAP: dict[str, dict[str, Any]] = {
    "apgd-ce": {"steps": 10},
    "apgd-dlr": {"steps": 10},
    "apgd-t": {"steps": 10, "targets": 3},
    "cascade": {"steps": 10, "targets": 3, "queries": 20, "long_steps": 5, "long_queries": 20},
    "cw": {"steps": 20, "searches": 3, "first_c": 1.0, "learning_rate": 0.05},
    "ddn": {"steps": 20},
    "fmn": {"steps": 20},
    "fwa": {"steps": 8},
    "inverse-purification": {"steps": 12, "inversions": 3},
    "label-aware-apgd": {"steps": 10, "targets": 2},
    "pgd": {"steps": 8, "restarts": 2},
    "rays": {"queries": 300},
    "second-order-apgd": {"steps": 10, "widths": 2},
    "sigma-zero": {"steps": 40},
    "smoothed-pgd": {"steps": 8, "samples": 2},
    "square": {"queries": 60},
    "sta": {"steps": 20, "learning_rate": 0.05},
    "ti-dim": {"steps": 8},
}

#: The same, and the ensemble cut short, for tests that no strength matters to.
FEW = CHEAP | {"autoattack": {"steps": 5, "targets": 2, "queries": 20}}


class Case(NamedTuple):
    """A trained network and 100 test images that it classifies rightly."""

    net: nn.Module
    x: Tensor
    y: Tensor


class Driven(NamedTuple):
    """The adversarial images that an attack returned, and its passes per image."""

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    notes: list[str]


def drive(
    net: nn.Module,
    use: str,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    batch: int = 64,
    draws: Draws | None = None,
    images: Tensor | None = None,
    goal: Tensor | None = None,
    kind: type[NetworkTarget] = NetworkTarget,
    replays: Replays | None = None,
    **parameters: Any,
) -> Driven:
    """Run attack ``use``, a registered name or ``prefix:Class``, with ``parameters`` and an optional ``preset``."""
    prefix, _, name = use.partition(":")
    entry = registry.find("library" if name else "attack", prefix)
    chosen = (entry.meta.get("presets") or {}).get(parameters.pop("preset", None), {})
    arguments = entry.arguments({**chosen, **parameters}) | ({"name": name} if name else {})
    images = torch.arange(len(x)) if images is None else images
    with frozen(net), Meter(net, len(x)) as meter:
        with torch.no_grad():
            classes = net(x[:1]).shape[1]
        meter.forwards = 0
        # The network by itself stands for a purifier that changes nothing.
        more: dict[str, Any] = {"smooth": lambda tau: net, "replays": replays}
        target = kind(net, meter, images, seed=seed, num_classes=classes, batch=batch, draws=draws, goal=goal, **more)
        x_adv = entry.load()(target, x, y, threat, **arguments)
        shared = meter.forwards - int(meter.forwards_of.sum()), meter.backwards - int(meter.backwards_of.sum())
    return Driven(x_adv, meter.forwards_of + shared[0] / len(x), meter.backwards_of + shared[1] / len(x), target.notes)


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return which images the network classifies rightly, shape (N,)."""
    with torch.no_grad():
        return net(x).argmax(1) == y


class Linear(nn.Module):
    """Logits that are linear in the pixels, so that least perturbations are known."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class Constant(nn.Module):
    """The same logits whatever the image, with a gradient that is zero."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(1.0, 0.0, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + 0.0 * x.flatten(1).sum(1, keepdim=True)


class Scaled(nn.Module):
    """A network with its logits multiplied, so far that its softmax is saturated."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor


def assert_within(x_adv: Tensor, x: Tensor, threat: Threat) -> None:
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert bool(torch.isfinite(x_adv).all())
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    if threat.eps is None:
        return
    eps = float(threat.eps)
    if threat.norm == "linf":
        assert float((x_adv - x).abs().max()) <= eps + 1e-6
    elif threat.norm == "l2":
        assert float((x_adv - x).flatten(1).norm(dim=1).max()) <= eps * (1 + 1e-4) + 1e-6
    elif threat.norm == "l1":
        assert float((x_adv - x).flatten(1).abs().sum(1).max()) <= eps * (1 + 1e-4) + 1e-6
    elif threat.norm == "l0":
        assert int((x_adv != x).flatten(1).sum(1).max()) <= eps
    elif threat.norm == "wasserstein":
        # No plan within eps can shift the centre of mass of a channel by more than eps pixels.
        assert torch.allclose(x_adv.sum((2, 3)), x.sum((2, 3)), rtol=1e-4, atol=1e-4)
        column = torch.arange(x.shape[3], dtype=x.dtype)
        shift = (((x_adv - x) * column).sum((2, 3))).abs().sum(1)
        assert bool((shift <= eps * x.sum((1, 2, 3)) * (1 + 1e-3) + 1e-3).all())
