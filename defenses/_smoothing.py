"""Image filters that several test-time steps share."""

from itertools import product

import torch
from torch import Tensor


def quantise(x: Tensor, bits: int) -> Tensor:
    """Return pixels rounded to ``2**bits`` levels, 0 and 1 among them; the identity on 8-bit images at 8 bits."""
    levels = 2**bits - 1
    return (x * levels).round() / levels


def mirror_pad(x: Tensor, before: int, after: int) -> Tensor:
    """Return images padded on each side with their mirror image, edge pixels repeated."""
    for dim in (-2, -1):
        size = x.shape[dim]
        index = torch.arange(-before, size + after, device=x.device) % (2 * size)
        x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
    return x


def median_filter(x: Tensor, window: int) -> Tensor:
    """Return the median of each square window (the upper of two), with mirror padding.

    Uses forgetful selection: the minimum and the maximum of just over half the values cannot be the median. Comparing
    whole images is many times faster than sorting each window.
    """
    height, width = x.shape[-2:]
    padded = mirror_pad(x, window // 2, (window - 1) // 2)
    values = [padded[..., i : i + height, j : j + width] for i, j in product(range(window), repeat=2)]
    if len(values) % 2 == 0:
        values.append(torch.full_like(x, torch.inf))
    candidates, remaining = values[: len(values) // 2 + 1], values[len(values) // 2 + 1 :]
    while remaining:
        candidates.append(remaining.pop())
        for i in range(1, len(candidates)):
            _sort_pair(candidates, 0, i)
        for i in range(1, len(candidates) - 1):
            _sort_pair(candidates, i, -1)
        candidates = candidates[1:-1]
    return candidates[0]


def _sort_pair(images: list[Tensor], low: int, high: int) -> None:
    """Move each pixel's smaller value to ``images[low]`` and its larger one to ``images[high]``."""
    a, b = images[low], images[high]
    images[low], images[high] = torch.minimum(a, b), torch.maximum(a, b)
