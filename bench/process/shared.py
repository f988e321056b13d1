"""State that a working process shows to its supervisor.

It is in shared memory, which needs no file, cannot be full, and can still be read when the process is stuck or dead.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

#: Seconds between the time at which a process should end, or leave a piece, and the time at which it is killed.
GRACE = 2.5
_NUMBER = struct.Struct("d")
_COUNT = struct.Struct("Q")
# Offsets in bytes.
_DUE = 0
_ENDING = 8
_WHY = 16
_CODE = 24
_WRITTEN = 32
_FIRST = 40
_ROOM = 2**16


class Held(NamedTuple):
    """A piece of work that a process is doing, as :class:`bench.process.ending.Piece`.

    ``timed`` says whether it has its own time limit, ``taken`` what it took from a process that it ended.
    """

    kind: str
    key: str
    timed: bool
    taken: str = ""


class Report(NamedTuple):
    """The current pieces, the innermost last; ``(done, total)`` cells of the plan; where the log of the run is; what is
    shown of the work (:class:`bench.display.lines.State`).
    """

    held: tuple[Held, ...] = ()
    counted: tuple[int, int] | None = None
    log: str | None = None
    shown: dict[str, Any] | None = None


class Shared:
    """The shared memory. Numbers are written atomically, words into two slots in turn, followed by a write counter."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _FIRST + 2 * _ROOM)
        self._report: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Clear the state of the last process."""
        for at in (_DUE, _ENDING):
            self._set(at, math.inf)
        for at in (_WHY, _CODE):
            self._set(at, math.nan)
        self._report = {}
        self._write()

    # Written by the process that works.

    def ending(self, code: int) -> None:
        """Record that the process was requested to end, with this exit code."""
        self._set(_WHY, code)
        self._set(_ENDING, time.monotonic())

    def ended(self, code: int) -> None:
        """Record that the process has finished its work and only has to exit."""
        self._set(_CODE, code)

    def hold(self, pieces: Sequence[Held]) -> None:
        """Record the current pieces of work, the innermost last."""
        self._report["held"] = pieces
        self._write()

    def count(self, done: int, total: int) -> None:
        """Record how many cells of the plan are done."""
        self._report["count"] = done, total
        self._write()

    def log(self, path: str) -> None:
        """Record where the log of the run is."""
        self._report["log"] = path
        self._write()

    def show(self, shown: dict[str, Any]) -> None:
        """Record the displayed state of the work: text and numbers, at most about ten thousand characters."""
        self._report["shown"] = shown
        self._write()

    # Read by either.

    @property
    def due(self) -> float:
        """When the current piece must be done, on the monotonic clock; infinity without a limit."""
        return self._get(_DUE)

    @due.setter
    def due(self, value: float) -> None:
        self._set(_DUE, value)

    @property
    def ending_since(self) -> float:
        """When the process noticed that it must end; infinity if it has not."""
        return self._get(_ENDING)

    @property
    def ending_code(self) -> int | None:
        """The exit code of the requested end."""
        return _integer(self._get(_WHY))

    @property
    def code(self) -> int | None:
        """The exit code of the process, once it has finished its work."""
        return _integer(self._get(_CODE))

    def read(self) -> Report:
        """Return the words, also while the process writes new ones."""
        while True:
            written = self._written
            at = _FIRST + _ROOM * (written % 2)
            length = int.from_bytes(self._memory[at : at + 4], "little")
            text = self._memory[at + 4 : at + 4 + length]
            # A slot is reused only after the write to the other one was counted.
            if self._written == written:
                break
        report = json.loads(text)
        count = report.get("count")
        held = tuple(Held(*each) for each in report.get("held", ()))
        return Report(held, None if count is None else (count[0], count[1]), report.get("log"), report.get("shown"))

    @property
    def _written(self) -> int:
        return int(_COUNT.unpack_from(self._memory, _WRITTEN)[0])

    def _write(self) -> None:
        text = json.dumps(self._report).encode()
        written = self._written + 1
        at = _FIRST + _ROOM * (written % 2)
        self._memory[at : at + 4 + len(text)] = len(text).to_bytes(4, "little") + text
        _COUNT.pack_into(self._memory, _WRITTEN, written)

    def _get(self, at: int) -> float:
        return float(_NUMBER.unpack_from(self._memory, at)[0])

    def _set(self, at: int, value: float) -> None:
        _NUMBER.pack_into(self._memory, at, value)


def _integer(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
