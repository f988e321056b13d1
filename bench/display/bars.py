"""The bars of a command: on a terminal, where warnings are printed above them, and in a notebook."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from bench.display.base import PATIENCE, Display, Messages, is_terminal, ticking, time_left
from bench.display.console import console
from bench.visible import visible

# Seconds between two updates in a notebook, each of which is sent to a browser.
_PICTURE = 0.5


class _Above(Messages):
    """Prints what is logged above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(None, stamped=False, level=logging.WARNING)
        self._console = console

    def write(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars(Display):
    """Shows two bars on a terminal: how much of a run is done, and the piece of work in hand."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Also where it is no terminal, if bars were asked for.
        self._console = console(stderr=True, terminal=True)
        super().__init__(_Above(self._console), clock)
        self._progress: Progress | None = None
        self._since = 0.0

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        super().cells(done, total, failed)
        self._update()

    def work(
        self,
        activity: str,
        done: float,
        total: float | None,
        note: str = "",
        left: float | None = None,
        most: float | None = None,
    ) -> None:
        super().work(activity, done, total, note, left, most)
        self._update()

    def look(self) -> None:
        """Show the bars: those of a run at once, others when the work has taken longer than a moment."""
        if self._progress is not None and (self.count is not None or self._clock() - self._since >= PATIENCE):
            self._show(self._progress)

    @contextmanager
    def paused(self) -> Iterator[None]:
        # While it is paused there is no progress to update.
        progress, self._progress = self._progress, None
        shown = progress is not None and progress.live.is_started
        if progress is not None and shown:
            progress.stop()
        try:
            yield
        finally:
            if progress is not None and shown:
                progress.start()
            self._progress = progress

    @contextmanager
    def _showing(self) -> Iterator[None]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # Where standard output goes elsewhere, what is printed belongs there and not above the bars.
        above = is_terminal(sys.stdout)
        progress = Progress(*columns, console=self._console, transient=True, redirect_stdout=above)
        for _ in range(2):
            progress.add_task("", total=None, visible=False, note="")
        self._progress, self._since = progress, self._clock()
        self._update()
        self.look()
        try:
            with ticking(self.look):
                yield
        finally:
            self._progress = None
            self._end(progress)

    def _update(self) -> None:
        if (progress := self._progress) is None:
            return
        overall, part = progress.task_ids
        if (count := self.count) is not None:
            failed = f"{count.failed} failed" if count.failed else ""
            progress.update(
                overall, description=count.unit, completed=count.done, total=count.total, visible=True, note=failed
            )
        if (piece := self.piece) is not None:
            left = "" if self.left is None or self.left < 0 else time_left(self.left, self.most_left)
            progress.update(
                part,
                description=visible(piece.activity),
                completed=piece.done,
                total=piece.total,
                visible=piece.total is None or piece.done < piece.total,
                note=visible(", ".join(filter(None, (piece.note, left)))),
            )

    def _show(self, progress: Progress) -> None:
        progress.start()

    def _end(self, progress: Progress) -> None:
        progress.stop()


class Notebook(Bars):
    """Shows the bars in a notebook, by IPython alone: rich itself needs ipywidgets for that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.handler = Messages(sys.stderr, stamped=False, level=logging.WARNING)
        self._picture: Any = None
        self._drawn = float("-inf")

    def _show(self, progress: Progress) -> None:
        if self._clock() - self._drawn >= _PICTURE:
            self._draw(progress)

    def _end(self, progress: Progress) -> None:
        if self._picture is not None and self.count is not None:
            self._draw(progress)
        elif self._picture is not None:
            # The last state of a run stays; other work clears its output.
            self._picture.update(Text())
        self._picture, self._drawn = None, float("-inf")

    def _draw(self, progress: Progress) -> None:
        from IPython.display import display

        self._drawn = self._clock()
        picture = progress.make_tasks_table(progress.tasks)
        if self._picture is None:
            self._picture = display(picture, display_id=True)
        else:
            self._picture.update(picture)
