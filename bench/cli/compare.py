"""Two runs, paired example by example."""

from __future__ import annotations

import argparse
import sys

from bench.cli import options
from bench.display.base import Display

SUMMARY = "two runs (commit, file or store) paired example by example; exit code 1 on a regression or lost coverage"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base",
        type=options.named,
        metavar="BASE",
        help="a commit with recorded results (HEAD~1), a run file, or a store",
    )
    parser.add_argument("head", type=options.named, metavar="HEAD", help="the same, for what is compared with it")
    parser.add_argument("--format", choices=("text", "md", "json"), default="text", help="default: text")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    options.min_effect(parser)
    parser.add_argument(
        "--same-within",
        type=options.points,
        default=0.5,
        metavar="POINTS",
        help="differences within so many points count as the same; default: 0.5 points",
    )
    parser.add_argument(
        "--allow-lost",
        action="store_true",
        help="accept that cells of the base are not tested by the head",
    )
    parser.add_argument("--out", type=options.path, metavar="FILE", help="write to a file instead of the terminal")


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection

    with no_collection():
        return _compared(args)


def _compared(args: argparse.Namespace) -> int:
    from bench.report.comparison.compare import compare
    from bench.report.comparison.render import FORMATS
    from bench.report.misstated import Misstated
    from bench.store.history import read_both
    from bench.store.outputs import write_named
    from bench.types import UsageError

    display: Display = args.display
    options.require_apart(args.out, [args.base, args.head])
    with display.phase("reading the results"):
        base, head = (
            each._replace(notes=(*each.notes, *(f"{each.name}: {note}" for note in Misstated(each.results).notes())))
            for each in read_both(args.base, args.head)
        )
    with display.phase("comparing"):
        comparison = compare(base, head, args.min_effect, same_within=args.same_within, allow_lost=args.allow_lost)
    if not comparison.changes and not comparison.identical and not any(each.why for each in comparison.lost):
        raise UsageError(f"{comparison.base} and {comparison.head} have no cell in common: nothing to compare")
    with display.phase("writing the comparison"):
        text = FORMATS[args.format](comparison)
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_named(args.out, text.encode())
    if not comparison.compared:
        raise UsageError(f"no cell of {comparison.base} and {comparison.head} could be compared; the report says why")
    return 0 if comparison.passed else 1
