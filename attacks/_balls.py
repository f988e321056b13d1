"""The geometry of a threat: norms of changes, projections, steps and starts in its ball."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks._steps import budget, grad_norm, l2_norm, per_image
from bench.api import Target, Threat

#: The share of values that a step of steepest ascent in L1 moves (Tramèr and Boneh, 2019, for CIFAR-10).
_L1_DENSITY = 0.01


def distance(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of each image's change (N, C, H, W), shape (N,); L0 counts the values that differ."""
    if norm == "linf":
        return delta.abs().flatten(1).amax(1)
    if norm == "l2":
        return l2_norm(delta)
    if norm == "l1":
        return delta.abs().flatten(1).sum(1)
    return (delta != 0).flatten(1).sum(1).to(delta.dtype)


def project(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv`` moved into the ball around ``x`` and into [0, 1]; in L1 to the nearest point of both.

    In L∞ and L2 it goes to the nearest point of the ball and then into the box, which never leaves the ball.
    """
    eps, delta = budget(threat), x_adv - x
    if threat.norm == "linf":
        delta.clamp_(-eps, eps)
    elif threat.norm == "l2":
        delta.mul_(per_image((eps / l2_norm(delta).clamp_min(1e-12)).clamp_max(1.0), delta))
    else:
        # Cutting to the box after L1 would leave much of the budget unused (Croce and Hein, 2021).
        delta = nearest_in_l1_ball(delta, x, torch.full_like(delta.flatten(1)[:, 0], eps))
    return delta.add_(x).clamp_(0.0, 1.0)


def uniform_start(target: Target, x: Tensor, threat: Threat) -> Tensor:
    """Return a uniform point of the threat's ball around each image, clamped to the box."""
    eps = budget(threat)
    if threat.norm == "linf":
        return project(x + target.uniform(x, -eps, eps), x, threat)
    direction = target.normal(x) if threat.norm == "l2" else _laplace(target, x)
    radius = eps * target.uniform(x[:, :1, :1, :1]).flatten() ** (1.0 / x[0].numel())
    scale = radius / distance(direction, threat.norm).clamp_min(1e-12)
    return project(x + direction * per_image(scale, x), x, threat)


def _laplace(target: Target, like: Tensor) -> Tensor:
    """Return draws of a Laplace distribution, which every L1 ball around zero cuts evenly."""
    uniform = target.uniform(like, -1.0, 1.0)
    return -torch.log1p(-uniform.abs().clamp_max(1 - 1e-6)) * uniform.sign()


def ascend(x_adv: Tensor, grad: Tensor, alpha: float, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv`` after a step of size ``alpha`` of steepest ascent, projected."""
    if threat.norm == "l1":
        # The few values that a step moves would else be those that are at the edge of the box already.
        outwards = ((x_adv >= 1) & (grad > 0)) | ((x_adv <= 0) & (grad < 0))
        grad = torch.where(outwards, 0.0, grad)
    return project(torch.add(x_adv, steepest(grad, threat), alpha=alpha), x, threat)


def steepest(grad: Tensor, threat: Threat) -> Tensor:
    """Return the unit step of steepest ascent: the sign in L∞, the normalised gradient in L2.

    In L1 that would move one value. It is the sign of the largest hundredth of an image's gradient instead, all by the
    same amount (Tramèr and Boneh, 2019).
    """
    if threat.norm == "linf":
        return grad.sign()
    if threat.norm == "l2":
        return grad / per_image(grad_norm(grad).clamp_min(1e-38), grad)
    return sparse_sign(grad, torch.full_like(grad.flatten(1)[:, 0], _L1_DENSITY))


def sparse_sign(grad: Tensor, density: Tensor) -> Tensor:
    """Return the sign of the largest values of each image's gradient, scaled to an L1 norm of one.

    Args:
        grad: gradients (N, C, H, W).
        density: the share of an image's values that are kept, (N,); at least one is.
    """
    size = grad.abs().flatten(1)
    values = size.shape[1]
    rank = ((1.0 - density) * values).clamp(0, values - 1).long()
    least = size.sort(1).values.gather(1, rank[:, None])
    sign = torch.where(size >= least, grad.sign().flatten(1), 0.0)
    return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(grad)


def nearest_in_l1_ball(delta: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """Return the change nearest to ``delta`` in L2 that has at most an L1 norm and keeps ``x`` within [0, 1].

    Its sizes are ``clamp(size - shift, 0, room)`` with the least shift of at least zero for which they sum up to no
    more than the radius.

    Args:
        delta: changes (N, C, H, W).
        x: images shaped as ``delta``, in [0, 1].
        radius: the largest norm of each image (N,).
    """
    # The room that each value has in the direction it moves.
    room = torch.where(delta > 0, 1 - x, x).flatten(1)
    size = delta.abs().flatten(1)
    # The sum rises piecewise linearly as the shift falls: a value enters at its size and meets the box at size - room.
    ends = torch.cat((size, size - room), 1).clamp_min_(0.0)
    ends, order = ends.sort(dim=1, descending=True)
    moving = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype).cumsum(1)
    fall = ends - torch.cat((ends[:, 1:], torch.zeros_like(ends[:, :1])), 1)
    total = (moving * fall).cumsum(1)
    at = torch.searchsorted(total, radius[:, None].contiguous()).clamp_max_(total.shape[1] - 1)
    missing = radius[:, None] - (total - moving * fall).gather(1, at)
    shift = ends.gather(1, at) - missing / moving.gather(1, at).clamp_min(1.0)
    nearest = torch.minimum((size - shift.clamp_min(0.0)).clamp_min(0.0), room)
    return nearest.view_as(delta).copysign_(delta)
