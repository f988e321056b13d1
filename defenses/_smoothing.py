"""Changes of images that several test-time steps share."""

import torch
from torch import Tensor


def quantised(x: Tensor, bits: int) -> Tensor:
    """Return pixels rounded to ``2**bits`` levels, 0 and 1 among them; the identity on 8-bit images at 8 bits."""
    levels = 2**bits - 1
    return (x * levels).round() / levels


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """Return images continued on each side by their mirror image, edge pixels repeated."""
    for dim in (-2, -1):
        size = x.shape[dim]
        index = torch.arange(-before, size + after, device=x.device) % (2 * size)
        x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
    return x


def median(x: Tensor, window: int) -> Tensor:
    """Return the median of each square window (the upper of two), images mirrored at their edges."""
    patches = mirrored(x, window // 2, (window - 1) // 2).unfold(-2, window, 1).unfold(-2, window, 1)
    return patches.flatten(-2).kthvalue(window * window // 2 + 1, dim=-1).values
