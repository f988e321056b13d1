"""Shrinking images at random and padding them again (Xie et al., 2019), by index, so that it costs next to nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Target


def sources(target: Target, x: Tensor, steps: int, diversity: float, shrink: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return from where each line (N, steps, H) and column (N, steps, W) comes, and who is resized (N, steps).

    The resizing is by nearest neighbour; lines of padding come from H, columns from W, one past the image's last.
    """
    coin, scale, top, left = target.uniform(x.new_empty(len(x), steps, 4)).unbind(2)
    resized, come = coin < diversity, []
    for n, place in zip(x.shape[-2:], (top, left), strict=True):
        smallest = max(1, round(shrink * n))
        side = torch.where(resized, smallest + torch.floor(scale * (n - smallest + 1)), n)[..., None]
        line = torch.arange(n, device=x.device) - torch.floor(place[..., None] * (n - side + 1))
        come.append(torch.where((line >= 0) & (line < side), torch.floor(line * n / side), n).long())
    return come[0], come[1], resized


def pixels(lines: Tensor, columns: Tensor, like: Tensor) -> Tensor:
    """Return where each pixel comes from, (N, C, H * W), in an image one line and one column larger than ``like``."""
    places = lines[:, :, None] * (like.shape[3] + 1) + columns[:, None, :]
    return places.flatten(1)[:, None].expand(-1, like.shape[1], -1)


def picked(images: Tensor, places: Tensor) -> Tensor:
    """Return images (N, C, H, W) of pixels from these places (``pixels``); what lies outside is zero."""
    return F.pad(images, (0, 1, 0, 1)).flatten(2).gather(2, places).view(images.shape)


def put_back(grad: Tensor, places: Tensor) -> Tensor:
    """Return a gradient with respect to picked pixels as one with respect to the images: none is picked twice."""
    n, c, h, w = grad.shape
    wide = grad.new_zeros(n, c, (h + 1) * (w + 1)).scatter_(2, places, grad.flatten(2))
    return wide.view(n, c, h + 1, w + 1)[:, :, :h, :w]
