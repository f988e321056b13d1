"""Shrinking images at random and padding them again (Xie et al., 2019), by index, so that it costs next to nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Target


class Resizing(NamedTuple):
    """The resizing of each image at each step.

    ``rows`` (N, steps, H) and ``columns`` (N, steps, W) give the source of each row and column of pixels; padding comes
    from row H or column W, one past the image's last. ``resized`` (N, steps) says which images are resized at all.
    """

    rows: Tensor
    columns: Tensor
    resized: Tensor


def draw(target: Target, x: Tensor, steps: int, diversity: float, shrink: float) -> Resizing:
    """Draw the resizing of images (N, C, H, W), by nearest neighbour, for every step."""
    coin, scale, top, left = target.uniform(x.new_empty(len(x), steps, 4)).unbind(2)
    resized = coin < diversity

    def sources(n: int, position: Tensor) -> Tensor:
        smallest = max(1, round(shrink * n))
        side = torch.where(resized, smallest + torch.floor(scale * (n - smallest + 1)), n)[..., None]
        source = torch.arange(n, device=x.device) - torch.floor(position[..., None] * (n - side + 1))
        return torch.where((source >= 0) & (source < side), torch.floor(source * n / side), n).long()

    height, width = x.shape[-2:]
    return Resizing(sources(height, top), sources(width, left), resized)


def pixel_index(rows: Tensor, columns: Tensor, like: Tensor) -> Tensor:
    """Return the source of each pixel, (N, C, H * W), in an image one row and one column larger than ``like``."""
    index = rows[:, :, None] * (like.shape[3] + 1) + columns[:, None, :]
    return index.flatten(1)[:, None].expand(-1, like.shape[1], -1)


def resize(images: Tensor, index: Tensor) -> Tensor:
    """Return images (N, C, H, W) of the pixels at ``index`` (:func:`pixel_index`); pixels outside are zero."""
    return F.pad(images, (0, 1, 0, 1)).flatten(2).gather(2, index).view(images.shape)


def resize_backward(grad: Tensor, index: Tensor) -> Tensor:
    """Return the gradient with respect to the images, from that with respect to the resized ones.

    No pixel has two copies, since images only shrink, so nothing is summed.
    """
    n, channels, height, width = grad.shape
    padded = grad.new_zeros(n, channels, (height + 1) * (width + 1)).scatter_(2, index, grad.flatten(2))
    return padded.view(n, channels, height + 1, width + 1)[:, :, :height, :width]
