"""How images of any size come to one: merely resized, or resized and cropped as torchvision and timm do it."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from bench.data.room import MOST_PIXELS
from bench.types import Interpolation, Preprocessing, UsageError

Size = tuple[int, int]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Resizing(NamedTuple):
    """``size`` is height and width of the result; without ``preprocessing`` both sides are resized to it."""

    size: Size
    interpolation: Interpolation = "bilinear"
    preprocessing: Preprocessing | None = None

    @property
    def text(self) -> str:
        """What the key of decoded images says of it."""
        plain = f"{self.size[0]}x{self.size[1]} {self.interpolation}"
        return plain if self.preprocessing is None else f"{plain} {self.preprocessing.model_dump_json()}"

    @property
    def words(self) -> str:
        """What a message says of it."""
        if self.preprocessing is None:
            return f"resized to {self.size[0]}x{self.size[1]} ({self.interpolation})"
        return self.preprocessing.words(self.size, self.interpolation)


def resized(image: Image.Image, how: Resizing) -> Image.Image:
    """Return an image, which is RGB or grey, in the size that is wanted.

    Raises:
        UsageError: its sides differ so much that it cannot be resized.
    """
    if how.preprocessing is None:
        return _to(image, how.size, how.interpolation)
    size = scaled_size((image.height, image.width), how.preprocessing)
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise UsageError(
            f"an image of {image.height:,} x {image.width:,} pixels would be resized to {size[0]:,} x {size[1]:,}; at "
            f"least 1 x 1 and at most {MOST_PIXELS:,} pixels are taken"
        )
    return _cropped(_to(image, size, how.interpolation), how.size, how.preprocessing.fill or 0)


def scaled_size(native: Size, preprocessing: Preprocessing) -> Size:
    """Return height and width that an image of height and width ``native`` is resized to before it is cropped."""
    resize = preprocessing.resize
    height, width = native
    if isinstance(resize, int):
        # As torchvision does it: of the longer side the fraction is cut off.
        if height < width:
            return resize, int(resize * width / height)
        return int(resize * height / width), resize
    if preprocessing.crop_mode == "squash":
        return resize
    # As timm does it: both sides are rounded.
    ratios = height / resize[0], width / resize[1]
    ratio = max(ratios) if preprocessing.crop_mode == "border" else min(ratios)
    return round(height / ratio), round(width / ratio)


def _to(image: Image.Image, size: Size, interpolation: Interpolation) -> Image.Image:
    if (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), _FILTERS[interpolation])


def _cropped(image: Image.Image, size: Size, fill: int | tuple[int, ...]) -> Image.Image:
    """Return the center of an image; a side that is too short is filled."""
    height, width = size
    if image.height < height or image.width < width:
        canvas = Image.new(image.mode, (max(width, image.width), max(height, image.height)), fill)
        canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
