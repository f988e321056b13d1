"""Adversarial images that somebody saved: opened without running code, matched to the images of a cell, read by row.

A file is npz, npy, or torch's pt or pth. Its arrays are memory-mapped; compressed ones are unpacked into a nameless
file first. So the memory that it takes does not grow with it, and what it says of its size is checked before anything
of that size is read.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from bench.data.foreign import one_line
from bench.store.files import Unreadable, opened, status
from bench.types import MAX_IMAGES, SEVERITIES, UsageError, located, shown

if TYPE_CHECKING:
    from bench.data import ImageSet
    from bench.data.rows import Numbers

Array = np.ndarray[Any, np.dtype[Any]]
_log = logging.getLogger("crossfire")

SUFFIXES = (".npz", ".npy", ".pt", ".pth")
#: Names that people give to adversarial images, in the order in which they count; ``adv_complete`` is AutoAttack's.
ADVERSARIAL = ("x_adv", "adv_complete", "adv_images", "adversarial_images", "adversarial", "adv", "images", "arr_0")
LABELS = ("labels", "label", "y")
CLEAN = ("x", "x_clean", "clean_images", "clean", "images")
ROWS = ("rows",)
#: Target classes, as ``export sets`` writes them; -1 where an image has none.
TARGETS = "targets"
#: Bytes of one value at most, and of everything in a file that is no image.
_LARGEST_VALUE, _ROOM = 8, 2**26
_PICKLED = "holds pickled Python objects, which are not opened"
#: Images of the file of a split of which only a part is decoded, so that its own number is not known.
_MOST_OF_A_PART = 100_000
#: Values that are looked at together.
_AT_ONCE = 2**22
#: Values far outside [0, 1] are of another scale; nearer ones are left to the audit, which says how far they are.
_SCALE_LOW, _SCALE_HIGH = -0.25, 1.5


class StoredArray(NamedTuple):
    """An array of a file, not read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]


@dataclass(frozen=True)
class SavedImages:
    """The adversarial images of a file, matched to the images of a cell.

    Attributes:
        path: of the file.
        arrays: everything that it holds, by name.
        name: of the array of images.
        stored: the images as they are in the file (m, ...).
        layout: ``NCHW``, ``NHWC`` or ``NHW``.
        rows: the row numbers of the cell's images in their set (n,).
        order: where in the file the image of each of these is (n,).
    """

    path: Path
    arrays: Mapping[str, StoredArray]
    name: str
    stored: Array
    layout: str
    rows: Numbers
    order: Array

    def take(self, positions: slice | Array) -> Array:
        """Return the images at some positions of the cell's list, float32 (k, C, H, W), for 8 bit divided by 255."""
        part = _channels_first(np.asarray(self.stored[self.order[positions]]), self.layout)
        # A value that float32 does not hold becomes infinite, and the audit says so.
        with np.errstate(over="ignore"):
            scaled = part.astype(np.float32) / 255 if part.dtype == np.uint8 else part.astype(np.float32)
        return np.ascontiguousarray(scaled)

    def of(self, rows: Numbers) -> Array:
        """Return the images of some row numbers of the cell, as :meth:`take` does."""
        by_row = np.argsort(self.rows)
        return self.take(by_row[np.searchsorted(self.rows, rows, sorter=by_row)])


def path_of(file: str) -> Path:
    """Return the path of a file of images as a configuration names it.

    Raises:
        UsageError: there is none, or it is none that is read.
    """
    path = Path(os.path.expanduser(file))
    with one_line(f"{path} cannot be read"):
        try:
            status(path)
        except FileNotFoundError:
            raise UsageError(f"no file {path.absolute()}") from None
        except Unreadable as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: adversarial images are {', '.join(SUFFIXES)} files, not '{path.suffix}'")
    return path


def content_sha(path: Path, most: int | None = None) -> str:
    """Return the SHA-256 of a file, hashed again only if its size or times have changed.

    Raises:
        UsageError: it has more than ``most`` bytes, or cannot be read.
    """
    with one_line(f"{path} cannot be read"):
        seen = status(path)
        if most is not None and seen.st_size > most:
            raise UsageError(f"{path} has {seen.st_size:,} bytes; images of this set take {most:,} at most")
        return _sha(path, seen.st_ino, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha(path: Path, *_fingerprint: int) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choice(params: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return the array and the severity that the parameters of an attack choose, as :func:`matched` takes them."""
    severity = params.get("severity")
    return str(params.get("array", "")), None if severity is None else int(severity)


def checked(path: Path, images: ImageSet, rows: Numbers, array: str = "", severity: int | None = None) -> str:
    """Return the SHA-256 of a file of adversarial images of some rows of a set; a warning says if it is targeted.

    Args:
        path: of the file.
        images: the set.
        rows: of its images those of the cell, in their order.
        array: as for :func:`matched`.
        severity: as for :func:`matched`; then the labels are in ``labels.npy`` beside the file.

    Raises:
        UsageError: as :func:`matched`; or the file is larger than all images of the set can be, its clean images or
            labels are others, or its pixels are not on the scale from 0 to 1.
    """
    image_shape = images.images.shape[1:]
    most = len(images) if images.part is None else max(len(images), _MOST_OF_A_PART)
    sha = content_sha(path, 2 * _LARGEST_VALUE * most * math.prod(image_shape) + _ROOM)
    saved = matched(path, image_shape, rows, array, most=most, severity=severity)
    if severity is None:
        _require_labels(saved, images)
    else:
        _require_labels_beside(saved, images)
    _require_clean(saved, images)
    _require_scale(saved)
    _warn_of_targets(saved, images)
    return sha


def matched(
    path: Path,
    image_shape: tuple[int, ...],
    rows: Numbers,
    array: str = "",
    *,
    most: int = MAX_IMAGES,
    severity: int | None = None,
) -> SavedImages:
    """Return the adversarial images of a file, matched by row number where the file has ``rows``, else by position.

    A file of a common corruption has all images of the set five times, for each severity from 1 to 5.

    Args:
        path: of the file.
        image_shape: of an image (C, H, W).
        rows: of the images of the cell in their set, in their order.
        array: the name of the array of images, where it is none that is known.
        most: images that the file may hold, at each severity.
        severity: which images of a file of a common corruption are meant, from 1 to 5.

    Raises:
        UsageError: the file is damaged, or would run code; or it does not have such an image for each of ``rows``.
    """
    arrays = _arrays(path)
    stored = _adversarial(path, arrays, array)
    layout = _layout(path, stored, image_shape)
    if stored.shape[0] == 0:
        raise UsageError(f"{_called(path, stored)} has no images")
    most = most if severity is None else len(SEVERITIES) * most
    if stored.shape[0] > most:
        raise UsageError(f"{_called(path, stored)} has {stored.shape[0]:,} images, and the set {most:,} at most")
    order = _order(path, stored, arrays, rows) if severity is None else _of_severity(path, stored, rows, severity)
    return SavedImages(path, arrays, stored.name, _loaded(path, stored), layout, rows, order)


def _adversarial(path: Path, arrays: Mapping[str, StoredArray], array: str) -> StoredArray:
    """Return the array of adversarial images."""
    names = [array] if array else [name for name in ADVERSARIAL if name in arrays]
    # The one array of an npy file, or a tensor alone, has no name.
    names = [""] if not array and list(arrays) == [""] else names
    if not names or names[0] not in arrays:
        wanted = f"no array '{array}'" if array else f"none of {', '.join(ADVERSARIAL)}"
        held = ", ".join(map(shown, sorted(arrays))) or "nothing"
        raise UsageError(f'{path} has {wanted}; it holds {held}; name the images with array = "..."')
    stored = arrays[names[0]]
    if stored.dtype.hasobject:
        raise UsageError(f"{_called(path, stored)} {_PICKLED}")
    if not _are_pixels(stored):
        raise UsageError(
            f"{_called(path, stored)} is of type {stored.dtype}; pixels are uint8 from 0 to 255, or floats in [0, 1]"
        )
    return stored


def _called(path: Path, stored: StoredArray) -> str:
    return f"{path}: {shown(stored.name)}" if stored.name else str(path)


def _layout(path: Path, stored: StoredArray, image_shape: tuple[int, ...]) -> str:
    """Return which axes an array has, by the shape of an image (C, H, W)."""
    channels, height, width = image_shape
    layouts: dict[str, tuple[int, ...]] = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    if channels == 1:
        layouts["NHW"] = (height, width)
    fitting = [name for name, shape in layouts.items() if stored.shape[1:] == shape]
    if not fitting:
        wanted = " or ".join(f"(n, {', '.join(map(str, shape))})" for shape in layouts.values())
        raise UsageError(f"{_called(path, stored)} has the shape {stored.shape}; the images of this set are {wanted}")
    if len(fitting) > 1 and channels > 1:
        raise UsageError(
            f"{_called(path, stored)} has the shape {stored.shape}, which may be {' or '.join(fitting)}; save it as "
            "images of another size, for this one cannot be told"
        )
    return fitting[0]


def _order(path: Path, stored: StoredArray, arrays: Mapping[str, StoredArray], rows: Numbers) -> Array:
    """Return where in the file the image of each row is."""
    count = stored.shape[0]
    named = next((name for name in ROWS if name in arrays), None)
    if named is None:
        if count != len(rows):
            raise UsageError(
                f"{path} has {count:,} images and the cell {len(rows):,}: they must be as many and in the "
                "same order, or the file must have row numbers ('rows')"
            )
        return np.arange(count)
    numbers = _numbers(path, arrays[named], count)
    by_row = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(np.diff(numbers[by_row]) == 0)
    if len(twice):
        raise UsageError(f"{path}: row {numbers[by_row][twice[0]]} is in '{named}' twice")
    at = np.searchsorted(numbers, rows, sorter=by_row).clip(max=count - 1)
    order = by_row[at]
    if len(lacking := rows[numbers[order] != rows]):
        raise UsageError(
            f"{path} lacks {len(lacking):,} of the {len(rows):,} images of the cell; the first is row {lacking[0]} of "
            "the set"
        )
    return np.asarray(order)


def _of_severity(path: Path, stored: StoredArray, rows: Numbers, severity: int) -> Array:
    """Return where in a file of a common corruption the image of each row is."""
    each, rest = divmod(stored.shape[0], len(SEVERITIES))
    if rest or each <= rows.max():
        raise UsageError(
            f"{path} has {stored.shape[0]:,} images: not five severities of a set that has a row {rows.max()}"
        )
    return np.asarray((severity - 1) * each + rows)


def _numbers(path: Path, stored: StoredArray, count: int) -> Array:
    """Return a whole number for each of ``count`` images."""
    if stored.shape != (count,) or stored.dtype.kind not in "iu":
        raise UsageError(
            f"{_called(path, stored)} is {stored.dtype} {stored.shape}, not a whole number for each of {count:,} images"
        )
    return np.asarray(_loaded(path, stored)).astype(np.int64)


def _require_labels(saved: SavedImages, images: ImageSet) -> None:
    """Raises UsageError: a label of the file is not that of the set; the first that differs is named."""
    name = next((name for name in LABELS if name in saved.arrays), None)
    if name is None:
        return
    labels = _numbers(saved.path, saved.arrays[name], len(saved.stored))
    _require_true(saved, images, labels, f"{saved.path}: '{name}'")


def _require_labels_beside(saved: SavedImages, images: ImageSet) -> None:
    """Raises UsageError: the labels beside a file of a common corruption are not those of the set, or not there."""
    if images.part is None and len(saved.stored) != len(SEVERITIES) * len(images):
        raise UsageError(
            f"{saved.path} has {len(saved.stored):,} images, not five times the {len(images):,} of {images.name}"
        )
    path = path_of(str(saved.path.with_name("labels.npy")))
    labels = _numbers(path, _arrays(path)[""], len(saved.stored))
    _require_true(saved, images, labels, f"{path}: the label")


def _require_true(saved: SavedImages, images: ImageSet, given: Array, what: str) -> None:
    labels, true = given[saved.order], images.at(saved.rows)[1]
    differs = np.flatnonzero(labels != true)
    if len(differs):
        at = int(differs[0])
        raise UsageError(
            f"{what} of image {saved.order[at]} is {labels[at]}, and the label of row {saved.rows[at]} "
            f"of {images.name} {images.split} is {true[at]}; {len(differs):,} of {len(labels):,} differ"
        )


def _warn_of_targets(saved: SavedImages, images: ImageSet) -> None:
    """Warn where images were to be given classes, which the measurement does not know."""
    stored = saved.arrays.get(TARGETS)
    if stored is None or stored.dtype.kind not in "iu" or stored.shape != saved.stored.shape[:1]:
        return
    targets = _loaded(saved.path, stored)[saved.order]
    # Others call the true labels so.
    count = int(((targets >= 0) & (targets != images.at(saved.rows)[1])).sum())
    if count:
        _log.warning(
            "%s: %s of %s images have a target class ('%s'); here any wrong answer counts as a success, so the "
            "numbers may differ from those of the targeted attack",
            *(saved.path, f"{count:,}", f"{len(targets):,}", TARGETS),
        )


def _require_clean(saved: SavedImages, images: ImageSet) -> None:
    """Raises UsageError: a clean image of the file is not that of the set, by more than rounding to 8 bit."""
    name = next((name for name in CLEAN if name in saved.arrays and name != saved.name), None)
    if name is None:
        return
    stored = saved.arrays[name]
    if stored.shape[:1] != saved.stored.shape[:1] or not _are_pixels(stored):
        raise UsageError(
            f"{_called(saved.path, stored)} is {stored.dtype} {stored.shape}, not a clean image for each of "
            f"{len(saved.stored):,}"
        )
    layout = _layout(saved.path, stored, images.images.shape[1:])
    clean = replace(saved, name=name, stored=_loaded(saved.path, stored), layout=layout)
    for part in _parts(saved):
        pixels = images.at(saved.rows[part])[0].astype(np.float32)
        # What is not finite differs from everything.
        same = (np.abs(clean.take(part) * 255 - pixels) < 0.5).reshape(len(pixels), -1).all(1)
        if not same.all():
            at = part.start + int(np.argmin(same))
            raise UsageError(
                f"{saved.path}: '{name}' of image {saved.order[at]} is not row {saved.rows[at]} of {images.name} "
                f"{images.split}: these images are of another set, order or size, or not in [0, 1]"
            )


def _are_pixels(stored: StoredArray) -> bool:
    return stored.dtype.kind == "f" or stored.dtype == np.uint8


def _require_scale(saved: SavedImages) -> None:
    """Raises UsageError: pixels are not on the scale from 0 to 1."""
    if saved.stored.dtype == np.uint8:
        return
    lowest, highest = math.inf, -math.inf
    for part in _parts(saved):
        images = saved.take(part)
        finite = images[np.isfinite(images)]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    if lowest < _SCALE_LOW:
        raise UsageError(
            f"{saved.path}: values from {lowest:.4g} to {highest:.4g}; pixels are in [0, 1]: undo the normalisation "
            "before you save them"
        )
    if highest > _SCALE_HIGH:
        raise UsageError(
            f"{saved.path}: values up to {highest:.4g}; pixels are in [0, 1]: divide by 255, or save them as uint8"
        )


def _parts(saved: SavedImages) -> Iterator[slice]:
    """Yield the positions of the cell's images, as many at once as take little memory."""
    count = len(saved.rows)
    step = max(1, _AT_ONCE // math.prod(saved.stored.shape[1:]))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _channels_first(images: Array, layout: str) -> Array:
    if layout == "NHWC":
        return images.transpose(0, 3, 1, 2)
    return images[:, None] if layout == "NHW" else images


# Files.


def _arrays(path: Path) -> dict[str, StoredArray]:
    """Return the arrays of a file by name; one that has no name is ''.

    Raises:
        UsageError: it is no such file, damaged, or holds Python objects.
    """
    with one_line(f"{path} is no readable file of arrays"), located(str(path)):
        if path.suffix.lower() == ".npy":
            with opened(path) as file:
                return {"": _described("", file, partial(_mapped, path, 0))}
        if path.suffix.lower() == ".npz":
            return _of_archive(path)
        return _of_tensors(path)


def _loaded(path: Path, stored: StoredArray) -> Array:
    where = _called(path, stored)
    with one_line(f"{where} cannot be read"), located(where):
        array = stored.load()
        if array.shape != stored.shape:
            raise UsageError(f"it has the shape {array.shape} where its header says {stored.shape}")
        return array


def _described(name: str, file: IO[bytes], load: Callable[[], Array]) -> StoredArray:
    """Return an array by the header of its npy file."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise UsageError(f"{shown(name)} is an npy file of version {version[0]}.{version[1]}, which is not read")
    shape, _, dtype = read_header[version](file)
    if dtype.hasobject:
        # To read them would run what the file says. Other arrays of the file may be read.
        return StoredArray(name, shape, dtype, _refused)
    return StoredArray(name, shape, dtype, load)


def _refused() -> Array:
    raise UsageError(f"an array {_PICKLED}")


def _mapped(path: Path, offset: int) -> Array:
    """Return the array whose npy file begins at an offset of a file, memory-mapped."""
    with opened(path) as file:
        file.seek(offset)
        return _map(file)


def _map(file: IO[bytes]) -> Array:
    """Return the array whose npy file begins where a file is, memory-mapped."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    room = os.fstat(file.fileno()).st_size - file.tell()
    if math.prod(shape) * dtype.itemsize > room:
        raise UsageError(f"cut short: {room:,} bytes for an array {shape} of {dtype}")
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(cast(Any, file), dtype, mode="r", offset=file.tell(), shape=shape, order=order)


def _of_archive(path: Path) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.flag_bits & 1 or name == info.filename or name in arrays:
                why = "is encrypted" if info.flag_bits & 1 else "is no array, or there twice"
                raise UsageError(f"{shown(info.filename)} {why}")
            with archive.open(info) as member:
                stored = _described(name, member, partial(_member, path, info))
            size = math.prod(stored.shape) * stored.dtype.itemsize
            if not stored.dtype.hasobject and not size < info.file_size <= size + _ROOM:
                raise UsageError(
                    f"{shown(name)} says {stored.shape} of {stored.dtype} and has {info.file_size:,} bytes"
                )
            arrays[name] = stored
    return arrays


def _member(path: Path, info: zipfile.ZipInfo) -> Array:
    """Return an array of an npz file, memory-mapped."""
    with opened(path) as file:
        if info.compress_type == zipfile.ZIP_STORED:
            file.seek(info.header_offset)
            head = file.read(30)
            skipped = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            return _mapped(path, info.header_offset + 30 + skipped)
        with zipfile.ZipFile(file) as archive, archive.open(info) as member, tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(member, unpacked, 2**20)
            unpacked.flush()
            unpacked.seek(0)
            return _map(unpacked)


def _of_tensors(path: Path) -> dict[str, StoredArray]:
    import torch

    with opened(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mapped = zipfile.is_zipfile(path)
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except OSError:
            raise
        except (EOFError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"it is cut short or damaged: {str(error).partition('. ')[0] or 'it ends early'}"
            ) from None
        # torch raises pickle's own errors if a file asks for code.
        except Exception as error:
            match = re.search(r"GLOBAL (\S+)", str(error))
            reason = f": it asks for {match[1]}" if match else ""
            raise UsageError(f"it is damaged or holds more than tensors, and is not loaded{reason}") from None
    named = content if isinstance(content, dict) else {"": content}
    tensors = {str(name): _without_predictions(value) for name, value in named.items()}
    arrays = {name: _of_tensor(name, value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not isinstance(content, dict) and not arrays:
        raise UsageError(f"it holds a {type(content).__name__}, not a tensor or a dict of tensors")
    return arrays


def _without_predictions(value: object) -> object:
    """Return the images of a pair, as AutoAttack returns it: images, and the labels predicted for them."""
    return value[0] if isinstance(value, tuple | list) and len(value) == 2 else value


def _of_tensor(name: str, tensor: Any) -> StoredArray:
    import torch

    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_complex():
        kind = "a complex" if tensor.is_complex() else "a sparse or quantized"
        raise UsageError(f"{shown(name) if name else 'it'} is {kind} tensor, which is not read")
    # NumPy has no such type, and float32 holds all its values.
    tensor = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    array = tensor.resolve_neg().numpy()
    return StoredArray(name, array.shape, array.dtype, lambda: array)
