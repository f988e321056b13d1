"""Reports on many results: work in proportion to their number, figures that stay legible. Calls are counted."""

import re
from itertools import product

import pytest
from matplotlib import pyplot

from bench import keys
from bench.keys import canonical_json
from bench.report import figures
from bench.report.comparison.compare import compare
from bench.report.leaderboard.tables import build
from bench.report.render.export import payload
from bench.store import history
from bench.store.history import serialise
from bench.store.working_store import Store
from tests.perf.report import SHAPES
from tests.report.fabricate import outcomes, result
from tests.schedule.test_scale import calls, growth


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_take_calls_in_proportion_to_the_results(shape):
    counts, written = [], []
    for cells in (120, 240, 480):
        results = list(SHAPES[shape](cells, 40, "2026-11-22T00:00:00+00:00"))
        assert 0.8 * cells <= len(results) <= cells
        board = build(results)
        counts.append(calls(build, results)[1])
        written.append(calls(payload, board)[1])
    assert growth(counts) < 2.5, counts
    assert growth(written) < 2.5, written


@pytest.mark.parametrize("shape", SHAPES)
def test_comparing_writes_out_each_part_of_the_cells_once(shape, monkeypatch):
    base, head = (
        history.Recorded(day, history.parse(serialise(SHAPES[shape](120, 8, f"{day}T00:00:00+00:00")).encode(), day)[0])
        for day in ("2026-11-22", "2026-11-23")
    )
    parts = _parts(base) + _parts(head)
    written = []
    monkeypatch.setattr(keys, "canonical_json", lambda value: written.append(0) or canonical_json(value))
    compare(base, head)
    # For the question that a cell asks, and for its key. Parts that are the same in both runs are two objects.
    assert 1 <= len(written) / parts <= 2
    assert parts < 120


def _parts(run):
    """Return how many parts the cells of a run are made of, equal ones counted once."""
    cells = [r.cell for r in run.results]
    attacks = [cell.attack for cell in cells]
    parts = [getattr(of, name) for of, name in product((*cells, *attacks), ("data", "model", "step"))]
    parts += [getattr(attack, name) for attack, name in product(attacks, ("attack", "threat"))]
    return len({repr(part) for part in parts if part is not None})


def test_figures_of_many_defenses_and_budgets_show_the_first_and_say_so(tmp_path):
    clean = [True] * 8
    many = [
        result(f"defense-{i:02}", clean=clean, adversarial=outcomes(0.5, 8), recipe=f"r{i}", eps=f"{eps}/255")
        for i in range(61)
        for eps in range(1, 33 if i < 2 else 2)
    ]
    source = figures.source_of(many, Store(tmp_path))
    drawings = {}
    for name in ("cost", "accuracy_vs_cost", "accuracy_heatmap"):
        drawings[name] = figures.importlib.import_module(f"bench.report.figures.{name}").draw(source)
        pyplot.close(drawings[name].figure)
        assert max(drawings[name].figure.get_size_inches()) < 9.3, name
        assert str(drawings[name].numbers).count("'defense'") <= 60, name
    # A line for each defense would be longer than a page, and more attacks than these are not legible.
    title = drawings["accuracy_heatmap"].figure.texts[0].get_text().replace("\n", " ")
    assert re.search(r"30 of 32 attacks; \d\d? of 61 defenses, baselines", title)
    assert figures.draw("eps-sweep", source, tmp_path)[2].read_text().count('"defense"') == 2
