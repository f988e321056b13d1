"""Work grows in proportion to the number of cells; the tests count calls, because clocks vary."""

import sys

import pytest
import torch

from bench.config import sections
from bench.schedule.estimate import predicting
from bench.schedule.plan import make
from bench.schedule.units import Units
from bench.store.working_store import Store
from tests.perf.shapes import SHAPES


def calls(function, *args):
    """Return the value of a call, and the number of Python and C calls inside it."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        value = function(*args)
    finally:
        sys.setprofile(None)
    return value, count


def growth(counts):
    """Return the increase of the second doubling over that of the first: 2 if growth is linear, 4 if quadratic."""
    first, doubled, quadrupled = counts
    return (quadrupled - doubled) / (doubled - first)


@pytest.mark.parametrize("shape", SHAPES)
def test_planning_takes_calls_in_proportion_to_the_cells(shape, tmp_path):
    plans = []
    for cells in (220, 440, 880):
        path = tmp_path / f"{cells}.toml"
        path.write_text(SHAPES[shape](cells, tmp_path))
        configuration = sections.load(str(path))
        # A first call reads what is cached afterwards, such as sources of methods.
        make(configuration)
        plans.append(calls(make, configuration))
    cells, counts = [len(work.plan.cells) for work, _ in plans], [count for _, count in plans]
    assert 1.7 < growth(cells) < 2.3
    assert growth(counts) < 2.5, counts
    assert counts[-1] < 400 * cells[-1]


def test_estimating_takes_few_calls_a_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(Units, "_attempt", lambda self, do, *blamed, **certain: None)
    path = tmp_path / "budgets.toml"
    counts, cells = [], []
    for number in (220, 440, 880):
        path.write_text(SHAPES["budgets"](number, tmp_path))
        work = make(sections.load(str(path)))
        units = Units(torch.device("cpu"), None)
        # A first call formats what is cached afterwards.
        for _ in range(2):
            steps = predicting(work, Store(tmp_path / "store"), units)
            _, count = calls(lambda steps=steps: sum(1 for _ in steps))
        counts.append(count)
        cells.append(len(work.plan.cells))
    assert growth(counts) < 2.5, counts
    assert counts[-1] < 120 * cells[-1]
