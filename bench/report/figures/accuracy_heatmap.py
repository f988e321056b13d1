"""Accuracy under attack of every defense and every attack, one panel for each data set and network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, product

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._choice import KEPT, Precedence, kept, of_defenses, precedence
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    SMALL_POINTS,
    Block,
    Foot,
    Labels,
    above_columns,
    axes_at,
    beside_rows,
    fitting,
    fitting_tables,
    row_height,
    stack,
    stack_height,
    text_height,
    write_rows,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    MAX_ATTACKS,
    MAX_DEFENSES,
    ROBUST,
    ROBUST_MEANS,
    RULE,
    SOFT,
    UNDER_ATTACK,
    Suitable,
    attacked,
    column_name,
    heat_cells,
    measured,
    suitable_tables,
    text_width,
    unbroken,
    without_eps,
)
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import Column, Table, TableRow, first_defenses
from bench.report.render.text import has_several_threats

#: Share of the width of the figure for names.
_NAMES = 0.36
#: Defenses that fit, if need be under fewer attacks.
_ENOUGH = 8
#: Inches: the least width of a column.
_COLUMN = 0.37
#: Inches: the least width of a column with published numbers, and the height of a row with them.
_COLUMN_WITH_NOTES, _ROW_WITH_NOTES = 0.52, 0.27


@dataclass(frozen=True)
class _Panel:
    """Columns of a table, as many as fit side by side, and the rows that have numbers in them."""

    table: Table
    title: str
    columns: list[Column]
    rows: list[TableRow]
    #: Published numbers in percent, by row and column.
    papers: list[list[float | None]]
    #: Ids of columns that are named with their threat, since there is no room for it above them.
    with_threat: set[str]
    names: Labels
    #: Headings as they are written, the same on one line each, and the width of a column in inches.
    heads: Labels
    headings: list[str]
    column: float
    #: Share of the width of the widest panel of the table.
    share: float

    @property
    def threats_above(self) -> bool:
        return any(column.group and column.id not in self.with_threat for column in self.columns)

    def with_heads_turned(self) -> _Panel:
        return replace(self, heads=above_columns(self.headings, self.column, turned=True))

    def block(self, row: float) -> Block:
        """Return its room on the figure, where rows are at least ``row`` inches high."""
        has_notes = any(paper is not None for paper in chain.from_iterable(self.papers))
        height = max(row, self.names.height, _ROW_WITH_NOTES * has_notes)
        several = has_several_threats(self.table) and self.threats_above
        above = self.heads.height + GAP + (text_height("", SMALL_POINTS) + GAP) * several
        return Block(self.title, height * len(self.rows), above=above)


def draw(source: Source) -> Drawing:
    suitable = suitable_tables(source, lambda table: bool(attacked(table)), "no attacked cell is in the store")
    return draw_tables(source, suitable)


def draw_tables(source: Source, suitable: Suitable) -> Drawing:
    """Draw heat maps for each table, clean accuracy first, published numbers below the measured ones."""
    width, order = source.width, precedence(source)

    def height(tables: Suitable, count: int, attacks: int, row: float = DENSE_ROW) -> float:
        blocks = [panel.block(row) for panel in _all_panels(source, _first(tables, count, attacks, order))]
        return stack_height(blocks, width, _foot(width, tables).height)

    # A column has room for the panels of fewer attacks, and long names leave less of it.
    attacks = fitting(int(MAX_ATTACKS * min(1.0, width / 6)), lambda most: height(suitable.first(1), _ENOUGH, most))
    most = min(MAX_DEFENSES, max(len({row.defense for row in table.rows}) for table in suitable.tables))
    fitted, count = fitting_tables(suitable, most, lambda tables, count: height(tables, count, attacks))
    shown, foot = _first(fitted, count, attacks, order), _foot(width, fitted)
    panels = _all_panels(source, shown)
    row = row_height(lambda row: height(fitted, count, attacks, row))
    left = EDGE + max(panel.names.width for panel in panels) + GAP
    figure, boxes = stack([panel.block(row) for panel in panels], width, left=left, foot=foot.height)
    for box, panel in zip(boxes, panels, strict=True):
        _draw_panel(axes_at(figure, box._replace(width=box.width * panel.share)), panel)
    foot.draw(figure)
    return Drawing(figure, {"tables": [_numbers(source, table) for table in shown]})


def _foot(width: float, tables: Suitable) -> Foot:
    columns = chain.from_iterable(table.columns for table in tables.tables)
    worst = ROBUST_MEANS if any(column.kind == "worst" for column in columns) else ""
    return Foot(width, remark="; ".join(filter(None, [f"{UNDER_ATTACK}, % of all images", worst, tables.left_out])))


def _first(tables: Suitable, count: int, attacks: int, order: Precedence) -> list[Table]:
    """Return some defenses under the first attacks; the titles say what is left out."""
    shown = []
    for table in tables.tables:
        names = kept(list(dict.fromkeys(row.defense for row in table.rows)), count, order)
        first = first_defenses(of_defenses(table, names), count, attacks)
        shown.append(replace(first, part=_part(table, first)))
    return shown


def _part(table: Table, first: Table) -> str:
    """Return which part of a table another is, in words."""
    defenses = (len({row.defense for row in each.rows}) for each in (first, table))
    attacks = (sum(column.kind == "attack" for column in each.columns) for each in (first, table))
    counts = {"attacks": tuple(attacks), f"defenses, {KEPT}": tuple(defenses)}
    return "; ".join(f"{some:,} of {of:,} {what}" for what, (some, of) in counts.items() if some < of)


def _draw_panel(axis: Axes, panel: _Panel) -> None:
    shares: list[list[float | None]] = []
    for row in panel.rows:
        values = [row.values.get(column.id) for column in panel.columns]
        shares.append([value.number if value else None for value in values])
    notes = [["" if paper is None else f"paper {paper:.1f}" for paper in papers] for papers in panel.papers]
    heat_cells(axis, shares, notes)
    write_rows(axis, panel.names)
    heads = panel.heads
    axis.set_xticks(
        range(len(panel.columns)),
        heads.texts,
        rotation=90 if heads.turned else 0,
        fontsize=heads.points,
        linespacing=1.1,
        va="bottom",
    )
    axis.tick_params(axis="x", length=0, pad=72 * GAP / 2, labelbottom=False, labeltop=True)
    if has_several_threats(panel.table):
        _write_threats(axis, panel)


def _all_panels(source: Source, tables: Sequence[Table]) -> list[_Panel]:
    """Return the panels of some tables; their maps are equally wide."""
    names = {id(table): beside_rows(list(map(_row_label, table.rows)), _NAMES * source.width) for table in tables}
    room = source.width - 2 * EDGE - GAP - max(labels.width for labels in names.values())
    panels: list[_Panel] = []
    for table in tables:
        panels += _panels(source, table, room)
    if len({panel.heads.turned for panel in panels}) > 1:
        # Headings of all panels are read in one direction.
        panels = [panel.with_heads_turned() for panel in panels]
    return panels


def _row_label(row: TableRow) -> str:
    return row.defense if row.access == "white-box" else f"{row.defense}, {unbroken(ACCESS_WORDS[row.access])}"


def _panels(source: Source, table: Table, room: float) -> Iterator[_Panel]:
    """Yield the panels of a table, whose maps are ``room`` inches wide."""
    columns = [table.columns[0], *attacked(table)]
    has_notes = any(_published(source, table, *cell) is not None for cell in product(table.rows, columns))
    least = _COLUMN_WITH_NOTES if has_notes else _COLUMN
    several = has_several_threats(table)
    blocks = _blocks(columns, max(2, int(room / least)))
    most = max(map(len, blocks))
    for number, block in enumerate(blocks):
        rows = [row for row in table.rows if any(column.id in row.values for column in block)]
        papers = [[_published(source, table, row, column) for column in block] for row in rows]
        with_threat = _without_room(block, room / most) if several else set[str]()
        heads = [_head(column, with_threat=column.id in with_threat) for column in block]
        title = table.title if several else f"{table.title}, {unbroken(columns[1].group)}"
        yield _Panel(
            table,
            title + (", continued" if number else ""),
            block,
            rows,
            papers,
            with_threat,
            beside_rows(list(map(_row_label, rows)), _NAMES * source.width),
            above_columns(heads, room / most),
            heads,
            room / most,
            len(block) / most,
        )


def _head(column: Column, *, with_threat: bool) -> str:
    name = ROBUST if column.kind == "worst" else without_eps(column.label)
    return f"{name}, {unbroken(column.group)}" if with_threat else name


def _published(source: Source, table: Table, row: TableRow, column: Column) -> float | None:
    """Return the published number, in percent."""
    number_and_source = published(source.board, table, row, column)
    return number_and_source[0] if number_and_source else None


def _without_room(columns: Sequence[Column], room: float) -> set[str]:
    """Return the ids of the columns, each ``room`` inches wide, whose threat does not fit above them."""
    ids: set[str] = set()
    for threat, group in groupby(columns, lambda column: column.group):
        span = list(group)
        if threat and len(span) * room < text_width(threat, SMALL_POINTS) + GAP:
            ids |= {column.id for column in span}
    return ids


def _blocks(columns: Sequence[Column], most: int) -> list[list[Column]]:
    """Return the columns in blocks of at most ``most``, about equally many.

    The columns of a threat are in one block, unless that takes more blocks.
    """
    count = -(-len(columns) // most)
    each = -(-len(columns) // count)
    blocks: list[list[Column]] = [[]]
    for _, group in groupby(columns, lambda column: column.group):
        span = list(group)
        if len(blocks[-1]) + len(span) > most and len(blocks[-1]) > 1:
            blocks.append([])
        blocks[-1] += span
    if len(blocks) <= count and max(map(len, blocks)) <= most:
        return blocks
    return [list(columns[first : first + each]) for first in range(0, len(columns), each)]


def _write_threats(axis: Axes, panel: _Panel) -> None:
    """Write each threat once, above the headings of its columns."""
    axis.autoscale(False)
    height = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted()).height
    line = 1 + (panel.heads.height + GAP) / height
    above = axis.get_xaxis_transform()
    start = 0
    for threat, group in groupby(panel.columns, lambda column: column.group):
        span = list(group)
        if threat and span[0].id not in panel.with_threat:
            ends = [start - 0.45, start + len(span) - 0.55]
            axis.annotate(
                threat, (sum(ends) / 2, line), (0, 1), xycoords=above, textcoords="offset points", ha="center",
                color=SOFT, fontsize=SMALL_POINTS,
            )  # fmt: skip
            axis.plot(ends, [line, line], color=RULE, linewidth=1.5, transform=above, clip_on=False)
        start += len(span)


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
        "columns": [{"attack": column_name(column), "threat": column.group, "rule": column.rule} for column in columns],
        "rows": rows,
    }
