"""Where a result says of its images, and of those of a training, what cannot be: that needs no image set here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from bench.data import named_set
from bench.data.rows import sha_of_rows
from bench.keys import models_of
from bench.types import Cell, DataRef, TrainRef, UsageError

#: Rows of which the hash is computed for a list of the first ones.
_MOST_ROWS = 2_000_000


def wrong_images(cell: Cell) -> Iterator[str]:
    """Yield what a cell says of the images that it was measured on, or trained on, that is not so.

    That are facts of a named set, the first rows of any, and that one configuration names one set for both.
    """
    if (why := _wrong(cell.data)) is not None:
        yield f"it cannot be measured on its images: {why}"
    for data in trained_on(cell):
        if data.split != "train" or data.name != cell.data.name or data.classes != cell.data.classes:
            what = f"{data.name} {data.split}"
            yield (
                f"it says that a network was trained on {what}, and a run trains on the train split of "
                f"{cell.data.name}, which it measures"
            )
        elif data.image_shape != cell.data.image_shape:
            yield f"it says that a network was trained on images of another shape, {data.image_shape}"
        elif (why := _wrong(data)) is not None:
            yield f"a network cannot be trained on these images: {why}"
        elif data.subset == "first" and data.n <= _MOST_ROWS and data.indices_sha != _sha_of_first(data.n):
            yield f"it says that a network was trained on the first {data.n:,} images, and names other rows"


def trained_on(cell: Cell) -> list[DataRef]:
    """Return the images on which the networks of a cell were trained, each list once."""
    weights = [model.weights for model in models_of(cell)]
    return list(dict.fromkeys(each.data for each in weights if isinstance(each, TrainRef)))


def images_of(data: DataRef) -> int | None:
    """Return how many images the split of a named set has; ``None`` where no such set, or no part of it, is known."""
    try:
        entry = named_set(data.name)
    except UsageError:
        return None
    return None if entry is None else entry.splits.get(data.split, 0)


def _wrong(data: DataRef) -> str | None:
    try:
        entry = named_set(data.name)
    except UsageError as error:
        # Of common corruptions, a part that there is not.
        return str(error)
    return None if entry is None else entry.contradicted(data)


@lru_cache(maxsize=8)
def _sha_of_first(n: int) -> str:
    return sha_of_rows(np.arange(n, dtype=np.int64))
