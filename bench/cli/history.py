"""Recorded runs over commits: which changes are real, and which commit made them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.display.base import Display
from bench.types import UsageError
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.misstated import Misstated
    from bench.report.timeline.build import Timeline
    from bench.store.runs import Run, RunReader

SUMMARY = "recorded runs as lines over commits: which changes are real, and which commit made them"
FORMATS = ("text", "html", "md", "csv", "json")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        type=options.path,
        metavar="SOURCE",
        help="run files, stores, or folders of run files; default: results/runs of this repository",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="default: what --out ends with, else text; html is one page of its own"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    options.only(parser)
    options.min_effect(parser)
    parser.add_argument("--out", type=options.path, metavar="FILE", help="write to a file instead of the terminal")


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection

    with no_collection():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    from bench.report.misstated import Misstated
    from bench.report.timeline.build import build
    from bench.store.outputs import write_named
    from bench.store.runs import RunReader

    display: Display = args.display
    file_format = _format(args)
    options.require_apart(args.out, args.sources or [Path("results/runs")])
    reader, misstated = RunReader(Path.cwd()), Misstated()
    with display.phase("reading the runs"):
        runs = _looked_at(_runs(reader, args.sources), misstated)
        timeline = build(runs, Path.cwd(), only=args.only, min_effect=args.min_effect)
        notes = [*reader.notes, *misstated.notes()]
    timeline = replace(timeline, notes=(*notes, *timeline.notes))
    # Text shows them on the terminal itself.
    for note in notes if args.out is not None or file_format != "text" else ():
        print(f"warning: {note}", file=sys.stderr)
    with display.phase("writing the timeline"):
        text = _written(timeline, file_format)
    if args.out is None:
        sys.stdout.write(text)
    elif write_named(args.out, text.encode()):
        print(visible(str(args.out)))
    return 0


def _format(args: argparse.Namespace) -> str:
    """Return the format that is asked for.

    Raises:
        UsageError: the name of the file ends with another one.
    """
    ending = args.out.suffix.removeprefix(".") if args.out else ""
    asked: str | None = args.format
    if asked is not None and ending in FORMATS and ending != asked:
        raise UsageError(f"--out {args.out}: the name ends with .{ending}, and --format is {asked}; choose one")
    return asked or (ending if ending in FORMATS else "text")


def _runs(reader: RunReader, sources: list[Path]) -> Iterator[Run]:
    if not sources:
        yield from reader.recorded()
    for source in sources:
        yield from reader.of(source)


def _looked_at(runs: Iterator[Run], misstated: Misstated) -> Iterator[Run]:
    for run in runs:
        misstated.look(run.results)
        yield run


def _written(timeline: Timeline, file_format: str) -> str:
    if file_format == "html":
        from bench.report.timeline.page import render

        return render(timeline)
    from bench.report.timeline.render import FORMATS as WRITERS

    return WRITERS[file_format](timeline)
