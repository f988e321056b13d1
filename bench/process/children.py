"""Programs that this process starts for its work: they are ended with it, and before what they work in is removed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds in which such a program may save its state, within those that a command has to end.
_PATIENCE = 1.5


@contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[None]:
    """See to it that a program has ended at the end of the block: it is asked to, and then killed."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
