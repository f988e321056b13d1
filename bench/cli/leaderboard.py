"""The tables, in a terminal or as a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.cli import options
from bench.visible import visible

SUMMARY = "the tables: in the terminal, or as Markdown, CSV, LaTeX, HTML or JSON"
FORMATS = ("md", "csv", "tex", "html", "json")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.store(parser)
    parser.add_argument(
        "--format", choices=FORMATS, help="default: what --out ends with, else a table for the terminal"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="published numbers beside the measured ones; with --out FOLDER, all tables and figures of the paper",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of the terminal")


def main(args: argparse.Namespace) -> int:
    from bench.collection import no_collection

    with no_collection():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    from bench.files import write_named
    from bench.report.board import build
    from bench.report.record import read
    from bench.store import Store
    from bench.types import UsageError

    kind = args.format or (args.out.suffix.removeprefix(".") if args.out else None)
    folder = args.paper and args.out is not None and not kind
    if args.out and kind not in FORMATS and not folder:
        raise UsageError(f"--out {args.out}: say --format {'|'.join(FORMATS)}, or let the name end with one of them")
    root = options.store_root(args)
    found = read(root)
    for note in found.notes:
        print(f"warning: {note}", file=sys.stderr)
    if args.paper and kind in ("csv", "tex", "html"):
        raise UsageError(f"--paper comes as text, md or json, or with --out FOLDER as a folder, not {kind}")
    if folder:
        from bench.report import figures, paper_pages

        source = figures.source_of(
            found.results, Store(root), asked=found.asked, data_folder=options.data_folder(args), paper=True
        )
        print("\n".join(visible(str(path)) for path in paper_pages.write(source, args.out)))
        return 0
    if args.paper:
        from bench.report import paper

        rows = paper.beside(build(found.results, found.asked))
        text = {"md": paper.as_markdown, "json": paper.as_json}.get(kind or "", paper.as_text)(rows)
    elif kind is None:
        from bench.cli.console import console
        from bench.report.terminal import leaderboard

        terminal = console()
        terminal.print(leaderboard(build(found.results, found.asked), width=terminal.width))
        return 0
    elif kind == "html":
        from bench.report.html import render

        text = render(
            build(found.results, found.asked), Store(root) if root.is_dir() else None, options.data_folder(args)
        )
    else:
        from bench.report.formats import FORMATS as WRITERS

        text = WRITERS[kind](build(found.results, found.asked))
    if args.out is None:
        sys.stdout.write(text)
        return 0
    # A pipe carries the text and nothing else.
    if write_named(args.out, text.encode()):
        print(visible(str(args.out)))
    return 0
