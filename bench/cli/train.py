"""The training part of a run alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.cli import options
from bench.types import StoreError, UsageError
from bench.visible import visible

SUMMARY = "the training part of run alone"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)


def main(args: argparse.Namespace) -> int:
    config, work = options.work(args)
    if args.executor == "ray":
        raise UsageError("train works with --executor inline; run --executor ray also trains what is missing")
    start = options.runner(args, config, work)

    from bench.cli.progress import session
    from bench.keys import training_key
    from bench.types import Cell, TrainRef

    bases = {training_key(planned.cell.model): planned.cell for planned in work.plan.cells}
    failed = 0
    with session() as reporter, (runner := start(reporter)).at_work():
        runner.store.check_writable()

        def train(cell: Cell) -> Path | Exception:
            try:
                return runner.train(cell.model, cell.data)
            except StoreError:
                raise
            except Exception as error:
                return error

        wanted = [(cell, ref) for cell in bases.values() if isinstance(ref := cell.model.weights, TrainRef)]
        for cell, ref, found in runner.each(wanted, lambda each: (*each, train(each[0]))):
            what = f"{ref.recipe.name} on {cell.model.network.name}"
            if isinstance(found, Exception):
                failed += 1
                print(visible(f"failed: {what}: {found}"), file=sys.stderr)
            else:
                print(visible(f"{what}: {found}"))
    return 3 if failed else 0
