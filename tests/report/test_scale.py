"""Reports on many results: work in proportion to their number, figures that stay legible. Calls are counted."""

import pytest
from PIL import Image

from bench.report import figures
from bench.report.board import build
from bench.store import Store
from tests.perf.report import SHAPES
from tests.report.fabricate import outcomes, result
from tests.schedule.test_scale import calls, growth


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_take_calls_in_proportion_to_the_results(shape):
    found = []
    for cells in (120, 240, 480):
        results = list(SHAPES[shape](cells, 40, "2026-11-22T00:00:00+00:00"))
        assert 0.8 * cells <= len(results) <= cells
        build(results)
        found.append(calls(build, results)[1])
    assert growth(found) < 2.5, found


def test_figures_of_many_defenses_and_budgets_show_the_first_and_say_so(tmp_path):
    clean = [True] * 8
    many = [
        result(f"defense-{i:02}", clean=clean, adversarial=outcomes(0.5, 8), recipe=f"r{i}", eps=f"{eps}/255")
        for i in range(45)
        for eps in range(1, 33 if i < 2 else 2)
    ]
    source = figures.source_of(many, Store(tmp_path))
    for name in ("accuracy-heatmap", "cost", "accuracy-vs-cost"):
        picture, _, numbers = figures.draw(name, source, tmp_path)
        assert max(Image.open(picture).size) < 4_500, name
        assert numbers.read_text().count('"defense"') <= 40, name
    table = figures.importlib.import_module("bench.report.figures._plot").tables(source)[0]
    assert table.part == "the first 40 of 45 defenses and the first 37 of 39 columns"
    assert table.title == f"digits · small-cnn · 8 images ({table.part})"
    assert figures.draw("eps-sweep", source, tmp_path)[2].read_text().count('"defense"') == 2
