"""Train what is missing, attack, evaluate, and show the leaderboard."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import changed_since, options
from bench.display.base import Display
from bench.store.account import spending
from bench.visible import visible

if TYPE_CHECKING:
    from bench.config.sections import Request
    from bench.schedule.damage import Damage
    from bench.schedule.plan import Work
    from bench.schedule.since import Since
    from bench.schedule.tracking import Tracking
    from bench.schedule.verify import VerifyReport
    from bench.store.planned import PlannedTable
    from bench.store.working_store import Store
    from bench.types import CellResult

SUMMARY = "train what is missing, attack, evaluate, then print the leaderboard and write report/index.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)
    changed_since.argument(parser)
    parser.add_argument("--report", type=options.path, default=Path("report"), metavar="DIR", help="default: report")
    parser.add_argument(
        "--record", action="store_true", help="also keep the results in results/runs/<machine>/<commit>.json, for git"
    )
    parser.add_argument(
        "--verify",
        type=options.share,
        metavar="2%",
        help="hash images, their cache and records again; compute a random share of finished cells again; compare",
    )


def main(args: argparse.Namespace) -> int:
    from bench.process.collection import no_collection

    # Plan and results live until the end, so collecting garbage among them would free nothing.
    with no_collection():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from bench.process.collection import collection
    from bench.schedule.damage import damage
    from bench.store import planned
    from bench.types import StoreError

    display: Display = args.display
    with display.phase("planning"):
        config, work = options.work(args)
    work, since = changed_since.narrowed(args, work)
    store = options.working_store(args, trusting=args.verify is None)
    untouched = [] if since is None else _untouched(args, since, store)
    if not work.plan.cells and not untouched:
        return 0
    with display.phase("reading the results"):
        planned_tables = planned.tables_of(work.plan.name, work.requested)
        # A damaged file counts as unfinished, so the run that follows warns of it.
        with _unheard():
            finished = [store.finished(cell) for cell in work.plan.cells]
        store.warn_of_strangers()
    with display.phase("looking for damage"):
        harm = damage(work, store)
        store.remember()
    results = [result for result in finished if result is not None]
    args.control.count(len(results), len(finished))
    partly = args.only is not None or args.seed is not None
    verdict: VerifyReport | None = None
    # Where nothing is left to do, torch is not loaded.
    with options.tracking(config, work, store) as tracking:
        if len(results) < len(finished) or harm or args.verify is not None:
            keep = partial(planned.keep, store, planned_tables, partly=partly, check=args.control.check_run)
            with collection():
                results, verdict = _measured(args, config, work, since, store, tracking, keep, results, harm)
        else:
            try:
                planned.keep(store, planned_tables, partly=partly)
            except StoreError as error:
                # Every cell is done, so the table needs no write to the store.
                print(f"warning: {error}", file=sys.stderr)
        for result in results:
            tracking.cell(result)
        if config.run.log:
            with display.phase("writing the logs"):
                tracking.close()
    with spending("reporting"):
        page = _reported(args, config, [*results, *untouched], planned_tables, store)
    if verdict is not None:
        _print_verdict(verdict, quiet=args.quiet)
    options.say_time(args)
    if page is not None:
        print(visible(str(page.resolve())), flush=True)
    failed = any(result.status == "failed" for result in results)
    return 3 if failed or (verdict is not None and verdict.differing) else 0


def _measured(
    args: argparse.Namespace,
    config: Request,
    work: Work,
    since: Since | None,
    store: Store,
    tracking: Tracking,
    keep: Callable[[], None],
    known: Sequence[CellResult],
    harm: Damage,
) -> tuple[list[CellResult], VerifyReport | None]:
    """Do what is missing, and return all results and what verifying showed."""
    display: Display = args.display
    with display.phase("loading torch"), spending("starting"):
        start = options.runner(args, config, work, tracking, (result.key for result in known))

        from bench.schedule.verify import verify

    with (runner := start(display)).at_work():
        facts = f", {len(known)} of them done; {options.where(args, config, runner)}"
        with display.phase("checking weights"):
            runner.check_weights()
        store.check_writable()
        with display.run(work.plan.name, len(work.plan.cells), facts, began=args.charge.began):
            keep()
            _say_outdated(work, store, quiet=args.quiet)
            results = options.execute(args, config, runner) if work.plan.cells else []
            if args.executor == "inline":
                runner.mend(harm)
            among = work.plan.cells if since is None else since.untouched
            return results, None if args.verify is None else verify(runner, args.verify, among)


def _untouched(args: argparse.Namespace, since: Since, store: Store) -> list[CellResult]:
    """Say what has changed, and return what is known of the cells that are not run."""
    from bench.schedule.since import known_results

    changed_since.said(args, since)
    display: Display = args.display
    with display.phase("reading the results"), _unheard():
        known = known_results(since, store)
    if not args.quiet and since.untouched:
        print(visible(known.words), flush=True)
    return known.results


def _say_outdated(work: Work, store: Store, *, quiet: bool) -> None:
    from bench.store.latest import outdated

    if not quiet and (count := outdated(store, work.plan.cells)):
        print(f"{count} results of an older evaluation protocol are kept, shown as such, and not used here")


def _reported(
    args: argparse.Namespace,
    config: Request,
    results: list[CellResult],
    planned_tables: list[PlannedTable],
    store: Store,
) -> Path | None:
    """Print the table, write the page and whatever else was asked for, and return where the page is.

    A run of ``bisect`` is for its results alone.
    """
    from bench.display.console import console
    from bench.process.collection import collection
    from bench.report.leaderboard.tables import build
    from bench.report.render.html import write_report
    from bench.report.render.terminal import leaderboard
    from bench.schedule.at_commit import ONLY_RESULTS
    from bench.store.history import root_of_runs, write_run

    if ONLY_RESULTS in os.environ:
        return None
    display: Display = args.display
    with display.phase("making the table"):
        board = build(results, planned_tables)
    if not args.quiet:
        terminal = console()
        terminal.print(leaderboard(board, width=terminal.width))
    with display.phase("writing the page"):
        # The methods that these results name are those of the configuration, so they may be run.
        page = write_report(board, args.report, store=store, data_folder=args.data, trusted=True)
    written = []
    if config.paper:
        from bench.report import figures, paper_page

        with collection(), display.phase("drawing the figures of the paper"):
            source = figures.source_of(
                results, store, planned=planned_tables, data_folder=args.data, paper=True, trusted=True
            )
            written.append(str(paper_page.write(source, args.report / "paper")[0].resolve()))
    if args.record:
        with display.phase("recording"):
            written.append(f"recorded: {write_run(results, root_of_runs(Path.cwd()), planned_tables)}")
    if not args.quiet:
        print("".join(f"{visible(line)}\n" for line in written), end="")
    return page


def _print_verdict(verdict: VerifyReport, *, quiet: bool) -> None:
    for line in verdict.differing:
        print(visible(line))
    if not quiet and not verdict.checked:
        print("verified: nothing, since no cell that was there before has a result in this store")
    elif not quiet:
        print(f"verified: {verdict.checked} cells computed again, {len(verdict.differing)} differ")


@contextmanager
def _unheard() -> Iterator[None]:
    logger = logging.getLogger("crossfire")

    def is_heard(record: logging.LogRecord) -> bool:
        return record.levelno != logging.WARNING

    logger.addFilter(is_heard)
    try:
        yield
    finally:
        logger.removeFilter(is_heard)
