"""Arrays that are maps of files: what was read of them need not stay in memory."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt


def forget(array: npt.NDArray[np.generic]) -> None:
    """Give back the memory of what was read of a mapped file; the system reads it again where it is needed.

    Without it, a process that reads a large file once counts all of it as its own memory. An array that is no map of a
    file stays as it is.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
