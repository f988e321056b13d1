from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._aim import aim_of
from attacks._balls import distance, dual_norm, nearest_in_ball
from attacks._steps import grad_norm, per_image
from bench.api import Count, Positive, Probability, Target, Threat, attack

#: A search of fewer steps ends farther away than one of all steps.
LEAST_STEPS = 80


@attack(
    norms=("l2", "linf", "l1", "l0"),
    bounded=False,
    targetable=True,
    passes="steps forwards + steps backwards",
    presets={"reference": {"steps": 1000, "searches": 1, "soft": 0.0}},
)
def fmn(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 200,
    searches: Count = 2,
    step_size: Positive = 1.0,
    last_step_size: Positive = 0.01,
    gamma: Probability = 0.05,
    last_gamma: Probability = 0.001,
    soft: Probability = 0.5,
) -> Tensor:
    """Fast minimum norm (Pintor et al., 2021): the least L2, L∞, L1 or L0 that breaks an image.

    The change moves along the normalised gradient of the margin, max_{i != y} z_i - z_y, and then to the nearest point
    of a ball. Until an image is broken, the radius is the distance to the boundary of the linearised margin; from then
    on it is 1 - gamma times the last where the image is broken, no more than the least norm found, and 1 + gamma times
    where it is not. In L0 it changes by one value at least. With a target class t the margin is z_t - max_{i != t} z_i,
    and only t breaks an image. Length of steps and gamma fall as a cosine. An image keeps its nearest success, itself
    if there is none.

    Three things differ from the paper. The nearest point is that of ball and box at once, where the paper cuts to the
    box afterwards. The first part of the steps climbs the soft margin, T log sum_{i != y} exp(z_i / T) - z_y, whose
    direction at T = 1 is that of the cross-entropy: the margin sees only the class that is second at that moment, and
    often ends at another than the nearest. And the steps are split into searches, each from the image itself and with
    three times the T of the one before, for which class is nearest is seen from one T or another.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2, L∞, L1 or L0, which counts values, three in a pixel of three channels; unbounded, or with an eps
            that a success must keep to.
        steps: gradient steps of all searches; the first of each evaluates the image itself, and its last iterate is not
            evaluated.
        searches: parts that the steps are split into, fewer where a part would have less than 80; the paper's attack is
            one.
        step_size: length of the first step of a search, in L2 whatever the norm.
        last_step_size: what it falls to.
        gamma: relative change of the radius at the first step of a search.
        last_gamma: what it falls to.
        soft: the share of a search's steps, the first ones, that climb the soft margin; the paper's attack has none.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    nearest = _Nearest(x, x.new_full((len(x),), torch.inf))
    searches = max(1, min(searches, steps // LEAST_STEPS))
    for search in range(searches):
        n = (search + 1) * steps // searches - search * steps // searches
        schedule = _Schedule(n, math.ceil(soft * n), (step_size, last_step_size), (gamma, last_gamma))
        found = _search(target, x, y, threat.norm, schedule, temperature=3.0**search)
        nearest = nearest.updated(found, found.length < nearest.length)
    eps = torch.inf if threat.eps is None else float(threat.eps)
    return torch.where(per_image(nearest.length <= eps, x), nearest.x, x)


class _Nearest(NamedTuple):
    """The nearest success of each image, the image itself where there is none, and how far it is, or infinity."""

    x: Tensor
    length: Tensor

    def updated(self, other: _Nearest, nearer: Tensor) -> _Nearest:
        # Without asking whether any is nearer: a GPU would wait for the answer at every step.
        return _Nearest(
            torch.where(per_image(nearer, self.x), other.x, self.x), torch.where(nearer, other.length, self.length)
        )


class _Schedule(NamedTuple):
    """Steps of a search, how many of them are soft, and the first and last length of steps and relative change."""

    steps: int
    soft_steps: int
    lengths: tuple[float, float]
    changes: tuple[float, float]

    def at(self, step: int) -> tuple[float, float]:
        """Return the length of a step and the relative change of the radius after it."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        length, change = (last + (first - last) * cosine for first, last in (self.lengths, self.changes))
        return length, change


def _search(target: Target, x: Tensor, y: Tensor, norm: str, schedule: _Schedule, *, temperature: float) -> _Nearest:
    """Return the nearest success of one search that starts at the images themselves."""
    aim, nearest = aim_of(target, y), _Nearest(x, x.new_full((len(x),), torch.inf))
    farthest = distance(torch.maximum(x, 1 - x), norm)
    radius = torch.ones_like(farthest) if norm == "l0" else nearest.length
    temperatures = x.new_full((len(x),), temperature)
    delta = torch.zeros_like(x)
    for step in range(schedule.steps):
        x_adv = x + delta
        if step < schedule.soft_steps:
            grad, logits, _ = target.gradient(x_adv, aim.soft_margin, aim.classes, temperatures)
        else:
            grad, logits, _ = target.gradient(x_adv, aim.margin, aim.classes)
        is_adv = aim.succeeded(logits, aim.classes)
        length = distance(delta, norm)
        nearest = nearest.updated(_Nearest(x_adv, length), is_adv & (length < nearest.length))
        alpha, change = schedule.at(step)
        if norm == "l0":
            smaller = torch.minimum(radius - 1, (radius * (1 - change)).floor())
            larger = torch.maximum(radius + 1, (radius * (1 + change)).floor())
        else:
            reach = length + aim.margin(logits, aim.classes).abs() / dual_norm(grad, norm).clamp_min(1e-12)
            smaller = radius * (1 - change)
            larger = torch.where(nearest.length < torch.inf, radius * (1 + change), reach)
        radius = torch.where(is_adv, torch.minimum(smaller, nearest.length), larger)
        radius = torch.minimum(radius, farthest).clamp_min(0)
        moved = torch.addcmul(delta, grad, per_image(alpha / grad_norm(grad).clamp_min(1e-12), grad))
        delta = nearest_in_ball(moved, x, radius, norm)
    return nearest
