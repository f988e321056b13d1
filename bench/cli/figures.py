"""The figures, as PNG and PDF with the JSON of their numbers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

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
    names = args.names or list(known)
    with display.phase("drawing figures", len(names)) as at:
        with no_collection():
            folder = options.data_folder(args)
            source = figures.source_of(
                recorded.results,
                Store(root),
                planned=recorded.planned_tables,
                data_folder=folder,
                trusted=args.trust,
                width=figures.WIDTHS[args.width],
            )
        for done, name in enumerate(names):
            at(done, name)
            try:
                paths = figures.draw(name, source, args.out)
            except figures.Missing as missing:
                if args.names:
                    raise UsageError(f"{name}: {missing}") from None
                with display.paused():
                    print(f"left out {name}: {missing}", file=sys.stderr)
                continue
            with display.paused():
                print("\n".join(visible(str(path)) for path in paths))
    return 0
