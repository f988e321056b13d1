"""The figures, as PNG and PDF with the JSON of their numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.figures import Source

SUMMARY = "the figures, PNG and PDF, each with the JSON of its numbers"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="default: all that the store has results for; see --list"
    )
    options.store(parser)
    parser.add_argument("--out", type=options.path, default=Path("figures"), metavar="DIR", help="default: figures")
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    options.trust(parser)
    parser.add_argument(
        "--width",
        choices=("page", "column"),
        default="page",
        help="page (7 inches, default) or column (3.25 inches, one of two): laid out anew, letters keep their size",
    )
    parser.add_argument("--list", action="store_true", help="name the figures and what they show")


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection
    from bench.registry import unknown
    from bench.report import figures
    from bench.store.history import read
    from bench.store.working_store import Store
    from bench.types import UsageError

    known = figures.summaries()
    for name in args.names:
        if name not in known:
            raise UsageError(unknown("figure", name, list(known)))
    if args.list:
        print("\n".join(f"{name:20} {summary}" for name, summary in known.items()))
        return 0
    display: Display = args.display
    root = options.store_root(args)
    with display.phase("reading the results"), no_collection():
        recorded = read(root)
    for note in recorded.notes:
        print(f"warning: {note}", file=sys.stderr)
    with display.phase("making the tables"), no_collection():
        source = figures.source_of(
            recorded.results,
            Store(root),
            planned=recorded.planned_tables,
            data_folder=options.data_folder(args),
            trusted=args.trust,
            width=figures.WIDTHS[args.width],
        )
    return _draw(args, source, args.names or list(known))


def _draw(args: argparse.Namespace, source: Source, names: Sequence[str]) -> int:
    """Draw figures, each whatever becomes of the others, and return the exit code."""
    from bench.report import figures

    display: Display = args.display
    code = 0
    with display.phase("drawing figures", len(names)) as at:
        for done, name in enumerate(names):
            at(done, name)
            try:
                paths = figures.draw(name, source, args.out)
            except figures.NotDrawn as reason:
                failed = isinstance(reason, figures.Failed)
                # What was asked for by name and is not there is bad usage; a failure counts more.
                code = max(code, 3 if failed else 2 * bool(args.names))
                what = "failed" if failed else "left out"
                line = f"error: {name}: {reason}" if args.names else f"{what} {name}: {reason}"
                with display.paused():
                    print(visible(line), file=sys.stderr)
                continue
            with display.paused():
                print("\n".join(visible(str(path)) for path in paths))
    return code
