"""Accuracy under attack of every defense and every attack, one panel for each data set and network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    LETTER,
    ROW,
    RULE,
    SOFT,
    UNDER_ATTACK,
    WIDTH,
    WORST,
    attacked,
    heatmap,
    level,
    measured,
    need,
    tables,
    without_eps,
)
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import Column, Table, TableRow

#: Columns of one panel; a table that has more goes on in the next.
_ACROSS = 11


class _Panel(NamedTuple):
    table: Table
    columns: list[Column]
    lines: list[TableRow]
    title: str
    #: Columns that are named with their threat, since it has no place above them.
    narrow: set[str]
    #: Inches of the map itself.
    width: float

    @property
    def many(self) -> bool:
        return len({column.group for column in self.table.columns if column.unit == "accuracy"} - {""}) > 1

    def head(self, column: Column) -> str:
        name = without_eps(column.label)
        return f"{name}, {column.group}" if column.id in self.narrow else name

    def row(self, line: TableRow) -> str:
        return line.defense + (f" ({line.access})" if line.access != "white-box" else "")


def draw(source: Source) -> Drawing:
    found = tables(source, lambda table: bool(attacked(table)))
    need(found, "no attacked cell is in the store")
    return panels(source, found)


def panels(source: Source, found: list[Table]) -> Drawing:
    """Draw heat maps for each table, clean accuracy first, published numbers below the measured ones."""
    shown = [panel for table in found for panel in _panels(table)]
    height = sum(_height(source, panel) for panel in shown) + 0.2
    rows = [len(panel.lines) for panel in shown]
    figure, axes = plt.subplots(len(shown), 1, figsize=(WIDTH, height), squeeze=False, height_ratios=rows)
    for axis, panel in zip(axes[:, 0], shown, strict=True):
        values = [[line.values.get(column.id) for column in panel.columns] for line in panel.lines]
        papers = [[published(source.board, panel.table, line, c) for c in panel.columns] for line in panel.lines]
        notes = [[f"paper {known[0]:.1f}" if known else "" for known in row] for row in papers]
        shares = [[value.number if value else None for value in row] for row in values]
        names, heads = [panel.row(line) for line in panel.lines], [panel.head(c) for c in panel.columns]
        heatmap(axis, names, heads, shares, notes, width=panel.width)
        _threats(axis, panel)
        axis.set_title(panel.title, pad=18 if panel.many else 6)
    worst = any(column.label == "worst case" for panel in shown for column in panel.columns)
    words = f"{UNDER_ATTACK}, % of all images" + f"; {WORST}" * worst
    figure.supxlabel(words, fontsize=7, color=SOFT)
    return Drawing(figure, {"tables": [_numbers(source, table) for table in found]})


def _panels(table: Table) -> list[_Panel]:
    columns = [table.columns[0], *attacked(table)]
    names = min(ROW, max(len(line.defense) + len(line.access) for line in table.rows)) + 3
    found = []
    blocks = _blocks(columns)
    for number, block in enumerate(blocks):
        mine = [line for line in table.rows if any(column.id in line.values for column in block)]
        width = WIDTH - LETTER * names
        room = width / len(block)
        spans = [list(group) for _, group in groupby(block, lambda column: column.group)]
        narrow = {c.id for span in spans for c in span if c.group and len(span) * room < LETTER * len(c.group)}
        title = table.title + (", continued" if number else "")
        panel = _Panel(table, block, mine, title, narrow, width)
        if not panel.many:
            panel = panel._replace(narrow=set(), title=f"{table.title}, {columns[1].group}")
        found.append(panel)
    return found


def _blocks(columns: Sequence[Column]) -> list[list[Column]]:
    """Return the columns in blocks that fit, a threat in one block where it can be."""
    blocks: list[list[Column]] = [[]]
    for _, group in groupby(columns, lambda column: column.group):
        left = list(group)
        if len(blocks[-1]) + len(left) > _ACROSS and len(blocks[-1]) > 1:
            blocks.append([])
        while left:
            if len(blocks[-1]) == _ACROSS:
                blocks.append([])
            room = _ACROSS - len(blocks[-1])
            blocks[-1] += left[:room]
            left = left[room:]
    return blocks


def _threats(axis: Axes, panel: _Panel) -> None:
    """Write each threat once, above its columns."""
    axis.autoscale(False)
    at = 0
    for _, group in groupby(panel.columns, lambda column: column.group):
        span = list(group)
        if panel.many and span[0].group and span[0].id not in panel.narrow:
            above = axis.get_xaxis_transform()
            ends = [at - 0.45, at + len(span) - 0.55]
            axis.annotate(
                span[0].group, (sum(ends) / 2, 1), (0, 5), xycoords=above, textcoords="offset points", ha="center",
                color=SOFT, fontsize=7.5,
            )  # fmt: skip
            axis.plot(ends, [1.0, 1.0], color=RULE, linewidth=1.5, transform=above, clip_on=False)
        at += len(span)


def _height(source: Source, panel: _Panel) -> float:
    known = any(published(source.board, panel.table, line, column) for line in panel.lines for column in panel.columns)
    heads = [panel.head(column) for column in panel.columns]
    labels = 0.15 if level(heads, panel.width) else 0.15 + 0.6 * LETTER * max(map(len, heads))
    return 0.65 + labels + (0.34 if known else 0.26) * len(panel.lines)


def _numbers(source: Source, table: Table) -> dict[str, object]:
    columns = [table.columns[0], *attacked(table)]
    rows = []
    for line in table.rows:
        accuracy = []
        for column in columns:
            known = published(source.board, table, line, column)
            accuracy.append(measured(line.values.get(column.id)) | {"published_percent": known[0] if known else None})
        rows.append({"defense": line.defense, "access": line.access, "accuracy": accuracy})
    return {
        "dataset": table.dataset,
        "model": table.model,
        "n": table.n,
        "columns": [{"attack": column.label, "threat": column.group, "rule": column.rule} for column in columns],
        "rows": rows,
    }
