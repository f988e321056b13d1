"""When work must end, and how it is ended in time.

A run ends on request or when its time is used, a cell when it takes too long. Working code checks this often
(:meth:`Control.check`). If nothing has checked for a while, as in a method that never calls the network, a thread sends
this process a signal. Its handler raises the exception in the running code, repeatedly, until that code is left.
If even that fails, :mod:`bench.cli.supervisor` ends the process from outside.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, TypeVar

import bench
from bench.process.shared import Held, Shared
from bench.types import Ending

T = TypeVar("T")

_WHY = {0: "time budget used", 129: "the terminal was closed", 130: "interrupted", 143: "terminated"}
#: What a verb produces, where that is clearer than the verb.
_DOES = {"plan": "the plan"}
#: Seconds within which two signals count as one: ``timeout`` signals both a command and its group.
ONCE = 0.05
#: Seconds that work which checks often gets to end by itself.
PATIENCE = 1.0
#: Seconds between two checks of the thread, and between two exceptions that it causes.
_LOOK = 0.2
_AGAIN = 1.0
#: Exit code of a process from which a method took something it needs; the current piece records what.
_WITHOUT_NEEDS = 70
# Saved now: while a method runs, the first is refused and the second may have been replaced.
_EXIT, _FILE_OF = os._exit, os.fstat
# Not every system has it.
_RESOURCE: Any = None
with contextlib.suppress(ImportError):
    _RESOURCE = importlib.import_module("resource")
_LIMITS = {
    name: getattr(_RESOURCE, name)
    for name in (f"RLIMIT_{each}" for each in ("NOFILE", "FSIZE", "AS", "DATA", "STACK", "CORE", "CPU", "NPROC"))
    if hasattr(_RESOURCE, name)
}
#: No program uses it by default, and a process without a handler ignores it.
_SIGNAL = getattr(signal, "SIGURG", None)
# Code that must not be interrupted: it writes files of the store, holds leases or restores the process.
_PROTECTED = {
    str(Path(bench.__file__).parent / f"{name}.py")
    for name in (
        "display/bars",
        "display/base",
        "process/children",
        "process/isolation",
        "store/cards",
        "store/files",
        "store/inventory",
        "store/lease",
        "store/planned",
        "store/run_log",
        "store/seals",
        "store/working_store",
        "store/worktree",
        "training/checkpoint",
    )
}
# These are protected only as the innermost frame: entering or leaving a block whose exit must not be skipped.
_EDGES = {contextlib.__file__, __file__}

Kind = Literal["cell", "training", "set", "network", "estimate"]


class Stop(Ending):
    """The run was requested to end, or its time is used."""


class Overtime(Ending):
    """A piece of work took longer than it may."""


@dataclass
class Piece:
    """A piece of work that a process is doing: its kind, its key, and how many seconds it may take.

    With ``None`` seconds the limit of the enclosing piece applies; a piece with its own limit does not use up that one.
    It is interrupted ``patience`` seconds after its limit; a supervisor counts it as late ``mercy`` seconds after it.
    """

    kind: Kind
    key: str
    seconds: float | None = None
    says: str = "took too long"
    patience: float = PATIENCE
    mercy: float = 0.0
    due: float = math.inf
    frame: FrameType | None = field(default=None, repr=False)

    def restart(self) -> None:
        """Restart its time limit."""
        self.due = math.inf if self.seconds is None else time.monotonic() + self.seconds


@dataclass(frozen=True)
class Lost:
    """A piece of work that ended the process doing it, and why; ``late`` if it exceeded its time."""

    kind: str
    key: str
    why: str
    late: bool = False

    @classmethod
    def late_with(cls, held: Sequence[Held]) -> Lost | None:
        """Return the innermost piece with its own time limit, whose process had to be killed."""
        timed = next((each for each in reversed(held) if each.timed), None)
        return timed and cls(timed.kind, timed.key, "took too long, and its process had to be killed", late=True)

    @classmethod
    def ended_with(cls, held: Held, ended: int) -> Lost:
        """Return the piece that a process was doing when it ended with this :func:`os.waitstatus_to_exitcode`."""
        return cls(held.kind, held.key, held.taken or f"ended the process ({how_it_ended(ended)})")


def end_with(parent: int) -> None:
    """Ensure, on Linux, that this process ends when its parent does, whatever it is doing."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Needs:
    """What this process needs to continue, as it is now: standard output and error, and its resource limits."""

    def __init__(self) -> None:
        self._streams = [
            ("standard output", 1, _file(1), sys.stdout),
            ("standard error", 2, _file(2), sys.stderr),
        ]
        self._limits = {name: _RESOURCE.getrlimit(number) for name, number in _LIMITS.items()}

    def taken(self) -> str | None:
        """Restore the limits; describe what was taken and cannot be restored, ``None`` if nothing was."""
        limits = [name for name, wanted in self._limits.items() if not _limited(_LIMITS[name], wanted)]
        if (streams := self.unheard()) is not None:
            return streams
        if limits:
            return f"lowered {' and '.join(limits)} of the process, which cannot be raised again"
        return None

    def unheard(self) -> str | None:
        """Return a description of the streams that were taken; ``None`` if none was.

        A stream that was closed before does not count: the next file that is opened may get its number.
        """
        names = [
            name
            for name, number, file, stream in self._streams
            if file is not None and _file(number) != file and not _let_go(stream)
        ]
        return f"closed or replaced {' and '.join(names)}, of which the process needs its own" if names else None


def _file(number: int) -> tuple[int, int] | None:
    """Return what file a descriptor is; ``None`` if it is closed."""
    try:
        status = _FILE_OF(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _let_go(stream: object) -> bool:
    """Return whether :mod:`bench.display.streams` itself gave up a stream, as when a disk is full."""
    lost = getattr(stream, "lost", None)
    return isinstance(lost, OSError) and lost.errno != errno.EBADF


def _limited(number: int, wanted: tuple[int, int]) -> bool:
    """Restore a limit; return whether that succeeded."""
    soft, hard = _RESOURCE.getrlimit(number)
    if (soft, hard) == wanted:
        return True
    # If the hard limit cannot be raised again, the soft one is set as close as possible.
    nearest = min(wanted[0], hard) if _RESOURCE.RLIM_INFINITY not in (wanted[0], hard) else hard
    for limits in (wanted, (nearest, hard)):
        with contextlib.suppress(OSError, ValueError):
            _RESOURCE.setrlimit(number, limits)
            return limits == wanted
    return False


def how_it_ended(ended: int) -> str:
    """Describe how a process ended unexpectedly, from :func:`os.waitstatus_to_exitcode`.

    Only a second kill is blamed on the piece of work: the first may have had another cause.
    """
    if ended >= 0:
        return f"exit code {ended}"
    memory = ", twice; perhaps the system was out of memory" if ended == -signal.SIGKILL else ""
    return (signal.strsignal(-ended) or f"signal {-ended}") + memory


class Control:
    """Decides when the work of this process must end.

    Args:
        deadline: of the run, on the monotonic clock.
        shared: memory shared with the supervising process, if any; that one then handles repeated signals.
    """

    def __init__(self, deadline: float | None = None, shared: Shared | None = None) -> None:
        self.code: int | None = None
        self.counted: tuple[int, int] | None = None
        self._deadline = math.inf if deadline is None else deadline
        self._shared = shared
        self._needs = Needs()
        self._since = math.inf
        self._raised = -math.inf
        self._looked_after = False
        self._pieces: list[Piece] = []
        self._base: FrameType | None = None
        self._left = threading.Event()

    def check(self) -> None:
        """Raise the exception that ends the run or the current piece, if one must end."""
        self.check_run()
        self.check_piece()

    def check_run(self) -> None:
        """Raises Stop: the run was requested to end, or its time is used."""
        if self._is_ending():
            self._raised = time.monotonic()
            raise Stop

    def check_piece(self) -> None:
        """Raises Overtime: the current piece exceeded its time."""
        if (piece := self._timed()) is not None and time.monotonic() > piece.due:
            self._raised = time.monotonic()
            raise Overtime(piece.says)

    def count(self, done: int, total: int) -> None:
        """Record how many cells of the plan are done."""
        self.counted = done, total
        if self._shared is not None:
            self._shared.count(done, total)

    def logs(self, path: Path) -> None:
        """Record where the log of the run is."""
        if self._shared is not None:
            self._shared.log(str(path.resolve()))

    def within(self, piece: Piece, do: Callable[[], T]) -> T:
        """Return what ``do`` returns, as a piece of work.

        Raises:
            Overtime: it took longer than it may.
        """
        piece.frame = sys._getframe()
        piece.restart()
        self._pieces.append(piece)
        self._tell()
        began = time.monotonic()
        try:
            return do()
        finally:
            if self._shared is not None and (taken := self._needs.taken()) is not None:
                self._leave(self._shared, taken)
            self._pieces.pop()
            piece.frame = None
            if piece.seconds is not None and (outer := self._timed()) is not None:
                outer.due += time.monotonic() - began
            self._tell()

    def _leave(self, shared: Shared, taken: str) -> NoReturn:
        """End this process, whose output is lost or which can do little: its other files may be closed as well.

        The current piece is lost with it; the supervising process reports that.
        """
        try:
            *outer, last = self._held()
            shared.hold([*outer, last._replace(taken=taken)])
        finally:
            _EXIT(_WITHOUT_NEEDS)

    def restart(self) -> None:
        """Restart the time limit of the current piece: the limit applies to each of its steps."""
        if (piece := self._timed()) is not None:
            piece.restart()
            if self._shared is not None:
                self._shared.due = piece.due + piece.mercy

    @contextmanager
    def looked_after(self) -> Iterator[None]:
        """Declare that this block calls :meth:`check` often, and saves its state when that raises."""
        self._looked_after = True
        try:
            yield
        finally:
            self._looked_after = False

    def watch(self, do: Callable[[], T]) -> T | None:
        """Return what ``do`` returns, or ``None`` if it was ended: :attr:`code` is then the exit code.

        Ctrl-C, SIGTERM, closing the terminal (exit codes 130, 143 and 129) and the deadline (0) end it.
        Outside of the main thread, where Python handles no signals, ``do`` simply runs.
        """
        if threading.current_thread() is not threading.main_thread():
            return do()
        self._base = sys._getframe()
        before = {number: signal.signal(number, self._on_signal) for number in signals()}
        if _SIGNAL is not None:
            before[_SIGNAL] = signal.signal(_SIGNAL, self._interrupt)
        self._left.clear()
        threading.Thread(target=self._look, name="crossfire-watch", daemon=True).start()
        try:
            return do()
        except Stop:
            return None
        except Exception as error:
            # Before 3.12 Python wraps exceptions from ``__set_name__`` in a RuntimeError.
            if not isinstance(error.__cause__, Stop):
                raise
            return None
        finally:
            self._base = None
            self._left.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _is_ending(self) -> bool:
        if self.code is None and time.monotonic() > self._deadline:
            self._end(0, self._deadline)
        return self.code is not None

    def _end(self, code: int, since: float) -> None:
        self.code, self._since = code, since
        if self._shared is not None:
            self._shared.ending(code)

    def _timed(self) -> Piece | None:
        """Return the innermost piece that has its own time limit."""
        return next((piece for piece in reversed(self._pieces) if piece.seconds is not None), None)

    def _held(self) -> list[Held]:
        return [Held(each.kind, each.key, each.seconds is not None) for each in self._pieces]

    def _tell(self) -> None:
        if self._shared is not None:
            piece = self._timed()
            self._shared.hold(self._held())
            self._shared.due = math.inf if piece is None else piece.due + piece.mercy

    # In the thread.

    def _look(self) -> None:
        while not self._left.wait(_LOOK):
            if self._late() is not None:
                os.kill(os.getpid(), _SIGNAL or signal.SIGINT)

    def _late(self) -> tuple[Ending, FrameType] | None:
        """Return the exception that is due and the call in which to raise it, once working code had time to check."""
        now = time.monotonic()
        if now < self._raised + _AGAIN:
            return None
        if self._base is not None and self._is_ending():
            return (Stop(), self._base) if now >= self._since + PATIENCE * self._looked_after else None
        piece = self._timed()
        if piece is None or piece.frame is None or now < piece.due + piece.patience:
            return None
        return Overtime(piece.says), piece.frame

    # In the handlers of signals.

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.code is None:
            self._end(128 + number, time.monotonic())
        elif self._shared is not None or time.monotonic() < self._since + ONCE:
            return
        elif self._looked_after:
            # A second one does not wait.
            self._looked_after, self._raised = False, -math.inf
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._interrupt(number, frame)

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        if (late := self._late()) is not None and _may_be_left(frame, late[1], importing=isinstance(late[0], Stop)):
            self._raised = time.monotonic()
            raise late[0]


def signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end this process; under ``nohup`` SIGHUP is not one of them."""
    hangup = getattr(signal, "SIGHUP", None)
    hears = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hears else ()))


def why_of(code: int | None) -> str:
    """Return why a run ended early, in words, from its exit code."""
    return "ended" if code is None else _WHY.get(code, f"ended by signal {code - 128}")


def closing(code: int, counted: tuple[int, int] | None) -> str:
    """Return the message for a run that ended early with this exit code."""
    why = why_of(code)
    if counted is None:
        return f"{why}; the same command continues from here."
    return f"{why}: {counted[0]} of {counted[1]} cells are done; the same command continues from here."


def unfinished(code: int, verb: str) -> str:
    """Return the message for a verb that ended early and cannot be continued, by its exit code."""
    return f"{why_of(code)} before {_DOES.get(verb, verb)} was finished"


def _may_be_left(frame: FrameType | None, base: FrameType, *, importing: bool) -> bool:
    """Return whether the running code is inside the call ``base`` and may be interrupted.

    An import may be interrupted only if the process then ends: it leaves a half-imported package that does not work.
    """
    if frame is not None and frame.f_code.co_filename in _EDGES:
        return False
    while frame is not None and frame is not base:
        code = frame.f_code
        # Python only prints exceptions raised in ``__del__``.
        if code.co_filename in _PROTECTED or code.co_name == "__del__":
            return False
        if not importing and code.co_filename.startswith("<frozen importlib"):
            return False
        frame = frame.f_back
    return frame is base
