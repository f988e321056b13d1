"""One encoded image to uint8 pixels, or one line that says why not."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.rows import Interpolation, Pixels, Row
from bench.types import UsageError

_FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
_EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


class Decoded(NamedTuple):
    pixels: Pixels
    native: tuple[int, int]


def native_size(row: Row) -> tuple[int, int]:
    """Return height and width of an image as it lies on disk, reading its header only."""
    if isinstance(row.image, np.ndarray):
        return row.image.shape[0], row.image.shape[1]
    with _open(row) as image:
        return image.height, image.width


def decode(row: Row, channels: int, size: tuple[int, int], interpolation: Interpolation) -> Decoded:
    """Return an image as uint8 (channels, *size); 3 channels are RGB, whatever the file holds.

    Raises:
        UsageError: not a whole image of eight bits a channel.
    """
    with _open(row) as image:
        native, mode = (image.height, image.width), "RGB" if channels == 3 else "L"
        if image.mode not in _EIGHT_BIT:
            raise UsageError(f"{row.where}: an image of mode {image.mode}; 8 bits a channel are wanted")
        try:
            image.load()
            image = image if image.mode == mode else image.convert(mode)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UsageError(f"{row.where}: a damaged image ({error})") from None
        if native != size:
            image = image.resize((size[1], size[0]), _FILTERS[interpolation])
        pixels = np.asarray(image)
    return Decoded(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), native)


def _open(row: Row) -> Image.Image:
    if isinstance(row.image, np.ndarray):
        return Image.fromarray(row.image)
    try:
        return Image.open(io.BytesIO(row.image) if isinstance(row.image, bytes) else row.image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it is in no known format" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(f"{row.where}: not an image ({reason})") from None
