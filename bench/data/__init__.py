"""Image sets: found on disk, decoded once, kept as uint8 and handed out memory-mapped.

May import: `store`, `registry`, `keys`, `types`. Imports no torch.
Start at ``named`` (which sets there are and where they are looked for), then ``cache`` (how they are decoded and kept).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from bench.data import folders, memory, parquet
from bench.data.foreign import one_line
from bench.data.mapped import forget
from bench.data.named import NAMED, NamedSet, locate, named_set
from bench.data.resizing import Resizing
from bench.data.room import HELD_BYTES, require_size
from bench.data.rows import (
    DatasetLocation,
    Numbers,
    Pixels,
    Row,
    Rows,
    Source,
    Split,
    class_by_class,
    held_out,
    labels_of,
    listed,
    part_of,
    renumbered,
    sha_of_rows,
    stratified,
)
from bench.registry import LIVE, unknown
from bench.store.account import spending
from bench.types import DataRef, Interpolation, Preprocessing, UsageError

__all__ = [
    "NAMED",
    "ImageSet",
    "NamedSet",
    "Subset",
    "data_ref",
    "has_split",
    "named_as",
    "named_set",
    "open_ref",
    "open_set",
    "rows_of",
    "select",
]

_log = logging.getLogger("crossfire")
_said: set[str] = set()

Subset = Literal["first", "stratified"]
#: Images whose headers are read before the files of a set are hashed.
_FEW = 100


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a split, in their order, and how they were chosen."""

    rows: Numbers
    subset: Subset

    def places(self, rows: Numbers) -> Numbers:
        """Return where rows of the split are among these.

        Raises:
            KeyError: a row is not among them.
        """
        order = np.argsort(self.rows)
        nearest = order[np.searchsorted(self.rows, rows, sorter=order).clip(max=len(order) - 1)]
        if not np.array_equal(self.rows[nearest], rows):
            raise KeyError("a row is not in this part of the set")
        return np.asarray(nearest, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a set, decoded.

    Attributes:
        name: as the configuration calls it.
        split: ``"train"`` or ``"test"``.
        images: uint8 (N, C, H, W), memory-mapped and read-only; C is 3 (RGB) or 1 (grey).
        labels: int64 (N,), in [0, len(class_names)).
        class_names: one name for each class.
        sha: SHA-256 of the pixels and labels as they are here, whatever files they came from.
        interpolation: how images of another size were resized.
        classes: the order of the classes as the user gave it, if he did.
        preprocessing: how images were resized and cropped, if they were not merely resized.
        part: the rows that are here, if these are not all of the split; then ``images``, ``labels`` and ``sha`` are
            theirs alone.
    """

    name: str
    split: Split
    images: Pixels
    labels: Numbers
    class_names: tuple[str, ...]
    sha: str
    interpolation: Interpolation = "bilinear"
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    part: Part | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def places(self, rows: Numbers) -> Numbers:
        """Return where in ``images`` rows of the split are.

        Raises:
            KeyError: a row is not here.
        """
        return rows if self.part is None else self.part.places(rows)

    def at(self, rows: Numbers) -> tuple[Pixels, Numbers]:
        """Return pixels (n, C, H, W) and labels (n,) of rows of the split.

        Pixels of a part that lie together are not copied, and are read-only. What earlier calls read from the disk does
        not stay in memory.

        Raises:
            KeyError: a row is not here.
        """
        forget(self.images)
        places = self.places(rows)
        labels = self.labels[places]
        if self.part is not None and len(places) and bool((np.diff(places) == 1).all()):
            return self.images[int(places[0]) : int(places[-1]) + 1], labels
        return self.images[places], labels

    @property
    def ordered(self) -> bool:
        """Whether the order of the images may mean something, so that the first of them are no sample.

        That holds for every set of the user's own (ordered by class, film or difficulty), and for a named set whose
        labels come class by class.
        """
        return _is_ordered(self.name, self.labels)


def has_split(name: str, split: Split, folder: Path | None) -> bool:
    """Say whether a set has a split, without reading an image; the arguments are those of :func:`open_set`.

    Raises:
        UsageError: no such set, or it cannot be found.
    """
    with one_line(f"dataset {name}: its files cannot be read"):
        return split in _location(name, folder).splits


@spending("images")
def open_set(
    name: str,
    split: Split,
    *,
    folder: Path | None,
    image_size: tuple[int, int] | None = None,
    interpolation: Interpolation = "bilinear",
    preprocessing: Preprocessing | None = None,
    channels: int | None = None,
    classes: tuple[str, ...] = (),
    n: int | None = None,
    subset: Subset | None = None,
    thorough: bool = False,
) -> ImageSet:
    """Return one split of a set; it is decoded the first time and memory-mapped from the user's cache ever after.

    Args:
        name: a named set (of common corruptions a part, such as ``cifar10-c:fog:3``), ``parquet:DIR`` (files
            ``train*``, ``test*`` or ``val*``) or ``folder:DIR`` (trees ``<split>/<class>/*``). Where a set of one's own
            has no splits, all of it is the test split.
        split: ``"train"`` or ``"test"``; a set without a test split tests on ``val``.
        folder: where named sets are looked for first, before ``$CROSSFIRE_DATA`` and the user's cache.
        image_size: height and width that every image is resized to; the set's own by default.
        interpolation: how; all but nearest are antialiased when they shrink.
        preprocessing: how images are resized and then cropped to ``image_size``; by default they are resized to it.
        channels: 3 (RGB) or 1 (grey); by default the named set's, and of one's own set 1 where every file is grey.
        classes: the names of the classes in the order of their labels; the set's own order by default.
        n: how many of its images will be used, all by default. With ``preprocessing`` these alone are decoded, else
            they are for an estimate of the memory that they take.
        subset: which; see :func:`select`.
        thorough: hash files and decoded arrays again, however unchanged they look.

    Raises:
        UsageError: no such set or split, it cannot be found, its classes are not sure to be those that are meant, or a
            file of it is damaged or not what it should be, or its images do not fit into memory.
    """
    from bench.data.cache import decoded

    if name.startswith(LIVE):
        return memory.opened(name, split)
    if image_size is not None:
        require_size(image_size)
    if preprocessing is not None and image_size is None:
        raise UsageError(f"dataset {name}: a preprocessing needs the size that it ends with")
    entry = named_set(name)
    with one_line(f"dataset {name}: its files cannot be read"):
        location = _location(name, folder)
        if split not in location.splits:
            raise _absent(name, location, split)
        source = _source(name, location, split, classes)
        if channels is None:
            channels = _channels(name, location, source)
        if preprocessing is not None and preprocessing.fill is not None and channels == 1:
            raise UsageError(f"dataset {name}: its images are grey, and the preprocessing pads them with a color")
        size = image_size or (entry.image_shape[1:] if entry else None) or _size_of_first(source)
        require_size(size)
        part = None if preprocessing is None else _part(name, split, source, n, subset)
        arrays = decoded(
            source if part is None else part_of(source, part.rows),
            channels,
            Resizing(size, interpolation, preprocessing),
            wanted=n,
            held=HELD_BYTES if split == "test" else None,
            thorough=thorough,
        )
    if arrays.resized and image_size is None and not (entry and entry.uneven):
        raise UsageError(
            f"{arrays.resized}, not {size[0]}x{size[1]} as the set is; give image_size = [height, width] to resize all"
        )
    if arrays.transparent:
        _say(
            f"dataset {name}: {arrays.transparent} has pixels that are not opaque; alpha is dropped, as by torchvision"
        )
    return ImageSet(
        name,
        split,
        arrays.images,
        arrays.labels,
        source.class_names,
        arrays.sha,
        # Keys must not differ by an option that had no effect.
        interpolation if arrays.resized or preprocessing else "bilinear",
        classes,
        preprocessing,
        part,
    )


def _absent(name: str, location: DatasetLocation, split: Split) -> UsageError:
    line = f"dataset {name}: {location.folder} has no {split} images, only {', '.join(sorted(location.splits))}"
    entry = named_set(name)
    if entry is None or not entry.trains_on:
        return UsageError(line)
    return UsageError(f"{line}; networks for it are trained on {entry.trains_on}, which is not found")


def _part(name: str, split: Split, source: Source, n: int | None, subset: Subset | None) -> Part:
    labels = labels_of(source)
    _require_count(name, split, n, len(labels))
    ordered = _is_ordered(name, labels)
    subset = subset or _usual_subset(ordered=ordered)
    return Part(_chosen(labels, n, subset, ordered=ordered), subset)


def select(images: ImageSet, n: int | None, subset: Subset | None = None) -> Numbers:
    """Return the row numbers (int64) of ``n`` images, or of all.

    Args:
        images: the set.
        n: how many; ``None`` for all. Of a part of a split all are taken.
        subset: ``"first"`` takes the first ``n``, as the field does; ``"stratified"`` as many of every class as is its
            share: the first of each where the order of the set is mixed, else drawn with a fixed seed and in random
            order. By default, the second where the order of the set may mean something, else the first.

    Raises:
        UsageError: ``n`` is below 1 or above what the set has.
    """
    if images.part is not None:
        return images.part.rows
    _require_count(images.name, images.split, n, len(images))
    return _chosen(np.asarray(images.labels), n, subset or default_subset(images), ordered=images.ordered)


def _require_count(name: str, split: Split, n: int | None, total: int) -> None:
    if n is not None and n < 1:
        raise UsageError(f"n = {n}: at least one image is needed")
    if n is not None and n > total:
        raise UsageError(f"n = {n}: {name} has {total} {split} images")


def _chosen(labels: Numbers, n: int | None, subset: Subset, *, ordered: bool) -> Numbers:
    count = len(labels) if n is None else n
    if subset == "first":
        return np.arange(count, dtype=np.int64)
    return held_out(labels, count)["test"] if ordered else stratified(labels, count)


def default_subset(images: ImageSet) -> Subset:
    """Return how images are chosen by default."""
    return images.part.subset if images.part else _usual_subset(ordered=images.ordered)


def _usual_subset(*, ordered: bool) -> Subset:
    return "stratified" if ordered else "first"


def _is_ordered(name: str, labels: Numbers) -> bool:
    return _is_own(name) or class_by_class(np.asarray(labels))


def data_ref(images: ImageSet, n: int | None = None, subset: Subset | None = None) -> DataRef:
    """Return the reference to ``n`` images of a set.

    Raises:
        UsageError: ``n`` is below 1 or above what the set has.
    """
    rows = select(images, n, subset)
    channels, height, width = images.images.shape[1:]
    present, classes = len(np.unique(images.at(rows)[1])), len(images.class_names)
    return DataRef(
        name=images.name,
        split=images.split,
        n=len(rows),
        subset=subset or default_subset(images),
        image_shape=(channels, height, width),
        num_classes=classes,
        classes=images.classes,
        classes_present=None if present == classes else present,
        interpolation=images.interpolation,
        preprocessing=images.preprocessing,
        indices_sha=sha_of_rows(rows),
        data_sha=images.sha,
    )


def open_ref(ref: DataRef, *, folder: Path | None) -> ImageSet:
    """Return the set of a reference.

    Raises:
        UsageError: as :func:`open_set`, or the set has changed since the reference was made.
    """
    images = named_as(ref, folder=folder)
    rows_of(images, ref)
    return images


def named_as(ref: DataRef, *, folder: Path | None) -> ImageSet:
    """Return the set that has the name of a reference here, whatever images it holds.

    Raises:
        UsageError: as :func:`open_set`.
    """
    return open_set(
        ref.name,
        ref.split,
        folder=folder,
        image_size=ref.image_shape[1:],
        interpolation=ref.interpolation,
        preprocessing=ref.preprocessing,
        channels=ref.image_shape[0],
        classes=ref.classes,
        n=ref.n,
        subset=ref.subset,
    )


def rows_of(images: ImageSet, ref: DataRef) -> Numbers:
    """Return the row numbers of a reference.

    Raises:
        UsageError: the set has changed since the reference was made.
    """
    if images.sha == ref.data_sha:
        rows = select(images, ref.n, ref.subset)
        if sha_of_rows(rows) == ref.indices_sha:
            return rows
    raise UsageError(f"{ref.name} {ref.split}: the images are not those that the plan was made for; run it again")


def _size_of_first(source: Source) -> tuple[int, int]:
    from bench.data.decode import native_size

    first = next(source.read().items, None)
    if first is None:
        raise UsageError(f"{source.files[0]}: no images")
    return native_size(first)


def _is_own(name: str) -> bool:
    return name.partition(":")[0] in ("parquet", "folder")


def _say(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _log.warning("%s", line)


def _source(name: str, location: DatasetLocation, split: Split, classes: tuple[str, ...]) -> Source:
    source = location.source(split)
    if classes:
        try:
            source = renumbered(source, classes)
        except UsageError as error:
            raise UsageError(f"dataset {name}: {error}") from None
    if source.doubt:
        ways = f"classes = [...] under [dataset], which names them all ({listed(source.class_names)})"
        raise UsageError(f"dataset {name}: {source.doubt}; if these are the classes, give {ways}")
    if not source.class_names:
        raise UsageError(f"dataset {name}: it has no image")
    if len(source.class_names) < 2:
        raise UsageError(f"dataset {name}: all images are of one class, {listed(source.class_names)}; two are needed")
    if source.remark:
        _say(f"dataset {name}: {source.remark}")
    return source


def _channels(name: str, location: DatasetLocation, source: Source) -> int:
    if (entry := named_set(name)) is not None:
        return entry.image_shape[0]
    from bench.data.cache import all_grey
    from bench.data.decode import is_grey

    # Most sets of colors are known by their first images, before any file is hashed.
    if not all(map(is_grey, islice(source.read().items, _FEW))):
        return 3
    # Over all splits, since one network takes the images of each.
    grey = all_grey(source) and all(all_grey(location.source(split)) for split in sorted(location.splits))
    return 1 if grey else 3


def _location(name: str, folder: Path | None) -> DatasetLocation:
    if name == "digits":
        return DatasetLocation(Path(), frozenset({"train", "test"}), _digits)
    entry = named_set(name)
    return _own(name) if entry is None else locate(entry, folder)


def fetch(name: str, folder: Path | None) -> None:
    """Download a set that Crossfire knows by name, if it is neither in a folder that is looked at nor in the cache.

    Args:
        name: of the set.
        folder: where to look first.

    Raises:
        UsageError: there is no set of that name, or it can be had nowhere.
    """
    if named_set(name) is None:
        raise UsageError(unknown("dataset", name, NAMED))
    _location(name, folder)


def _own(name: str) -> DatasetLocation:
    kind, colon, path = name.partition(":")
    if not colon or kind not in ("parquet", "folder"):
        raise UsageError(f"{unknown('dataset', name, NAMED)}; or parquet:DIR or folder:DIR")
    folder = Path(os.path.expanduser(path))
    if not path or not os.path.isdir(folder):
        raise UsageError(f"dataset {name}: no folder {folder.absolute() if path else 'is named'}")
    location = parquet.find(folder) if kind == "parquet" else folders.find(folder)
    unsplit = parquet.unsplit(folder) if kind == "parquet" else location is None
    location = location or (folders.find_unsplit(folder) if kind == "folder" else None)
    if location is None:
        wanted = "*.parquet" if kind == "parquet" else "<split>/<class>/ or <class>/ with images"
        raise UsageError(f"dataset {name}: no {wanted} in {folder.absolute()}")
    if unsplit:
        _say(f"dataset {name} has no split of its own: all of it serves as the test split")
    return location


def _digits(split: Split) -> Source:
    names = tuple(str(digit) for digit in range(10))
    return Source((), f"digits {split} of scikit-learn {version('scikit-learn')}", names, partial(_read_digits, split))


def _read_digits(split: Split) -> Rows:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    # 17 levels of ink over the whole range of a byte, rounded.
    pixels = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    rows = held_out(labels, NAMED["digits"].splits["test"])[split]
    return Rows(len(rows), (Row(f"digits row {row}", int(labels[row]), pixels[row]) for row in rows))
