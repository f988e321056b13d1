"""The order of work under a time budget: all cells grow chunk by chunk, and those first that decide ranks and verdicts.

A cell that is whole is measured as by any run, so the order of chunks changes no number. What is known of the others
is kept beside the results (:mod:`bench.store.partial`), and the same command continues with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.process.ending import Overtime
from bench.schedule.priority import Priority
from bench.store import partial
from bench.store.lease import Busy
from bench.types import CellResult, Measured, PlannedCell, StoreError

if TYPE_CHECKING:
    from bench.schedule.run import Runner

#: Seconds between two checks of the work that other processes hold.
_PATIENCE = 0.5


def results(runner: Runner, cells: Sequence[PlannedCell]) -> Iterator[CellResult]:
    """Yield the result of every cell once it is whole.

    Clean cells come first, with the trainings that they need, in the order of the plan; then the chunk that
    :class:`~bench.schedule.priority.Priority` names, again and again.
    """
    yield from runner.each([planned for planned in cells if planned.cell.attack is None], runner.cell)
    priority = Priority(cells)
    growing: dict[str, PlannedCell] = {}
    for planned in cells:
        if planned.cell.attack is not None:
            growing[planned.key] = planned
            known = runner.known(planned) or partial.get(runner.store, planned.key)
            if known is not None:
                priority.note(known)
    while growing:
        result = _grown(runner, priority.order(growing.values()))
        if result is None:
            runner.reporter.work("waiting for work that other processes hold", 0, None)
            time.sleep(_PATIENCE)
            continue
        priority.note(result)
        if isinstance(result, CellResult):
            del growing[result.key]
            yield result


def _grown(runner: Runner, cells: Sequence[PlannedCell]) -> Measured | None:
    """Return the first of some cells with one more chunk; ``None`` where other processes hold all of them."""
    for planned in cells:
        runner.check()
        try:
            return _next(runner, planned)
        except Busy:
            continue
    return None


def _next(runner: Runner, planned: PlannedCell) -> Measured:
    """Return a cell with one more chunk: whole, if that was the last, or if it fails."""
    known = partial.get(runner.store, planned.key)
    first = 0 if known is None else known.n
    try:
        if runner.known(planned) is None:
            groups = runner.cache.test(planned.cell.data).groups()
            group = next((group for group in groups if group.stop > first), None)
            if group is not None and group.stop < planned.cell.data.n:
                return runner.part(planned, group)
    except (Busy, StoreError):
        raise
    except (Exception, Overtime) as error:
        # The whole cell meets the same, and stores what it is.
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        runner.log.write("not grown", cell=str(planned.names), key=planned.key, error=why)
    return runner.cell(planned)
