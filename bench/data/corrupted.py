"""Common corruptions (Hendrycks and Dietterich, 2019): CIFAR-10-C, CIFAR-100-C and ImageNet-C in their authors' files.

What follows the name of such a set says which part of it is meant: ``cifar10-c:fog:3`` is one corruption at one of five
severities, ``cifar10-c:fog`` has all its severities, ``cifar10-c:3`` the fifteen corruptions at severity 3, and
``cifar10-c`` all fifteen at all severities. The authors hand four more out, which only a name chooses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from bench.data import folders
from bench.data.foreign import one_line, regular
from bench.data.mapped import forget
from bench.data.rows import DatasetLocation, Numbers, Pixels, Row, Rows, Source, Split, listed
from bench.registry import unknown
from bench.types import CORRUPTIONS, SEVERITIES, CorruptionCount, UsageError

#: Corruptions that no mean corruption error counts.
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

#: Images of one corruption at one severity: those of CIFAR's test split, and of ImageNet's validation split.
_CIFAR_IMAGES, _IMAGENET_IMAGES = 10_000, 50_000
#: Folders that the archives of ImageNet-C may have been unpacked into.
_GROUPS = ("noise", "blur", "weather", "digital", "extra")
#: Images between two times at which what was read of the files is given back.
_AT_ONCE = 500


class Release(NamedTuple):
    """What the authors hand out: the name of its folder, and where it is."""

    folder: str
    address: str


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        "cifar10-c": Release("CIFAR-10-C", "https://zenodo.org/records/2535967"),
        "cifar100-c": Release("CIFAR-100-C", "https://zenodo.org/records/3555552"),
        "imagenet-c": Release("ImageNet-C", "https://zenodo.org/records/2235448"),
    }
)


class Conditions(NamedTuple):
    """Corruptions and severities, of which every combination is meant."""

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.corruptions) * len(self.severities)


EVERY = Conditions(CORRUPTIONS, SEVERITIES)


def conditions(name: str) -> Conditions:
    """Return the part of a set that its name chooses, such as ``cifar10-c:fog:3``.

    Raises:
        UsageError: there is no such corruption or severity.
    """
    stem, *parts = name.split(":")
    corruptions = () if not parts or parts[0].isdecimal() else (parts.pop(0),)
    severity = parts.pop(0) if parts else None
    if parts or severity not in (None, *map(str, SEVERITIES)):
        given = ":".join([severity or "", *parts])
        raise UsageError(f"dataset {name}: severity '{given}' is none of 1 to 5; right is, for example, {stem}:fog:3")
    if corruptions and corruptions[0] not in (*CORRUPTIONS, *FURTHER):
        raise UsageError(f"dataset {name}: {unknown('corruption', corruptions[0], (*CORRUPTIONS, *FURTHER))}")
    return Conditions(corruptions or CORRUPTIONS, SEVERITIES if severity is None else (int(severity),))


def counts(name: str, rows: Numbers, right: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[CorruptionCount, ...]:
    """Return how many images of each condition are among some rows of a set, and how many are right; else nothing.

    Args:
        name: of the set; where it is none of common corruptions nothing is returned.
        rows: their numbers in the set (n,).
        right: whether each is right (n,).
    """
    stem = name.partition(":")[0]
    if stem not in RELEASES:
        return ()
    chosen = conditions(name)
    # Arrays are read image by image, and folders condition by condition.
    numbers = rows // _IMAGENET_IMAGES if stem == "imagenet-c" else rows % chosen.total
    of_each, right_of_each = (np.bincount(part, minlength=chosen.total) for part in (numbers, numbers[right]))
    each = zip(product(chosen.corruptions, chosen.severities), of_each.tolist(), right_of_each.tolist(), strict=True)
    return tuple(
        CorruptionCount(kind=kind, severity=severity, n=n, right=correct) for (kind, severity), n, correct in each if n
    )


def find(root: Path, name: str, num_classes: int) -> DatasetLocation | None:
    """Return the part of a set that a name chooses where the authors' folder is in ``root``, or is ``root`` itself.

    Args:
        root: a folder of sets.
        name: such as ``cifar10-c:fog:3``.
        num_classes: of the set.
    """
    stem = name.partition(":")[0]
    own, chosen = RELEASES[stem].folder, conditions(name)
    places = [root / own, root / stem / own, root / stem, *([root] if root.name == own else [])]
    folder = next((place for place in places if os.path.isdir(place)), None)
    if folder is None:
        return None

    def source(split: Split) -> Source:
        return (_of_folders if stem == "imagenet-c" else _of_arrays)(folder, chosen, num_classes)

    return DatasetLocation(folder, frozenset({"test"}), source)


def _of_arrays(folder: Path, chosen: Conditions, num_classes: int) -> Source:
    """Return the source of CIFAR-C: an array for each corruption, severities in blocks, and one array of labels.

    All corrupted copies of an image follow each other, so that the first rows are of every condition.
    """
    images = tuple(folder / f"{corruption}.npy" for corruption in chosen.corruptions)
    recipe = f"cifar-c\n{','.join(chosen.corruptions)}\n{','.join(map(str, chosen.severities))}"
    names = tuple(map(str, range(num_classes)))

    def read() -> Rows:
        labels = _labels(folder / "labels.npy", num_classes)
        arrays = [_array(path) for path in images]
        items = _copies(dict(zip(images, arrays, strict=True)), labels, chosen.severities)
        return Rows(chosen.total * _CIFAR_IMAGES, items)

    def all_labels() -> Numbers:
        blocks = _labels(folder / "labels.npy", num_classes).reshape(len(SEVERITIES), _CIFAR_IMAGES)
        chosen_blocks = blocks[np.array(chosen.severities) - 1]
        return np.tile(chosen_blocks, (len(chosen.corruptions), 1)).T.flatten()

    return Source((*images, folder / "labels.npy"), recipe, names, read, labels=all_labels)


def _copies(arrays: Mapping[Path, Pixels], labels: Numbers, severities: tuple[int, ...]) -> Iterator[Row]:
    for index in range(_CIFAR_IMAGES):
        for (path, array), severity in product(arrays.items(), severities):
            row = (severity - 1) * _CIFAR_IMAGES + index
            yield Row(f"{path} row {row}", int(labels[row]), np.asarray(array[row]))
        if index % _AT_ONCE == 0:
            for array in arrays.values():
                forget(array)


def _array(path: Path) -> Pixels:
    array = _mapped(path)
    shape = (len(SEVERITIES) * _CIFAR_IMAGES, 32, 32, 3)
    if array.dtype != np.uint8 or array.shape != shape:
        raise UsageError(f"{path}: {array.dtype} {array.shape}, not uint8 {shape} as its authors' file")
    return array


def _labels(path: Path, num_classes: int) -> Numbers:
    array = _mapped(path)
    shape = (len(SEVERITIES) * _CIFAR_IMAGES,)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise UsageError(f"{path}: {array.dtype} {array.shape}, not whole numbers {shape} as its authors' file")
    labels = np.asarray(array, dtype=np.int64)
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(num_classes)):
        raise UsageError(
            f"{path}: {len(present)} labels from {present[0]} to {present[-1]}, not all of 0 to {num_classes - 1}; "
            "is it the file of another set?"
        )
    return labels


def _mapped(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array of a file, memory-mapped; one of Python objects, which to read would run code, is refused."""
    with one_line(f"{path}: not a whole npy file of numbers"):
        return np.lib.format.open_memmap(regular(path), mode="r")


def _of_folders(folder: Path, chosen: Conditions, num_classes: int) -> Source:
    """Return the source of ImageNet-C: image files in ``<corruption>/<severity>/<class>/``, condition by condition."""
    parts = [_part(folder, *condition) for condition in product(chosen.corruptions, chosen.severities)]
    names = folders.classes(parts[0])
    for part in parts:
        if len(found := folders.classes(part)) != num_classes:
            raise UsageError(f"{part}: {len(found)} class folders ({listed(found)}), not {num_classes:,}")
        if found != names:
            other = sorted({*found} ^ {*names})
            raise UsageError(f"{part}: other class folders than {parts[0]} ({listed(other)})")
    labelled = [folders.labelled_images(part, folders.numbered(names)) for part in parts]
    for part, images in zip(parts, labelled, strict=True):
        if len(images) != _IMAGENET_IMAGES:
            raise UsageError(f"{part}: {len(images):,} images, not {_IMAGENET_IMAGES:,}; unpack its archive again")
    return folders.of_files(chain.from_iterable(labelled), names, "imagenet-c")


def _part(folder: Path, corruption: str, severity: int) -> Path:
    within = [Path(corruption), *(Path(group, corruption) for group in _GROUPS)]
    part = next((folder / path / str(severity) for path in within if os.path.isdir(folder / path)), None)
    if part is None or not os.path.isdir(part):
        raise UsageError(f"{folder}: no folder {corruption}/{severity}/, there or in {', '.join(_GROUPS)}")
    return part
