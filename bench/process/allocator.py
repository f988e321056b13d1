"""How the C library's allocator treats memory that was freed."""

from __future__ import annotations

import os

#: Of glibc's malloc.h: the size of free memory at the end of the heap that goes back, and how many blocks are mapped.
_TRIM_THRESHOLD, _MAPPED_BLOCKS = -1, -4
#: By these a user sets up the allocator, or another one.
_SET_BY_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for this process, and say whether it does.

    By default it gives every tensor of more than some megabytes pages of its own and hands them back at once, so that
    the kernel clears new ones for every layer of every pass: up to a tenth of the time on a CPU. The price is that the
    process keeps its largest size until it ends. Nothing is done with another C library, or where the environment sets
    the allocator up.
    """
    if any(name.startswith(_SET_BY_USER) for name in os.environ):
        return False
    import ctypes

    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    return bool(library.mallopt(_MAPPED_BLOCKS, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
