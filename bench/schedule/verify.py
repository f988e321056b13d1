"""Do finished cells still come out the same? A random sample of them is computed again, beside the store."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.keys import cell_key, models_of
from bench.schedule.run import Runner
from bench.store.working_store import Store
from bench.types import CellResult, PlannedCell, RunPlan, jsonable


class VerifyReport(NamedTuple):
    """What a sample showed: how many cells were computed again, and one line for each that differs."""

    checked: int
    differing: list[str]


def verify(runner: Runner, share: float, cells: Sequence[PlannedCell]) -> VerifyReport:
    """Compute a random ``share`` of those ``cells`` again that are finished, at least one, and compare.

    Weights are those of the store; adversarial sets are made again. Times are not compared, and nothing is written to
    the store except what :meth:`Runner.train` finds missing.
    """
    known = ((planned, runner.store.get(planned.key)) for planned in cells)
    done = [(planned, result) for planned, result in known if result is not None and result.status == "done"]
    chosen = random.SystemRandom().sample(done, min(len(done), max(1, round(share * len(done)))))
    # In the order of the plan, which groups cells by classifier.
    chosen.sort(key=done.index)
    for planned, _ in chosen:
        for model in {id(m): m for m in models_of(planned.cell)}.values():
            list(runner.each([model], lambda each, data=planned.cell.data: runner.train(each, data)))  # type: ignore[misc]
    lines = []
    with tempfile.TemporaryDirectory(prefix="crossfire-verify-") as folder:
        scratch = Store(Path(folder))
        (scratch.root / "train").symlink_to((runner.store.root / "train").resolve())
        cells = tuple(_led_as_before(planned, result) for planned, result in chosen)
        plan = RunPlan(name=runner.work.plan.name, cells=cells)
        again = replace(runner, work=replace(runner.work, plan=plan), store=scratch, known_failures=None, done=None)
        for (_, before), after in zip(chosen, again.run(), strict=True):
            lines += _differences(before, after)
    return VerifyReport(len(chosen), lines)


def _led_as_before(planned: PlannedCell, result: CellResult) -> PlannedCell:
    """Return a cell whose attack is led in the precision of its result, where that was left to the device."""
    attack, precision = planned.cell.attack, result.craft_precision
    if attack is None or attack.craft_precision != "auto":
        return planned
    earlier = [each.model_copy(update={"craft_precision": precision}) for each in attack.after]
    led = attack.model_copy(update={"craft_precision": precision, "after": tuple(earlier)})
    cell = planned.cell.model_copy(update={"attack": led})
    return PlannedCell(key=cell_key(cell), names=planned.names, cell=cell)


def _differences(before: CellResult, after: CellResult) -> list[str]:
    one, two = _outcome(before), _outcome(after)
    differences = [f"{name} was {_short(one[name])}, is {_short(two[name])}" for name in one if one[name] != two[name]]
    if not differences:
        return []
    then, now = before.provenance, after.provenance
    elsewhere = (then.machine, then.device, then.threads) != (now.machine, now.device, now.threads)
    where = f" (measured on {then.machine}, {then.device}, {then.threads} threads)" if elsewhere else ""
    return [f"{before.names} differs{where}: {'; '.join(differences)}"]


def _outcome(result: CellResult) -> dict[str, Any]:
    """Return what must be the same whenever and however often a cell is computed on one machine."""
    if result.error is not None:
        return {"status": f"failed ({result.error.message})"}
    assert result.metrics is not None and result.cost is not None
    return {
        "status": result.status,
        **jsonable(result.metrics),
        "forwards_per_example": result.cost.forwards_per_example,
        "backwards_per_example": result.cost.backwards_per_example,
        "flags": list(result.flags),
        "clean outcomes": result.clean_bits,
        "adversarial outcomes": result.adversarial_bits,
    }


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
