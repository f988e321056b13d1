"""The class that a targeted attack is to reach on each image, and which images it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.types import AimedAt

if TYPE_CHECKING:
    from bench.evaluation.target import NetworkTarget

#: The goal of an image that any wrong answer breaks.
ANY = -1


def goals_of(target: NetworkTarget, aimed_at: AimedAt, x: Tensor, y: Tensor) -> Tensor:
    """Return the class that each image is to be given, shape (N,); it may be the true one only where all have one goal.

    ``least-likely`` and ``second`` take a forward pass; ``second`` is the most likely class that is not the true one.

    Args:
        target: the function under attack.
        aimed_at: what the configuration says.
        x: clean images (N, C, H, W) in [0, 1].
        y: labels (N,).
    """
    if isinstance(aimed_at, int):
        return torch.full_like(y, aimed_at)
    if aimed_at == "random":
        others = target.num_classes - 1
        drawn = (target.uniform(x[:, :1, :1, :1]).flatten() * others).long().clamp_max(others - 1)
        return drawn + (drawn >= y)
    logits = target(x)
    if aimed_at == "second":
        return logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    return logits.scatter(1, y[:, None], torch.inf).argmin(1)


def unbroken(labels: Tensor, y: Tensor, goals: Tensor | None) -> Tensor:
    """Return which images are not broken, shaped as ``labels``: right or, where there is a goal, not of that class.

    An image whose true class is its goal cannot be attacked and counts as unbroken.

    Args:
        labels: what is answered (D, N).
        y: the true labels (N,).
        goals: the target classes (N,), :data:`ANY` where there is none.
    """
    right = labels == y
    if goals is None:
        return right
    return torch.where(goals == ANY, right, (labels != goals) | (goals == y))


def joined(parts: list[tuple[Tensor | None, int]]) -> Tensor | None:
    """Return the goals of several groups of images, each with its length, as one; ``None`` where no image has one."""
    if all(goals is None for goals, _ in parts):
        return None
    return torch.cat([torch.full((n,), ANY) if goals is None else goals for goals, n in parts])
