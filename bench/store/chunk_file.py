"""A stored chunk of an adversarial set: read and checked without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.store import files
from bench.store.audit import broken_rule
from bench.store.reading import document
from bench.store.seals import sealed_arrays
from bench.types import MAX_FLAGS, MAX_PASSES, MAX_SECONDS, MAX_WORD, Threat

if TYPE_CHECKING:
    import numpy as np

#: Largest size of the header, and of the passes of one image, in bytes.
_HEAD, _ROW = 2**20, 2**6
#: Recorded instead of a hash for a chunk that was intact; a chunk carries its own hash.
SEALED = "sealed"


class Kept(NamedTuple):
    """Adversarial images (N, C, H, W), passes of each (N,), seconds and notes of the chunk, and its batch size.

    ``goals`` (N,) are the target classes, -1 where an image has none; ``None`` where no image has one.
    """

    images: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    seconds: float
    notes: list[str]
    batch: int
    goals: np.ndarray | None = None


def chunk_id(path: Path) -> str:
    """Return the identity that a chunk file states: the key of its set, and the rows of its images."""
    return f"{path.parent.name}/{path.stem}"


def read(path: Path, x: np.ndarray, threat: Threat) -> Kept:
    """Return a chunk of an adversarial set.

    Args:
        path: of its file.
        x: the clean images float32 (N, C, H, W) in [0, 1] that it was made from.
        threat: of its attack.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, belongs elsewhere, or holds images that the threat does not allow for ``x``.
    """
    arrays, metadata = sealed_arrays(files.read(path, 8 * x.size + _ROW * len(x) + _HEAD))
    if metadata.get("of", chunk_id(path)) != chunk_id(path):
        raise ValueError(f"it is that of {metadata['of']}")
    try:
        kept = _checked(arrays, metadata, x)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None
    if (why := broken_rule(kept.images, x, threat)) is not None:
        raise ValueError(f"its attack {why}")
    return kept


def _checked(arrays: dict[str, np.ndarray], metadata: dict[str, str], x: np.ndarray) -> Kept:
    images, passes = arrays["images"], (arrays["forwards"], arrays["backwards"])
    if images.shape != x.shape or images.dtype != x.dtype:
        raise ValueError(f"its images are not {x.shape} numbers of type {x.dtype}")
    for counts in passes:
        # NaN satisfies neither comparison.
        if counts.shape != (len(x),) or counts.dtype.kind != "f" or not ((counts >= 0) & (counts <= MAX_PASSES)).all():
            raise ValueError(f"its passes are not {len(x)} counts each")
    seconds, batch = float(metadata["seconds"]), int(metadata["batch"])
    notes = document(metadata["notes"].encode())
    # Notes become flags of a result, so they share its limits.
    are_notes = isinstance(notes, list) and all(isinstance(note, str) and len(note) <= MAX_WORD for note in notes)
    if not (are_notes and len(notes) <= MAX_FLAGS and 0 <= seconds <= MAX_SECONDS and batch > 0):
        raise ValueError("what it took is not a time, notes and a batch")
    goals = arrays.get("goals")
    if goals is not None and (goals.shape != (len(x),) or goals.dtype.kind != "i" or (goals < -1).any()):
        raise ValueError(f"its target classes are not {len(x)} numbers")
    return Kept(images, *passes, seconds, notes, batch, goals)
