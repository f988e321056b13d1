"""A command in two processes: a child works, and this one only makes sure that the work ends in time.

A method may never return: a loop in C, a lock, code that swallows every exception. The work is therefore done in a
child, forked before anything is loaded. When it must end, or is late with a piece that has a time limit, it gets a few
seconds and is then killed. Nothing finished is lost, since every file of the store is written atomically. The next
child records the piece that a killed or crashed child was working on as failed, and continues with the rest.
"""

from __future__ import annotations

import atexit
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.display.lines import Relay
from bench.display.streams import InTime
from bench.process.ending import ONCE, Lost, Needs, end_with, how_it_ended, signals
from bench.process.shared import GRACE, Held, Report, Shared

#: Seconds after which a child has noticed that this process is suspended, and suspends itself.
STOPS = 1.0
#: Seconds in which the processes that a child left behind may end by themselves.
MOMENT = 0.3
#: Seconds between two looks.
_LOOK = 0.25
_NAMES = {
    "cell": "a cell",
    "training": "a training",
    "set": "an adversarial set",
    "network": "a network",
    "estimate": "the estimate of the time left",
}

#: Is told the code with which a command ends before its time (0: that is used), how many cells are done of how many,
#: and where to write; says so, and returns the exit code.
Early = Callable[[int, tuple[int, int] | None, InTime, InTime], int]


@dataclass
class Charge:
    """What a command is given: memory shared with its supervisor, its time, and what its predecessors have lost.

    ``began`` is when the first of these was started, on the monotonic clock; ``None`` for the first.
    """

    shared: Shared | None
    deadline: float | None
    began: float | None = None
    lost: list[Lost] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)


def supervise(
    work: Callable[[Charge], int],
    shared: Shared,
    deadline: float | None,
    relay: Relay | None,
    early: Early,
) -> int:
    """Do ``work`` in a child process, and in another where the first is lost; return the exit code.

    Args:
        work: does all of the command and returns its exit code.
        shared: memory in which the child shows what it does.
        deadline: on the monotonic clock; when it has passed, the command ends.
        relay: says the lines of the minute.
        early: says why the command ends before its time.
    """
    supervisor, began = _Supervisor(shared, deadline, relay, early), time.monotonic()
    adopts = _adopt()
    with supervisor.handlers():
        while True:
            child = supervisor.start(work)
            ended = supervisor.wait(child)
            if adopts:
                _end_what_is_left()
            code = supervisor.code_of(ended)
            if code is not None:
                return code
            supervisor.charge.began = began


class _Supervisor:
    def __init__(self, shared: Shared, deadline: float | None, relay: Relay | None, early: Early) -> None:
        self.shared, self._deadline = shared, math.inf if deadline is None else deadline
        self._early = early
        self.charge = Charge(shared, deadline)
        self._relay = relay
        self._signals = signals()
        # A reader that does not read must not block the process that ends the work.
        self._out, self._err = InTime(1), InTime(2)
        self._end_signals: list[int] = []
        self._end_requested_at, self._continued_at = math.inf, -math.inf
        self._killed_for: str | None = None
        self._killed: Counter[Held | None] = Counter()
        self._wake = os.pipe()

    @contextmanager
    def handlers(self) -> Iterator[None]:
        for end in self._wake:
            os.set_blocking(end, False)
        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(self._signals, self._note)
        handlers |= {signal.SIGCHLD: lambda *_: None, signal.SIGCONT: self._continue}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        wakes = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakes)
            for number, handler in before.items():
                signal.signal(number, handler)
            for end in self._wake:
                os.close(end)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._end_signals or now > self._end_requested_at + ONCE:
            self._end_signals.append(number)
        self._end_requested_at = min(self._end_requested_at, now)

    def _continue(self, *_: object) -> None:
        self._continued_at = time.monotonic()

    def start(self, work: Callable[[Charge], int]) -> int:
        """Return the process that works."""
        self.shared.clear()
        _flush()
        parent = os.getpid()
        # No signal may come between the fork and the handlers of the child.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            for end in self._wake:
                os.close(end)
            for number in (signal.SIGCHLD, signal.SIGCONT):
                signal.signal(number, signal.SIG_DFL)
            for number in self._signals:
                signal.signal(number, lambda number, _: os._exit(128 + number))
            self._work(work, parent, blocked)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return child

    def _work(self, work: Callable[[Charge], int], parent: int, unblocked: set[int | signal.Signals]) -> NoReturn:
        code, needs = 1, Needs()
        try:
            _stay_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            code = work(self.charge)
        except BaseException:
            # A fault of the harness.
            traceback.print_exc()
        finally:
            _flush()
            # If a method closed or replaced the child's streams, its last messages were lost.
            if needs.unheard() is None:
                self.shared.ended(code)
            # Python would take down every module of torch, which takes seconds on a busy machine, and wait for threads.
            atexit._run_exitfuncs()
            os._exit(code)

    def wait(self, child: int) -> int:
        """Return how a child ended, as :func:`os.waitstatus_to_exitcode` says; one that is late is killed."""
        self._killed_for, forwarded = None, 0
        late: dict[str, float] = {}
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                # Its last state must not be lost with it.
                if self._relay is not None:
                    self._relay.see()
                return os.waitstatus_to_exitcode(status)
            if self._end_signals and not forwarded:
                forwarded = self._end_signals[0]
                os.kill(child, forwarded)
            if time.monotonic() < self._continued_at + 3 * STOPS:
                # It has suspended itself while this process was suspended, or is about to.
                os.kill(child, signal.SIGCONT)
            if len(self._end_signals) > 1:
                self._kill(child, "ending")
            else:
                for why in self._late(late):
                    self._kill(child, why)
            if self._relay is not None:
                self._relay.look()
            select.select([self._wake[0]], [], [], _LOOK)
            with suppress(BlockingIOError):
                os.read(self._wake[0], 4096)

    def _late(self, since: dict[str, float]) -> Iterator[str]:
        """Yield why the child must be killed. ``since`` keeps from when on it was seen to be late, and with what.

        A limit that passed while this process was suspended counts from its return.
        """
        now, due = time.monotonic(), self.shared.due
        reasons = {
            "ended": self.shared.code is not None,
            "ending": now > min(self._end_requested_at, self.shared.ending_since, self._deadline),
            f"piece {due}": now > due,
        }
        for why, holds in reasons.items():
            if not holds:
                since.pop(why, None)
            elif now > since.setdefault(why, now) + GRACE:
                yield why
        for old in since.keys() - reasons.keys():
            del since[old]

    def _kill(self, child: int, why: str) -> None:
        if self._killed_for is None:
            self._killed_for = why
            os.kill(child, signal.SIGKILL)

    def code_of(self, ended: int) -> int | None:
        """Return the exit code of the command, or ``None`` where another child must go on."""
        if self.shared.code is not None:
            return self.shared.code
        report, why = self.shared.read(), self._killed_for
        if (code := self._end()) is not None and (why is not None or ended < 0 or ended == code):
            self._restore_terminal()
            return self._early(code, report.counted, self._out, self._err)
        if report.log is not None:
            self.charge.logs.append(Path(report.log))
        if why is None:
            return self._after_crash(ended, report)
        if (lost := Lost.late_with(report.held)) is not None:
            self._lose(lost)
        return None

    def _end(self) -> int | None:
        """Return the exit code with which the command was to end before its time, if it was."""
        if self._end_signals:
            return 128 + self._end_signals[0]
        if self.shared.ending_code is not None:
            return self.shared.ending_code
        return 0 if time.monotonic() > self._deadline else None

    def _after_crash(self, ended: int, report: Report) -> int | None:
        """Report why a child died, and what it was working on."""
        held = report.held[-1] if report.held else None
        self._killed[held] += 1
        if ended == -signal.SIGKILL and self._killed[held] == 1:
            # The signal may have been meant for the run and not for its piece, or memory was short only once.
            self._warn("the process that does the work was killed; another continues from what is finished")
            return None
        if held is None:
            self._restore_terminal()
            print(f"error: the process that does the work ended by itself ({how_it_ended(ended)})", file=self._err)
            return 128 - ended if ended < 0 else ended or 1
        self._lose(Lost.ended_with(held, ended))
        return None

    def _lose(self, lost: Lost) -> None:
        self.charge.lost.append(lost)
        self._warn(f"{_NAMES[lost.kind]} {lost.why}; another process continues with the rest")

    def _warn(self, text: str) -> None:
        self._restore_terminal()
        print(f"warning: {text}", file=self._err)

    def _restore_terminal(self) -> None:
        # Bars that a dead child left: clear their line, and show the cursor that they hid.
        if sys.stderr.isatty():
            self._err.write_as_it_is("\r\x1b[K\x1b[?25h")


def _adopt() -> bool:
    """See to it that what the processes below this one leave behind becomes its own child; say whether it does.

    It does not where others could be taken for these: it has children already, or is the first process of a container.
    """
    if sys.platform != "linux" or os.getpid() == 1 or _children():
        return False
    import ctypes

    pr_set_child_subreaper = 36
    return bool(ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0) == 0)


def _children() -> list[int]:
    """Return the processes whose parent this one is, ended ones too."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold anything.
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                children.append(int(path.parent.name))
    return children


def _end_what_is_left() -> None:
    """End the copies and programs that a child which has ended left behind, after a moment to end by themselves."""
    began = time.monotonic()
    while (left := _children()) and time.monotonic() < began + GRACE:
        for process in left:
            with suppress(OSError):
                if time.monotonic() > began + MOMENT:
                    os.kill(process, signal.SIGKILL)
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.02)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _stay_with(parent: int) -> None:
    """See to it that this process ends when its parent does, and stands still while that is stopped."""
    end_with(parent)

    def look() -> None:
        while True:
            time.sleep(STOPS)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            with suppress(OSError):
                if Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    os.kill(os.getpid(), signal.SIGSTOP)

    threading.Thread(target=look, name="crossfire-parent", daemon=True).start()
