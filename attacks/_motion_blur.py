"""The motion blur of ImageMagick, in which the authors of the common corruptions blur images and snow."""

from __future__ import annotations

import torch
from torch import Tensor

#: Steps of 16 bits in one of 8 bits.
_FINER = 257


def motion_blurred(levels: Tensor, radius: int, deviation: float, angles: Tensor) -> Tensor:
    """Return images blurred as ImageMagick's ``-motion-blur {radius}x{deviation}+{angle}`` does.

    A pixel is a mean over those that lie in the direction of the angle, on one side of it: the weight of the one in a
    distance of ``i`` pixels, from 0 to twice the radius, is that of a Gaussian at ``i``. Places are rounded to pixels,
    and the border is repeated outside.

    Args:
        levels: whole numbers from 0 to 255 (N, C, H, W).
        radius: above 0.
        deviation: of the Gaussian, in pixels.
        angles: in degrees (N,); 0 is to the right, and 90 down.

    Returns:
        Whole numbers, shaped and typed as ``levels``.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64, device=levels.device)
    weights = torch.exp(-(steps**2) / (2 * deviation**2))
    radians = angles.double()[:, None].deg2rad()
    # ImageMagick rounds halves down.
    down, right = ((steps * part - 0.5).ceil().long() for part in (radians.sin(), radians.cos()))
    total = torch.zeros_like(levels)
    for weight, rows, columns in zip(weights / weights.sum(), down.T, right.T, strict=True):
        total += weight * _moved(levels, rows, columns)
    # ImageMagick has values of 16 bits, which its PNG files of 8 bits, read by the authors, round down.
    return (total * _FINER).round().div(_FINER, rounding_mode="floor")


def _moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return what each image has so many rows below and columns right of each pixel, with the border repeated."""
    for axis, by in ((2, rows), (3, columns)):
        length = images.shape[axis]
        at = (torch.arange(length, device=images.device) + by[:, None]).clamp(0, length - 1)
        shape = [len(images), 1, 1, 1]
        shape[axis] = length
        images = images.gather(axis, at.view(shape).expand_as(images))
    return images
