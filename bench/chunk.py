"""A chunk of an adversarial set as it is kept: read, and checked, without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import files
from bench.reading import document
from bench.seals import sealed_arrays

if TYPE_CHECKING:
    import numpy as np

#: Bytes beside the images, and for what each took.
_HEAD, _ROW = 2**20, 2**6
#: What stands for the hash of a chunk, which has its own in it, where it is remembered that one was whole.
SEALED = "sealed"


class Kept(NamedTuple):
    """Adversarial images (N, C, H, W), passes for each (N,), seconds and notes of all, and the batch they went in."""

    images: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    seconds: float
    notes: list[str]
    batch: int


def place(path: Path) -> str:
    """Return what a chunk says of where it belongs: the key of its set and which images it has."""
    return f"{path.parent.name}/{path.stem}"


def read(path: Path, shape: tuple[int, ...]) -> Kept:
    """Return a chunk of images of a shape (n, C, H, W).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not whole, not of this shape, or belongs elsewhere.
    """
    arrays, about = sealed_arrays(files.read(path, 8 * math.prod(shape) + _ROW * shape[0] + _HEAD))
    if about.get("of", place(path)) != place(path):
        raise ValueError(f"it is that of {about['of']}")
    try:
        return _checked(arrays, about, shape)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None


def _checked(arrays: dict[str, np.ndarray], about: dict[str, str], shape: tuple[int, ...]) -> Kept:
    import numpy as np

    for name, expected in (("images", shape), ("forwards", shape[:1]), ("backwards", shape[:1])):
        if arrays[name].shape != expected or arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise ValueError(f"its {name} are not {expected} finite numbers")
    seconds, notes, batch = float(about["seconds"]), document(about["notes"].encode()), int(about["batch"])
    are_notes = isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    if not (are_notes and math.isfinite(seconds) and batch > 0):
        raise ValueError("what it took is not a time, notes and a batch")
    return Kept(arrays["images"], arrays["forwards"], arrays["backwards"], seconds, notes, batch)
