"""JPEG as a differentiable function of pixels, for gradients only: the deployed defense uses the codec itself."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

# The example tables of the standard (ITU-T T.81, annex K), which libjpeg scales by quality.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
_RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def straight_through_jpeg(x: Tensor, quality: int) -> Tensor:
    """Return images (N, 1 or 3, H, W) in [0, 1] after JPEG, with straight-through rounding in the backward pass.

    Only DCT coefficients are rounded. The derivative of soft rounding (Shin and Song, 2017) almost vanishes at the many
    coefficients near zero, where attacks with small steps make no progress.
    """
    height, width = x.shape[2:]
    mcu_size = 8 if x.shape[1] == 1 else 16
    pixels = F.pad(x * 255, [0, -width % mcu_size, 0, -height % mcu_size], mode="replicate") - 128
    if x.shape[1] == 1:
        grey = _quantise_blocks(pixels, _quantisation_table(quality, False))
        return ((grey + 128) / 255)[..., :height, :width].clamp(0.0, 1.0)
    rgb_to_ycc = torch.tensor(_RGB_TO_YCC, dtype=x.dtype, device=x.device)
    # Grey of 128 has luma 128 and chroma 0, so pixels centred at zero need no offset.
    ycc = torch.einsum("ij,njhw->nihw", rgb_to_ycc, pixels)
    luma = _quantise_blocks(ycc[:, :1], _quantisation_table(quality, False))
    chroma = _quantise_blocks(F.avg_pool2d(ycc[:, 1:], 2), _quantisation_table(quality, True))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(rgb_to_ycc), torch.cat([luma, chroma], 1))
    return ((rgb + 128) / 255)[..., :height, :width].clamp(0.0, 1.0)


def _quantise_blocks(plane: Tensor, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return a plane (N, C, H, W) after DCT, rounding to multiples of ``table`` and inverse DCT of its 8x8 blocks."""
    n, channels, height, width = plane.shape
    dct = torch.tensor(_dct_matrix(), dtype=plane.dtype, device=plane.device)
    steps = torch.tensor(table, dtype=plane.dtype, device=plane.device)
    blocks = plane.reshape(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = (dct @ blocks @ dct.T) / steps
    rounded = coefficients + (coefficients.round() - coefficients).detach()
    blocks = dct.T @ (rounded * steps) @ dct
    return blocks.transpose(3, 4).reshape(n, channels, height, width)


@cache
def _dct_matrix() -> tuple[tuple[float, ...], ...]:
    """Return the matrix of the orthonormal DCT-II of 8 samples."""
    scale = (8**-0.5, *[0.5] * 7)
    return tuple(tuple(scale[k] * math.cos(math.pi * k * (2 * i + 1) / 16) for i in range(8)) for k in range(8))


@cache
def _quantisation_table(quality: int, chroma: bool) -> tuple[tuple[int, ...], ...]:
    """Return the 8x8 quantisation steps of libjpeg at this quality."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality

    def step(row: int, column: int) -> int:
        base_step = _LUMA[row][column]
        if chroma:
            base_step = _CHROMA_CORNER[row][column] if max(row, column) < 4 else 99
        return min(max((base_step * scale + 50) // 100, 1), 255)

    return tuple(tuple(step(row, column) for column in range(8)) for row in range(8))
