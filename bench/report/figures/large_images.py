"""Accuracy on data sets whose images are at least 96 pixels high and wide."""

from __future__ import annotations

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import attacked, suitable_tables
from bench.report.figures.accuracy_heatmap import draw_tables

#: Pixels of the shorter side.
_LARGE = 96


def draw(source: Source) -> Drawing:
    large = {
        (r.names.dataset, r.names.model, r.cell.data.n)
        for r in source.results
        if min(r.cell.data.image_shape[1:]) >= _LARGE
    }
    suitable = suitable_tables(
        source,
        lambda table: (table.dataset, table.model, table.n) in large and bool(attacked(table)),
        f"no attacked cell has images of {_LARGE} pixels or more: run a preset on caltech101, for instance",
    )
    return draw_tables(source, suitable)
