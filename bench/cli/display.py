"""What a command shows of its work, on standard error: bars on a terminal or in a notebook, and lines elsewhere.

Lines go through ``logging``: one when a run begins, one a minute, one for each cell that fails, one at the end. Those
of the minute come from the process that watches over the work (:mod:`bench.cli.supervisor`), so also while code in C
holds Python's lock or packages are loaded; where there is none, from a thread.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Self, TextIO, cast

from bench.cli.streams import InTime
from bench.process.shared import Shared
from bench.store.run_log import once
from bench.types import shortened

_log = logging.getLogger("crossfire")
#: Seconds of silence after which a command says what it does, and between two lines of a long one.
PATIENCE = 2.0
MINUTE = 60.0
#: Seconds between two looks at what is in hand.
LOOK = 0.25
#: Characters of a name and of a note that another process is shown.
_SHOWN = 500


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every verb has."""
    parser.add_argument(
        "--progress",
        choices=("plain", "rich", "none"),
        help="how work is shown on standard error: bars (rich), or lines with time stamps, one a minute (plain); "
        "default: rich on a terminal and in Jupyter, else plain",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="no progress: on standard error only warnings, failed cells and errors; of a run also no table, but only "
        "the path of the page",
    )


@contextmanager
def shown(args: argparse.Namespace, shared: Shared | None = None) -> Iterator[Display]:
    """Show what a command does inside the block, and what is logged meanwhile.

    The handler is the command's own: afterwards it is taken from the logger ``crossfire``, whose level is put back.

    Args:
        args: of the command.
        shared: with a process that watches over this one and says its lines of the minute (:func:`relay`).
    """
    display = _chosen(args, shared)
    level = _log.level
    if isinstance(display, Lines) and level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    _log.addHandler(display.handler)
    try:
        yield display
    finally:
        _log.removeHandler(display.handler)
        _log.setLevel(level)


def relay(args: argparse.Namespace, shared: Shared) -> Relay | None:
    """Return what says the lines of the minute of a process that works with these ``args``, if it has any."""
    return Relay(shared) if _mode(args) == "plain" else None


def _mode(args: argparse.Namespace) -> str:
    bars = _in_notebook() or is_terminal(sys.stderr)
    return "none" if args.quiet else args.progress or ("rich" if bars else "plain")


def _chosen(args: argparse.Namespace, shared: Shared | None) -> Display:
    notebook, terminal = _in_notebook(), is_terminal(sys.stderr)
    mode = _mode(args)
    if mode == "plain":
        return Lines(shared=shared)
    if mode == "none":
        return Display(Messages(sys.stderr, stamped=not (notebook or terminal), level=logging.WARNING))
    from bench.cli.bars import Bars, Notebook

    return Notebook() if notebook else Bars()


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a stream ends on a screen on which lines can be written over."""
    # Rich says so of every file where FORCE_COLOR is set, as many CI services do.
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except ValueError:  # it is closed
        return False


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def duration(seconds: float) -> str:
    """Return a time in words: ``45 s``, ``4 min 39 s``, ``2 h 5 min``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float) -> str:
    """Return in words when all will be done."""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


class Messages(logging.Handler):
    """Writes what is logged, warnings and errors once each."""

    def __init__(self, stream: TextIO | None, *, stamped: bool, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        # The stream of now: a method may put another in its place while it runs.
        self._stream = stream
        self._stamped = stamped
        said: set[str] = set()
        self.addFilter(lambda record: record.levelno < logging.WARNING or once(record, said))

    def emit(self, record: logging.LogRecord) -> None:
        named = "warning: " if record.levelno == logging.WARNING else ""
        # A line that cannot be written, or a clock of no year, is no reason to end a run.
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
        activity: it is.
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


@dataclass(frozen=True)
class State:
    """What a command does at a moment.

    Attributes:
        count: how much of a run is done; ``None`` outside of one.
        piece: the piece of work in hand.
        ends: when all is done, on the clock of the display, as far as that was said.
        said: when a line was last said.
        begun: when the work that is shown was begun; ``None`` where nothing is shown.
    """

    count: Count | None
    piece: Piece | None
    ends: float | None
    said: float
    begun: float | None

    def packed(self) -> dict[str, Any]:
        """Return plain data of bounded size, of which :meth:`unpacked` makes a state again."""
        packed = asdict(self)
        if self.piece is not None:
            packed["piece"] |= {name: shortened(packed["piece"][name], _SHOWN) for name in ("activity", "note")}
        return packed

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Self:
        count, piece = packed["count"], packed["piece"]
        return cls(**{**packed, "count": count and Count(**count), "piece": piece and Piece(**piece)})


class Display:
    """Keeps what a command does, and shows nothing of it; a :class:`bench.schedule.progress.Reporter`.

    Args:
        messages: writes what is logged meanwhile.
        clock: seconds, rising.
    """

    def __init__(self, messages: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        self.handler = messages
        self.count: Count | None = None
        self.piece: Piece | None = None
        self._ends: float | None = None
        self._clock = clock
        self._depth = 0

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        """Say how many pieces of the run are done, and how many of these failed."""
        self.count = Count(done, total, failed, "cells" if self.count is None else self.count.unit)
        self._changed()

    def work(self, activity: str, done: float, total: float | None, note: str = "", left: float | None = None) -> None:
        """Say how far the piece of work in hand is, and in how many seconds all will be done, if known."""
        now, before = self._clock(), self.piece
        since = before.since if before is not None and before.activity == activity else now
        self.piece = Piece(activity, done, total, note, since)
        if left is not None:
            self._ends = now + left
        self._changed()

    @property
    def left(self) -> float | None:
        """Seconds until all is done, as far as that was said; below zero where it takes longer."""
        return None if self._ends is None else self._ends - self._clock()

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
            self.count = self.piece = self._ends = None
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
        # One that waits for a reader who takes nothing is left behind.
        thread.join(1)


class Lines(Display):
    """Says in lines of the log what a command does.

    Args:
        clock: seconds, rising.
        shared: with a process that says the lines of the minute.
        stream: to which they are written; by default standard error.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        shared: Shared | None = None,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(Messages(stream or sys.stderr, stamped=True), clock)
        self._shared = shared
        self._last = clock()
        self._begun: float | None = None
        self._shown_headline: object = None
        self._shown_at = -math.inf
        self._is_named = False
        # Asked for now: a method may silence the loggers of its process while it runs.
        self._is_heard = _log.isEnabledFor(logging.INFO) or _log.level == logging.NOTSET

    def look(self) -> None:
        """Say what is in hand, if nothing was said for a minute or, of work not named yet, for a moment."""
        now, patience = self._clock(), MINUTE if self._is_named else PATIENCE
        if now - self._last < patience:
            return
        # On the minute, unless this process stood still meanwhile.
        self._last = self._last + patience if now - self._last < 2 * patience else now
        self._is_named = True
        self._say(self._in_hand(now))

    def _in_hand(self, now: float) -> str:
        count, piece = self.count, self.piece
        parts = [] if count is None else [str(count)]
        parts += [] if piece is None else [_described(piece, now)]
        parts += [] if count is None else [_remaining(self.left)]
        return "; ".join(parts)

    @contextmanager
    def _showing(self) -> Iterator[None]:
        self._is_named = self.count is not None
        if self._shared is None:
            with ticking(self.look):
                yield
            return
        self._begun = self._clock()
        self._changed()
        try:
            yield
        finally:
            self._begun = None
            self._changed()

    def _note(self, text: str) -> None:
        self._last = self._clock()
        self._say(text)
        self._changed()

    def _changed(self) -> None:
        if self._shared is None:
            return
        # How far a piece is changes with every batch, and is looked at now and then.
        now, headline = self._clock(), (self.piece and self.piece.activity, self.count, self._last, self._begun)
        if headline != self._shown_headline or now >= self._shown_at + LOOK:
            self._shown_headline, self._shown_at = headline, now
            self._shared.show(State(self.count, self.piece, self._ends, self._last, self._begun).packed())

    def _say(self, text: str) -> None:
        _log.info("%s", text)
        if self._is_heard and not (_log.isEnabledFor(logging.INFO) and self.handler in _log.handlers):
            self.handler.handle(logging.LogRecord(_log.name, logging.INFO, __file__, 0, text, (), None))


class Relay(Lines):
    """Says the lines of the minute of another process, whatever holds that one up.

    Args:
        shared: memory in which it shows what it does.
        clock: that of the other process.
    """

    def __init__(self, shared: Shared, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock, stream=cast(TextIO, InTime(2)))
        self._other = shared
        self._idle: Piece | None = Piece("starting", 0, None, "", clock())

    def look(self) -> None:
        self.see()
        super().look()

    def see(self) -> None:
        """Take in what the other process shows, and say nothing; what it showed last can be seen after it has ended."""
        packed = self._other.read().shown
        if packed is None:
            self._await("starting" if self.count is None else "starting again")
        else:
            self._take(State.unpacked(packed))

    def _take(self, state: State) -> None:
        self._last = max(self._last, state.said)
        if state.begun is None:
            self._await("at work")
            return
        self.count, self.piece = state.count, state.piece
        self._ends = state.ends
        self._idle = None
        if state.begun != self._begun:
            self._begun, self._is_named = state.begun, state.count is not None

    def _await(self, activity: str) -> None:
        """Take it that nothing is shown: what has been done is known from before."""
        if self._idle is None or self._idle.activity != activity:
            self._idle = Piece(activity, 0, None, "", self._clock())
        self.piece = self._idle
        self._ends = None
        self._is_named = True


def _described(piece: Piece, now: float) -> str:
    """Return what a piece of work is, how far it is, and for how long it has been in hand, if for long."""
    share = f" {piece.done / piece.total:.0%}" if piece.total else ""
    note = f", {piece.note}" if piece.note else ""
    since = f" (for {duration(now - piece.since)})" if now - piece.since >= MINUTE else ""
    return f"{piece.activity}{share}{note}{since}"


def _remaining(left: float | None) -> str:
    if left is None:
        return "time left not known yet"
    return time_left(left) if left > 0 else "takes longer than estimated"
