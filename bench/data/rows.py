"""What every layout of image files is read as: a source of rows, each one encoded or raw image and its label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Split = Literal["train", "test"]
Interpolation = Literal["nearest", "bilinear"]
Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Row(NamedTuple):
    """One image: encoded bytes, the path of an image file, or raw pixels (H, W) or (H, W, 3); and where it lies."""

    where: str
    label: int
    image: bytes | Path | Pixels


class Rows(NamedTuple):
    total: int
    items: Iterator[Row]


@dataclass(frozen=True)
class Source:
    """One split of a set on disk, not yet decoded.

    ``files`` hold all its content; ``recipe`` says what else decides which rows come out, and ``expected`` maps file
    names to the SHA-256 that their publisher gave.
    """

    files: tuple[Path, ...]
    recipe: str
    class_names: tuple[str, ...]
    read: Callable[[], Rows]
    expected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Place:
    """A set found on disk: where, which splits it has, and how to get at one."""

    folder: Path
    splits: frozenset[str]
    source: Callable[[Split], Source]


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
