"""A few images of each adversarial set, clean above and attacked below, small enough to lie inside a page."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.keys import Keys
from bench.report.render.class_names import class_labels
from bench.report.render.outside import images as images_of
from bench.report.render.outside import named_by
from bench.store import chunk_file, inventory
from bench.store.working_store import Store
from bench.types import AttackRef, CellResult, DataRef, Threat, UsageError, shortened

_log = logging.getLogger("crossfire")
#: Adversarial sets of one page; the picture of a set has some kilobytes.
MAX_SETS = 400
#: Images of each set.
_IMAGES_PER_SET = 8
#: Largest height of an image, in pixels.
_MAX_HEIGHT = 64
#: Images that the first chunk of a set can hold.
_MAX_CHUNK_IMAGES = 4096
#: Letters of the name of a class.
_MAX_NAME_LETTERS = 60
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Sample(NamedTuple):
    """Images of one adversarial set, clean above and attacked below."""

    #: The picture, as a data URL.
    url: str
    #: The true classes of the images, from the left.
    classes: tuple[str, ...]


class _Clean(NamedTuple):
    """Clean images (N, C, H, W), uint8, and the names of their true classes."""

    pixels: Pixels
    classes: list[str]


def samples(
    results: Iterable[CellResult],
    store: Store,
    data_folder: Path | None = None,
    *,
    limit: int = MAX_SETS,
    trusted: bool = False,
) -> dict[str, Sample]:
    """Return pictures of at most ``limit`` adversarial sets, by the key of the result.

    A set has no picture if it or its clean images are not on this machine. If the results name a folder of images and
    are not ``trusted``, its sets have no picture either, and there is a warning.
    """
    pictures: dict[str, Sample | None] = {}
    clean: dict[str, _Clean | None] = {}
    by_result: dict[str, Sample] = {}
    untrusted: dict[str, None] = {}
    keys = Keys()
    for r in results:
        if (attack := r.cell.attack) is None or r.metrics is None or len(pictures) >= limit:
            continue
        key = keys.of(attack)
        if key not in pictures:
            data = attack.data.model_dump_json()
            first_chunk = next(iter(inventory.chunks(store.adversarial(key))), None)
            if first_chunk is not None and data not in clean:
                clean[data] = _clean(attack.data, data_folder, trusted=trusted)
            pictures[key] = _picture(r, attack, first_chunk, clean.get(data))
            if pictures[key] is None and not trusted and (name := named_by(attack.data)) is not None:
                untrusted[name] = None
        if (picture := pictures[key]) is not None:
            by_result[r.key] = picture
    if untrusted:
        _log.warning(
            "the results name %s, %s not opened, so no images of it are shown; if they are yours, add --trust",
            next(iter(untrusted)),
            "which is" if len(untrusted) == 1 else f"and {len(untrusted) - 1:,} more folders, which are",
        )
    return by_result


def _picture(r: CellResult, attack: AttackRef, first_chunk: Path | None, clean: _Clean | None) -> Sample | None:
    """Return images of one set: misclassified ones if there are enough, in the order of the set."""
    if first_chunk is None or clean is None:
        return None
    adversarial = _adversarial(first_chunk, clean.pixels, attack.threat)
    if adversarial is None or (outcomes := r.outcomes_under_attack) is None:
        return None
    right = list(outcomes)[: len(adversarial)]
    chosen = sorted(sorted(range(len(right)), key=lambda i: (right[i], i))[:_IMAGES_PER_SET])
    rows = [np.concatenate([images[i] for i in chosen], axis=2) for images in (clean.pixels, adversarial)]
    return Sample(_png(np.concatenate(rows, axis=1)), tuple(clean.classes[i] for i in chosen))


def _adversarial(path: Path, clean: Pixels, threat: Threat) -> Pixels | None:
    """Return the images of the first chunk of a set; ``None`` if it is not the first or, with a warning, is damaged."""
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


def _clean(data: DataRef, folder: Path | None, *, trusted: bool) -> _Clean | None:
    from bench.data.memo import CacheError

    try:
        images, rows = images_of(data, folder, trusted=trusted)
    except CacheError as error:
        _log.warning("images are not shown: %s", error)
        return None
    except UsageError:
        return None
    pixels, labels = images.at(rows[:_MAX_CHUNK_IMAGES])
    names = class_labels(images.class_names)
    return _Clean(np.asarray(pixels), [shortened(names[label], _MAX_NAME_LETTERS) for label in labels])


def _png(pixels: Pixels) -> str:
    """Return pixels (C, H, W), two images high, as the data URL of a PNG; large images are scaled down."""
    from PIL import Image

    height = pixels.shape[1] // 2
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if height > _MAX_HEIGHT:
        image = image.resize((image.width * _MAX_HEIGHT // height, 2 * _MAX_HEIGHT), Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
