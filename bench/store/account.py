"""Where the time of a process goes: each moment since it began counts for one kind of work.

Work that is part of other work is counted once, as itself: what an epoch takes to be saved is no training.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Kind = Literal[
    "training", "attacks", "evaluating", "measuring", "images", "networks", "compiling", "estimating", "saving",
    "starting", "planning", "reporting", "else",
]  # fmt: skip
#: What a run is for.
_AIM: tuple[Kind, ...] = ("training", "attacks")
_WORDS: dict[Kind, str] = {
    "evaluating": "evaluating defenses",
    "measuring": "measuring watched images",
    "images": "reading images",
    "networks": "building networks",
    "estimating": "estimating the time left",
    "starting": "starting Python and torch",
    "reporting": "tables and pages",
}
_SECOND = 1_000_000_000


class Account:
    """The nanoseconds of one thread by kind of work; they add up to the time since it began.

    Args:
        clock: nanoseconds, rising.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self.begin(clock())

    def begin(self, began: int) -> None:
        """Begin again, at a moment on the clock; the time since then was spent on starting."""
        self._thread = threading.get_ident()
        self._spent: Counter[Kind] = Counter()
        self._work: list[Kind] = ["starting"]
        self._last = began
        self._charge()
        self._work = ["else"]

    @contextmanager
    def spending(self, kind: Kind) -> Iterator[None]:
        """Count the time inside this block for a kind of work; other threads are not counted."""
        if threading.get_ident() != self._thread:
            yield
            return
        depth = len(self._work)
        self._charge()
        self._work.append(kind)
        try:
            yield
        finally:
            self._charge()
            # A signal may have kept an inner block from leaving.
            del self._work[depth:]

    def _charge(self) -> None:
        now = self._clock()
        self._spent[self._work[-1]] += now - self._last
        self._last = now

    def spent(self) -> dict[Kind, int]:
        """Return the nanoseconds of each kind of work until now."""
        self._charge()
        return dict(self._spent)


_account = Account()


def begin(began: float) -> None:
    """Begin the account of this process again, at a moment on the monotonic clock, in seconds."""
    _account.begin(round(began * _SECOND))


@contextmanager
def spending(kind: Kind) -> Iterator[None]:
    """Count the time inside a block, or a function that this decorates, for a kind of work."""
    with _account.spending(kind):
        yield


def seconds() -> dict[str, float]:
    """Return the seconds of each kind of work of this process, to the millisecond, those that took most first."""
    spent = sorted(_account.spent().items(), key=lambda item: -item[1])
    return {kind: round(nanoseconds / _SECOND, 3) for kind, nanoseconds in spent}


def line() -> str | None:
    """Return in one line where the time of this process went; ``None`` if it neither trained nor attacked."""
    return line_of(_account.spent())


def line_of(spent: dict[Kind, int]) -> str | None:
    """Return in one line where these nanoseconds went: the share of training and attacks, and what took the rest."""
    total, aim = sum(spent.values()), sum(spent.get(kind, 0) for kind in _AIM)
    if not aim:
        return None
    rest = {kind: nanoseconds for kind, nanoseconds in spent.items() if kind not in _AIM}
    # The share is rounded down, so that 100 % leaves nothing.
    text = f"{100 * aim // total} % of {total / _SECOND:.0f} s in training and attacks"
    told = sorted((kind for kind in rest if kind != "else" and rest[kind] >= _SECOND), key=lambda kind: -rest[kind])
    parts = [f"{rest[kind] / _SECOND:.0f} s {_WORDS.get(kind, kind)}" for kind in told]
    left = sum(rest.values()) - sum(rest[kind] for kind in told)
    parts += [f"{left / _SECOND:.0f} s else"] if left >= _SECOND else []
    return f"{text}; the rest: {', '.join(parts)}" if parts else text
