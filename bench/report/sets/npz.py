"""A set as one file of NumPy arrays, without loss; nothing in it is pickled, and equal sets are equal files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from bench.report.sets.kept import AdversarialSet, Array, text

#: The first moment that a zip archive can state: that of writing would make each file another.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class _Member(NamedTuple):
    """An array of the file: its shape, its type, and its values in pieces."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    pieces: Iterable[Array]


def write(adversarial: AdversarialSet, file: BinaryIO) -> None:
    """Write a set to a file that can seek, one chunk of images at a time.

    Arrays: ``x_adv`` float32 (n, C, H, W) in [0, 1]; ``x`` uint8 (n, C, H, W), the clean images; ``labels`` and
    ``rows``, the row numbers in the image set, int64 (n,); where they are kept ``predictions_clean`` and
    ``predictions_adv`` int64 (n,); of a targeted attack ``targets`` int64 (n,), the class that each image was to be
    given, -1 where any wrong one would do; ``metadata``, a JSON text.

    Raises:
        NotKept: a chunk has gone or is damaged.
    """
    hashes: dict[str, str] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member in _members(adversarial):
            hashes[member.name] = _write_member(archive, member)
        metadata = np.array(text(adversarial.metadata(hashes)))
        _write_member(archive, _Member("metadata", (), metadata.dtype, [metadata]))


def _members(adversarial: AdversarialSet) -> Iterator[_Member]:
    shape, numbers = adversarial.shape, np.dtype("<i8")
    yield _Member("x_adv", shape, np.dtype("<f4"), (part.adversarial for part in adversarial.parts()))
    yield _Member("x", shape, np.dtype("u1"), (part.clean for part in adversarial.parts()))
    yield _Member("labels", shape[:1], numbers, [adversarial.labels])
    yield _Member("rows", shape[:1], numbers, [np.asarray(adversarial.rows)])
    if (predictions := adversarial.predictions) is not None:
        yield _Member("predictions_clean", shape[:1], numbers, [predictions.clean])
        yield _Member("predictions_adv", shape[:1], numbers, [predictions.adversarial])
    if (targets := adversarial.targets) is not None:
        yield _Member("targets", shape[:1], numbers, [targets])


def _write_member(archive: zipfile.ZipFile, member: _Member) -> str:
    """Write an array in pieces, and return the SHA-256 of its bytes."""
    info = zipfile.ZipInfo(f"{member.name}.npy", _NO_TIME)
    # As on Unix, wherever it is written.
    info.create_system = 3
    digest = hashlib.sha256()
    header = {"descr": np.lib.format.dtype_to_descr(member.dtype), "fortran_order": False, "shape": member.shape}
    with archive.open(info, "w", force_zip64=True) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for piece in member.pieces:
            data = np.ascontiguousarray(piece, dtype=member.dtype).tobytes()
            digest.update(data)
            entry.write(data)
    return digest.hexdigest()
