from dataclasses import dataclass

import torch
from torch import Tensor

from attacks._steps import ActiveImages, budget, per_image
from bench.api import Count, Target, Threat, attack

#: Where a search for the boundary along a ray ends, as a fraction of eps.
TOLERANCE = 0.02


@attack(
    norms=("linf",),
    needs="labels",
    passes="restarts x queries forwards, fewer where images break early",
    early_exit="misclassified",
    presets={"reference": {"queries": 10000}},
)
def rays(target: Target, x: Tensor, y: Tensor, threat: Threat, *, queries: Count = 1000, restarts: Count = 1) -> Tensor:
    """RayS (Chen and Gu, 2020): the ray of +-1 with the nearest boundary, found by predicted labels alone.

    The signs of halves, quarters, and so on down to single pixels are turned in turn; a turn is kept where the image
    at the current distance is still misclassified, and the boundary on the new ray is then found by bisection. Every
    query is one image. The success rule is any-iterate: an image costs nothing more once it is broken within eps.

    Args:
        target: the function under attack; only the predicted class is used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ with its budget.
        queries: forwards per image and restart.
        restarts: independent searches, each of the images that the ones before it did not break: the first from the
            ray of all signs up, the others from vertical stripes of random sign. Of a random function the image with
            the nearest boundary is kept.

    Returns:
        Images shaped as ``x``, within the threat; the input where the nearest boundary found lies beyond eps.

    Raises:
        MethodError: the threat is unbounded.
    """
    x_best, best_radius = x.clone(), x.new_full((len(x),), torch.inf)
    active, eps = torch.arange(len(x), device=x.device), budget(threat)
    for restart in range(restarts):
        if len(active) == 0:
            break
        view, x_orig = target.rows(active), x[active]
        ray = torch.ones_like(x_orig) if restart == 0 else _random_ray(view, x_orig)
        x_adv, radius = _search(view, x_orig, y[active], ray, eps, queries)
        improved = (radius <= eps) & (radius < best_radius[active])
        x_best[active[improved]] = x_adv[improved]
        best_radius[active[improved]] = radius[improved]
        active = active if target.stochastic else active[best_radius[active] > eps]
    return x_best


@dataclass
class _State(ActiveImages):
    """The best ray so far of each image, in L∞: its boundary lies between ``lower`` and ``radius``.

    The next signs to turn are block ``block`` of those at ``level``, which cuts the image into 2^level blocks.
    """

    ray: Tensor
    radius: Tensor
    lower: Tensor
    level: Tensor
    block: Tensor
    bisecting: Tensor


def _search(target: Target, x: Tensor, y: Tensor, ray: Tensor, eps: float, queries: int) -> tuple[Tensor, Tensor]:
    """Return each image moved along the best ray found from ``ray``, and the radius of its boundary."""
    x_best, best_radius = x.clone(), x.new_full((len(x),), torch.inf)
    active = torch.arange(len(x), device=x.device)
    state = _State(
        active=active,
        x_orig=x,
        ray=ray,
        radius=x.new_full((len(x),), torch.inf),
        lower=x.new_zeros(len(x)),
        level=torch.zeros_like(active),
        block=torch.zeros_like(active),
        bisecting=torch.zeros_like(active, dtype=torch.bool),
    )
    for query in range(queries):
        _query(target.rows(state.active), state, y[state.active], eps, first=query == 0)
        is_adv = state.radius <= eps
        if bool(is_adv.any()):
            x_adv = (state.x_orig + per_image(state.radius.clamp_max(eps), x) * state.ray).clamp(0.0, 1.0)
            x_best[state.active[is_adv]] = x_adv[is_adv]
            best_radius[state.active[is_adv]] = state.radius[is_adv]
            if not target.stochastic:
                state.drop(is_adv)
        if len(state.active) == 0:
            break
    return x_best, best_radius


def _query(target: Target, state: _State, y: Tensor, eps: float, *, first: bool) -> None:
    """Ask for the class of one image per ray, to bisect its radius or to turn a block of its signs.

    The first query is for the ray as it is.
    """
    pixels = state.ray[0].numel()
    position = torch.arange(pixels, device=y.device)
    size = torch.ceil(pixels / 2.0**state.level)
    in_block = torch.div(position, size[:, None], rounding_mode="floor") == state.block[:, None]
    turned = in_block & (not first)
    signs = state.ray.flatten(1)
    ray = torch.where(state.bisecting[:, None] | ~turned, signs, -signs).view_as(state.ray)
    radius = torch.where(state.bisecting, (state.lower + state.radius) / 2, state.radius.clamp_max(1.0))
    logits = target((state.x_orig + per_image(radius, ray) * ray).clamp(0.0, 1.0))
    is_adv = logits.argmax(1) != y
    state.ray = torch.where(per_image(is_adv, ray), ray, state.ray)
    new_lower = torch.where(is_adv & ~state.bisecting, 0.0, state.lower)
    state.lower = torch.where(state.bisecting & ~is_adv, radius, new_lower)
    state.radius = torch.where(is_adv, radius, state.radius)
    was_bisecting = state.bisecting
    state.bisecting = (was_bisecting | is_adv) & (state.radius - state.lower > TOLERANCE * eps)
    block_done = ~state.bisecting & (was_bisecting | ~is_adv) & (not first)
    last = (state.block + 1) * size >= pixels
    next_block = torch.where(last, 0, state.block + 1)
    state.level = torch.where(block_done & last, state.level + 1, state.level)
    state.block = torch.where(block_done, next_block, state.block)


def _random_ray(target: Target, x: Tensor) -> Tensor:
    # Square's start, because single pixels of random sign are a direction to which networks are least sensitive.
    return torch.where(target.uniform(x[:, :, :1]) < 0.5, -1.0, 1.0).expand_as(x)
