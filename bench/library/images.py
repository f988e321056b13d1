"""Images and labels as their users have them, turned into the pixels that the engine keeps, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.types import UsageError, shown

Layout = Literal["NCHW", "NHWC"]
#: How far a pixel times 255 may be from a whole number: the round-off of single precision in a few operations.
_ROUND_OFF = 1e-3
#: Channels by which the layout of an array is recognized.
_CHANNELS = (1, 3, 4)
_CONVERT = "convert it to a tensor in [0, 1], as torchvision.transforms.ToTensor does"


class LabelledImages(NamedTuple):
    """Images and labels on the CPU.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,).
        exact: float32 (N, C, H, W) in [0, 1], where the pixels are these only rounded; ``None`` where they are equal.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    exact: NDArray[np.float32] | None


def read(images: object, labels: object, *, layout: str | None, rounding: bool, n: int | None = None) -> LabelledImages:
    """Return images and labels, from arrays, a data set, a loader or any batches.

    Args:
        images: a tensor or array (N, C, H, W) or (N, H, W, C), of uint8 or of floats in [0, 1]; or a
            ``torch.utils.data.Dataset`` of (image, label); or a ``DataLoader`` or another iterable of (images, labels).
        labels: whole numbers (N,) as a tensor, an array or a list; ``None`` where ``images`` has them.
        layout: ``"NCHW"`` or ``"NHWC"`` where the shape does not tell.
        rounding: floats that are no multiples of 1/255 are rounded, and ``exact`` holds them; else they are refused.
        n: how many images are read of a data set, a loader or batches; all by default.

    Raises:
        UsageError: they are not what they should be; the line says what would be.
    """
    if layout not in (None, "NCHW", "NHWC"):
        raise UsageError(f"layout = {shown(layout)}: it is 'NCHW' or 'NHWC'")
    if isinstance(images, torch.Tensor | np.ndarray | list | tuple) and labels is not None:
        parts = [_pixels(_array(images, "images"), layout, rounding=rounding)]
        all_labels = _labels(labels)
    elif labels is not None:
        raise UsageError(f"images is a {type(images).__name__}, which has labels itself: leave labels out")
    elif isinstance(images, torch.Tensor | np.ndarray):
        raise UsageError("labels are missing: images that are an array need labels, one whole number for each")
    else:
        batches = list(_batches(images, n))
        if not batches:
            raise UsageError("images holds no image")
        parts = [_pixels(batch, layout, rounding=rounding) for batch, _ in batches]
        all_labels = np.concatenate([_labels(each) for _, each in batches])
    shapes = {part[0].shape[1:] for part in parts}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise UsageError(f"images are of several shapes, such as {one} and {other}; resize them to one")
    pixels = np.concatenate([part[0] for part in parts])
    exact = None
    if any(part[1] is not None for part in parts):
        exact = np.concatenate([part[0].astype(np.float32) / 255 if part[1] is None else part[1] for part in parts])
    if len(pixels) != len(all_labels):
        raise UsageError(f"{len(pixels)} images and {len(all_labels)} labels: there must be one label for each image")
    return LabelledImages(pixels, all_labels, exact)


def require_classes(labels: NDArray[np.int64], num_classes: int) -> None:
    """Raises UsageError: a label is none of the classes that a network tells apart."""
    if (wrong := labels[(labels < 0) | (labels >= num_classes)]).size:
        raise UsageError(
            f"label {wrong[0]} is none of the {num_classes} classes of the network: labels are 0 to {num_classes - 1}"
        )


def _batches(images: object, n: int | None) -> Iterator[tuple[NDArray[Any], object]]:
    """Yield images (M, ...) and their labels from a data set, or from batches, up to ``n`` images."""
    if not isinstance(images, Iterable | torch.utils.data.Dataset):
        raise UsageError(
            f"images is a {type(images).__name__}: give a tensor or array with labels, a Dataset, or a DataLoader"
        )
    left = n
    for item in _items(images):
        if not isinstance(item, list | tuple) or len(item) < 2:
            raise UsageError(f"images yields {type(item).__name__} where (images, labels) pairs are needed")
        batch, labels = _array(item[0], "an image"), item[1]
        if batch.ndim == 3:
            batch, labels = batch[None], [labels]
        if left is not None:
            batch, labels = batch[:left], _labels(labels)[:left]
            left -= len(batch)
        yield batch, labels
        if left == 0:
            return


def _items(images: Any) -> Iterator[Any]:
    is_map = isinstance(images, torch.utils.data.Dataset) and hasattr(images, "__len__")
    return (images[index] for index in range(len(images))) if is_map else iter(images)


def _array(value: object, what: str) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        try:
            return np.stack([_array(each, what) for each in value])
        except ValueError:
            raise UsageError(f"{what}: the parts of a {type(value).__name__} differ in shape; stack them") from None
    raise UsageError(f"{what} is a {type(value).__module__}.{type(value).__name__}: {_CONVERT}")


def _pixels(
    images: NDArray[Any], layout: str | None, *, rounding: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Return pixels uint8 (N, C, H, W), and the images float32 where they are not multiples of 1/255."""
    images = _channels_first(images, layout)
    if len(images) == 0:
        raise UsageError("images holds no image")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images), None
    if images.dtype.kind != "f":
        raise UsageError(f"images are {images.dtype}: give uint8 from 0 to 255, or floats in [0, 1]")
    if not np.isfinite(images).all():
        raise UsageError("images hold NaN or infinities")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UsageError(_out_of_range(low, high))
    scaled = images.astype(np.float64) * 255
    pixels = np.rint(scaled)
    off = np.abs(scaled - pixels)
    whole = np.ascontiguousarray(pixels.astype(np.uint8))
    if off.max() <= _ROUND_OFF:
        return whole, None
    if not rounding:
        share = float((off > _ROUND_OFF).mean())
        raise UsageError(
            f"{share:.0%} of the pixels are no multiples of 1/255, as resizing or noise leaves them, and the engine "
            "keeps 8 bits; quantize = True rounds them"
        )
    return whole, np.ascontiguousarray(images.astype(np.float32))


def _out_of_range(low: float, high: float) -> str:
    values = f"images go from {low:.4g} to {high:.4g}, and must be in [0, 1]"
    if low >= 0 and high <= 255:
        return f"{values}: divide by 255, or give them as uint8"
    if low >= -10 and high <= 10:
        return f"{values}: they look normalised; give them as they were, and normalise inside the network"
    return values


def _channels_first(images: NDArray[Any], layout: str | None) -> NDArray[Any]:
    if images.ndim != 4:
        hint = "; add a channel with images[:, None]" if images.ndim == 3 else ""
        raise UsageError(f"images have shape {images.shape}, not (images, channels, height, width){hint}")
    chosen = layout or layout_of(images.shape)
    return images if chosen == "NCHW" else images.transpose(0, 3, 1, 2)


def layout_of(shape: tuple[int, ...]) -> Layout:
    """Return the layout of images, as their shape shows it.

    Raises:
        UsageError: both, or neither, of the places for channels hold a number of channels.
    """
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        raise UsageError(f"images of shape {shape}: where are the channels? give layout = 'NCHW' or layout = 'NHWC'")
    return "NCHW" if first else "NHWC"


def _labels(labels: Any) -> NDArray[np.int64]:
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim == 0:
        array = array[None]
    if array.ndim != 1:
        hint = "; of one-hot rows take argmax(1)" if array.ndim == 2 else ""
        raise UsageError(f"labels have shape {array.shape}, not (images,){hint}")
    if array.dtype.kind not in "iu":
        raise UsageError(f"labels are {array.dtype}: give whole numbers, the index of each class")
    return array.astype(np.int64)
