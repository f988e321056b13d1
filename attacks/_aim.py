"""What an attack maximises, and when it has succeeded: away from the true class, or towards a target class."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from attacks import _steps
from bench.api import Target


class Aim(NamedTuple):
    """The losses of an attack and its test of success; each takes logits (N, classes) and classes (N,).

    Attributes:
        classes: the true class of each image or, of a targeted attack, the one to reach, shape (N,).
        cross_entropy: rises as the images come nearer to success, shape (N,).
        margin: above zero where they succeed (Carlini and Wagner, 2017, section V-A: f6 with its sign changed).
        soft_margin: like the margin, with T log sum exp(z_i / T) of the logits in place of the largest; it also takes
            the temperatures T (N,).
        succeeded: which images succeed, shape (N,).
    """

    classes: Tensor
    cross_entropy: Callable[[Tensor, Tensor], Tensor]
    margin: Callable[[Tensor, Tensor], Tensor]
    soft_margin: Callable[[Tensor, Tensor, Tensor], Tensor]
    succeeded: Callable[[Tensor, Tensor], Tensor]


def aim_of(target: Target, y: Tensor) -> Aim:
    """Return what an attack on images with labels (N,) aims at."""
    if target.goal is None:
        return Aim(y, _steps.cross_entropy, _steps.margin, _soft_margin, _misclassified)
    return Aim(target.goal, _cross_entropy_towards, _margin_towards, _soft_margin_towards, _reached)


def _misclassified(logits: Tensor, y: Tensor) -> Tensor:
    return logits.argmax(1) != y


def _reached(logits: Tensor, goal: Tensor) -> Tensor:
    return logits.argmax(1) == goal


def _cross_entropy_towards(logits: Tensor, goal: Tensor) -> Tensor:
    return -_steps.cross_entropy(logits, goal)


def _margin_towards(logits: Tensor, goal: Tensor) -> Tensor:
    return -_steps.margin(logits, goal)


def _soft_margin(logits: Tensor, y: Tensor, temperatures: Tensor) -> Tensor:
    return temperatures * _steps.soft_margin(logits / temperatures[:, None], y)


def _soft_margin_towards(logits: Tensor, goal: Tensor, temperatures: Tensor) -> Tensor:
    return -_soft_margin(logits, goal, temperatures)
