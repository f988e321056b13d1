import torch
from torch import Tensor

from attacks._steps import budget, keep, per_image
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
    at the present distance is still misclassified, and the boundary on the new ray is then found by bisection. Every
    query is one image. The success rule is any-iterate: an image costs nothing more once it is broken within eps.

    Args:
        target: the function under attack; only the predicted class is used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf with its budget.
        queries: forwards per image and restart.
        restarts: independent searches, each of the images that the ones before it did not break: the first from the
            ray of all signs up, the others from vertical stripes of random sign. Of a random function the image with
            the nearest boundary is kept.

    Returns:
        Images shaped as ``x``, within the threat; the input where the nearest boundary found lies beyond eps.

    Raises:
        MethodError: the threat is unbounded.
    """
    result, nearest = x.clone(), x.new_full((len(x),), torch.inf)
    rows, eps = torch.arange(len(x), device=x.device), budget(threat)
    for restart in range(restarts):
        if len(rows) == 0:
            break
        view, origin = target.rows(rows), x[rows]
        start = torch.ones_like(origin) if restart == 0 else _random_ray(view, origin)
        found, distance = _search(view, origin, y[rows], start, eps, queries)
        better = (distance <= eps) & (distance < nearest[rows])
        result[rows[better]], nearest[rows[better]] = found[better], distance[better]
        rows = rows if target.stochastic else rows[nearest[rows] > eps]
    return result


def _search(target: Target, x: Tensor, y: Tensor, signs: Tensor, eps: float, queries: int) -> tuple[Tensor, Tensor]:
    """Return each image moved along the best ray found from ``signs``, and the distance of its boundary."""
    pixels = x[0].numel()
    result, reached = x.clone(), x.new_full((len(x),), torch.inf)
    place = torch.arange(pixels, device=x.device)
    rows, origin = torch.arange(len(x), device=x.device), x
    distance, low = x.new_full((len(x),), torch.inf), x.new_zeros(len(x))
    level, block = torch.zeros_like(rows), torch.zeros_like(rows)
    bisecting = torch.zeros_like(rows, dtype=torch.bool)
    for query in range(queries):
        # The first query is of the ray as it is.
        size = torch.ceil(pixels / 2.0**level)
        turned = (torch.div(place, size[:, None], rounding_mode="floor") == block[:, None]) & (query > 0)
        tried = torch.where(bisecting[:, None] | ~turned, signs.flatten(1), -signs.flatten(1)).view_as(signs)
        radius = torch.where(bisecting, (low + distance) / 2, distance.clamp_max(1.0))
        logits = target.rows(rows)((origin + per_image(radius, x) * tried).clamp(0.0, 1.0))
        broken = logits.argmax(1) != y[rows]
        signs = torch.where(per_image(broken, x), tried, signs)
        low = torch.where(bisecting & ~broken, radius, torch.where(broken & ~bisecting, 0.0, low))
        distance = torch.where(broken, radius, distance)
        was, bisecting = bisecting, (bisecting | broken) & (distance - low > TOLERANCE * eps)
        level, block = _next(level, block, size, pixels, (query > 0) & ~bisecting & (was | ~broken))
        near = distance <= eps
        moved = (origin + per_image(distance.clamp_max(eps), x) * signs).clamp(0.0, 1.0)
        result[rows[near]], reached[rows[near]] = moved[near], distance[near]
        if not target.stochastic:
            state = (rows, origin, signs, distance, low, level, block, bisecting)
            rows, origin, signs, distance, low, level, block, bisecting = keep(~near, *state)
        if len(rows) == 0:
            break
    return result, reached


def _random_ray(target: Target, x: Tensor) -> Tensor:
    # Square's start, because single pixels of random sign are a direction to which networks are least sensitive.
    return torch.where(target.uniform(x[:, :, :1]) < 0.5, -1.0, 1.0).expand_as(x)


def _next(level: Tensor, block: Tensor, size: Tensor, pixels: int, done: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next part of the image to turn, of half the size where all parts of a size had their turn."""
    last = (block + 1) * size >= pixels
    return torch.where(done & last, level + 1, level), torch.where(done, torch.where(last, 0, block + 1), block)
