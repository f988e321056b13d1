"""The training part of a run alone."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import changed_since, options
from bench.display.base import Display
from bench.store.account import spending
from bench.types import StoreError, UsageError

if TYPE_CHECKING:
    from bench.schedule.plan import Work
    from bench.schedule.run import Runner
    from bench.types import DataRef, ModelRef, TrainRef

_log = logging.getLogger("crossfire")
SUMMARY = "the training part of run alone"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.arguments(parser)
    changed_since.argument(parser)


def main(args: argparse.Namespace) -> int:
    display: Display = args.display
    with display.phase("planning"):
        config, work = options.work(args)
    work, since = changed_since.narrowed(args, work)
    if since is not None:
        changed_since.said(args, since)
        if not work.plan.cells:
            return 0
    if args.executor == "ray":
        raise UsageError("train works with --executor inline; run --executor ray also trains what is missing")
    tracking = options.tracking(config, work, options.working_store(args))
    with display.phase("loading torch"), spending("starting"):
        start = options.runner(args, config, work, tracking)
    with tracking, (runner := start(display)).at_work():
        wanted = _trainings(work)
        facts = f"; {options.where(args, config, runner)}"
        runner.store.check_writable()
        runner.store.warn_of_strangers()
        with display.run(work.plan.name, len(wanted), facts, "trainings", began=args.charge.began):
            failed = _train(wanted, runner, display)
    options.say_time(args)
    return 3 if failed else 0


def _trainings(work: Work) -> list[tuple[ModelRef, TrainRef, DataRef]]:
    """Return each network that is trained here, base classifiers and scores, its recipe, and the images to watch."""
    from bench.keys import training_key
    from bench.types import TrainRef

    wanted: dict[str, tuple[ModelRef, TrainRef, DataRef]] = {}
    for planned in work.plan.cells:
        step = planned.cell.step
        for model in filter(None, (planned.cell.model, None if step is None else step.score)):
            if isinstance(ref := model.weights, TrainRef):
                wanted[training_key(model)] = model, ref, planned.cell.data
    return list(wanted.values())


def _train(wanted: list[tuple[ModelRef, TrainRef, DataRef]], runner: Runner, display: Display) -> int:
    """Train what is missing, print where the weights are, and return how many trainings failed."""

    def train(model: ModelRef, watched: DataRef) -> Path | Exception:
        try:
            return runner.train(model, watched)
        except StoreError:
            raise
        except Exception as error:
            return error

    failed = 0
    display.cells(0, len(wanted))
    done = runner.each(wanted, lambda each: (each[0], each[1], train(each[0], each[2])))
    for count, (model, ref, outcome) in enumerate(done, start=1):
        runner.tracking.training(model)
        label = f"{ref.recipe.name} on {model.network.name}"
        if isinstance(outcome, Exception):
            failed += 1
            _log.error("failed: %s: %s", label, outcome)
        else:
            print(f"{label}: {outcome}")
        display.cells(count, len(wanted), failed)
    return failed
