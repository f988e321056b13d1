"""The common form of every layout of image files: a source of rows, each an encoded or raw image and its label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.keys import sha256_hex
from bench.types import UsageError

Split = Literal["train", "test"]
Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Row(NamedTuple):
    """One image: encoded bytes, the path of an image file, or raw pixels (H, W) or (H, W, 3); and its location."""

    where: str
    label: int
    image: bytes | Path | Pixels


class Rows(NamedTuple):
    """``positions`` says where each of the ``items`` goes; by default one after the other."""

    total: int
    items: Iterator[Row]
    positions: Numbers | None = None


@dataclass(frozen=True)
class Source:
    """One split of a set on disk, not yet decoded.

    ``files`` hold all its content; ``recipe`` says what else decides which rows come out, and ``expected`` maps file
    names to the SHA-256 that their publisher gave. Where its classes are not sure to be those that are meant, ``doubt``
    says why it is refused, and ``remark`` what the user must know, unless he names the classes himself. ``numbered``:
    its classes are bare numbers, so there may be more than occur. ``labels`` returns those of all rows without reading
    images, where that is possible, and ``file_each`` says that each row is the file in its place.
    """

    files: tuple[Path, ...]
    recipe: str
    class_names: tuple[str, ...]
    read: Callable[[], Rows]
    expected: tuple[tuple[str, str], ...] = ()
    doubt: str = ""
    remark: str = ""
    numbered: bool = False
    labels: Callable[[], Numbers] | None = None
    file_each: bool = False


@dataclass(frozen=True)
class DatasetLocation:
    """A set found on disk: where, which splits it has, and how to get at one."""

    folder: Path
    splits: frozenset[Split]
    source: Callable[[Split], Source]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes sorted: as numbers where all are numbers, else as texts, as torchvision does."""
    unique = sorted(set(names))
    if all(name.isascii() and name.isdecimal() for name in unique):
        unique.sort(key=lambda name: (int(name), name))
    return tuple(unique)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names for a message; of many only the first few and the last."""
    return ", ".join(names if len(names) <= most else (*names[:3], "...", names[-1]))


def renumbered(source: Source, classes: tuple[str, ...]) -> Source:
    """Return a source whose classes have the numbers of their places in ``classes``.

    Raises:
        UsageError: ``classes`` leaves a class out or names one that there is not.
    """
    if missing := [name for name in source.class_names if name not in classes]:
        raise UsageError(f"classes = [...] leaves out {listed(missing)}; the set has {listed(source.class_names)}")
    if not source.numbered and (unknown := [name for name in classes if name not in source.class_names]):
        raise UsageError(f"classes = [...] names {listed(unknown)}; the set has {listed(source.class_names)}")
    new_labels = {label: classes.index(name) for label, name in enumerate(source.class_names)}
    sure = replace(source, class_names=classes, doubt="", remark="")
    if classes[: len(new_labels)] == source.class_names:
        return sure

    def read() -> Rows:
        total, items, _ = source.read()
        return Rows(total, (row._replace(label=new_labels.get(row.label, row.label)) for row in items))

    def labels() -> Numbers:
        return np.array([new_labels.get(label, label) for label in labels_of(source).tolist()], dtype=np.int64)

    order = ",".join(map(str, new_labels.values()))
    return replace(sure, recipe=f"{source.recipe}\nclasses {order}", read=read, labels=labels)


def labels_of(source: Source) -> Numbers:
    """Return the labels of all rows; no image is decoded for them."""
    if source.labels is not None:
        return source.labels()
    return np.array([row.label for row in source.read().items], dtype=np.int64)


def part_of(source: Source, rows: Numbers) -> Source:
    """Return a source of some rows, in the order in which they are named."""

    def read() -> Rows:
        total, items, _ = source.read()
        wanted = np.zeros(total, dtype=bool)
        wanted[rows] = True
        return Rows(len(rows), (row for number, row in enumerate(items) if wanted[number]), np.argsort(rows))

    files = tuple(source.files[row] for row in rows.tolist()) if source.file_each else source.files
    return replace(source, files=files, recipe=f"{source.recipe}\nrows {sha_of_rows(rows)}", read=read, labels=None)


def sha_of_rows(rows: Numbers) -> str:
    """Return the SHA-256 of row numbers in their order."""
    return sha256_hex(rows.astype("<i8").tobytes())


def class_by_class(labels: Numbers) -> bool:
    """Say whether rows come class by class, or so nearly that the first of them are no sample of the set.

    That is where labels change at most half as often as they would in random order.
    """
    total, counts = len(labels), np.unique(labels, return_counts=True)[1]
    if total <= len(counts):
        return False
    changes = np.count_nonzero(np.diff(labels))
    expected = (total - 1) * (1 - float((counts * (counts - 1)).sum()) / (total * (total - 1)))
    return bool(changes == len(counts) - 1 or 2 * changes <= expected)


def stratified(labels: Numbers, n: int) -> Numbers:
    """Return ``n`` rising row numbers: the first rows of each class, as many as its share (largest remainders)."""
    if not 0 <= n <= len(labels):
        raise ValueError(f"{n} of {len(labels)} rows")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n
    shares = exact // max(1, len(labels))
    # Ties go to the lower class number, so that the choice is one.
    order = np.argsort(-(exact - shares * len(labels)), kind="stable")
    shares[order[: n - int(shares.sum())]] += 1
    parts = [np.flatnonzero(labels == value)[:share] for value, share in zip(classes, shares, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts])).astype(np.int64)


def held_out(labels: Numbers, n: int) -> dict[Split, Numbers]:
    """Return a fixed split for a set that came without one: ``n`` test rows, every class in proportion.

    The rows are shuffled with seed 0 (NumPy's frozen legacy stream), so both splits are in random order.
    """
    order = np.random.RandomState(0).permutation(len(labels))
    test = stratified(labels[order], n)
    return {"train": np.delete(order, test).astype(np.int64), "test": order[test].astype(np.int64)}
