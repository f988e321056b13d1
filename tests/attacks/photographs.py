"""Photographs that stand for those of frost, in files of the same names and types."""

from pathlib import Path

import numpy as np
from PIL import Image

from attacks._frost import PHOTOGRAPHS


def write_photographs(folder: Path, size: tuple[int, int] = (200, 150), seed: int = 0) -> Path:
    """Write five photographs of random pixels, width and height ``size``; the first is transparent in part."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for name in PHOTOGRAPHS:
        channels = 4 if name == PHOTOGRAPHS[0] else 3
        coarse = draw.integers(0, 256, (7, 9, channels), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder
