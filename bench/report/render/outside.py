"""What results name outside of Crossfire: folders of images, weights files, Python files, networks of libraries.

Results may be anyone's, and so may the names in them. Whoever only looks at results has none of these opened, run or
downloaded, unless they say that they trust the results.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bench.types import DataRef, MethodRef, ModelRef, UsageError, WeightsRef

if TYPE_CHECKING:
    from bench.data import ImageSet
    from bench.data.rows import Numbers

#: Bytes of a decoded split that is made for the sake of a picture.
_LARGEST = 2**30


def named_by(ref: DataRef | ModelRef | MethodRef) -> str | None:
    """Return what a reference names that is not Crossfire's own; ``None`` where it names nothing of the kind."""
    if isinstance(ref, ModelRef):
        return ref.weights.name if isinstance(ref.weights, WeightsRef) else named_by(ref.network)
    # Names that Crossfire gives hold no colon; folder:DIR, file.py:name and timm:name do.
    return ref.name if ":" in ref.name else None


def require_own(ref: DataRef | ModelRef | MethodRef, *, trusted: bool) -> None:
    """Raises UsageError: a reference names what is not Crossfire's own, and whose it is nobody trusts."""
    if not trusted and (name := named_by(ref)) is not None:
        raise UsageError(f"the results name '{name}', which is not opened; if they are yours, add --trust")


def images(data: DataRef, folder: Path | None, *, trusted: bool) -> tuple[ImageSet, Numbers]:
    """Return the set that a reference speaks of, and the numbers of its rows. Nothing is downloaded.

    Args:
        data: the reference.
        folder: where named sets are looked for first.
        trusted: whether a folder that it names may be opened, and a set of any size decoded.

    Raises:
        UsageError: it may not, or the images are not on this machine, or others.
    """
    from bench.data import NAMED, open_ref, rows_of

    require_own(data, trusted=trusted)
    if (named := NAMED.get(data.name)) is not None:
        if not named.available(folder):
            raise UsageError(f"the images of {data.name} are not on this machine; name their folder with --data")
        size = named.splits[data.split] * math.prod(data.image_shape)
        if size > _LARGEST and not trusted:
            shape = "x".join(map(str, data.image_shape))
            raise UsageError(
                f"the results ask for {data.name} at {shape}, {size:,} bytes; if they are yours, add --trust"
            )
    found = open_ref(data, folder=folder)
    return found, rows_of(found, data)
