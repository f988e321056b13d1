"""When to look for garbage, and when not."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out: all of many small objects live to the end, and it would take half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Else all of them, being young, would be looked through at once.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()


@contextmanager
def collection() -> Iterator[None]:
    """Let the garbage collector work in a part of a block that keeps it out: one that takes long or holds much."""
    gc.enable()
    try:
        yield
    finally:
        gc.disable()
