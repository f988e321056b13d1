"""One encoded image to uint8 pixels, or one line that says why not."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bench.data.foreign import one_line, regular
from bench.data.resizing import Resizing, resized
from bench.data.rows import Pixels, Row
from bench.types import UsageError, located

# Pillow warns, in lines of Python, of blocks beside the pixels that it cannot read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
#: Pillow hands these to Ghostscript and to Windows.
_HANDED_ON = frozenset({"EPS", "WMF"})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


class Decoded(NamedTuple):
    """``pixels`` (C, H, W); height and width before any resizing; whether a pixel is not opaque."""

    pixels: Pixels
    native: tuple[int, int]
    transparent: bool


def native_size(row: Row) -> tuple[int, int]:
    """Return height and width of an image as it is seen, that is, after the rotation in its EXIF block.

    Raises:
        UsageError: as :func:`decode`.
    """
    if isinstance(row.image, np.ndarray):
        return row.image.shape[0], row.image.shape[1]
    with _open(row) as image:
        _load(image, row, upright=True)
        return image.height, image.width


def is_grey(row: Row) -> bool:
    """Say whether a file holds one channel (with or without alpha), or a palette of greys; reads its header only.

    Three channels that are equal everywhere count as colour: that is how their author wrote them.

    Raises:
        UsageError: it is in no known format.
    """
    with _open(row) as image, one_line(f"{row.where}: a damaged image"):
        if image.mode == "P" and image.palette is not None:
            colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
            return bool((colours == colours[:, :1]).all())
        return image.mode in _GREY or image.mode.startswith("I;16")


def decode(row: Row, channels: int, how: Resizing) -> Decoded:
    """Return an image as uint8 (channels, *how.size); 3 channels are RGB, 1 is its luma, whatever the file holds.

    Colours are converted as Pillow, and so torchvision, does: the alpha channel is dropped. Unlike in torchvision,
    images are upright: they are rotated as their EXIF block says. With a preprocessing they are not, so that networks
    see the pixels that they see elsewhere.

    Raises:
        UsageError: it is damaged, or has no eight bits a channel, or its sides differ too much.
    """
    with _open(row) as image, one_line(f"{row.where}: a damaged image"):
        _load(image, row, upright=how.preprocessing is None)
        native, mode = (image.height, image.width), "RGB" if channels == 3 else "L"
        transparent = _is_transparent(image)
        try:
            shown = image if image.mode == mode else image.convert(mode)
        except ValueError as error:
            raise UsageError(f"{row.where}: an image of mode {image.mode} ({error})") from None
        with located(row.where):
            pixels = np.asarray(resized(shown, how))
    return Decoded(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), native, transparent)


def _open(row: Row) -> Image.Image:
    if isinstance(row.image, np.ndarray):
        return Image.fromarray(row.image)
    where = io.BytesIO(row.image) if isinstance(row.image, bytes) else regular(row.image)
    try:
        return Image.open(where, formats=_formats())
    except UnidentifiedImageError:
        raise UsageError(f"{row.where}: not an image (it is in no known format)") from None
    # Pillow raises many kinds of exceptions on damaged files.
    except Exception as error:
        raise UsageError(f"{row.where}: not an image ({str(error) or type(error).__name__})") from None


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads itself: for some it would start another program on the file."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _HANDED_ON)


def _load(image: Image.Image, row: Row, *, upright: bool) -> None:
    # Pillow silently keeps the upper half of 16-bit colours, so the raw mode is checked too.
    sixteen = next((str(tile[3]) for tile in getattr(image, "tile", ()) if ";16" in str(tile[3])), None)
    if image.mode not in _EIGHT_BIT or sixteen:
        pixel_format = f"mode {image.mode}" if image.mode not in _EIGHT_BIT else f"16 bits a channel ({image.mode})"
        raise UsageError(f"{row.where}: an image of {pixel_format}; 8 bits a channel are wanted, so convert it first")
    try:
        image.load()
    except Exception as error:
        raise UsageError(f"{row.where}: a damaged image ({str(error) or type(error).__name__})") from None
    if upright and not isinstance(row.image, np.ndarray) and _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an unreadable EXIF block rotates no image; the pixels are intact
        return 1


def _is_transparent(image: Image.Image) -> bool:
    if image.mode not in _ALPHA and "transparency" not in image.info:
        return False
    return bool((np.asarray(image.convert("RGBA").getchannel("A")) < 255).any())
