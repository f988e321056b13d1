"""What a pass costs.

FLOPs count 2 per multiply-add, convolutions and matrix products only, as the field's tables do. A backward pass is
counted as one with trainable parameters, two forwards' worth, also where an attack freezes them and pays one: so the
figures can be laid beside published ones (PGD-10 training of the CIFAR ResNet-18: 11 x 166.6 = 1833 TFLOP an epoch).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.evaluation.target import Meter, set_oracle_labels
from bench.process.isolation import frozen, isolated
from bench.types import Passes


class PassFlops(NamedTuple):
    """FLOPs of one image forwards, and backwards with trainable parameters."""

    forward: float
    backward: float

    def of(self, forwards: float, backwards: float) -> float:
        return forwards * self.forward + backwards * self.backward


def _counting() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    # The module tracker fails on autograd.grad with respect to an input (pytorch#131753); totals do not need it.
    counter.mod_tracker = _NoTracker()  # type: ignore[assignment]
    return counter


class _NoTracker(nullcontext[None]):
    parents = frozenset({"Global"})

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


def pass_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> PassFlops:
    """Measure a classifier on one image of the given shape (C, H, W), on the device of its parameters."""
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    image = torch.full((1, *image_shape), 0.5, device=device)
    with frozen(net):
        with torch.no_grad(), _counting() as forward:
            net(image)
        net.requires_grad_(True)
        with torch.enable_grad(), _counting() as both:
            leaf = image.clone().requires_grad_()
            wanted = [each for each in (leaf, *net.parameters()) if each.requires_grad]
            value = net(leaf).logsumexp(1).sum()
            # A network may compute without gradients; attacks on scores need none.
            if value.requires_grad:
                torch.autograd.grad(value, wanted, allow_unused=True)
        net.requires_grad_(False)
    one = float(forward.get_total_flops())
    return PassFlops(one, float(both.get_total_flops()) - one)


def parameters(net: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


class DeployedCost(NamedTuple):
    """One image through the deployed defense: passes of the base classifier inside, and seconds."""

    passes: Passes
    seconds: float


def deployed_cost(base: nn.Module, deployed: nn.Module, image_shape: tuple[int, int, int], batch: int) -> DeployedCost:
    """Measure the deployed function on grey images: passes per image, and the least seconds of three runs."""
    device = next((parameter.device for parameter in base.parameters()), torch.device("cpu"))
    images = torch.full((batch, *image_shape), 0.5, device=device)
    seconds = []
    with isolated("the deployed function"), frozen(base, strict=True), torch.no_grad():
        deployed.eval()
        set_oracle_labels(deployed, torch.zeros(batch, dtype=torch.int64, device=device))
        with Meter(base) as meter:
            deployed(images)
        for _ in range(3):
            synchronize(device)
            started = time.perf_counter()
            deployed(images)
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    return DeployedCost(Passes(meter.forwards / batch, meter.backwards / batch), min(seconds) / batch)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is accurate."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
