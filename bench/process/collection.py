"""Switching the garbage collector off and on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable the garbage collector: many small objects all live to the end, and scanning them takes half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Otherwise the next collection would scan all of these young objects at once.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()


@contextmanager
def collection() -> Iterator[None]:
    """Enable the garbage collector in a part of a :func:`no_collection` block that takes long or needs much memory."""
    gc.enable()
    try:
        yield
    finally:
        gc.disable()
