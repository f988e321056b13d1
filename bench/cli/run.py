"""Train what is missing, attack, evaluate, and show the leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "train what is missing, attack, evaluate, then print the leaderboard and write report/index.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)
    parser.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="default: report")


def main(args: argparse.Namespace) -> int:
    from rich.console import Console

    config, work = options.work(args)
    device = options.device(args, config)

    from bench.cli.progress import session
    from bench.report.html import write_report
    from bench.report.terminal import leaderboard
    from bench.schedule.run import Runner
    from bench.store import Store

    store = Store(options.store_root(args))
    batch = None if config.run.batch == "auto" else config.run.batch
    console = Console()
    with session(args.time_budget) as (reporter, check, ended):
        runner = Runner(work, store, device, batch, check, reporter)
        runner.check_weights()
        store.check_writable()
        results = runner.run()
    if ended.code is not None:
        done = sum(1 for planned in work.plan.cells if (known := store.get(planned.key)) and known.status == "done")
        console.print(
            f"{ended.why}: {done} of {len(work.plan.cells)} cells are done; the same command goes on from here."
        )
        return ended.code
    console.print(leaderboard(results, width=console.width))
    page = write_report(results, args.report)
    print(page.resolve(), flush=True)
    return 3 if any(result.status == "failed" for result in results) else 0
