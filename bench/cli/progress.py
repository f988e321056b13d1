"""How a command shows its work on standard error: ``--progress`` and ``--quiet``, and the display that they choose."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager

from bench.display import choice
from bench.display.base import Display
from bench.display.lines import Relay
from bench.process.shared import Shared


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


def shown(args: argparse.Namespace, shared: Shared | None = None) -> AbstractContextManager[Display]:
    """Show what a command does inside the block, and what is logged meanwhile.

    Args:
        args: of the command.
        shared: with a process that watches over this one and says its lines of the minute (:func:`relay`).
    """
    return choice.shown(_mode(args), shared)


def relay(args: argparse.Namespace, shared: Shared) -> Relay | None:
    """Return what says the lines of the minute of a process that works with these ``args``, if it has any."""
    return Relay(shared) if _mode(args) == "plain" else None


def _mode(args: argparse.Namespace) -> choice.Mode:
    chosen: choice.Mode | None = args.progress
    return "none" if args.quiet else chosen or choice.default_mode()
