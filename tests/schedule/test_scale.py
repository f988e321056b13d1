"""Work on many cells grows as their number does: calls are counted, so that no clock decides."""

import sys

import pytest
import torch

from bench.config import sections
from bench.schedule.estimate import predicting
from bench.schedule.plan import make
from bench.schedule.units import Units
from bench.store.working_store import Store
from tests.perf.shapes import SHAPES


def calls(do, *args):
    """Return what a function returns, and how many were called meanwhile, those of Python and those of C."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        value = do(*args)
    finally:
        sys.setprofile(None)
    return value, count


def growth(counts):
    """Return what the second doubling added over what the first did: 2 for what grows in proportion, 4 for squares."""
    one, two, four = counts
    return (four - two) / (two - one)


@pytest.mark.parametrize("shape", SHAPES)
def test_planning_takes_calls_in_proportion_to_the_cells(shape, tmp_path):
    plans = []
    for cells in (220, 440, 880):
        path = tmp_path / f"{cells}.toml"
        path.write_text(SHAPES[shape](cells, tmp_path))
        configuration = sections.load(str(path))
        # What is read once, such as sources of methods, is no part of the growth.
        make(configuration)
        plans.append(calls(make, configuration))
    cells, counts = [len(work.plan.cells) for work, _ in plans], [count for _, count in plans]
    assert 1.7 < growth(cells) < 2.3
    assert growth(counts) < 2.5, counts
    assert counts[-1] < 400 * cells[-1]


def test_estimating_takes_few_calls_a_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(Units, "_attempt", lambda self, do, *blamed, **certain: None)
    path, counts, cells = tmp_path / "budgets.toml", [], []
    for number in (220, 440, 880):
        path.write_text(SHAPES["budgets"](number, tmp_path))
        work = make(sections.load(str(path)))
        units = Units(torch.device("cpu"), None)
        # What is formatted once is no part of the growth.
        for _ in range(2):
            steps = predicting(work, Store(tmp_path / "store"), units)
            _, count = calls(lambda steps=steps: sum(1 for _ in steps))
        counts.append(count)
        cells.append(len(work.plan.cells))
    assert growth(counts) < 2.5, counts
    assert counts[-1] < 120 * cells[-1]
