"""How a command shows its work on standard error: ``--progress`` and ``--quiet``, and the display that they choose."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.cli.display import Display, Messages, is_terminal
from bench.cli.lines import Lines, Relay
from bench.process.shared import Shared

_log = logging.getLogger("crossfire")


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


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter
