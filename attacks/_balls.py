"""The geometry of a threat: norms of changes, nearest points of a ball within the box, steps and starts in it."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks._steps import budget, grad_norm, l2_norm, per_image
from bench.api import Target, Threat

#: Rounds after which the nearest point of an L2 ball within the box is exact to float32; most images take three.
_L2_ROUNDS = 8
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


def dual_norm(grad: Tensor, norm: str) -> Tensor:
    """Return how fast a function rises at most along a change of norm one, shape (N,), from its gradient."""
    if norm == "linf":
        return grad.abs().flatten(1).sum(1)
    if norm == "l2":
        return l2_norm(grad)
    return grad.abs().flatten(1).amax(1)


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
        delta = nearest_in_ball(delta, x, torch.full_like(delta.flatten(1)[:, 0], eps), threat.norm)
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


def nearest_in_ball(delta: Tensor, x: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Return the change nearest to ``delta`` in L2 that has at most a norm and keeps ``x`` within [0, 1].

    Args:
        delta: changes (N, C, H, W).
        x: images shaped as ``delta``, in [0, 1].
        radius: the largest norm of each image (N,).
        norm: L∞, L2, L1 or L0.
    """
    if norm == "linf":
        limit = per_image(radius, delta)
        return torch.minimum(torch.maximum(delta, -limit), limit).add_(x).clamp_(0.0, 1.0).sub_(x)
    # The room that each value has in the direction it moves.
    room = torch.where(delta > 0, 1 - x, x).flatten(1)
    size = delta.abs().flatten(1)
    nearest = {"l2": _l2, "l1": _l1, "l0": _l0}[norm](size, room, radius)
    return nearest.view_as(delta).copysign_(delta)


def _l2(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return ``min(scale * size, room)`` with the largest scale of at most one for which its norm is the radius."""
    scale = torch.zeros_like(radius)
    for _ in range(_L2_ROUNDS):
        # Values that meet the box stay there, and the others share what is left of the squared radius.
        capped = per_image(scale, size) * size >= room
        left = radius**2 - torch.where(capped, room**2, 0.0).sum(1)
        free = torch.where(capped, 0.0, size**2).sum(1)
        scale = (left.clamp_min(0) / free.clamp_min(1e-30)).sqrt().clamp_max(1.0)
    return torch.minimum(per_image(scale, size) * size, room)


def _l1(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return ``clamp(size - shift, 0, room)`` with the least shift of at least zero for which its sum is the radius."""
    # The sum rises piecewise linearly as the shift falls: a value enters at its size and meets the box at size - room.
    ends = torch.cat((size, size - room), 1).clamp_min_(0.0)
    ends, order = ends.sort(dim=1, descending=True)
    moving = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype).cumsum(1)
    fall = ends - torch.cat((ends[:, 1:], torch.zeros_like(ends[:, :1])), 1)
    total = (moving * fall).cumsum(1)
    at = torch.searchsorted(total, radius[:, None].contiguous()).clamp_max_(total.shape[1] - 1)
    missing = radius[:, None] - (total - moving * fall).gather(1, at)
    shift = ends.gather(1, at) - missing / moving.gather(1, at).clamp_min(1.0)
    return torch.minimum((size - shift.clamp_min(0.0)).clamp_min(0.0), room)


def _l0(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return ``min(size, room)`` where it brings the change nearest, at as many values as the radius allows."""
    capped = torch.minimum(size, room)
    # What keeping a value saves of the squared distance, which is size^2 - (size - capped)^2.
    order = (capped * (2 * size - capped)).argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(size, dtype=torch.bool)
    kept.scatter_(1, order, torch.arange(size.shape[1], device=size.device) < radius[:, None].floor())
    return torch.where(kept, capped, 0.0)
