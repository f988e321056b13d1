"""Decoded images, kept as one uint8 array per split under a key made of the files' content.

An entry is a folder that is written under a temporary name and renamed, so it is complete or absent. Processes that
decode the same split at the same time each write their own, and the first to finish is kept. An entry holds the SHA-256
of its content and the times at which its files were written. Where the times differ, or under ``--verify``, the content
is hashed again; an altered entry is made again, with a warning.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bench.data.decode import Decoded as DecodedImage
from bench.data.decode import decode, is_grey
from bench.data.mapped import forget
from bench.data.memo import CacheError, cache_folder, hashes, keep, recall, remember, stamp, unwritable
from bench.data.resizing import Resizing
from bench.data.room import require_room
from bench.data.rows import Numbers, Pixels, Row, Rows, Source
from bench.keys import sha256_hex
from bench.store.files import keeps_times, lacks, make_folders, status
from bench.types import UsageError

_VERSION = "2"
#: Images, and bytes of images, that are in memory at a time, encoded and again decoded.
_AT_ONCE, _AT_ONCE_BYTES = 2048, 2**24
# Below this many pixels decoding an image is faster than switching threads.
_WORTH_A_THREAD = 128 * 128
_ABANDONED_AFTER_S = 24 * 3600
# Several processes may find an entry damaged at once, and one sets aside what another has just made.
_TRIES = 8
_ARRAYS, _ABOUT = ("images.npy", "labels.npy"), "about.json"
#: An entry that is being written, or was set aside.
_PART = re.compile(r"\.[0-9a-f]{64}\.\d+\.[0-9a-f]{8}\.part")
_log = logging.getLogger("crossfire")
#: Takes how many images of how many are decoded, and the seconds that took.
Report = Callable[[int, int, float], None]
_report: ContextVar[Report] = ContextVar("report", default=lambda done, total, seconds: None)


@contextmanager
def reported(report: Report) -> Iterator[None]:
    """Let ``report`` be called while images are decoded inside."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class Decoded(NamedTuple):
    """``images`` (N, C, H, W) and ``labels`` (N,), memory-mapped, and the SHA-256 of both.

    ``resized`` and ``transparent`` say which image was the first that had another size, or pixels that are not opaque.
    """

    images: Pixels
    labels: Numbers
    sha: str
    resized: str | None
    transparent: str | None


def decoded(
    source: Source,
    channels: int,
    how: Resizing,
    *,
    wanted: int | None = None,
    held: int | None = None,
    thorough: bool = False,
) -> Decoded:
    """Return a split decoded at a size, from the cache where the same content has been decoded before.

    Args:
        source: of its images.
        channels: 1 or 3.
        how: images come to one size.
        wanted: how many images will be used; all by default.
        held: bytes of images above which they are not held in memory; as many as they are by default.
        thorough: hash the files and the decoded arrays again, however unchanged they look.

    Raises:
        UsageError: a file is damaged or not what its publisher gave, the images do not fit into memory or on the disk,
            the cache folder cannot be written, or the process may open no more files or has no memory to read it.
    """
    shas = hashes(source.files, thorough=thorough)
    _check_expected(source, shas)
    shape = f"{channels}x{how.text} {len(source.class_names)}"
    entry = cache_folder() / "decoded" / sha256_hex(_VERSION, source.recipe, shape, *shas)
    for _ in range(_TRIES):
        try:
            return _load(entry, thorough=thorough)
        except FileNotFoundError:
            if os.path.isdir(entry):
                _set_aside(entry, "a file is missing")
        except (OSError, MemoryError, ValueError, KeyError) as error:
            if lacks(error):
                raise CacheError(f"the cache cannot be read: {entry}: {lacks(error)}") from None
            _set_aside(entry, str(error))
        rows = source.read()
        require_room(rows.total, wanted, (channels, *how.size), entry.parent, held)
        _make(entry, source, rows, channels, how)
    return _load(entry, thorough=thorough)


def all_grey(source: Source) -> bool:
    """Say whether every image of a split is grey as its file says; remembered by the content of the files.

    Raises:
        UsageError: a file is no image.
    """
    memo = cache_folder() / "grey" / f"{sha256_hex(_VERSION, source.recipe, *hashes(source.files))}.json"
    try:
        return bool(recall(memo)["grey"])
    except (OSError, ValueError, KeyError):
        pass
    grey = all(map(is_grey, source.read().items))
    remember(memo, {"grey": grey})
    return grey


def _load(entry: Path, *, thorough: bool) -> Decoded:
    record = recall(entry / _ABOUT)
    images, labels = (_array(entry / name) for name in _ARRAYS)
    here = _stamps(entry)
    if thorough or record["stamps"] != here:
        if content_sha(images, labels) != record["sha"]:
            unseen = "; its times say nothing of it, so results may stand on it: run --verify 100% tells"
            raise ValueError(f"its arrays were altered{unseen if record['stamps'] == here else ''}")
        if record["stamps"] not in (None, here):
            # If the new times cannot be stored, it is hashed at every use.
            remember(entry / _ABOUT, {**record, "stamps": here})
    return Decoded(images, labels, record["sha"], record["resized"], record["transparent"])


def _array(path: Path) -> Any:
    try:
        status(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception:  # NumPy parses the header with Python's tokenizer, which raises its own errors
        raise ValueError(f"{path.name} was cut short or altered") from None


def _stamps(entry: Path) -> dict[str, Any]:
    return {name: stamp((entry / name).stat()) for name in _ARRAYS}


def content_sha(images: Pixels, labels: Numbers) -> str:
    """Return the SHA-256 of pixels and labels, by which a set is known; nothing of arrays of other types."""
    if images.dtype != np.uint8 or labels.dtype != np.int64 or not images.flags.c_contiguous:
        return ""
    digest = hashlib.sha256(repr(images.shape).encode())
    at_once = max(1, _AT_ONCE_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), at_once):
        digest.update(images[start : start + at_once].data)
        forget(images)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _set_aside(entry: Path, reason: str) -> None:
    """Warn that an entry is damaged and rename it atomically, since other processes may use it."""
    _log.warning("%s does not count: %s. Its images are decoded again", entry, reason)
    aside = entry.with_name(f".{entry.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        entry.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(error) from None
    _delete(aside)


def _make(entry: Path, source: Source, rows: Rows, channels: int, how: Resizing) -> None:
    beside = entry.with_name(f".{entry.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        make_folders(beside)
        _sweep(entry.parent)
        _write(beside, source, rows, channels, how)
        try:
            beside.rename(entry)
        except OSError:
            if not os.path.isdir(entry):
                raise
    except OSError as error:
        raise unwritable(error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        # Another process may take it away at the same time.
        with suppress(OSError):
            if _PART.fullmatch(part.name) and time.time() - part.lstat().st_mtime > _ABANDONED_AFTER_S:
                _delete(part)


def _delete(entry: Path) -> None:
    """Delete the files of an entry, and its folder if it has no others."""
    with suppress(OSError):
        for path in (*(entry / name for name in (*_ARRAYS, _ABOUT)), *entry.glob(f".{_ABOUT}.*.part")):
            path.unlink(missing_ok=True)
        entry.rmdir()


def _write(folder: Path, source: Source, images: Rows, channels: int, how: Resizing) -> None:
    if images.total == 0:
        raise UsageError(f"{source.files[0]}: no images" if source.files else "no images")
    written = _Written()
    with (folder / "images.npy").open("wb") as file:
        _write_images(file, source, images, channels, how, written)
        _flush(file)
    if len(written.labels) != images.total:
        raise UsageError(f"{source.files[0]}: {len(written.labels)} images where {images.total} were announced")
    labels = np.empty(images.total, dtype="<i8")
    labels[slice(None) if images.positions is None else images.positions] = written.labels
    with (folder / "labels.npy").open("wb") as file:
        np.save(file, labels)
        _flush(file)
    stamps = _stamps(folder) if keeps_times(folder) else None
    sha = content_sha(_array(folder / "images.npy"), labels)
    record = {"sha": sha, "resized": written.resized, "transparent": written.transparent, "stamps": stamps}
    keep(folder / _ABOUT, record)


@dataclass
class _Written:
    """The labels of images in the order in which they were read, and what :class:`Decoded` says of them."""

    labels: list[int] = field(default_factory=list)
    resized: str | None = None
    transparent: str | None = None

    def add(self, row: Row, image: DecodedImage, size: tuple[int, int]) -> None:
        self.labels.append(row.label)
        if self.resized is None and image.native != size:
            self.resized = f"{row.where} is {image.native[0]}x{image.native[1]}"
        if self.transparent is None and image.transparent:
            self.transparent = row.where


def _write_images(
    file: BinaryIO, source: Source, images: Rows, channels: int, how: Resizing, written: _Written
) -> None:
    shape = (images.total, channels, *how.size)
    each = math.prod(shape[1:])
    # Written one by one, not through a map: a full disk is then an error and not a bus fault.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    first, began = file.tell(), time.monotonic()
    to_pixels = partial(decode, channels=channels, how=how)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        apply = pool.map if math.prod(how.size) >= _WORTH_A_THREAD else map
        for rows in _in_parts(images.items, _AT_ONCE_BYTES // each):
            for row in rows:
                if not 0 <= row.label < len(source.class_names):
                    raise UsageError(
                        f"{row.where}: label {row.label} is not one of the {len(source.class_names)} classes"
                    )
            for row, image in zip(rows, apply(to_pixels, rows), strict=True):
                if images.positions is not None:
                    file.seek(first + each * int(images.positions[len(written.labels)]))
                file.write(np.ascontiguousarray(image.pixels).data)
                written.add(row, image, how.size)
            _report.get()(len(written.labels), images.total, time.monotonic() - began)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _in_parts(items: Iterator[Row], most: int) -> Iterator[list[Row]]:
    """Yield the rows in parts that fit into memory, encoded and decoded."""
    part: list[Row] = []
    encoded = 0
    for row in items:
        part.append(row)
        encoded += len(row.image) if isinstance(row.image, bytes) else 0
        if len(part) >= min(_AT_ONCE, most) or encoded >= _AT_ONCE_BYTES:
            yield part
            part, encoded = [], 0
    if part:
        yield part


def _check_expected(source: Source, shas: tuple[str, ...]) -> None:
    expected = dict(source.expected)
    for path, sha in zip(source.files, shas, strict=True):
        if expected.get(path.name, sha) != sha:
            raise UsageError(
                f"{path}: its SHA-256 is {sha[:12]}..., meta.json beside it says {expected[path.name][:12]}..."
            )
