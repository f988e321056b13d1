"""What a run tells while it works: how far the piece at hand is and, once it has lasted, when all will be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bench.runlog import RunLog
from bench.schedule.remaining import Remaining

# Seconds after which a run is long enough to say when it will end, and between two entries of that in its log.
_LONG = 5.0


class Reporter(Protocol):
    """Where a run tells it."""

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        """Say how many cells are done, and how many of these failed."""

    def work(self, what: str, done: float, total: float, note: str = "", left: float | None = None) -> None:
        """Say how far the piece of work at hand is, and in how many seconds all will be done, if known."""


class Telling:
    """Tells a reporter and the run log.

    Args:
        remaining: makes the estimate of what is left; called once, when the run has lasted for a while. ``None`` for
            who does single pieces of another's plan.
    """

    def __init__(self, reporter: Reporter, log: RunLog, remaining: Callable[[], Remaining] | None) -> None:
        self._reporter = reporter
        self._log = log
        self._make = remaining
        self._remaining: Remaining | None = None
        self._began = self._told = time.monotonic()

    def __call__(self, what: str, key: str, done: float, total: float, note: str = "") -> None:
        now, left = time.monotonic(), None
        if self._remaining is None and self._make is not None and now - self._began > _LONG:
            self._remaining = self._make()
        if self._remaining is not None:
            self._remaining.at(key, done / total)
            left = self._remaining.seconds()
            if now - self._told > _LONG:
                self._told = now
                self._log.write("remaining", elapsed=round(now - self._began, 3), seconds=round(left, 3))
        self._reporter.work(what, done, total, note, left)
