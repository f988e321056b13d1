"""Names in results that lie outside of Crossfire: folders of images, weights files, Python files, library networks.

Results, and the names in them, may come from anyone. A report opens, runs and downloads none of these, unless the user
says that they trust the results.
"""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bench.registry import LIVE, ended
from bench.types import NETWORK_KEYS, DataRef, MethodRef, ModelRef, UsageError, WeightsRef

if TYPE_CHECKING:
    from bench.data import ImageSet
    from bench.data.rows import Numbers

#: Bytes of the largest split that is decoded for pictures alone.
_MAX_DECODED_BYTES = 2**30
_INITIAL_WEIGHTS = NETWORK_KEYS["initial_weights"]


def named_by(ref: DataRef | ModelRef | MethodRef) -> str | None:
    """Return the name in a reference that is not Crossfire's own, or ``None``."""
    if is_live(ref) or (isinstance(ref, DataRef) and _is_part(ref.name)):
        return None
    if isinstance(ref, ModelRef):
        return ref.weights.name if isinstance(ref.weights, WeightsRef) else named_by(ref.network)
    members = ref.members if isinstance(ref, MethodRef) else ()
    networks = [each for each in (*members, ref) if isinstance(each, MethodRef)]
    files = [str(each.params[_INITIAL_WEIGHTS]) for each in networks if _INITIAL_WEIGHTS in each.params]
    # Names that Crossfire gives hold no colon; folder:DIR, file.py:name and timm:name do.
    return next(chain((each.name for each in (*members, ref) if ":" in each.name), files), None)


def _is_part(dataset: str) -> bool:
    """Say whether a name is that of a set of common corruptions, such as cifar10-c:fog:3."""
    from bench.data import NAMED

    entry = NAMED.get(dataset.partition(":")[0])
    return entry is not None and entry.conditions is not None


def is_live(ref: DataRef | ModelRef | MethodRef) -> bool:
    """Say whether a reference is of something that was handed over as a Python object, and ended with its process."""
    return _name(ref).startswith(LIVE)


def _name(ref: DataRef | ModelRef | MethodRef) -> str:
    return ref.network.name if isinstance(ref, ModelRef) else ref.name


def require_own(ref: DataRef | ModelRef | MethodRef, *, trusted: bool) -> None:
    """Raises UsageError: a reference is not Crossfire's own in results that are not trusted, or of a Python object."""
    if is_live(ref):
        raise ended("network" if isinstance(ref, ModelRef) else "dataset", _name(ref))
    if not trusted and (name := named_by(ref)) is not None:
        raise UsageError(f"the results name '{name}', which is not opened; if they are yours, add --trust")


def images(data: DataRef, folder: Path | None, *, trusted: bool) -> tuple[ImageSet, Numbers]:
    """Return the image set of a reference, and the numbers of its rows. Nothing is downloaded.

    Args:
        data: the reference.
        folder: where to look for named sets first.
        trusted: whether a folder that it names may be opened, and a set of any size decoded.

    Raises:
        UsageError: it is not trusted, or the images are not on this machine, or are other images.
    """
    from bench.data import open_ref, rows_of

    require_images(data, folder, trusted=trusted)
    image_set = open_ref(data, folder=folder)
    return image_set, rows_of(image_set, data)


def require_images(data: DataRef, folder: Path | None, *, trusted: bool) -> None:
    """Raises UsageError: the set of a reference may not be opened, or is not on this machine."""
    from bench.data import named_set

    require_own(data, trusted=trusted)
    if (named := named_set(data.name)) is not None:
        if not named.available(folder):
            raise UsageError(f"the images of {data.name} are not on this machine; name their folder with --data")
        size = (data.n if data.preprocessing else named.splits[data.split]) * _bytes_of_each(data)
        if size > _MAX_DECODED_BYTES and not trusted:
            shape = "x".join(map(str, data.image_shape))
            raise UsageError(
                f"the results ask for {data.name} at {shape}, {size:,} bytes; if they are yours, add --trust"
            )


def _bytes_of_each(data: DataRef) -> int:
    """Return how many bytes an image takes, before it is cropped if it is."""
    channels, *size = data.image_shape
    resize = size if data.preprocessing is None else data.preprocessing.resize
    sides = (resize, resize) if isinstance(resize, int) else resize
    return channels * max(math.prod(size), math.prod(sides))
