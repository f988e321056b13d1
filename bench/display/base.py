"""What a command is doing, kept for whatever shows it: the base of the bars and of the lines, and the words of both."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from bench.store.run_log import once

#: Seconds of silence after which a command says what it does.
PATIENCE = 2.0
#: Seconds between two looks at what is in hand.
LOOK = 0.25
#: What a run takes at most is said where it is more than so many times what it is thought to take.
_MUCH = 1.5


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a stream is a terminal on which lines can be overwritten."""
    # Rich says so of every file where FORCE_COLOR is set, as many CI services do.
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except ValueError:  # it is closed
        return False


def duration(seconds: float) -> str:
    """Return a time in words: ``45 s``, ``4 min 39 s``, ``2 h 5 min``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float, most: float | None = None) -> str:
    """Return in words when all will be done, and when at most, if that is known and much later."""
    later = f", at most {rounded(most)}" if most is not None and most > _MUCH * seconds else ""
    return f"about {rounded(seconds)} left{later}"


def rounded(seconds: float) -> str:
    """Return a time in words, in minutes from a minute and a half on."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class Messages(logging.Handler):
    """Writes what is logged, warnings and errors once each."""

    def __init__(self, stream: TextIO | None, *, stamped: bool, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        # The stream at this moment: a method may replace it while it runs.
        self._stream = stream
        self._stamped = stamped
        shown: set[str] = set()
        self.addFilter(lambda record: record.levelno < logging.WARNING or once(record, shown))

    def emit(self, record: logging.LogRecord) -> None:
        named = "warning: " if record.levelno == logging.WARNING else ""
        # A line that cannot be written, or a clock without a valid year, does not end a run.
        with suppress(OSError, ValueError, OverflowError):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(record.created)) if self._stamped else ""
            self.write(f"{stamp}{named}{record.getMessage()}")

    def write(self, line: str) -> None:
        if self._stream is not None:
            self._stream.write(f"{line}\n")
            self._stream.flush()


@dataclass(frozen=True)
class Piece:
    """A piece of work in hand.

    Attributes:
        activity: what is being done.
        done: how much of it is done.
        total: all of it; ``None`` where that is not known.
        note: more about it.
        since: when it was begun, on the clock of the display.
    """

    activity: str
    done: float
    total: float | None
    note: str
    since: float


@dataclass(frozen=True)
class Count:
    """How many pieces of a run are done and how many of these failed; ``unit`` is what they are called."""

    done: int
    total: int
    failed: int
    unit: str

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total} {self.unit}{failed}"


class Display:
    """Keeps what a command does, and shows nothing of it; a :class:`bench.schedule.progress.Reporter`.

    Args:
        messages: writes the log messages of the command.
        clock: seconds, rising.
    """

    def __init__(self, messages: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        self.handler = messages
        self.count: Count | None = None
        self.piece: Piece | None = None
        self._ends: float | None = None
        self._ends_at_most: float | None = None
        self._clock = clock
        self._depth = 0

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        """Say how many pieces of the run are done, and how many of these failed."""
        self.count = Count(done, total, failed, "cells" if self.count is None else self.count.unit)
        self._changed()

    def work(
        self,
        activity: str,
        done: float,
        total: float | None,
        note: str = "",
        left: float | None = None,
        most: float | None = None,
    ) -> None:
        """Report the progress of the current piece of work, in how many seconds all is done, and at most, if known."""
        now, before = self._clock(), self.piece
        since = before.since if before is not None and before.activity == activity else now
        self.piece = Piece(activity, done, total, note, since)
        if left is not None:
            self._ends = now + left
            self._ends_at_most = None if most is None else now + most
        self._changed()

    @property
    def left(self) -> float | None:
        """Seconds until all is done, if that was reported; below zero where it takes longer."""
        return None if self._ends is None else self._ends - self._clock()

    @property
    def most_left(self) -> float | None:
        """Seconds until all is done at most, if that was reported."""
        return None if self._ends_at_most is None else self._ends_at_most - self._clock()

    @contextmanager
    def run(
        self, name: str, total: int, facts: str, unit: str = "cells", *, began: float | None = None
    ) -> Iterator[None]:
        """Show a run of the plan ``name``, with so many pieces called ``unit``; ``facts`` are said of it first.

        It began now, or in another process when the clock of the display was ``began``.
        """
        began, self.count = self._clock() if began is None else began, Count(0, total, 0, unit)
        self._note(f"{name}: {total} {unit}{facts}")
        try:
            with self._block():
                yield
        finally:
            self._note(f"{name}: {self.count}, in {duration(self._clock() - began)}")
            self.count = self.piece = self._ends = self._ends_at_most = None
            self._changed()

    @contextmanager
    def phase(self, activity: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
        """Show work that has no cells, if it takes longer than a moment.

        Yields:
            What takes how many of ``total`` are done, and the name of the next one.
        """
        outer, self.piece = self.piece, None
        self.work(activity, 0, total)
        try:
            with self._block():
                yield lambda done, name: self.work(activity, done, total, name)
        finally:
            self.piece = outer
            self._changed()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen to what is printed inside the block."""
        yield

    @contextmanager
    def _block(self) -> Iterator[None]:
        self._depth += 1
        try:
            if self._depth == 1:
                with self._showing():
                    yield
            else:
                yield
        finally:
            self._depth -= 1

    @contextmanager
    def _showing(self) -> Iterator[None]:
        yield

    def _note(self, text: str) -> None:
        pass

    def _changed(self) -> None:
        pass


@contextmanager
def ticking(look: Callable[[], None]) -> Iterator[None]:
    """Call ``look`` again and again, from a thread, while the block runs."""
    ended = threading.Event()

    def ticks() -> None:
        while not ended.wait(LOOK):
            look()

    thread = threading.Thread(target=ticks, name="crossfire-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A thread that waits for a blocked reader is abandoned.
        thread.join(1)
