"""Training batches from images that stay uint8 on the device: chosen, cropped and flipped there."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

#: Zero pixels added on each side before a crop.
PAD = 4


class Batches:
    """Augmented batches of a set of images.

    Args:
        images: uint8 (N, C, H, W), on the device.
        augment: ``crop-flip`` pads by 4 zeros, crops at random and mirrors half the images; ``flip`` only mirrors.
    """

    def __init__(self, images: Tensor, augment: Literal["none", "flip", "crop-flip"]) -> None:
        self._height, self._width = images.shape[2:]
        self._pad = PAD if augment == "crop-flip" else 0
        self._flip = augment != "none"
        self._images = F.pad(images, [self._pad] * 4) if self._pad else images
        device = images.device
        self._lines, self._columns = torch.arange(self._height, device=device), torch.arange(self._width, device=device)

    def crops(self, n: int, seed: int) -> Tensor:
        """Return the draws of ``seed`` for a batch of ``n`` images: int64 (3, n), on the CPU.

        They are the first row and column of each crop and whether it is mirrored; (0, n) where nothing is drawn.
        """
        if not self._flip:
            return torch.empty(0, n, dtype=torch.int64)
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randint(2 * self._pad + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5
        return torch.cat((corners, mirrored[None]))

    def __call__(self, rows: Tensor, crops: Tensor) -> Tensor:
        """Return the images of ``rows`` (int64) as float32 in [0, 1], cut by ``crops``; all on the images' device."""
        if not self._flip:
            return self._images[rows].float() / 255
        top, left, mirrored = crops
        across = torch.where(mirrored[:, None] > 0, self._width - 1 - self._columns, self._columns)
        chosen = rows[:, None, None], (top[:, None] + self._lines)[:, :, None], (left[:, None] + across)[:, None, :]
        # Indexing round the channels leaves them last: (N, H, W, C).
        picked = self._images.permute(0, 2, 3, 1)[chosen]
        return (picked.float() / 255).permute(0, 3, 1, 2).contiguous()
