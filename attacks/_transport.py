"""Moving pixel mass within windows: the entropic linear step of the fast Wasserstein attack (Wu et al., 2020)."""

from __future__ import annotations

from functools import reduce
from itertools import groupby, product
from math import hypot

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._steps import per_image

DUAL_STEPS = 25


ROUNDS = 4
#: The gain of a pixel that takes nothing: its share is 0, yet it is finite, so that a difference of two is no NaN.
CLOSED = -1e30

Offset = tuple[int, int]


def best_move(x: Tensor, grad: Tensor, *, eps: float, kernel: int, entropy: float, capacity: bool) -> Tensor:
    """Return images of (nearly) the largest entropic gain along ``grad`` among those at cost eps * sum(x) or less.

    The plan is a softmax over each window of gain minus price times distance. Where pixels have a capacity of 1, plans
    are made in rounds: what full pixels cannot take stays at home, and with the budget left over moves elsewhere.

    Args:
        x: images (N, C, H, W) in [0, 1].
        grad: what a unit of mass gains at each pixel, shaped as ``x``.
        eps: budget as a fraction of an image's mass times one pixel.
        kernel: side of the window.
        entropy: weight of the entropy, relative to the largest gain.
        capacity: fill no pixel above 1.
    """
    height, width = x.shape[2:]
    pads = (kernel // 2, (kernel - 1) // 2) * 2

    def at(image: Tensor, offset: Offset) -> Tensor:
        return image[..., offset[0] : offset[0] + height, offset[1] : offset[1] + width]

    rings = _rings(kernel)
    arcs = [(ring, offset) for ring, (_, offsets) in enumerate(rings) for offset in offsets]
    levels = x.new_tensor([0.0, *(distance for distance, _ in rings)])
    gain = grad / per_image(grad.abs().flatten(1).amax(1).clamp_min(1e-30), x) / entropy
    within, total = gain, eps * x.flatten(1).sum(1)
    at_home, moved, allowed = x, torch.zeros_like(x), total
    for _ in range(ROUNDS if capacity else 1):
        # Per ring of equally distant pixels: how good it is as a whole, and what each of its pixels gets of its share.
        padded = F.pad(within, pads, value=CLOSED)
        tops = [reduce(torch.maximum, (at(padded, offset) for offset in offsets)) for _, offsets in rings]
        parts = [_exp(at(padded, offset) - tops[ring]) for ring, offset in arcs]
        sums = [sum(part for part, (ring, _) in zip(parts, arcs, strict=True) if ring == i) for i in range(len(rings))]
        reach = torch.stack([gain, *(top + weight.log() for top, weight in zip(tops, sums, strict=True))])
        shares = _affordable(reach, levels, at_home, allowed)
        leaving = [at_home * share / weight for share, weight in zip(shares[1:], sums, strict=True)]
        landed = F.pad(torch.zeros_like(x), pads)
        for part, (ring, offset) in zip(parts, arcs, strict=True):
            at(landed, offset).add_(part.mul_(leaving[ring]))
        landed = at(landed, (kernel // 2, kernel // 2))
        # A pixel takes what it has room for, the same share from every side; the rest stays for the next round.
        taken = ((1 - at_home - moved) / landed.clamp_min(1e-30)).clamp(0, 1) if capacity else torch.ones_like(x)
        refused = (taken < 1).flatten(1).any(1)
        if bool(refused.any()):
            around, landed = F.pad(taken, pads), landed * taken
            parts = [part.mul_(at(around, offset)) for part, (_, offset) in zip(parts, arcs, strict=True)]
        departed, cost = torch.zeros_like(x), torch.zeros_like(total)
        for part, (ring, _) in zip(parts, arcs, strict=True):
            departed += part
            cost += rings[ring][0] * part.flatten(1).sum(1)
        afford = per_image((allowed / cost.clamp_min(1e-30)).clamp_max(1), x)
        at_home, moved = at_home - departed * afford, moved + landed * afford
        # An image that was refused nothing, or has spent all but a hundredth, is done whatever its company still does.
        allowed = torch.where(refused & (allowed - cost > 0.01 * total), allowed - cost, 0.0)
        if not bool((allowed > 0).any()):
            break
        within = within.masked_fill(1 - at_home - moved <= 1e-6, CLOSED)
    return at_home + moved


def _rings(kernel: int) -> list[tuple[float, list[Offset]]]:
    """Return the offsets of a window, counted from its corner, by distance from its home pixel, which is left out."""
    home = kernel // 2
    offsets = sorted(product(range(kernel), repeat=2), key=lambda offset: hypot(offset[0] - home, offset[1] - home))
    grouped = groupby(offsets, key=lambda offset: hypot(offset[0] - home, offset[1] - home))
    return [(distance, list(group)) for distance, group in grouped if distance > 0]


def _affordable(reach: Tensor, levels: Tensor, mass: Tensor, allowed: Tensor) -> Tensor:
    """Return the rings' shares (R, N, C, H, W) at the price of distance at which the plan costs what is allowed.

    Where everything is affordable the price is 0.
    """
    moments = torch.stack([torch.ones_like(levels), levels, levels**2])
    price = _first_guess(reach, levels, mass, allowed)
    low, high, settled = torch.zeros_like(price), torch.full_like(price, torch.inf), allowed <= 0
    for _ in range(DUAL_STEPS):
        shares = reach - per_image(price, mass) * levels.view(-1, 1, 1, 1, 1)
        shares = _exp(shares.sub_(shares.amax(0)))
        weight, mean, second = torch.tensordot(moments, shares, 1)
        mean, second = mean.div_(weight), second.div_(weight)
        cost = (mass * mean).flatten(1).sum(1).clamp_min(1e-30)
        excess = (cost / allowed.clamp_min(1e-30)).log()
        settled = settled | (excess.abs() < 2e-3) | ((price == 0) & (excess <= 0))
        if bool(settled.all()):
            break
        low, high = torch.where(excess > 0, price, low), torch.where(excess > 0, high, price)
        # The cost falls about exponentially where a pixel's turn to move comes, and is flat between two turns: Newton's
        # method on its logarithm, in steps as wide as a few turns at most, and bisection where that leaves the bracket.
        slope = (mass * (second - mean**2)).flatten(1).sum(1).clamp_min(1e-30)
        newton = price + (excess * cost / slope).clamp(-8.0, 8.0)
        newton = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        price = torch.where(settled, price, newton)
    return shares.div_(weight)


def _first_guess(reach: Tensor, levels: Tensor, mass: Tensor, allowed: Tensor) -> Tensor:
    """Return the price (N,) at which a plan without entropy, that moves each pixel but once, would cost its budget."""
    worth, ring = ((reach[1:] - reach[0]) / levels[1:].view(-1, 1, 1, 1, 1)).max(0)
    worth, order = worth.flatten(1).sort(1, descending=True)
    spent = (mass * levels[ring + 1]).flatten(1).gather(1, order).cumsum(1)
    turn = (spent < allowed[:, None]).sum(1, keepdim=True).clamp_max(spent.shape[1] - 1)
    return worth.gather(1, turn)[:, 0].clamp_min(0)


def _exp(values: Tensor) -> Tensor:
    # 1e-13 does as 0 here, and products of results stay clear of denormal numbers, which are ten times slower.
    return values.clamp_(min=-30.0).exp_()
