"""Accuracy under attack of every defense and every attack, one panel for each data set and network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, product
from typing import NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    LETTER_INCHES,
    ROW_LETTERS,
    RULE,
    SOFT,
    UNDER_ATTACK,
    WIDTH,
    WORST,
    attacked,
    caption,
    fit_side_by_side,
    heatmap,
    measured,
    stacked,
    tables,
    without_eps,
)
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import Column, Table, TableRow
from bench.report.render.text import has_several_threats

#: Columns of one panel; a table with more continues in the next.
_MAX_COLUMNS = 11


class _Panel(NamedTuple):
    table: Table
    columns: list[Column]
    rows: list[TableRow]
    title: str
    #: Ids of columns that are named with their threat, since there is no room for it above them.
    with_threat: set[str]
    #: Inches of the map itself.
    width: float

    def column_label(self, column: Column) -> str:
        name = without_eps(column.label)
        return f"{name}, {column.group}" if column.id in self.with_threat else name

    def row_label(self, row: TableRow) -> str:
        return row.defense + (f" ({row.access})" if row.access != "white-box" else "")


def draw(source: Source) -> Drawing:
    return draw_tables(source, tables(source, lambda table: bool(attacked(table)), "no attacked cell is in the store"))


def draw_tables(source: Source, shown: list[Table]) -> Drawing:
    """Draw heat maps for each table, clean accuracy first, published numbers below the measured ones."""
    panels = list(chain.from_iterable(map(_panels, shown)))
    height = sum(_height(source, panel) for panel in panels) + 0.2
    figure, axes = stacked([len(panel.rows) for panel in panels], height)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, source, panel)
    worst = any(column.kind == "worst" for column in chain.from_iterable(panel.columns for panel in panels))
    caption(figure, f"{UNDER_ATTACK}, % of all images" + f"; {WORST}" * worst)
    return Drawing(figure, {"tables": [_numbers(source, table) for table in shown]})


def _draw_panel(axis: Axes, source: Source, panel: _Panel) -> None:
    shares: list[list[float | None]] = []
    notes: list[list[str]] = []
    for row in panel.rows:
        values = [row.values.get(column.id) for column in panel.columns]
        shares.append([value.number if value else None for value in values])
        papers = [_published(source, panel.table, row, column) for column in panel.columns]
        notes.append(["" if paper is None else f"paper {paper:.1f}" for paper in papers])
    rows, columns = list(map(panel.row_label, panel.rows)), list(map(panel.column_label, panel.columns))
    heatmap(axis, rows, columns, shares, notes, width=panel.width)
    several_threats = has_several_threats(panel.table)
    if several_threats:
        _write_threats(axis, panel)
    axis.set_title(panel.title, pad=18 if several_threats else 6)


def _published(source: Source, table: Table, row: TableRow, column: Column) -> float | None:
    """Return the published number, in percent."""
    number_and_source = published(source.board, table, row, column)
    return number_and_source[0] if number_and_source else None


def _panels(table: Table) -> list[_Panel]:
    columns = [table.columns[0], *attacked(table)]
    letters = min(ROW_LETTERS, max(len(row.defense) + len(row.access) for row in table.rows)) + 3
    width = WIDTH - LETTER_INCHES * letters
    panels: list[_Panel] = []
    for number, block in enumerate(_blocks(columns)):
        rows = [row for row in table.rows if any(column.id in row.values for column in block)]
        if has_several_threats(table):
            title = table.title + (", continued" if number else "")
            panels.append(_Panel(table, block, rows, title, _without_room(block, width), width))
        else:
            panels.append(_Panel(table, block, rows, f"{table.title}, {columns[1].group}", set(), width))
    return panels


def _without_room(columns: Sequence[Column], width: float) -> set[str]:
    """Return the ids of the columns whose threat does not fit above them."""
    ids: set[str] = set()
    room = width / len(columns)
    for threat, group in groupby(columns, lambda column: column.group):
        span = list(group)
        if threat and len(span) * room < LETTER_INCHES * len(threat):
            ids |= {column.id for column in span}
    return ids


def _blocks(columns: Sequence[Column]) -> list[list[Column]]:
    """Return the columns in blocks that fit, a threat in one block where possible."""
    blocks: list[list[Column]] = [[]]
    for _, group in groupby(columns, lambda column: column.group):
        left = list(group)
        if len(blocks[-1]) + len(left) > _MAX_COLUMNS and len(blocks[-1]) > 1:
            blocks.append([])
        while left:
            if len(blocks[-1]) == _MAX_COLUMNS:
                blocks.append([])
            room = _MAX_COLUMNS - len(blocks[-1])
            blocks[-1] += left[:room]
            left = left[room:]
    return blocks


def _write_threats(axis: Axes, panel: _Panel) -> None:
    """Write each threat once, above its columns."""
    axis.autoscale(False)
    above = axis.get_xaxis_transform()
    start = 0
    for threat, group in groupby(panel.columns, lambda column: column.group):
        span = list(group)
        if threat and span[0].id not in panel.with_threat:
            ends = [start - 0.45, start + len(span) - 0.55]
            axis.annotate(
                threat, (sum(ends) / 2, 1), (0, 5), xycoords=above, textcoords="offset points", ha="center",
                color=SOFT, fontsize=7.5,
            )  # fmt: skip
            axis.plot(ends, [1.0, 1.0], color=RULE, linewidth=1.5, transform=above, clip_on=False)
        start += len(span)


def _height(source: Source, panel: _Panel) -> float:
    """Return the height of a panel, in inches."""
    cells = product(panel.rows, panel.columns)
    with_notes = any(_published(source, panel.table, row, column) is not None for row, column in cells)
    labels = list(map(panel.column_label, panel.columns))
    turned = 0.0 if fit_side_by_side(labels, panel.width) else 0.6 * LETTER_INCHES * max(map(len, labels))
    return 0.65 + (0.15 + turned) + (0.34 if with_notes else 0.26) * len(panel.rows)


def _numbers(source: Source, table: Table) -> dict[str, object]:
    columns = [table.columns[0], *attacked(table)]
    rows = []
    for row in table.rows:
        accuracy = [
            measured(row.values.get(column.id)) | {"published_percent": _published(source, table, row, column)}
            for column in columns
        ]
        rows.append({"defense": row.defense, "access": row.access, "accuracy": accuracy})
    return {
        "dataset": table.dataset,
        "model": table.model,
        "n": table.n,
        "columns": [{"attack": column.label, "threat": column.group, "rule": column.rule} for column in columns],
        "rows": rows,
    }
