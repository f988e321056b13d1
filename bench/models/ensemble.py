"""Several networks as one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.types import UsageError


class Ensemble(nn.Module):
    """The mean of several networks, each of which gives logits (N, classes).

    Args:
        members: the networks.
        combine: ``logits`` for the mean of their logits; ``probabilities`` for the logarithm of the mean of their
            softmax, whose softmax is that mean.

    Raises:
        UsageError: ``combine`` is neither.
    """

    def __init__(self, members: Iterable[nn.Module], combine: str) -> None:
        super().__init__()
        if combine not in ("logits", "probabilities"):
            raise UsageError(f"an ensemble combines logits or probabilities, not '{combine}'")
        self.members = nn.ModuleList(members)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        logits = torch.stack([member(x) for member in self.members])
        if self.combine == "logits":
            return logits.mean(0)
        return logits.log_softmax(2).logsumexp(0) - math.log(len(self.members))
