"""Moving pixel mass within windows: the entropic linear step of the fast Wasserstein attack (Wu et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._steps import per_image

DUAL_STEPS = 12
ROUNDS = 8


def best_image(x: Tensor, grad: Tensor, eps: float, kernel: int, gamma: float, capacity: bool) -> Tensor:
    """Return an image of (nearly) the largest entropic gain along ``grad`` among those at cost eps * sum(x) or less.

    The plan is a softmax over each window of gain minus price times distance. Where pixels have a capacity of 1, plans
    are made in rounds: what full pixels cannot take stays at home, and with the budget left over moves elsewhere.

    Args:
        x: images (N, C, H, W) in [0, 1].
        grad: what a unit of mass gains at each pixel, shaped as ``x``.
        eps: budget as a fraction of an image's mass times one pixel.
        kernel: side of the window.
        gamma: weight of the entropy, relative to the largest gain.
        capacity: fill no pixel above 1.
    """
    before, after, home = kernel // 2, (kernel - 1) // 2, (kernel // 2) * (kernel + 1)
    height, width = x.shape[2:]

    def windows_of(image: Tensor, outside: float) -> Tensor:
        padded = F.pad(image, (before, after, before, after), value=outside).flatten(0, 1)[:, None]
        return F.unfold(padded, kernel).view(*image.shape[:2], kernel**2, height * width)

    def landed(moves: Tensor) -> Tensor:
        image = F.fold(moves.flatten(0, 1), (height + kernel - 1, width + kernel - 1), kernel)
        return image[..., before : before + height, before : before + width].reshape(x.shape)

    line = torch.arange(-before, after + 1, device=x.device, dtype=x.dtype)
    distance = torch.hypot(line[:, None], line).flatten()
    gain = windows_of(grad / per_image(grad.abs().flatten(1).amax(1).clamp_min(1e-30), x) / gamma, -torch.inf)
    at_home, moved, total = x, torch.zeros_like(x), eps * x.flatten(1).sum(1)
    allowed = total
    for _ in range(ROUNDS if capacity else 1):
        mass = at_home.flatten(2)
        price = price_of_distance(gain, mass, distance, allowed, gamma)
        moves = torch.softmax(gain - per_image(price / gamma, gain) * distance[:, None], 2) * mass[:, :, None]
        moves[:, :, home] = 0
        if capacity:
            # A pixel takes what it has room for, the same share from every side; the rest stays for the next round.
            share = ((1 - at_home - moved) / landed(moves).clamp_min(1e-30)).clamp(0, 1)
            moves *= windows_of(share, 0.0)
        cost = moves.sum((1, 3)) @ distance
        moves *= per_image((allowed / cost.clamp_min(1e-30)).clamp_max(1), moves)
        at_home, moved = at_home - moves.sum(2).view_as(x), moved + landed(moves)
        # An image that has spent all but a thousandth is done, whatever its company still does.
        allowed = torch.where(allowed - cost > 1e-3 * total, allowed - cost, 0.0)
        if not bool((allowed > 0).any()):
            break
        full = windows_of((1 - at_home - moved <= 1e-6).to(x.dtype), 0.0) > 0
        full[:, :, home] = False
        gain = gain.masked_fill(full, -torch.inf)
    return at_home + moved


def price_of_distance(gain: Tensor, mass: Tensor, distance: Tensor, allowed: Tensor, gamma: float) -> Tensor:
    """Return the multiplier (N,) of the transport cost at which the plan costs what is allowed, 0 if it costs less."""
    # Only six distances occur in a 5 x 5 window: 25 exponentials a pixel are needed once, six at every try.
    levels, group = distance.unique(return_inverse=True)
    reach = torch.stack([gain[:, :, group == i].logsumexp(2) for i in range(len(levels))], 2)
    allowed = allowed.clamp_min(1e-30)
    price = torch.zeros_like(allowed)
    # Gains differ by 2 at most, so at this price even a full window of moves costs less than is allowed.
    low, high = price, price + 2 + gamma * torch.log(len(distance) * float(levels[-1]) * mass.sum((1, 2)) / allowed + 1)
    for _ in range(DUAL_STEPS):
        share = torch.softmax(reach - per_image(price / gamma, reach) * levels[:, None], 2)
        mean = levels @ share
        cost = (mass * mean).sum((1, 2)).clamp_min(1e-30)
        slope = (mass * (levels**2 @ share - mean**2)).sum((1, 2)).clamp_min(1e-30) / gamma
        above = cost > allowed
        low, high = torch.where(above, price, low), torch.where(above, high, price)
        # The cost falls about exponentially, so Newton's method on its logarithm needs few steps.
        newton = price + (cost / allowed).log() * cost / slope
        price = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        price = torch.where((low == 0) & ~above, 0.0, price)
    return price
