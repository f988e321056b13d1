"""Which display shows the work of this process: bars on a terminal and in a notebook, else lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from bench.display.base import Display, Messages, is_terminal
from bench.display.lines import Lines
from bench.process.shared import Shared

Mode = Literal["plain", "rich", "none"]

_log = logging.getLogger("crossfire")


def default_mode() -> Mode:
    """Return how work is shown where nobody chooses: bars on a terminal and in Jupyter, else lines."""
    return "rich" if _in_notebook() or is_terminal(sys.stderr) else "plain"


@contextmanager
def shown(mode: Mode, shared: Shared | None = None) -> Iterator[Display]:
    """Show what is done inside the block, and what is logged meanwhile.

    The handler is the display's own: afterwards it is taken from the logger ``crossfire``, whose level is put back.

    Args:
        mode: bars, lines, or warnings alone.
        shared: with a process that watches over this one and says its lines of the minute.
    """
    display = _display(mode, shared)
    level = _log.level
    if isinstance(display, Lines) and level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    _log.addHandler(display.handler)
    try:
        yield display
    finally:
        _log.removeHandler(display.handler)
        _log.setLevel(level)


def _display(mode: Mode, shared: Shared | None) -> Display:
    notebook, terminal = _in_notebook(), is_terminal(sys.stderr)
    if mode == "plain":
        return Lines(shared=shared)
    if mode == "none":
        return Display(Messages(sys.stderr, stamped=not (notebook or terminal), level=logging.WARNING))
    from bench.display.bars import Bars, Notebook

    return Notebook() if notebook else Bars()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    # Its size is not asked for: rich fails at a COLUMNS that is no number.
    return Console(width=80, height=25).is_jupyter
