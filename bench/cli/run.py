"""Train what is missing, attack, evaluate, and show the leaderboard."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.visible import visible

if TYPE_CHECKING:
    from bench.schedule.plan import Work
    from bench.schedule.verify import Verdict
    from bench.store import Store

SUMMARY = "train what is missing, attack, evaluate, then print the leaderboard and write report/index.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)
    parser.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="default: report")
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
    from bench import planned
    from bench.cli.console import console
    from bench.collection import no_collection
    from bench.report.board import build, outdated
    from bench.report.html import write_report
    from bench.report.record import write_run
    from bench.report.terminal import leaderboard
    from bench.store import Store
    from bench.types import StoreError

    with no_collection():
        config, work = options.work(args)
        store, terminal = Store(options.store_root(args), trusting=args.verify is None), console()
        asked = planned.asked_for(work.plan.name, work.asked)
        # What is not whole is not finished, so the run that follows says it.
        with _unheard():
            finished = [store.finished(cell) for cell in work.plan.cells]
        store.remember()
    results = [result for result in finished if result is not None]
    args.control.count(len(results), len(finished))
    partly = args.only is not None or args.seed is not None
    verdict: Verdict | None = None
    if len(results) == len(finished):
        _tell_damaged(work, store)
    # Where nothing is left to do, nothing that computes is loaded.
    if len(results) < len(finished) or args.verify is not None:
        start = options.runner(args, config, work, (result.key for result in results))

        from bench.cli.progress import session
        from bench.schedule.verify import verify

        with session() as reporter, (runner := start(reporter)).at_work():
            runner.check_weights()
            store.check_writable()
            planned.keep(store, asked, partly=partly, check=args.control.check_run)
            if count := outdated(store, work.plan.cells):
                kept = f"{count} results of an older evaluation protocol are kept, shown as such, and not used here"
                terminal.print(kept, highlight=False, soft_wrap=True)
            results = options.execute(args, config, runner)
            if args.verify is not None:
                verdict = verify(runner, args.verify)
    else:
        try:
            planned.keep(store, asked, partly=partly)
        except StoreError as error:
            # Every cell is there, and a table of a store that others may read needs no more.
            print(f"warning: {error}", file=sys.stderr)
    with no_collection():
        board = build(results, asked)
        terminal.print(leaderboard(board, width=terminal.width))
        page = write_report(board, args.report, store=store, data_folder=args.data)
    if config.paper:
        from bench.report import figures, paper_pages

        source = figures.source_of(results, store, asked=asked, data_folder=args.data, paper=True)
        print(visible(str(paper_pages.write(source, args.report / "paper")[0].resolve())))
    if args.record:
        print(visible(f"recorded: {write_run(results, Path.cwd(), asked)}"))
    if verdict is not None:
        for line in verdict.differing:
            terminal.print(line, markup=False, highlight=False, soft_wrap=True)
        terminal.print(f"verified: {verdict.checked} cells computed again, {len(verdict.differing)} differ")
    print(visible(str(page.resolve())), flush=True)
    failed = any(result.status == "failed" for result in results)
    return 3 if failed or (verdict is not None and verdict.differing) else 0


@contextmanager
def _unheard() -> Iterator[None]:
    logger = logging.getLogger("crossfire")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tell_damaged(work: Work, store: Store) -> None:
    """Warn of the cards of trainings that are not whole, for no cell that is missing would find out."""
    from bench import cards
    from bench.keys import training_key

    cells = [each.cell for each in work.plan.cells]
    models = [cell.model for cell in cells] + [cell.attack.model for cell in cells if cell.attack is not None]
    for key in sorted({training_key(model) for model in {id(model): model for model in models}.values()}):
        cards.read(store.training(key))
