"""What ``leaderboard --submissions`` and ``verify`` of a folder do: one page from the results of many people."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from typing import TYPE_CHECKING

from bench.cli import command, options
from bench.types import UsageError
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.leaderboard.tables import Board
    from bench.report.leaderboard.view import View
    from bench.report.render.people import Contributions

#: Other things that a leaderboard may be made of, or be.
_OTHERS = ("store", "receipts", "paper", "optimality", "cover", "eps", "trust")


def show(args: argparse.Namespace, view: View, file_format: str | None) -> int:
    """Write the tables of a folder of submissions, and return 3 if some of it is left out.

    Raises:
        UsageError: the options do not go together, or the folder cannot be used as a whole.
    """
    from bench.report.leaderboard.required import Policy
    from bench.report.leaderboard.view import build, unmatched_attacks
    from bench.report.submissions import merge, read, remarks, render
    from bench.store.outputs import write_named

    if args.submissions is None:
        raise UsageError("--verified goes with --submissions")
    if asked := [each for each in _OTHERS if getattr(args, each)]:
        raise UsageError(f"--{asked[0]} does not go with --submissions, whose tables are of its results alone")
    if file_format not in (None, *render.FORMATS):
        raise UsageError(f"--submissions comes as text, {', '.join(render.FORMATS)}, not {file_format}")
    with args.display.phase("reading the submissions"):
        found = read.read(args.submissions, args.verified, command.version(), options.data_folder(args))
    with args.display.phase("making the tables"):
        merged = merge.merged(found)
        people = render.contributions(found, merged)
        board = build(merged.ranked, (), view, policy=Policy(args.require, merged.survivors))
        board = remarks.said_below(board, merged)
    for each in (*found.left_out, *merged.remarks, *found.remarks):
        print(visible(f"left out: {each.file}: {each.why}"), file=sys.stderr)
    for each in (*merged.unreplaced, *merged.like_withdrawn):
        print(visible(f"note: {each.file} {each.why}"), file=sys.stderr)
    for who, folders in merge.under_one_name(found.entries).items():
        print(visible(f"note: {', '.join(folders)} are of one name, {who}, and count as one person"), file=sys.stderr)
    for gone in (each.withdrawal.sha256 for each in merged.withdrawn if each.entry is None):
        print(f"note: withdrawn.toml: SHA-256 {gone} is that of no result that is read", file=sys.stderr)
    for line in unmatched_attacks(board, args.require):
        # Nobody may have sent such results yet.
        print(visible(f"note: {line}"), file=sys.stderr)
    unreported = sum(entry.is_unreported for entry in found.entries)
    if args.verified is not None and unreported:
        of = f"{unreported:,} of {len(found.entries):,} results: verify {args.submissions} --out {args.verified}"
        print(visible(f"note: {args.verified} has no report by this version on {of} makes them"), file=sys.stderr)
    code = 3 if found.left_out else 0
    if file_format is None:
        _print(board, people)
        return code
    with args.display.phase("writing the tables"):
        text = render.FORMATS[file_format](board, people)
    if args.out is None:
        sys.stdout.write(text)
    elif write_named(args.out, text.encode()):
        print(visible(str(args.out)))
    return code


def verify(args: argparse.Namespace) -> int:
    """Check a folder of submissions, and return 1 if some of it is refused.

    Raises:
        UsageError: the options do not go together, or the folder cannot be used as a whole.
    """
    from bench.report.receipts.weights import Hashes
    from bench.report.submissions.verify import Checker, no_longer_withdrawn, takes_back

    if args.out is None:
        raise UsageError(f"{args.receipt[0]} is a folder of submissions: give --out DIR for the reports")
    if asked := [each for each in ("weights", "sample", "trust", "json") if getattr(args, each)]:
        raise UsageError(f"--{asked[0]} is for one receipt; of submissions, submission.toml names the weights")
    checker = Checker(
        args.receipt[0],
        args.out,
        command.version(),
        options.data_folder(args),
        args.device,
        args.control.check_run,
        Hashes(),
    )
    is_refused = False
    gone = no_longer_withdrawn(args.receipt[0], args.withdrawn) if args.withdrawn else ()
    taken = takes_back(checker, args.withdrawn) if args.withdrawn else ()
    for line in chain(gone, checker.lines(args.only), taken):
        is_refused = is_refused or line.is_refused
        state = "note" if line.is_note else "holds"
        print(visible(f"{'refused' if line.is_refused else state}  {line.file}: {line.words}"), flush=True)
    return 1 if is_refused else 0


def _print(board: Board, contributions: Contributions) -> None:
    """Print the tables, below them who measured what, and what does not count."""
    from bench.display.console import console
    from bench.report.render.people import names
    from bench.report.render.terminal import leaderboard

    terminal = console()
    terminal.print(leaderboard(board, width=terminal.width))
    lines: list[str] = []
    for table in board.tables:
        lines += ["", f"who measured what: {table.title}"]
        for each in contributions.measured(board, table):
            people = names(each.people)
            lines.append(f"  {each.defense}, {each.access}, {each.attacks}: {people}, {each.dates}; {each.words}")
    for listed in contributions.lists:
        lines += ["", listed.title.lower()]
        lines += [f"  {item.what}{', ' if item.who else ''}{item.who}: {item.why}" for item in listed.items]
    print("\n".join(map(visible, lines)))
