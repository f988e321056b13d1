"""The elastic transformation of the common corruptions: an affine warp, then a smooth random displacement."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Parts of a pixel to which OpenCV rounds where an affine warp looks.
_PARTS = 32


def affine_warped(images: Tensor, moves: Tensor) -> Tensor:
    """Return images after the affine map that moves three points, a third of the shorter side about the center.

    Where it looks is rounded to parts of a pixel as in OpenCV, and interpolated bilinearly. Outside, images are
    mirrored without repeating the border.

    Args:
        images: float64 (N, C, H, W).
        moves: of the points to the lower right, upper right and upper left: x and y in pixels (N, 3, 2).
    """
    height, width = images.shape[2:]
    center, reach = images.new_tensor([width // 2, height // 2]), min(height, width) // 3
    before = center + reach * images.new_tensor([[1, 1], [1, -1], [-1, -1]])
    after = before + moves
    # Three points that have come to lie on a line have no inverse; as in OpenCV, all then look at one place.
    edges, moved_edges = before[1:] - before[0], after[:, 1:] - after[:, :1]
    inverse = _inverse(moved_edges) @ edges
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=images.dtype, device=images.device) for side in (height, width)), indexing="ij"
    )
    pixels = torch.stack((x, y), 2).view(1, -1, 2)
    looked_at = before[0] + (pixels - after[:, :1]) @ inverse
    looked_at = (looked_at * _PARTS).round() / _PARTS
    span = images.new_tensor([width - 1, height - 1])
    grid = (2 * looked_at / span - 1).view(-1, height, width, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _inverse(matrices: Tensor) -> Tensor:
    """Return the inverses of matrices (N, 2, 2), and zeros where there is none."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrices.unbind(-2))
    determinant = a * d - b * c
    adjugate = torch.stack((d, -b, -c, a), -1).view(-1, 2, 2)
    reciprocal = torch.where(determinant == 0, 0.0, 1 / determinant)
    return adjugate * reciprocal[:, None, None]


def displaced(images: Tensor, shifts: Tensor) -> Tensor:
    """Return images that show in each pixel what lies ``shifts`` (N, 2, H, W) pixels right of and below it.

    Interpolation is bilinear. Outside, images are mirrored with the border repeated.
    """
    height, width = images.shape[2:]
    y, x = (torch.arange(side, dtype=images.dtype, device=images.device) for side in (height, width))
    right, down = x + shifts[:, 0], y[:, None] + shifts[:, 1]
    grid = torch.stack(((2 * right + 1) / width - 1, (2 * down + 1) / height - 1), 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def smoothed(noise: Tensor, deviation: float) -> Tensor:
    """Return noise (..., H, W) after a Gaussian filter cut off at three deviations, mirrored with the border repeated.

    Args:
        noise: float64.
        deviation: in pixels, as large as is wanted; 0 leaves the noise as it is.
    """
    rows, columns = (_smoothing(side, deviation).to(noise) for side in noise.shape[-2:])
    return rows @ noise @ columns.T


def _smoothing(side: int, deviation: float) -> Tensor:
    """Return the matrix (side, side) of the filter along one axis; the filter may be longer than the axis."""
    reach = int(3 * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    taps = torch.exp(-(offsets.double() ** 2) / (2 * deviation**2)) if reach else torch.ones(1, dtype=torch.float64)
    at = (torch.arange(side)[:, None] + offsets) % (2 * side)
    mirrored = torch.minimum(at, 2 * side - 1 - at)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, mirrored, (taps / taps.sum()).expand(side, -1))
