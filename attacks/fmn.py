import math

import torch
from torch import Tensor

from attacks._aim import aim_of
from attacks._balls import distance, dual_norm, nearest_in_ball
from attacks._steps import grad_norm, per_image
from bench.api import Count, Positive, Probability, Target, Threat, attack


@attack(
    norms=("l2", "linf", "l1", "l0"),
    bounded=False,
    targetable=True,
    passes="steps forwards + steps backwards",
    presets={"reference": {"steps": 1000, "soft": 0.0}},
)
def fmn(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 200,
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

    Two things differ from the paper. The nearest point is that of ball and box at once, where the paper cuts to the box
    afterwards. And the first part of the steps climbs the soft margin, log sum_{i != y} exp z_i - z_y, whose direction
    is that of the cross-entropy: the margin sees only the class that is second at that moment, and often ends at
    another than the nearest.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2, L∞, L1 or L0, which counts values, three in a pixel of three channels; unbounded, or with an eps
            that a success must keep to.
        steps: gradient steps; the first evaluates the image itself, and the last iterate is not evaluated.
        step_size: length of the first step, in L2 whatever the norm.
        last_step_size: what it falls to.
        gamma: relative change of the radius at the first step.
        last_gamma: what it falls to.
        soft: the share of the steps, the first ones, that climb the soft margin; the paper's attack has none.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    norm, aim = threat.norm, aim_of(target, y)
    x_best, farthest = x, distance(torch.maximum(x, 1 - x), norm)
    best = torch.full_like(farthest, torch.inf)
    radius = torch.ones_like(best) if norm == "l0" else best
    delta = torch.zeros_like(x)
    for step in range(steps):
        x_adv = x + delta
        grad, logits, _ = target.gradient(x_adv, aim.soft_margin if step < soft * steps else aim.margin, aim.classes)
        is_adv = aim.succeeded(logits, aim.classes)
        length = distance(delta, norm)
        # Without asking whether any improved: a GPU would wait for the answer at every step.
        improved = is_adv & (length < best)
        x_best = torch.where(per_image(improved, x), x_adv, x_best)
        best = torch.where(improved, length, best)
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        change = last_gamma + (gamma - last_gamma) * cosine
        if norm == "l0":
            smaller = torch.minimum(radius - 1, (radius * (1 - change)).floor())
            larger = torch.maximum(radius + 1, (radius * (1 + change)).floor())
        else:
            reach = length + aim.margin(logits, aim.classes).abs() / dual_norm(grad, norm).clamp_min(1e-12)
            smaller, larger = radius * (1 - change), torch.where(best < torch.inf, radius * (1 + change), reach)
        radius = torch.where(is_adv, torch.minimum(smaller, best), larger)
        radius = torch.minimum(radius, farthest).clamp_min(0)
        alpha = last_step_size + (step_size - last_step_size) * cosine
        moved = torch.addcmul(delta, grad, per_image(alpha / grad_norm(grad).clamp_min(1e-12), grad))
        delta = nearest_in_ball(moved, x, radius, norm)
    eps = torch.inf if threat.eps is None else float(threat.eps)
    return torch.where(per_image(best <= eps, x), x_best, x)
