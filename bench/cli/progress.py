"""One run in a terminal: its progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.cli.console import console
from bench.runlog import once


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
def session() -> Iterator[Bars]:
    """Show bars on standard error, and warnings above them."""
    logger = logging.getLogger("crossfire")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    terminal = console(stderr=True)
    # Bars in a file would be thousands of lines.
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        warnings = _Above(progress.console)
        logger.addHandler(warnings)
        try:
            yield Bars(progress)
        finally:
            logger.removeHandler(warnings)
