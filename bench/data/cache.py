"""Decoded images, kept as one uint8 array per split under a key made of the files' content.

An entry is a folder that is written under a temporary name and renamed, so it is complete or absent. Processes that
decode the same split at the same time each write their own, and the first to finish is kept. An entry holds the SHA-256
of its content and the times at which its files were written. Where the times differ, or under ``--verify``, the content
is hashed again; an altered entry is made again, with a warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.data.decode import decode, is_grey
from bench.data.memo import CacheError, cache_folder, hashes, keep, recall, remember, stamp, unwritable
from bench.data.room import require_room
from bench.data.rows import Interpolation, Numbers, Pixels, Row, Rows, Source
from bench.keys import sha256_hex
from bench.store.files import keeps_times, lacks, make_folders, status
from bench.types import UsageError

_VERSION = "2"
_AT_ONCE, _AT_ONCE_BYTES = 2048, 2**27
# Below this many pixels decoding an image is faster than switching threads.
_WORTH_A_THREAD = 128 * 128
_ABANDONED_AFTER_S = 24 * 3600
# Several processes may find an entry damaged at once, and one sets aside what another has just made.
_TRIES = 8
_ARRAYS, _ABOUT = ("images.npy", "labels.npy"), "about.json"
#: An entry that is being written, or was set aside.
_PART = re.compile(r"\.[0-9a-f]{64}\.\d+\.[0-9a-f]{8}\.part")
_log = logging.getLogger("crossfire")


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
    size: tuple[int, int],
    interpolation: Interpolation,
    *,
    wanted: int | None = None,
    thorough: bool = False,
) -> Decoded:
    """Return a split decoded at a size, from the cache where the same content has been decoded before.

    Args:
        source: of its images.
        channels: 1 or 3.
        size: height and width.
        interpolation: how images of another size are resized.
        wanted: how many images will be used; all by default.
        thorough: hash the files and the decoded arrays again, however unchanged they look.

    Raises:
        UsageError: a file is damaged or not what its publisher gave, the images do not fit into memory or on the disk,
            the cache folder cannot be written, or the process may open no more files or has no memory to read it.
    """
    shas = hashes(source.files, thorough=thorough)
    _check_expected(source, shas)
    shape = f"{channels}x{size[0]}x{size[1]} {interpolation} {len(source.class_names)}"
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
        require_room(rows.total, wanted, (channels, *size), entry.parent)
        _make(entry, source, rows, channels, size, interpolation)
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
        if _content(images, labels) != record["sha"]:
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


def _content(images: Pixels, labels: Numbers) -> str:
    if images.dtype != np.uint8 or labels.dtype != np.int64 or not images.flags.c_contiguous:
        return ""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), _AT_ONCE):
        digest.update(images[start : start + _AT_ONCE].data)
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


def _make(
    entry: Path, source: Source, rows: Rows, channels: int, size: tuple[int, int], interpolation: Interpolation
) -> None:
    beside = entry.with_name(f".{entry.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        make_folders(beside)
        _sweep(entry.parent)
        _write(beside, source, rows, channels, size, interpolation)
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


def _write(
    folder: Path, source: Source, images: Rows, channels: int, size: tuple[int, int], interpolation: Interpolation
) -> None:
    total, items = images
    if total == 0:
        raise UsageError(f"{source.files[0]}: no images" if source.files else "no images")
    shape = (total, channels, *size)
    labels: list[int] = []
    resized: str | None = None
    transparent: str | None = None
    digest = hashlib.sha256(repr(shape).encode())
    to_pixels = partial(decode, channels=channels, size=size, interpolation=interpolation)
    with (folder / "images.npy").open("wb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        apply = pool.map if size[0] * size[1] >= _WORTH_A_THREAD else map
        # Written in order, not through a map: a full disk is then an error and not a bus fault.
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _in_parts(items, _AT_ONCE_BYTES // (channels * size[0] * size[1])):
            for row in rows:
                if not 0 <= row.label < len(source.class_names):
                    raise UsageError(
                        f"{row.where}: label {row.label} is not one of the {len(source.class_names)} classes"
                    )
            results = list(apply(to_pixels, rows))
            part = np.stack([result.pixels for result in results]).tobytes()
            digest.update(part)
            file.write(part)
            labels += [row.label for row in rows]
            for row, result in zip(rows, results, strict=True):
                if resized is None and result.native != size:
                    resized = f"{row.where} is {result.native[0]}x{result.native[1]}"
                if transparent is None and result.transparent:
                    transparent = row.where
        file.flush()
        os.fsync(file.fileno())
    if len(labels) != total:
        raise UsageError(f"{source.files[0]}: {len(labels)} images where {total} were announced")
    numbers = np.array(labels, dtype="<i8")
    digest.update(numbers.tobytes())
    with (folder / "labels.npy").open("wb") as file:
        np.save(file, numbers)
        file.flush()
        os.fsync(file.fileno())
    stamps = _stamps(folder) if keeps_times(folder) else None
    record = {"sha": digest.hexdigest(), "resized": resized, "transparent": transparent, "stamps": stamps}
    keep(folder / _ABOUT, record)


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
