"""JPEG as a differentiable function of pixels, for gradients only: what is deployed is the codec itself."""

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
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def passing_jpeg(x: Tensor, quality: int) -> Tensor:
    """Return images (N, 1 or 3, H, W) in [0, 1] after JPEG whose rounding lets derivatives pass as they are.

    Only transform coefficients are rounded. Soft rounding (Shin and Song, 2017) has next to no derivative at the many
    coefficients near zero: attacks of small steps stand still on it.
    """
    height, width = x.shape[2:]
    side = 8 if x.shape[1] == 1 else 16
    pixels = F.pad(x * 255, [0, -width % side, 0, -height % side], mode="replicate") - 128
    if x.shape[1] == 1:
        return ((_blocks(pixels, _table(quality, False)) + 128) / 255)[..., :height, :width].clamp(0.0, 1.0)
    turn = torch.tensor(_TO_YCC, dtype=x.dtype, device=x.device)
    # The turn leaves a grey offset of 128 in luma alone, so centred pixels need none.
    ycc = torch.einsum("ij,njhw->nihw", turn, pixels)
    luma = _blocks(ycc[:, :1], _table(quality, False))
    chroma = _blocks(F.avg_pool2d(ycc[:, 1:], 2), _table(quality, True))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(turn), torch.cat([luma, chroma], 1))
    return ((rgb + 128) / 255)[..., :height, :width].clamp(0.0, 1.0)


def _blocks(plane: Tensor, table: tuple[tuple[int, ...], ...]) -> Tensor:
    n, channels, height, width = plane.shape
    turn = torch.tensor(_cosines(), dtype=plane.dtype, device=plane.device)
    steps = torch.tensor(table, dtype=plane.dtype, device=plane.device)
    tiles = plane.reshape(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    scaled = (turn @ tiles @ turn.T) / steps
    rounded = scaled + (scaled.round() - scaled).detach()
    tiles = turn.T @ (rounded * steps) @ turn
    return tiles.transpose(3, 4).reshape(n, channels, height, width)


@cache
def _cosines() -> tuple[tuple[float, ...], ...]:
    """Return the orthonormal cosine transform of 8 samples."""
    scale = (8**-0.5, *[0.5] * 7)
    return tuple(tuple(scale[k] * math.cos(math.pi * k * (2 * i + 1) / 16) for i in range(8)) for k in range(8))


@cache
def _table(quality: int, chroma: bool) -> tuple[tuple[int, ...], ...]:
    """Return the quantisation steps that libjpeg uses at a quality."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality

    def entry(line: int, column: int) -> int:
        plain = _LUMA[line][column]
        if chroma:
            plain = _CHROMA_CORNER[line][column] if max(line, column) < 4 else 99
        return min(max((plain * scale + 50) // 100, 1), 255)

    return tuple(tuple(entry(line, column) for column in range(8)) for line in range(8))
