"""The tables, in a terminal or as a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options, submissions
from bench.display.base import Display
from bench.types import MAX_EPS, UsageError, exact, shown
from bench.visible import visible

if TYPE_CHECKING:
    from bench.report.leaderboard.tables import Board
    from bench.report.leaderboard.view import View
    from bench.report.submissions.plain import Counted
    from bench.store.history import Recorded
    from bench.store.working_store import Store

SUMMARY = "the tables: in the terminal, or as Markdown, CSV, LaTeX, HTML, JSON or model cards of RobustBench"
FORMATS = ("md", "csv", "tex", "html", "json")
CARDS = "robustbench"
#: Columns of --eps in each norm.
_MOST_BUDGETS = 20
#: Options of what tables show.
_VIEW = ("columns", "rows", "rename", "sort", "caption", "short")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.store(parser)
    parser.add_argument(
        "--format",
        choices=(*FORMATS, CARDS),
        help="default: what --out ends with, else a table for the terminal; robustbench: their model cards, as JSON",
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    options.trust(parser)
    parser.add_argument(
        "--receipts",
        nargs="+",
        type=options.path,
        default=[],
        metavar="FILE|DIR",
        help="instead of a store, receipts (export receipt), also those in folders; below a table is who measured what",
    )
    parser.add_argument(
        "--submissions",
        type=options.path,
        metavar="DIR",
        help="instead of a store, receipts and run files by other people, a folder for each submission "
        "(docs/public-leaderboard.md); as text, md, csv, html or json",
    )
    parser.add_argument(
        "--verified",
        type=options.path,
        metavar="DIR",
        help="with --submissions: the reports that verify wrote; never a folder that submitters may write to",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="published numbers beside the measured ones; with --out FOLDER, all tables and figures of the paper",
    )
    _measure_arguments(parser)
    _view_arguments(parser.add_argument_group("what the tables show; not for JSON and --paper"))
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="FILE",
        help="write to a file, model cards to a folder, instead of the terminal",
    )


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what rows are measured by, or what is shown in place of them."""
    parser.add_argument(
        "--eps",
        type=_budgets,
        default=(),
        metavar="E,E,...",
        help="also the robust accuracy within these budgets, such as 1/255,2/255,4/255, from attacks without a budget",
    )
    parser.add_argument(
        "--require",
        nargs="+",
        type=_pattern,
        default=[],
        metavar="PATTERN",
        help="attacks without which a row is not ranked, one for each pattern: a name, best with its threat "
        "('pgd Linf eps=8/255'), is the attack with its usual parameters; others are named ('pgd*steps=50*'), and one "
        "set of images ('cifar10: pgd'). What other attacks break counts where they were run. Default: all attacks of "
        "the table",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--optimality",
        action="store_true",
        help="instead, a ranking of the attacks without a budget by how near they come to the best (AttackBench)",
    )
    instead.add_argument(
        "--cover",
        action="store_true",
        help="instead, the attacks that the worst case needs: those that break the most images for their passes first",
    )


def _pattern(text: str) -> str:
    if not (stripped := text.strip()):
        raise UsageError("--require: a pattern is empty; name an attack")
    return stripped


def _budgets(text: str) -> tuple[Fraction, ...]:
    """Return budgets that are written with commas between them."""
    budgets: dict[Fraction, None] = {}
    for each in text.split(","):
        try:
            eps = exact(each)
        except ValueError as error:
            raise UsageError(f"--eps: {error}") from None
        if not 0 <= eps <= MAX_EPS:
            raise UsageError(f"--eps {shown(each)}: a budget is from 0 to {MAX_EPS:,}")
        budgets[eps] = None
    if len(budgets) > _MOST_BUDGETS:
        raise UsageError(f"--eps: {len(budgets)} budgets, and a table shows {_MOST_BUDGETS}; figures eps-curve has all")
    return tuple(budgets)


def _view_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="columns, in this order: patterns of labels ('pgd*'), of threats ('L2*', 'Linf*') or of both ('pgd L2*'); "
        "clean, attack, worst, gap, verdict, budget and cost count as labels; small and capital letters are the same",
    )
    group.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="rows, in this order: patterns of DEFENSE or DEFENSE/ACCESS",
    )
    group.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="OLD=NEW",
        help="new names for defenses, attacks, data sets and networks; the other options go by these",
    )
    group.add_argument(
        "--sort",
        metavar="COLUMN",
        help="the best defense first, or by name with defense; --sort=-COLUMN is the other way round",
    )
    group.add_argument("--caption", metavar="TEXT", help="the title; in LaTeX the caption, and what the label is of")
    group.add_argument(
        "--short", action="store_true", help="a row for each defense: clean, worst static and adaptive, gap, verdict"
    )


def _view(args: argparse.Namespace, file_format: str | None) -> View:
    """Return what the tables are to show.

    Raises:
        UsageError: it cannot be said of a format that holds everything, or is empty.
    """
    from bench.report.leaderboard.view import View

    for option, wanted in (("sort", "name a column, or defense"), ("caption", "leave it out for the usual title")):
        given = getattr(args, option)
        if given is not None and not given.strip():
            raise UsageError(f"--{option}: it is empty; {wanted}")
    asked = [option for option in _VIEW if getattr(args, option)]
    if asked and (args.paper or file_format in ("json", CARDS)):
        what = "--paper" if args.paper else f"--format {file_format}"
        raise UsageError(
            f"--{asked[0]} is for tables in a terminal, md, csv, tex or html; {what} has everything in forms of its own"
        )
    others = [name for name in ("paper", "eps") if getattr(args, name)]
    others += [f"format {CARDS}"] if file_format == CARDS else []
    if args.require and others:
        raise UsageError(f"--require is for tables that rank rows under one threat; leave out --{others[0]}")
    if args.eps and (args.paper or file_format == CARDS):
        what = "--paper" if args.paper else f"--format {CARDS}"
        raise UsageError(f"--eps is for tables; {what} has budgets of its own")
    lists = {option: tuple(getattr(args, option)) for option in ("columns", "rows", "rename")}
    return View(**lists, sort=args.sort or "", caption=args.caption or "", short=args.short, eps=args.eps)


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection

    options.require_apart(args.out, [*(args.receipts or ()), args.submissions, args.verified, args.store])
    with no_collection():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    from bench.report.leaderboard.required import Policy
    from bench.report.leaderboard.view import build
    from bench.store.history import Recorded, read
    from bench.store.records import with_distances
    from bench.store.working_store import Store

    display: Display = args.display
    file_format = args.format or (args.out.suffix.removeprefix(".") if args.out else None)
    is_folder = args.paper and args.out is not None and not file_format
    view = _view(args, file_format)
    if args.submissions or args.verified:
        return submissions.show(args, view, file_format)
    _require_tables_of_receipts(args)
    if args.optimality or args.cover:
        return _rank_attacks(args, file_format)
    if args.format == CARDS:
        return _write_cards(args)
    if args.out and file_format not in FORMATS and not is_folder:
        raise UsageError(f"--out {args.out}: say --format {'|'.join(FORMATS)}, or let the name end with one of them")
    ending = args.out.suffix.removeprefix(".") if args.out else ""
    if ending in FORMATS and ending != file_format:
        raise UsageError(f"--out {args.out}: the name ends with .{ending}, and --format is {file_format}; choose one")
    root = options.store_root(args)
    with display.phase("reading the results"):
        counted = _receipts(args)
        recorded = read(root) if counted is None else Recorded("receipts", counted.results)
    for note in recorded.notes:
        print(f"warning: {note}", file=sys.stderr)
    if args.paper and file_format in ("csv", "tex", "html"):
        raise UsageError(f"--paper comes as text, md or json, or with --out FOLDER as a folder, not {file_format}")
    if is_folder:
        _write_paper(args, recorded, root)
        return 0
    with display.phase("making the tables"):
        results = map(partial(with_distances, store=Store(root)), recorded.results) if view.eps else recorded.results
        policy = Policy(args.require, {} if counted is None else counted.merged.survivors)
        board = build(results, recorded.planned_tables, view, recorded.begun, policy)
        _require_attacks(board, args.require)
        if counted is not None:
            from bench.report.receipts.table import with_sources

            board = counted.said_below(with_sources(board, counted.receipts))
    if file_format is None and not args.paper:
        _print_board(board)
    else:
        _write_board(args, board, file_format, root)
    return 0


def _require_tables_of_receipts(args: argparse.Namespace) -> None:
    """Raises UsageError: receipts are asked for what needs a store, or together with one."""
    others = [name for name in ("store", "optimality", "cover", "paper") if getattr(args, name)]
    others += ["format robustbench"] if args.format == CARDS else []
    if args.receipts and others:
        raise UsageError(f"--receipts is for tables of receipts alone; leave out --{others[0]}")


def _require_attacks(board: Board, patterns: Sequence[str]) -> None:
    """Raises UsageError: nothing is called what a row is to be attacked with."""
    from bench.report.leaderboard.view import unmatched_attacks

    if board.results and (lacking := unmatched_attacks(board, patterns)):
        raise UsageError(lacking[0])


def _receipts(args: argparse.Namespace) -> Counted | None:
    """Return what counts of the receipts asked for, with a warning for each file that does not."""
    if not args.receipts:
        return None
    from bench.report.receipts.table import found
    from bench.report.submissions.plain import counted

    receipts, notes = found(args.receipts)
    known = counted(receipts)
    for note in (*notes, *known.left_out):
        print(visible(f"warning: {note}"), file=sys.stderr)
    return known


def _rank_attacks(args: argparse.Namespace, file_format: str | None) -> int:
    """Write what ranks attacks to ``--out``, by default to standard output."""
    from bench.report.render import cover, optimality
    from bench.store.history import read
    from bench.store.outputs import write_named
    from bench.store.working_store import Store

    option = "cover" if args.cover else "optimality"
    formats = cover.FORMATS if args.cover else optimality.FORMATS
    render = _cover if args.cover else _optimality
    if file_format not in (None, *formats):
        raise UsageError(f"--{option} comes as text, {', '.join(formats)}, not {file_format}")
    if asked := [each for each in (*_VIEW, "paper", "eps", "require") if getattr(args, each)]:
        raise UsageError(f"--{asked[0]} is for the tables of defenses; --{option} ranks all attacks")
    root = options.store_root(args)
    with args.display.phase("reading the results"):
        recorded = read(root)
    for note in recorded.notes:
        print(f"warning: {note}", file=sys.stderr)
    with args.display.phase("ranking the attacks"):
        written = render(recorded, Store(root), file_format)
    if args.out is None:
        sys.stdout.write(written)
    elif write_named(args.out, written.encode()):
        print(visible(str(args.out)))
    return 0


def _optimality(recorded: Recorded, store: Store, file_format: str | None) -> str:
    """Return the ranking of the attacks without a budget; of formats, ``None`` is text."""
    from bench.report.leaderboard.optimality import ranking
    from bench.report.leaderboard.tables import build
    from bench.report.render import optimality
    from bench.store.records import with_distances

    results = map(partial(with_distances, store=store), recorded.results)
    ranked = ranking(build(results, recorded.planned_tables))
    return (optimality.FORMATS[file_format] if file_format else optimality.as_text)(ranked)


def _cover(recorded: Recorded, store: Store, file_format: str | None) -> str:
    """Return the attacks that worst cases need; of formats, ``None`` is text."""
    from bench.report.leaderboard.cover import covers
    from bench.report.leaderboard.tables import build
    from bench.report.render import cover
    from bench.store.records import passes_by_image

    found = covers(build(recorded.results, recorded.planned_tables), partial(passes_by_image, store=store))
    return (cover.FORMATS[file_format] if file_format else cover.as_text)(found)


def _write_cards(args: argparse.Namespace) -> int:
    """Write RobustBench's model cards into the folder of ``--out`` and print their paths, or all on standard output."""
    from bench.report.leaderboard.tables import build
    from bench.report.render import robustbench
    from bench.store.history import read

    out: Path | None = args.out
    if args.paper:
        raise UsageError("--paper has no model cards of RobustBench; leave it out, or choose another --format")
    if out is not None and out.suffix.removeprefix(".") in FORMATS and not out.is_dir():
        raise UsageError(f"--out {out}: --format {CARDS} writes a folder of model cards; name a folder")
    with args.display.phase("reading the results"):
        recorded = read(options.store_root(args))
    with args.display.phase("making the cards"):
        cards = robustbench.model_cards(build(recorded.results, recorded.planned_tables))
    if out is None:
        sys.stdout.write(robustbench.as_json(cards))
    else:
        print("\n".join(visible(str(path)) for path in robustbench.write(cards, out)))
    for note in (*recorded.notes, *robustbench.remarks(cards)):
        print(f"warning: {note}", file=sys.stderr)
    return 0


def _write_paper(args: argparse.Namespace, recorded: Recorded, root: Path) -> None:
    """Write all tables and figures of the paper into the folder of ``--out``, and print their paths."""
    from bench.report import figures, paper_page
    from bench.store.working_store import Store

    with args.display.phase("drawing the tables and figures of the paper"):
        source = figures.source_of(
            recorded.results,
            Store(root),
            planned=recorded.planned_tables,
            data_folder=options.data_folder(args),
            paper=True,
            trusted=args.trust,
        )
        paths = paper_page.write(source, args.out)
    print("\n".join(visible(str(path)) for path in paths))


def _print_board(board: Board) -> None:
    from bench.display.console import console
    from bench.report.render.terminal import leaderboard

    terminal = console()
    terminal.print(leaderboard(board, width=terminal.width))


def _write_board(args: argparse.Namespace, board: Board, file_format: str | None, root: Path) -> None:
    """Write the tables to ``--out``, by default to standard output."""
    from bench.store.outputs import write_named
    from bench.store.working_store import Store

    with args.display.phase("writing the tables"):
        text = _written(board, file_format, args, Store(root) if root.is_dir() else None)
    if args.out is None:
        sys.stdout.write(text)
    # A pipe carries the text and nothing else.
    elif write_named(args.out, text.encode()):
        print(visible(str(args.out)))


def _written(board: Board, file_format: str | None, args: argparse.Namespace, store: Store | None) -> str:
    """Return the tables in a format; of the paper's, ``None`` is text."""
    if args.paper:
        from bench.report.leaderboard.published import beside
        from bench.report.render import published

        rows = beside(board)
        return {"md": published.as_markdown, "json": published.as_json}.get(file_format or "", published.as_text)(rows)
    if file_format == "html":
        from bench.report.render.html import render

        return render(board, store, options.data_folder(args), trusted=args.trust)
    from bench.report.render.export import FORMATS as WRITERS

    return WRITERS[str(file_format)](board)
