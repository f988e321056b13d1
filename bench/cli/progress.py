"""One run in a terminal: its progress bars, and the ways in which it may be asked to end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.cli.console import console
from bench.runlog import once
from bench.types import Ending


class Stop(Ending):
    """The run was asked to end."""


@dataclass
class Ended:
    """How a run was ended before its time: exit code and reason; ``code`` is ``None`` where it was not."""

    code: int | None = None
    why: str = ""


class Bars:
    """Two bars: the cells of the plan, and the piece of work at hand."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._cells = progress.add_task("cells", total=None, note="")
        self._work = progress.add_task("", total=None, visible=False, note="")

    def cells(self, done: int, total: int) -> None:
        self._progress.update(self._cells, completed=done, total=total)

    def work(self, what: str, done: float, total: float, note: str = "") -> None:
        self._progress.update(
            self._work, description=what, completed=done, total=total, note=note, visible=done < total
        )


class _Above(logging.Handler):
    """Prints warnings above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        said: set[str] = set()
        self.addFilter(lambda record: once(record, said))

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"warning: {record.getMessage()}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def session(time_budget: float | None) -> Iterator[tuple[Bars, Callable[[], None], Ended]]:
    """Show bars on standard error and end the block early, with everything finished kept, when asked to.

    Ctrl-C and SIGTERM end it at the next pass (exit codes 130 and 143), a time budget likewise (0). A second Ctrl-C
    ends it at once; a third the process, for a method that takes no exception for an answer.
    """
    ended, urged = Ended(), False
    deadline = None if time_budget is None else time.monotonic() + time_budget

    def asked(number: int, _frame: FrameType | None) -> None:
        nonlocal urged
        if urged:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if ended.code is not None:
            urged = True
            raise Stop
        ended.code, ended.why = (130, "interrupted") if number == signal.SIGINT else (143, "terminated")

    def check() -> None:
        if ended.code is None and deadline is not None and time.monotonic() > deadline:
            ended.code, ended.why = 0, "time budget used"
        if ended.code is not None:
            raise Stop

    logger = logging.getLogger("crossfire")
    handlers = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    try:
        terminal = console(stderr=True)
        # Bars in a file would be thousands of lines.
        with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
            warnings = _Above(progress.console)
            logger.addHandler(warnings)
            try:
                yield Bars(progress), check, ended
            finally:
                logger.removeHandler(warnings)
    except Stop:
        pass
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
