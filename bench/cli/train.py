"""The training part of a run alone."""

from __future__ import annotations

import argparse
import sys

from bench.cli import options

SUMMARY = "the training part of run alone"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)


def main(args: argparse.Namespace) -> int:
    config, work = options.work(args)
    device = options.device(args, config)

    from bench.cli.progress import session
    from bench.schedule.plan import training_key
    from bench.schedule.run import Runner
    from bench.store import Store
    from bench.types import TrainRef

    store = Store(options.store_root(args))
    store.check_writable()
    bases = {training_key(planned.cell.model): planned.cell for planned in work.plan.cells}
    failed = 0
    with session(args.time_budget) as (reporter, check, ended):
        runner = Runner(work, store, device, None, check, reporter)
        for cell in bases.values():
            if not isinstance(cell.model.weights, TrainRef):
                continue
            what = f"{cell.model.weights.recipe.name} on {cell.model.network.name}"
            try:
                print(f"{what}: {runner.train(cell.model, cell.data)}")
            except Exception as error:
                failed += 1
                print(f"failed: {what}: {error}", file=sys.stderr)
    if ended.code is not None:
        print(f"{ended.why}; the same command goes on from here.")
        return ended.code
    return 3 if failed else 0
