"""Standard output and error of this process, guarded.

Hidden characters are escaped (:mod:`bench.visible`) in everything that is printed. A failed write does not end the
work: a full disk or a closed pipe is reported when the command is done.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from bench.visible import visible

#: Seconds for which a process that watches over another waits for a reader.
READS = 0.3


class Stream:
    """A text stream that takes any text and writes it with hidden characters escaped.

    Attributes:
        lost: why it can no longer be written to; ``None`` while it can.
    """

    def __init__(self, below: TextIO) -> None:
        self.below = below
        self.lost: Exception | None = None
        reconfigure = getattr(below, "reconfigure", None)
        if reconfigure is not None:
            # What the terminal's encoding lacks, such as a box in ASCII, is escaped as well.
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.write_as_it_is(visible(text, lines=True))
        return len(text)

    def write_as_it_is(self, text: str) -> int:
        """Write text whose control characters are intended, such as the cursor movements of a progress bar."""
        if self.lost is None:
            with self._watching():
                self.below.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.lost is None:
            with self._watching():
                self.below.flush()

    def close(self) -> None:
        """Flush only: the stream belongs to the process, so no method closes it."""
        self.flush()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        # A stream that somebody closed raises ValueError.
        except (OSError, ValueError) as error:
            self.lost = error
            _drop_what_waits(self.below)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def _drop_what_waits(below: TextIO) -> None:
    """Discard the rest of the buffer, so that the interpreter does not fail on it again at exit."""
    with suppress(OSError, ValueError):
        number = below.fileno()
        if number in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


class InTime(io.TextIOBase):
    """A text stream into a file descriptor, which waits for a reader no longer than a moment.

    A line that is not read in time, as where a pipe is full, is dropped. For use in the main thread.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, text: str) -> int:
        self.write_as_it_is(visible(text, lines=True))
        return len(text)

    def write_as_it_is(self, text: str) -> None:
        """Write text whose control characters are intended."""
        data = text.encode(errors="backslashreplace")
        with suppress(OSError, _NobodyReads), _within(READS):
            while data:
                # A pipe takes a write of this size as a whole or not at all.
                data = data[os.write(self._number, data[:512]) :]


class _NobodyReads(Exception):
    pass


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Interrupt a write that takes longer, by the alarm of this process."""

    def late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _NobodyReads

    before = signal.signal(signal.SIGALRM, late)
    # Repeatedly, because the first alarm may come just before the write starts to wait.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Guarded:
    """The streams of a process while a command runs."""

    def __init__(self) -> None:
        self.out, self.err = Stream(sys.stdout), Stream(sys.stderr)

    def failure(self) -> str | None:
        """Write what waits and return why standard output could not be written; ``None`` if it was, or nobody reads it
        any more, as in ``list | head``.
        """
        self.out.flush()
        lost = self.out.lost
        if lost is None or isinstance(lost, BrokenPipeError):
            return None
        return getattr(lost, "strerror", None) or str(lost)


@contextmanager
def guarded() -> Iterator[Guarded]:
    """Put the guard before standard output and error inside the block, and before what is logged."""
    before = sys.stdout, sys.stderr
    _open_what_is_closed()
    streams = Guarded()
    sys.stdout, sys.stderr = cast(TextIO, streams.out), cast(TextIO, streams.err)
    logger = logging.getLogger("crossfire")
    logger.addFilter(_on_one_line)
    try:
        yield streams
    finally:
        logger.removeFilter(_on_one_line)
        streams.out.flush()
        streams.err.flush()
        sys.stdout, sys.stderr = before


def _on_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = visible(record.getMessage()), None
    return True


def _open_what_is_closed() -> None:
    """Open /dev/null for each closed standard stream, so that no other file gets its descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
