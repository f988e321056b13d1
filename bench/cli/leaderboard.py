"""The tables, in a terminal or as a file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bench.cli import options
from bench.cli.display import Display
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.leaderboard.tables import Board
    from bench.store.working_store import Store

SUMMARY = "the tables: in the terminal, or as Markdown, CSV, LaTeX, HTML or JSON"
FORMATS = ("md", "csv", "tex", "html", "json")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.store(parser)
    parser.add_argument(
        "--format", choices=FORMATS, help="default: what --out ends with, else a table for the terminal"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    options.trust(parser)
    parser.add_argument(
        "--paper",
        action="store_true",
        help="published numbers beside the measured ones; with --out FOLDER, all tables and figures of the paper",
    )
    parser.add_argument("--out", type=options.path, metavar="FILE", help="write to a file instead of the terminal")


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection

    with no_collection():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    from bench.report.leaderboard.tables import build
    from bench.store.files import write_named
    from bench.store.history import read
    from bench.store.working_store import Store
    from bench.types import UsageError

    display: Display = args.display
    kind = args.format or (args.out.suffix.removeprefix(".") if args.out else None)
    folder = args.paper and args.out is not None and not kind
    if args.out and kind not in FORMATS and not folder:
        raise UsageError(f"--out {args.out}: say --format {'|'.join(FORMATS)}, or let the name end with one of them")
    root = options.store_root(args)
    with display.phase("reading the results"):
        recorded = read(root)
    for note in recorded.notes:
        print(f"warning: {note}", file=sys.stderr)
    if args.paper and kind in ("csv", "tex", "html"):
        raise UsageError(f"--paper comes as text, md or json, or with --out FOLDER as a folder, not {kind}")
    if folder:
        from bench.report import figures, paper_page

        with display.phase("drawing the tables and figures of the paper"):
            source = figures.source_of(
                recorded.results,
                Store(root),
                asked=recorded.planned_tables,
                data_folder=options.data_folder(args),
                paper=True,
                trusted=args.trust,
            )
            paths = paper_page.write(source, args.out)
        print("\n".join(visible(str(path)) for path in paths))
        return 0
    with display.phase("making the tables"):
        board = build(recorded.results, recorded.planned_tables)
    if kind is None and not args.paper:
        from bench.cli.console import console
        from bench.report.render.terminal import leaderboard

        terminal = console()
        terminal.print(leaderboard(board, width=terminal.width))
        return 0
    with display.phase("writing the tables"):
        text = _written(board, kind, args, Store(root) if root.is_dir() else None)
    if args.out is None:
        sys.stdout.write(text)
        return 0
    # A pipe carries the text and nothing else.
    if write_named(args.out, text.encode()):
        print(visible(str(args.out)))
    return 0


def _written(board: Board, kind: str | None, args: argparse.Namespace, store: Store | None) -> str:
    """Return the tables in a format; of the paper's, ``None`` is text."""
    if args.paper:
        from bench.report.leaderboard.published import beside
        from bench.report.render import published

        rows = beside(board)
        return {"md": published.as_markdown, "json": published.as_json}.get(kind or "", published.as_text)(rows)
    if kind == "html":
        from bench.report.render.html import render

        return render(board, store, options.data_folder(args), trusted=args.trust)
    from bench.report.render.export import FORMATS as WRITERS

    return WRITERS[str(kind)](board)
