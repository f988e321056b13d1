"""What a command does, in lines of the log: of its own work, or of the work of the process that it watches over.

There is one when a run begins, one a minute, one for each cell that fails, one at the end. Those of the minute come
from the process that watches over the work (:mod:`bench.cli.supervisor`), so also while code in C holds Python's lock
or packages are loaded; where there is none, from a thread.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self, TextIO, cast

from bench.display.base import LOOK, PATIENCE, Count, Display, Messages, Piece, duration, rounded, ticking, time_left
from bench.display.streams import InTime
from bench.process.shared import Shared
from bench.types import shortened

_log = logging.getLogger("crossfire")
#: Seconds between two lines of a long piece of work.
MINUTE = 60.0
#: Characters of a name and of a note that another process is shown.
_SHOWN = 500


@dataclass(frozen=True)
class State:
    """What a command does at a moment.

    Attributes:
        count: how much of a run is done; ``None`` outside of one.
        piece: the piece of work in hand.
        ends: when all is done, on the clock of the display, if that was reported.
        ends_at_most: the same, at most.
        last_line_at: when a line was last written.
        begun: when the work that is shown was begun; ``None`` where nothing is shown.
    """

    count: Count | None
    piece: Piece | None
    ends: float | None
    ends_at_most: float | None
    last_line_at: float
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
        # Read at this moment: a method may silence the loggers of its process while it runs.
        self._is_heard = _log.isEnabledFor(logging.INFO) or _log.level == logging.NOTSET

    def look(self) -> None:
        """Log the current work if nothing was logged for a minute or, for work not named yet, for a moment."""
        now, patience = self._clock(), MINUTE if self._is_named else PATIENCE
        if now - self._last < patience:
            return
        # On the minute, unless this process was suspended.
        self._last = self._last + patience if now - self._last < 2 * patience else now
        self._is_named = True
        self._say(self._in_hand(now))

    def _in_hand(self, now: float) -> str:
        count, piece = self.count, self.piece
        parts = [] if count is None else [str(count)]
        parts += [] if piece is None else [_described(piece, now)]
        parts += [] if count is None else [_remaining(self.left, self.most_left)]
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
        # The progress of a piece changes with every batch, so it is shared only now and then.
        now, headline = self._clock(), (self.piece and self.piece.activity, self.count, self._last, self._begun)
        if headline != self._shown_headline or now >= self._shown_at + LOOK:
            self._shown_headline, self._shown_at = headline, now
            self._shared.show(
                State(self.count, self.piece, self._ends, self._ends_at_most, self._last, self._begun).packed()
            )

    def _say(self, text: str) -> None:
        _log.info("%s", text)
        if self._is_heard and not (_log.isEnabledFor(logging.INFO) and self.handler in _log.handlers):
            self.handler.handle(logging.LogRecord(_log.name, logging.INFO, __file__, 0, text, (), None))


class Relay(Lines):
    """Logs the lines of the minute for another process, even while that one is blocked.

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
        """Read the state of the other process without logging; its last state remains after it has ended."""
        packed = self._other.read().shown
        if packed is None:
            self._await("starting" if self.count is None else "starting again")
        else:
            self._take(State.unpacked(packed))

    def _take(self, state: State) -> None:
        self._last = max(self._last, state.last_line_at)
        if state.begun is None:
            self._await("at work")
            return
        self.count, self.piece = state.count, state.piece
        self._ends, self._ends_at_most = state.ends, state.ends_at_most
        self._idle = None
        if state.begun != self._begun:
            self._begun, self._is_named = state.begun, state.count is not None

    def _await(self, activity: str) -> None:
        """Note that the other process shows nothing; the count of what is done stays."""
        if self._idle is None or self._idle.activity != activity:
            self._idle = Piece(activity, 0, None, "", self._clock())
        self.piece = self._idle
        self._ends = self._ends_at_most = None
        self._is_named = True


def _described(piece: Piece, now: float) -> str:
    """Return the name and progress of a piece of work, and its age if it has taken more than a minute."""
    share = f" {piece.done / piece.total:.0%}" if piece.total else ""
    note = f", {piece.note}" if piece.note else ""
    since = f" (for {duration(now - piece.since)})" if now - piece.since >= MINUTE else ""
    return f"{piece.activity}{share}{note}{since}"


def _remaining(left: float | None, most: float | None) -> str:
    if left is None:
        return "time left not known yet"
    if left > 0:
        return time_left(left, most)
    return "takes longer than estimated" + (f", at most {rounded(most)} left" if most is not None and most > 0 else "")
