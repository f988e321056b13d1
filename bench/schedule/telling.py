"""What a run tells while it works: how far the piece at hand is and, once it has lasted, when all will be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from bench.runlog import RunLog
from bench.schedule.predict import Piece
from bench.schedule.remaining import Remaining

#: The share of the time so far that the estimate of the time left may take.
SHARE = 0.02
# Seconds that a step of it is thought to take before one was seen.
_STEP = 0.1
# Seconds between two entries of the time left in the log.
_LONG = 5.0


class Reporter(Protocol):
    """Where a run tells it."""

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        """Say how many cells are done, and how many of these failed."""

    def work(self, what: str, done: float, total: float | None, note: str = "", left: float | None = None) -> None:
        """Say how far the piece of work at hand is, if that is known, and in how many seconds all will be done."""


class Estimate:
    """Makes the estimate of what is left, a little at a time, in at most a fiftieth of the time that the run has taken.

    Args:
        steps: return the pieces of the plan at their end; each takes a fraction of a second.
        clock: seconds, rising.
    """

    def __init__(self, steps: Generator[None, None, Sequence[Piece]], clock: Callable[[], float] = time.monotonic):
        self._steps = steps
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._longest = _STEP
        self._notes: list[tuple[str, float, float]] = []
        self._remaining: Remaining | None = None
        self._over = False

    def at(self, key: str, share: float) -> float | None:
        """Note that so much of a piece, in [0, 1], is done; return the seconds that are left, if that is known yet."""
        if self._remaining is not None:
            self._remaining.at(key, share)
            return self._remaining.seconds()
        self._note(key, share)
        while not self._over:
            now = self._clock()
            if self._spent + self._longest > SHARE * (now - self._began):
                return None
            try:
                next(self._steps)
            except StopIteration as end:
                self._over = True
                self._remaining = self._follow(end.value)
            except BaseException:
                # What ends a run or a cell has ended this too.
                self._over = True
                raise
            took = self._clock() - now
            self._spent += took
            self._longest = max(self._longest, took)
        return None if self._remaining is None else self._remaining.seconds()

    def _note(self, key: str, share: float) -> None:
        # Of what lies between the first and the last note of a piece nothing is kept: its time is the same without.
        if [each[0] for each in self._notes[-2:]] == [key, key] and self._notes[-2][1] < self._notes[-1][1] < share:
            self._notes.pop()
        self._notes.append((key, share, self._clock()))

    def _follow(self, pieces: Sequence[Piece]) -> Remaining | None:
        if all(piece.seconds is None for piece in pieces if not piece.done):
            return None
        # What was done while nothing was predicted yet is experience too, also where it was all done by then.
        here = {key for key, _, _ in self._notes}
        own = [piece._replace(done=False) if piece.key in here else piece for piece in pieces]
        remaining = Remaining(own, self._clock, self._notes[0][2])
        for key, share, now in self._notes:
            remaining.at(key, share, now)
        return remaining


class Telling:
    """Tells a reporter and the run log.

    Args:
        reporter: where the run tells it.
        log: of the run.
        estimate: of what is left; ``None`` for who does single pieces of another's plan.
    """

    def __init__(self, reporter: Reporter, log: RunLog, estimate: Estimate | None) -> None:
        self._reporter = reporter
        self._log = log
        self._estimate = estimate
        self._began = self._told = time.monotonic()

    def __call__(self, what: str, key: str, done: float, total: float, note: str = "") -> None:
        left = None if self._estimate is None else self._estimate.at(key, done / total)
        if left is not None:
            now = time.monotonic()
            if now - self._told > _LONG:
                self._told = now
                self._log.write("remaining", elapsed=round(now - self._began, 3), seconds=round(left, 3))
        self._reporter.work(what, done, total, note, left)
