"""Logits as they are judged: in the precision of the images; a tie counts as wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.process.isolation import frozen
from bench.types import MethodError


def precise(logits: Any, images: Tensor, who: str = "the network") -> Tensor:
    """Return logits in the precision of the images, whatever they were computed in.

    Raises:
        MethodError: ``who`` returned something other than a tensor.
    """
    if not isinstance(logits, Tensor):
        raise MethodError(f"{who} returned {type(logits).__name__}, not logits of shape (images, classes)")
    return logits.to(images.dtype)


class Precise(nn.Module):
    """A network whose logits come in the precision of the images; ``unit`` is the round-off of what it computes in."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net
        self.unit = torch.finfo(dtype).eps

    def forward(self, x: Tensor, *steps: Tensor) -> Tensor:
        return precise(self.net(x, *steps), x)


def with_precise_logits(net: nn.Module, images: Tensor) -> nn.Module:
    """Return a network that gives logits in the precision of some images (N, C, H, W): itself where it does so."""
    with frozen(net), torch.no_grad():
        logits = net(images)
    if not isinstance(logits, Tensor) or logits.dtype == images.dtype or not logits.is_floating_point():
        return net
    return Precise(net, logits.dtype)


def round_off(base: nn.Module, device: torch.device) -> float:
    """Return by how much, relative to the largest, logits may differ between two batches that hold the same image.

    Kernels take sums in an order that depends on the length of a batch. On a CPU that moves the logits of ResNet-18 by
    2.4e-7 (one image against 32); 2**-17 is allowed, the unit of float32 64 times. Where convolutions round to TF32
    it is that format's 2**-10, and where the network computes in a format of fewer bits still, the unit of that.
    """
    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return max(2.0**-10 if tf32 else 2.0**-17, base.unit if isinstance(base, Precise) else 0.0)


def harder(logits: Tensor, y: Tensor, margin: float) -> Tensor:
    """Return logits (N, classes) of which that of class ``y`` is higher by ``margin`` times the largest of its row."""
    return logits.scatter_add(1, y[:, None], margin * logits.detach().abs().amax(1, keepdim=True))


def judged(logits: Tensor, y: Tensor, goals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the labels (N,) that logits (N, classes) give, and their margins (N,): the true logit less the next.

    The label is the true one only where its logit is above every other. A tie counts as an error, whichever class comes
    first. Where ``goals`` (N,) has a class, not below zero, the margin is the largest of the other logits less its own.
    """
    others, margins = _against(logits, y)
    labels = torch.where(margins > 0, y, others.argmax(1))
    if goals is not None:
        margins = torch.where(goals < 0, margins, -_against(logits, goals.clamp_min(0))[1])
    return labels, margins


def _against(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits without those of ``classes`` (N,), and by how much these are above the largest of the others."""
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return others, logits.gather(1, classes[:, None])[:, 0] - others.amax(1)
