"""Image sets that were handed over as arrays: found by name while they live."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bench.data.rows import Numbers, Pixels, Split
from bench.registry import LIVE, ended
from bench.types import UsageError

if TYPE_CHECKING:
    from bench.data import ImageSet

_sets: dict[str, ImageSet] = {}


@contextmanager
def offered(images: ImageSet) -> Iterator[str]:
    """Let a set be found by its name for the time of a block; the name is yielded."""
    _sets[images.name] = images
    try:
        yield images.name
    finally:
        del _sets[images.name]


def image_set(name: str, pixels: Pixels, labels: Numbers, num_classes: int, exact: bytes | None = None) -> ImageSet:
    """Return a test split of arrays in memory, known by its pixels and labels as every other set is.

    Args:
        name: of the set, without the prefix of what was handed over.
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), in [0, num_classes).
        num_classes: length of a row of logits.
        exact: the images themselves, where ``pixels`` are these only rounded.
    """
    from bench.data import ImageSet
    from bench.data.cache import content_sha

    pixels, labels = np.ascontiguousarray(pixels), np.ascontiguousarray(labels)
    sha = content_sha(pixels, labels)
    if exact is not None:
        sha = hashlib.sha256(sha.encode() + exact).hexdigest()
    names = tuple(str(label) for label in range(num_classes))
    return ImageSet(f"{LIVE}{name}", "test", pixels, labels, names, sha)


def opened(name: str, split: Split) -> ImageSet:
    """Return a set that was handed over.

    Raises:
        UsageError: it was in another process, or an earlier call; or it has no such split.
    """
    if name not in _sets:
        raise ended("dataset", name)
    if split != "test":
        raise UsageError(f"dataset {name}: images that were handed over are test images, and there are no others")
    return _sets[name]
