"""A few images of each adversarial set, clean above and attacked below, small enough to lie inside a page."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bench.keys import Keys
from bench.report.render.outside import images as images_of
from bench.report.render.outside import named_by
from bench.store import chunk_file, inventory
from bench.store.working_store import Store
from bench.types import AttackRef, CellResult, DataRef, Threat, UsageError

_log = logging.getLogger("crossfire")
#: Images of each set, their largest side in pixels, and how many sets are shown: some kilobytes each.
_IMAGES, _SIDE, SETS = 8, 64, 400
#: Rows that may be looked at: as many as the first chunk of a set can hold.
_FIRST = 4096
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def samples(
    results: Iterable[CellResult],
    store: Store,
    data_folder: Path | None = None,
    *,
    most: int = SETS,
    trusted: bool = False,
) -> dict[str, str]:
    """Return pictures of at most so many sets, as data addresses by the key of the result.

    There is none where a set or its images are not here, nor, with a warning, where their folder is one that the
    results name and nobody says that these are ``trusted``.
    """
    sheets: dict[str, str | None] = {}
    sources: dict[str, Pixels | None] = {}
    found: dict[str, str] = {}
    closed: dict[str, None] = {}
    keys = Keys()
    for r in results:
        if (made := r.cell.attack) is None or r.metrics is None or len(sheets) >= most:
            continue
        key = keys.of(made)
        if key not in sheets:
            sheets[key] = _sheet(r, made, store.adversarial(key), sources, data_folder, trusted)
            if sheets[key] is None and not trusted and (name := named_by(made.data)) is not None:
                closed[name] = None
        if (sheet := sheets[key]) is not None:
            found[r.key] = sheet
    if closed:
        _log.warning(
            "the results name %s, %s not opened, so no images of it are shown; if they are yours, add --trust",
            next(iter(closed)),
            "which is" if len(closed) == 1 else f"and {len(closed) - 1:,} more folders, which are",
        )
    return found


def _sheet(
    r: CellResult,
    made: AttackRef,
    folder: Path,
    sources: dict[str, Pixels | None],
    data_folder: Path | None,
    trusted: bool,
) -> str | None:
    first = next(iter(inventory.chunks(folder)), None)
    if first is None:
        return None
    name = made.data.model_dump_json()
    if name not in sources:
        sources[name] = _clean(made.data, data_folder, trusted=trusted)
    if (clean := sources[name]) is None or (attacked := _attacked(first, clean, made.threat)) is None:
        return None
    if (outcomes := r.outcomes_under_attack) is None:
        return None
    # Images that the attack has misclassified come first.
    right = list(outcomes)[: len(attacked)]
    order = sorted(range(len(right)), key=lambda i: (right[i], i))[:_IMAGES]
    lines = (np.concatenate([part[i] for i in sorted(order)], axis=2) for part in (clean, attacked))
    return _png(np.concatenate(list(lines), axis=1))


def _attacked(path: Path, clean: Pixels, threat: Threat) -> Pixels | None:
    """Return the images of the first chunk of a set; ``None`` if it is not the first or, with a warning, not whole."""
    first, last = (int(number) for number in path.stem.split("-"))
    if first > 0 or last > len(clean):
        return None
    try:
        images = chunk_file.read(path, clean[:last].astype(np.float32) / 255, threat).images
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s is not shown: %s", path, error)
        return None
    return np.asarray(images * 255).round().clip(0, 255).astype(np.uint8)


def _clean(data: DataRef, folder: Path | None, *, trusted: bool) -> Pixels | None:
    from bench.data.memo import CacheError

    try:
        images, rows = images_of(data, folder, trusted=trusted)
    except CacheError as error:
        _log.warning("images are not shown: %s", error)
        return None
    except UsageError:
        return None
    return np.asarray(images.images[rows[:_FIRST]])


def _png(pixels: Pixels) -> str:
    """Return pixels (C, H, W) as the address of a PNG, made smaller where images are large."""
    from PIL import Image

    height = pixels.shape[1] // 2
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if height > _SIDE:
        image = image.resize((image.width * _SIDE // height, 2 * _SIDE), Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
