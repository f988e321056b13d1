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
ROUNDS = 3
#: The gain of a pixel that takes nothing: its share is 0, yet it is finite, so that a difference of two is no NaN.
CLOSED = -1e30
#: A pixel whose best move is worth this much less than its price stays at home, but for exp(-20) of it.
FAINT = 20.0
#: Share of an image's pixels that are looked at closely at first; more where that proves too few.
FEW = 1 / 64

Offset = tuple[int, int]


def best_move(x: Tensor, grad: Tensor, *, eps: float, kernel: int, entropy: float, capacity: bool) -> Tensor:
    """Return images of (nearly) the largest entropic gain along ``grad`` among those at cost eps * sum(x) or less.

    The plan is a softmax over each window of gain minus price times distance. Where pixels have a capacity of 1, plans
    are made in rounds: what full pixels cannot take stays at home, and with the budget left over moves elsewhere. A
    small budget moves few pixels, so plans are worked out for those alone whose mass is most worth moving.

    Args:
        x: images (N, C, H, W) in [0, 1].
        grad: what a unit of mass gains at each pixel, shaped as ``x``; an image stays where all of it is 0.
        eps: budget as a fraction of an image's mass times one pixel.
        kernel: side of the window.
        entropy: weight of the entropy, relative to the largest gain.
        capacity: fill no pixel above 1.
    """
    (height, width), home = x.shape[2:], kernel // 2

    def grid(image: Tensor, value: float) -> Tensor:
        return F.pad(image, (home, kernel - 1 - home) * 2, value=value).flatten(1)

    largest = grad.abs().flatten(1).amax(1)
    gain = grid(grad / per_image(largest.clamp_min(1e-30), x) / entropy, CLOSED)
    at_home, moved = grid(x, 0.0), torch.zeros_like(gain)
    allowed = total = eps * at_home.sum(1) * (largest > 0)
    # On a padded image, laid out as one line, each arc of the window is a fixed shift.
    rings = [(distance, [i * (width + kernel - 1) + j for i, j in arcs]) for distance, arcs in _rings(kernel)]
    levels, sizes = x.new_tensor([distance for distance, _ in rings]), [len(arcs) for _, arcs in rings]
    shifts = torch.tensor([shift for _, arcs in rings for shift in arcs], device=x.device)
    first, last = -int(shifts.min()), gain.shape[1] - int(shifts.max())
    # What a pixel's mass gains at best, all others open, for each unit of distance: below that price it stays.
    tops = [reduce(torch.maximum, (gain[:, first + a : last + a] for a in arcs)) for _, arcs in rings]
    worths = [(top - gain[:, first:last]).div_(level) for top, level in zip(tops, levels, strict=True)]
    worth = reduce(torch.maximum, worths).clamp_(min=0).mul_(at_home[:, first:last].sign())
    # A GPU waits for launches more than for arithmetic, so there nobody is left out to be looked at again.
    count, chosen = last - first if x.is_cuda else max(int(FEW * (last - first)), 1), None
    for plan in range(ROUNDS if capacity else 1):
        room = 1 - at_home - moved
        while True:
            if chosen is None:
                worthy, chosen = worth.topk(count, 1, sorted=False)
                chosen, least = chosen + first, worthy.amin(1)
                sinks, own = (chosen[:, None] + shifts[:, None]).flatten(1), gain.gather(1, chosen)[:, None]
            mass = at_home.gather(1, chosen)
            arcs = gain.gather(1, sinks)
            if plan:
                arcs.masked_fill_(room.gather(1, sinks) <= 1e-6, CLOSED)
            arcs = arcs.view(len(x), len(shifts), count).sub_(own)
            # Of each ring of equally distant pixels: how good it is as a whole, and what each gets of its share.
            tops = [ring.amax(1, keepdim=True) for ring in arcs.split(sizes, 1)]
            parts = [_exp(ring.sub_(top)) for ring, top in zip(arcs.split(sizes, 1), tops, strict=True)]
            sums = torch.stack([part.sum(1) for part in parts])
            shares, price = _affordable(torch.stack(tops)[:, :, 0] + sums.log(), levels, mass, allowed)
            if count == last - first or bool(((least <= price - FAINT) | (allowed <= 0)).all()):
                break
            count, chosen = min(2 * count, last - first), None
        leaving = (mass * shares / sums)[:, :, None]
        parts = [part.mul_(share) for part, share in zip(parts, leaving, strict=True)]
        landed = torch.zeros_like(gain).scatter_add_(1, sinks, arcs.flatten(1))
        if capacity:
            # A pixel takes what it has room for, the same share from every side; the rest stays for the next round.
            taken = (room / landed.clamp_min(1e-30)).clamp_(0, 1)
            refused = taken.amin(1) < 1
            arcs.mul_(taken.gather(1, sinks).view_as(arcs))
            landed.mul_(taken)
        cost = sum(level * part.sum((1, 2)) for level, part in zip(levels, parts, strict=True))
        afford = (allowed / cost.clamp_min(1e-30)).clamp_max(1)[:, None]
        at_home = at_home.scatter(1, chosen, mass - arcs.sum(1) * afford)
        moved.addcmul_(landed, afford)
        if not capacity:
            break
        # An image that was refused nothing, or has spent all but a hundredth, is done whatever its company still does.
        allowed = torch.where(refused & (allowed - cost > 0.01 * total), allowed - cost, 0.0)
        if not bool((allowed > 0).any()):
            break
    found = (at_home + moved).view(*x.shape[:2], height + kernel - 1, width + kernel - 1)
    return found[..., home : home + height, home : home + width]


def _rings(kernel: int) -> list[tuple[float, list[Offset]]]:
    """Return the offsets of a window from its home pixel, which is left out, by distance."""
    reach = range(-(kernel // 2), (kernel - 1) // 2 + 1)
    grouped = groupby(
        sorted(product(reach, repeat=2), key=lambda offset: hypot(*offset)), lambda offset: hypot(*offset)
    )
    return [(distance, list(group)) for distance, group in grouped if distance > 0]


def _affordable(reach: Tensor, levels: Tensor, mass: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the price of distance (N,) at which the plan costs what is allowed, and the rings' shares (R, N, K) at it.

    Where everything is affordable the price is 0.
    """
    # A plan without entropy that moves each pixel but once, to the ring worth most, costs its budget at this price.
    worth, ring = (reach / levels[:, None, None]).max(0)
    best, order = worth.sort(1, descending=True)
    spent = (mass * levels[ring]).gather(1, order).cumsum(1)
    turn = (spent < allowed[:, None]).sum(1, keepdim=True).clamp_max(spent.shape[1] - 1)
    price = best.gather(1, turn)[:, 0].clamp_min(0.0)
    levels, reach = F.pad(levels, (1, 0))[:, None, None], F.pad(reach, (0, 0, 0, 0, 1, 0))
    moments = torch.cat([levels**power for power in range(3)], 1)[..., 0].mT
    low, high, settled = torch.zeros_like(price), torch.full_like(price, torch.inf), allowed <= 0
    for _ in range(DUAL_STEPS):
        shares = reach - levels * price[:, None]
        shares = _exp(shares.sub_(shares.amax(0)))
        whole, mean, second = (moments @ shares.flatten(1)).view(3, *shares.shape[1:])
        mean, second = mean / whole, second / whole
        cost = (mass * mean).sum(1).clamp_min(1e-30)
        excess = (cost / allowed.clamp_min(1e-30)).log()
        settled = settled | (excess.abs() < 5e-3) | ((price == 0) & (excess <= 0))
        if bool(settled.all()):
            break
        low, high = torch.where(excess > 0, price, low), torch.where(excess > 0, high, price)
        # The cost falls about exponentially where a pixel's turn to move comes, and is flat between two turns: Newton's
        # method on its logarithm, in steps as wide as a few turns at most, and bisection where that leaves the bracket.
        slope = (mass * (second - mean**2)).sum(1).clamp_min(1e-30)
        newton = price + (excess * cost / slope).clamp(-8.0, 8.0)
        newton = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        price = torch.where(settled, price, newton)
    return shares[1:] / whole, price


def _exp(values: Tensor) -> Tensor:
    # 1e-13 does as 0 here, and products of results stay clear of denormal numbers, which are ten times slower.
    return values.clamp_(min=-30.0).exp_()
