"""Accuracy of every defense under every attack, one panel for each data set and network."""

from __future__ import annotations

from matplotlib import pyplot as plt

from bench.report.board import Table
from bench.report.figures import Drawing, Source
from bench.report.figures._plot import WIDTH, attacked, heatmap, measured, need, tables
from bench.report.paper import published


def draw(source: Source) -> Drawing:
    found = tables(source, lambda table: bool(attacked(table)))
    need(found, "no attacked cell is in the store")
    return panels(source, found)


def panels(source: Source, found: list[Table]) -> Drawing:
    """Draw one heat map for each table, clean accuracy first, published numbers below the measured ones."""
    heights = [0.9 + (0.34 if _known(source, table) else 0.24) * len(table.lines) for table in found]
    figure, axes = plt.subplots(len(found), 1, figsize=(WIDTH, sum(heights)), squeeze=False, height_ratios=heights)
    numbers = []
    for axis, table in zip(axes[:, 0], found, strict=True):
        columns = [table.columns[0], *attacked(table)]
        many = len({column.group for column in columns} - {""}) > 1
        rows = [line.defense + (f" ({line.access})" if line.access != "white-box" else "") for line in table.lines]
        values = [[line.values.get(column.id) for column in columns] for line in table.lines]
        heads = [f"{column.label}\n{column.group}" if many and column.group else column.label for column in columns]
        papers = [[published(source.board, table, line, column) for column in columns] for line in table.lines]
        notes = [[f"paper {known[0]:.1f}" if known else "" for known in row] for row in papers]
        heatmap(axis, rows, heads, [[value.number if value else None for value in row] for row in values], notes)
        group = "" if many else f", {columns[1].group}"
        axis.set_title(f"{table.title}{group}, accuracy in %")
        numbers.append(
            {
                "dataset": table.dataset,
                "model": table.model,
                "n": table.n,
                "columns": [
                    {"attack": column.label, "threat": column.group, "rule": column.rule} for column in columns
                ],
                "rows": [
                    {
                        "defense": line.defense,
                        "access": line.access,
                        "accuracy": [
                            measured(value) | {"published_percent": known[0] if known else None}
                            for value, known in zip(row, paper, strict=True)
                        ],
                    }
                    for line, row, paper in zip(table.lines, values, papers, strict=True)
                ],
            }
        )
    return Drawing(figure, {"tables": numbers})


def _known(source: Source, table: Table) -> bool:
    return any(published(source.board, table, line, column) for line in table.lines for column in table.columns)
