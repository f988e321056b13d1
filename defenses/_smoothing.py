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
    """Return the median of each square window (the upper of two), images mirrored at their edges.

    By forgetful selection: the least and the greatest of just over half the values cannot be the median. Comparing
    whole images is many times faster than sorting each window.
    """
    height, width = x.shape[-2:]
    frame = mirrored(x, window // 2, (window - 1) // 2)
    values = [frame[..., i : i + height, j : j + width] for i in range(window) for j in range(window)]
    if len(values) % 2 == 0:
        values.append(torch.full_like(x, torch.inf))
    chosen, rest = values[: len(values) // 2 + 1], values[len(values) // 2 + 1 :]
    while rest:
        chosen.append(rest.pop())
        for i in range(1, len(chosen)):
            chosen[0], chosen[i] = torch.minimum(chosen[0], chosen[i]), torch.maximum(chosen[0], chosen[i])
        for i in range(1, len(chosen) - 1):
            chosen[-1], chosen[i] = torch.maximum(chosen[-1], chosen[i]), torch.minimum(chosen[-1], chosen[i])
        chosen = chosen[1:-1]
    return chosen[0]
