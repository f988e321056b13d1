"""The photographs of frost that are laid over images, which the authors of the common corruptions chose."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import MethodError

#: The authors have a sixth, but draw from five.
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def frost_of(uniform: Tensor, folder: str, shape: tuple[int, int, int], scale: float) -> Tensor:
    """Return a part of one of the photographs for each image.

    Args:
        uniform: draws in [0, 1) of which photograph, row and column (N, 3).
        folder: with the photographs.
        shape: of an image (C, H, W); without three channels it gets grey photographs.
        scale: at which the photographs are used; a larger one is taken where they would be smaller than the image.

    Returns:
        Whole numbers from 0 to 255, float64 (N, C, H, W).

    Raises:
        MethodError: a photograph cannot be read.
    """
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "L"
    photographs = [
        _scaled(_read(Path(folder, name), mode).to(uniform.device), height, width, scale) for name in PHOTOGRAPHS
    ]
    parts = []
    for which, row, column in uniform.double().tolist():
        photograph = photographs[int(which * len(photographs))]
        top, left = int(row * (photograph.shape[1] - height)), int(column * (photograph.shape[2] - width))
        parts.append(photograph[:, top : top + height, left : left + width].expand(channels, -1, -1))
    return torch.stack(parts)


def _read(path: Path, mode: str) -> Tensor:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            pixels = np.array(image.convert(mode))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MethodError(f"photograph {path} cannot be read: {error}") from None
    return torch.from_numpy(pixels).double().view(*pixels.shape[:2], -1).permute(2, 0, 1)


def _scaled(photograph: Tensor, height: int, width: int, scale: float) -> Tensor:
    """Return a photograph that has at least one row and one column more than the image."""
    enough = max((side + 1.5) / length for side, length in zip((height, width), photograph.shape[1:], strict=True))
    return F.interpolate(photograph[None], scale_factor=max(scale, enough), mode="bilinear")[0].round()
