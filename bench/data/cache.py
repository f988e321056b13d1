"""Decoded images, kept as one uint8 array per split under a key made of the files' content.

An entry is a folder that is written beside its place and renamed, so it is either whole or not there; processes that
decode the same split at the same time each write their own, and the first to finish is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.data.decode import decode
from bench.data.rows import Interpolation, Numbers, Pixels, Row, Source
from bench.keys import sha256_hex
from bench.store import write_atomically
from bench.types import UsageError

_VERSION = "1"
_AT_ONCE = 2048
# Below this many pixels an image is decoded sooner than threads can take turns at it.
_WORTH_A_THREAD = 128 * 128
_ABANDONED_AFTER_S = 24 * 3600
# A file changed twice within one tick of the clock keeps its stamp: a hash that young is not remembered.
_TICK_NS = 2 * 10**9


class Decoded(NamedTuple):
    """``images`` (N, C, H, W) and ``labels`` (N,), memory-mapped; ``resized``: the first that had another size."""

    images: Pixels
    labels: Numbers
    sha: str
    resized: str | None


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/crossfire``, or ``~/.cache/crossfire``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossfire"


def decoded(source: Source, channels: int, size: tuple[int, int], interpolation: Interpolation) -> Decoded:
    """Return a split decoded at a size, from the cache where the same content has been decoded before.

    Raises:
        UsageError: a file is damaged or not what its publisher gave, or the cache folder cannot be written.
    """
    shas = _hashes(source.files)
    _check_expected(source, shas)
    shape = f"{channels}x{size[0]}x{size[1]} {interpolation} {len(source.class_names)}"
    entry = cache_folder() / "decoded" / sha256_hex(_VERSION, source.recipe, shape, *shas)
    if not entry.is_dir():
        _make(entry, source, channels, size, interpolation)
    try:
        return _load(entry)
    except (OSError, ValueError, KeyError, EOFError):
        # Cut short behind our back, and made of files that are still there.
        shutil.rmtree(entry, ignore_errors=True)
        _make(entry, source, channels, size, interpolation)
        return _load(entry)


def _load(entry: Path) -> Decoded:
    about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(entry / "labels.npy", mmap_mode="r", allow_pickle=False)
    return Decoded(images, labels, about["sha"], about["resized"])


def _make(entry: Path, source: Source, channels: int, size: tuple[int, int], interpolation: Interpolation) -> None:
    beside = entry.with_name(f".{entry.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        beside.mkdir(parents=True)
        _sweep(entry.parent)
        _write(beside, source, channels, size, interpolation)
        try:
            beside.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
    except OSError as error:
        raise _unwritable(error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED_AFTER_S:
            shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, source: Source, channels: int, size: tuple[int, int], interpolation: Interpolation) -> None:
    total, items = source.read()
    if total == 0:
        raise UsageError(f"{source.files[0]}: no images" if source.files else "no images")
    shape = (total, channels, *size)
    labels: list[int] = []
    resized: str | None = None
    digest = hashlib.sha256(repr(shape).encode())
    to_pixels = partial(decode, channels=channels, size=size, interpolation=interpolation)
    with (folder / "images.npy").open("wb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        apply = pool.map if size[0] * size[1] >= _WORTH_A_THREAD else map
        # Written in order, not through a map: a full disk is then an error and not a bus fault.
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _in_parts(items):
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
    write_atomically(folder / "about.json", json.dumps({"sha": digest.hexdigest(), "resized": resized}).encode())


def _in_parts(items: Iterator[Row]) -> Iterator[list[Row]]:
    while part := list(islice(items, _AT_ONCE)):
        yield part


def _hashes(files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the SHA-256 of each file; remembered for as long as no path, size or time of change differs."""
    try:
        stats = [path.stat() for path in files]
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    stamps = [
        f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in zip(files, stats, strict=True)
    ]
    memo = cache_folder() / "hashes" / f"{sha256_hex(*stamps)}.json"
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
        if isinstance(known, list) and len(known) == len(files):
            return tuple(map(str, known))
    except (OSError, ValueError):
        pass
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = tuple(pool.map(_hash, files))
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    if all(stat.st_mtime_ns < time.time_ns() - _TICK_NS for stat in stats):
        try:
            write_atomically(memo, json.dumps(found).encode())
        except OSError as error:
            raise _unwritable(error) from None
    return found


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_expected(source: Source, shas: tuple[str, ...]) -> None:
    expected = dict(source.expected)
    for path, sha in zip(source.files, shas, strict=True):
        if expected.get(path.name, sha) != sha:
            raise UsageError(
                f"{path}: its SHA-256 is {sha[:12]}..., meta.json beside it says {expected[path.name][:12]}..."
            )


def _unwritable(error: OSError) -> UsageError:
    where = error.filename or cache_folder()
    return UsageError(f"the cache cannot be written: {where}: {error.strerror}; set XDG_CACHE_HOME to another folder")
