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

    def __call__(self, rows: Tensor, seed: int) -> Tensor:
        """Return the images of ``rows`` (int64, on the CPU) as float32 in [0, 1], augmented by draws of ``seed``."""
        device = self._images.device
        if not self._flip:
            return self._images[rows.to(device)].float() / 255
        generator = torch.Generator().manual_seed(seed)
        top, left = torch.randint(2 * self._pad + 1, (2, len(rows)), generator=generator)
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        across = torch.arange(self._width)
        columns = left[:, None] + torch.where(mirrored[:, None], self._width - 1 - across, across)
        lines = top[:, None] + torch.arange(self._height)
        chosen = (rows[:, None, None], lines[:, :, None], columns[:, None, :])
        # Indexing round the channels leaves them last: (N, H, W, C).
        picked = self._images.permute(0, 2, 3, 1)[tuple(index.to(device, non_blocking=True) for index in chosen)]
        return (picked.float() / 255).permute(0, 3, 1, 2).contiguous()
