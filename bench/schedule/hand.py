"""A child process of a worker in which methods run, so the worker survives and stays on time whatever they do.

A method that never comes back, or that takes its process with it, is lost there alone: the worker ends the process
where it is late, records its current piece as lost, and continues in another one. So nobody else has to know how long a
piece may take, and no two clocks are compared.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from bench.process import shared
from bench.process.ending import Control, Lost, end_with, how_it_ended
from bench.process.shared import Held, Shared
from bench.types import Ending, MethodError, UsageError, text_of

#: Does a task in the process, given the pieces lost before, and returns the pieces lost now.
Work = Callable[[Control, Any, Sequence[Lost]], Sequence[Lost]]
# :data:`bench.process.shared.GRACE` less a second, in which the failure is passed between tasks and recorded.
GRACE = shared.GRACE - 1.0
# Seconds between two checks of a process that sends nothing.
_LOOK = 0.2


class Abandoned(Ending):
    """The result of this process is no longer needed."""


class Hand:
    """The process; the next one where it is lost. It ends with this object, and with the process that made it.

    Args:
        work: what it does. Tasks go there and errors come back pickled.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._shared = Shared()
        self._ours: Connection | None = None
        self._child = 0

    def do(self, task: Any, lost: Sequence[Lost] = (), only_piece: tuple[str, str] | None = None) -> tuple[Lost, ...]:
        """Do a task to its end, in as many processes as that takes, and return all that was lost of it.

        Args:
            task: to do.
            lost: what was lost of it before.
            only_piece: kind and key of the piece that is the entire task: once it is lost nothing is left to do.

        Raises:
            Exception: what the work raises.
            MethodError: the process ended while it had no current piece.
        """
        all_lost, killed = list(lost), Counter[Held | None]()
        while True:
            try:
                what, answer = self._attempt(task, all_lost)
            except BaseException:
                self._end()
                raise
            if what == "done":
                return tuple([*all_lost, *answer])
            if what == "raised":
                raise answer
            if (piece := self._lost(answer, killed)) is not None:
                all_lost.append(piece)
                if (piece.kind, piece.key) == only_piece:
                    return tuple(all_lost)

    def _attempt(self, task: Any, lost: Sequence[Lost]) -> tuple[str, Any]:
        """Return what the process answers, or ``("ended", N)``: how it ended, ``None`` where it was late and killed."""
        if self._ours is None:
            self._ours = self._start()
        # Sending fails if the process has ended since its last answer; the loop below reports that.
        with suppress(OSError):
            self._ours.send((task, tuple(lost)))
        silent, late = False, (math.inf, math.inf)
        while True:
            if silent:
                time.sleep(_LOOK)
            elif self._ours.poll(_LOOK):
                try:
                    answer: tuple[str, Any] = self._ours.recv()
                    return answer
                except (EOFError, OSError):
                    # A method may have closed its files and still be running.
                    silent = True
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended:
                last: tuple[str, Any] = "ended", os.waitstatus_to_exitcode(status)
                with suppress(EOFError, OSError):
                    if not silent and self._ours.poll():
                        last = self._ours.recv()
                self._forget()
                return last
            now, due = time.monotonic(), self._shared.due
            if now <= due:
                late = math.inf, math.inf
            elif due != late[0]:
                # Counted from when it was first seen late: this process may have been suspended too.
                late = due, now
            elif now > late[1] + GRACE:
                self._end()
                return "ended", None

    def _start(self) -> Connection:
        self._shared.clear()
        ours, theirs = Pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Ignore the warning that a fork has no threads: it uses nothing that they serve.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _live(theirs, ours, parent, self._shared, self._work)
        self._child = child
        theirs.close()
        return ours

    def _lost(self, ended: int | None, killed: Counter[Held | None]) -> Lost | None:
        """Return the piece of work that is lost with a process; ``None`` if it may be tried again."""
        held = self._shared.read().held
        if ended is None:
            return Lost.late_with(held)
        last = held[-1] if held else None
        killed[last] += 1
        if ended == -signal.SIGKILL and killed[last] == 1:
            # The kill may have been aimed at the process and not its current piece, or memory was briefly short.
            return None
        if last is None:
            raise MethodError(f"the process that does the work ended by itself ({how_it_ended(ended)})")
        return Lost.ended_with(last, ended)

    def _end(self) -> None:
        if self._ours is not None:
            with suppress(OSError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            self._forget()

    def _forget(self) -> None:
        if self._ours is not None:
            self._ours.close()
        self._ours = None


def _live(theirs: Connection, ours: Connection, parent: int, shown: Shared, work: Work) -> NoReturn:
    """Serve requests until the worker sends no more."""
    code = 1
    try:
        end_with(parent)
        ours.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # Objects of the worker must not be finalized here: they would call what this process lacks.
        gc.freeze()
        control = Control(shared=shown)
        control.watch(lambda: _serve(theirs, control, work))
        code = 0
    finally:
        os._exit(code)


def _serve(theirs: Connection, control: Control, work: Work) -> None:
    while True:
        try:
            task, lost = theirs.recv()
        except EOFError:
            return
        try:
            theirs.send(("done", tuple(work(control, task, lost))))
        except Abandoned:
            return
        except Exception as error:
            # These errors are built from their text alone, so they can be pickled.
            theirs.send(("raised", error if isinstance(error, UsageError) else MethodError(text_of(error))))
