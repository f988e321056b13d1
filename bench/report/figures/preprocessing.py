"""TPAP and the other test-time steps against each attack, static and adaptive, beside the bare networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._choice import KEPT, Precedence, kept, precedence
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    LEAST_POINTS,
    LEGEND_POINTS,
    NAME_POINTS,
    Block,
    Box,
    Foot,
    Labels,
    above_columns,
    axes_at,
    beside_rows,
    fitting_tables,
    row_height,
    stack,
    stack_height,
    write,
    write_rows,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    COLOUR,
    INK,
    MAX_DEFENSES,
    ROBUST,
    ROBUST_MEANS,
    SOFT,
    UNDER_ATTACK,
    Suitable,
    attacked,
    column_name,
    in_brackets,
    marker,
    measured,
    over_common_attacks,
    suitable_tables,
    threats_text,
    unbroken,
    whisker,
    without_eps,
)
from bench.report.figures._tpap import STEP
from bench.report.leaderboard.summaries import RowIds, Value
from bench.report.leaderboard.tables import RANKED, Column, Table
from bench.types import Access

#: Kinds of test-time steps that a data set must have to be shown.
_MIN_STEPS = 2
#: Accuracies under attack of one table, robust accuracy among them.
_MAX_ATTACKS = 5
#: Share of the width of the figure for names.
_NAMES = 0.36
#: Inches: the least width of a panel, between two, right of the last, and ticks with their label.
_PANEL, _BETWEEN = 0.7, 0.17
_RIGHT, _TICKS = 0.12, 0.36
_Values = Mapping[Access, Value | None]
#: The defenses to show, by data set and network.
_Chosen = Mapping[tuple[str, str], Collection[str]]


class _Panels(NamedTuple):
    """A row of panels: one for each column of a table, with the defenses that it shows."""

    table: Table
    title: str
    columns: list[Column]
    defenses: list[str]
    names: Labels
    heads: Labels

    def block(self, row: float, *, ticks: bool) -> Block:
        """Return its room on the figure, where rows are at least ``row`` inches high."""
        height = max(row, self.names.height) * len(self.defenses)
        return Block(self.title, height, above=self.heads.height + GAP, below=_TICKS if ticks else GAP)


def draw(source: Source) -> Drawing:
    width, chosen = source.width, _chosen(source)
    first = precedence(source)
    suitable = suitable_tables(
        source,
        lambda table: (table.dataset, table.model) in chosen and bool(attacked(table)),
        f"no data set has {_MIN_STEPS} kinds of test-time steps",
    )

    def height(tables: Suitable, count: int, row: float = DENSE_ROW) -> float:
        return stack_height(
            _blocks(_rows(tables, chosen, count, width, first), row), width, _foot(width, tables).height
        )

    most = min(MAX_DEFENSES, max(len(chosen[table.dataset, table.model]) for table in suitable.tables))
    fitted, count = fitting_tables(suitable, most, height)
    foot, rows = _foot(width, fitted), _rows(fitted, chosen, count, width, first)
    blocks = _blocks(rows, row_height(lambda row: height(fitted, count, row)))
    left = EDGE + max(row.names.width for row in rows) + 2 * GAP
    figure, boxes = stack(blocks, width, left=left, right=_RIGHT, foot=foot.height)
    numbers: list[dict[str, Any]] = []
    for box, row in zip(boxes, rows, strict=True):
        axes = [axes_at(figure, part) for part in _side_by_side(box, len(row.columns))]
        numbers += _draw_panels(axes, row)
        for axis in axes:
            axis.tick_params(axis="x", labelsize=LEGEND_POINTS, labelbottom=_has_ticks(row, rows))
    middle = boxes[-1].left + boxes[-1].width / 2
    write(figure, middle, boxes[-1].bottom - _TICKS + 0.02, "% of all images", NAME_POINTS, ha="center", va="bottom")
    foot.draw(figure)
    return Drawing(figure, {"accuracies": numbers})


def _rows(tables: Suitable, chosen: _Chosen, count: int, width: float, first: Precedence) -> list[_Panels]:
    """Return defenses of each table, with panels as wide as the names of all leave room for."""
    all_names = [_defenses(table, chosen[table.dataset, table.model]) for table in tables.tables]
    shown = [kept(names, count, first) for names in all_names]
    names = [beside_rows(defenses, _NAMES * width) for defenses in shown]
    room = width - EDGE - 2 * GAP - _RIGHT - max(labels.width for labels in names)
    rows: list[_Panels] = []
    for table, known, defenses, labels in zip(tables.tables, all_names, shown, names, strict=True):
        every = _columns(table, _MAX_ATTACKS)
        columns = _columns(table, min(_MAX_ATTACKS, int((room + _BETWEEN) / (_PANEL + _BETWEEN)) - 1))
        panel = (room + _BETWEEN) / len(columns) - _BETWEEN
        heads = above_columns([_head(column) for column in columns], panel + GAP)
        parts = [
            f"{some:,} of {total:,} {what}"
            for some, total, what in (
                (len(columns) - 2, _attacks(table), "attacks"),
                (len(defenses), len(known), f"defenses, {KEPT}"),
            )
            if some < total and len(every) > 1
        ]
        title = f"{table.title}, {unbroken(columns[-1].group)}{in_brackets(threats_text(table), *parts)}"
        rows.append(_Panels(table, title, columns, defenses, labels, heads))
    return rows


def _blocks(rows: Sequence[_Panels], height: float) -> list[Block]:
    return [row.block(height, ticks=_has_ticks(row, rows)) for row in rows]


def _has_ticks(row: _Panels, rows: Sequence[_Panels]) -> bool:
    """Say whether a row has ticks of its own: the last, and every one where they have other panels."""
    return row is rows[-1] or len({len(each.columns) for each in rows}) > 1


def _side_by_side(box: Box, count: int) -> list[Box]:
    each = (box.width + _BETWEEN) / count
    return [box._replace(left=box.left + each * place, width=each - _BETWEEN) for place in range(count)]


def _draw_panels(axes: Sequence[Axes], panels: _Panels) -> list[dict[str, Any]]:
    """Draw the defenses of a table, a panel for each column, and return their numbers."""
    table, defenses = panels.table, panels.defenses
    worst = _worst_cases(panels)
    numbers: list[dict[str, Any]] = []
    for axis, column, heading in zip(axes, panels.columns, panels.heads.texts, strict=True):
        head = {"dataset": table.dataset, "model": table.model, "attack": column_name(column), "threat": column.group}
        for y, name in enumerate(defenses):
            values: _Values = {row.access: row.values.get(column.id) for row in table.rows if row.defense == name}
            if column.kind == "worst" and name in worst:
                values = {access: worst[name].get("adaptive" if access == "white-box" else access) for access in values}
            _draw_defense(axis, y, values, clean=column.kind == "clean")
            numbers += (
                {**head, "defense": name, "access": access, "accuracy": measured(value)}
                for access, value in values.items()
            )
        axis.set(xlim=(-4, 104), ylim=(len(defenses) - 0.4, -0.6), xticks=(0, 50, 100))
        axis.set_title(
            heading,
            fontsize=panels.heads.points,
            fontweight="normal",
            loc="center",
            rotation=90 if panels.heads.turned else 0,
            pad=72 * GAP / 2,
            linespacing=1.1,
        )
        if axis is axes[0]:
            write_rows(axis, panels.names)
        else:
            axis.set_yticks(range(len(defenses)), [""] * len(defenses))
        axis.tick_params(axis="y", length=0)
    return numbers


def _worst_cases(panels: _Panels) -> dict[str, Mapping[str, Value | None]]:
    """Return the worst cases of each defense over the attacks that all of them have in common."""
    group = panels.columns[-1].group
    summaries = {s.defense: s for s in panels.table.threats if s.group == group and s.defense in panels.defenses}
    return dict(zip(summaries, over_common_attacks(list(summaries.values())).worst, strict=True))


def _foot(width: float, tables: Suitable) -> Foot:
    handles = [
        marker("adaptive (white-box where there is no test-time step)", COLOUR["adaptive"]),
        marker(ACCESS_WORDS["static"], COLOUR["static"], "white"),
        marker("clean", INK, "white", shape="s"),
    ]
    remarks = [f"under one attack: {UNDER_ATTACK}", ROBUST_MEANS, "–: not measured", tables.left_out]
    return Foot(width, handles, "; ".join(filter(None, remarks)))


def _head(column: Column) -> str:
    return {"clean": "clean", "worst": ROBUST}.get(column.kind, without_eps(column.label))


def _attacks(table: Table) -> int:
    """Return how many attacks the first threat of a table has."""
    first = attacked(table)[0].group
    return sum(column.group == first and column.kind != "worst" for column in attacked(table))


def _columns(table: Table, most: int) -> list[Column]:
    """Return clean accuracy, and of the first threat robust accuracy and the attacks that most rows have.

    Args:
        table: whose columns they are.
        most: accuracies under attack, at least one.
    """
    first = [column for column in attacked(table) if column.group == attacked(table)[0].group]
    rows = [row for row in table.rows if row.access != "transfer"]
    counts = {column.id: sum(column.id in row.values for row in rows) for column in first}
    rights = {
        column.id: sum(row.values[column.id].number or 0.0 for row in rows if column.id in row.values)
        for column in first
    }
    # Of attacks that as many rows have, those that break more come first.
    widest = sorted(first, key=lambda column: (column.kind != "worst", -counts[column.id], rights[column.id]))
    kept = widest[: max(1, most)]
    return [table.columns[0], *(column for column in first if column in kept)]


def _chosen(source: Source) -> Mapping[tuple[str, str], set[str]]:
    """Return the defenses to show, by data set and network, where there are several kinds of steps.

    TPAP has a figure of its own for its settings. Here it has one setting for each network, that of the plainest name,
    and only on networks that have another kind of step, too, or on that of the plainest name of all.
    """
    defenses: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    ids = RowIds()
    for r in source.results:
        network_and_step = ids.base(r.cell), r.cell.step.name if r.cell.step else ""
        defenses.setdefault((r.names.dataset, r.names.model), {})[source.board.labels[r.key][0]] = network_and_step
    return {
        group: _one_tpap_for_each_network(networks_and_steps)
        for group, networks_and_steps in defenses.items()
        if len({step for _, step in networks_and_steps.values()} - {""}) >= _MIN_STEPS
    }


def _one_tpap_for_each_network(defenses: Mapping[str, tuple[str, str]]) -> set[str]:
    """Choose defenses from names with their network and step."""
    plainest: dict[str, str] = {}
    for name in sorted((name for name, (_, step) in defenses.items() if step == STEP), key=_plainness):
        plainest.setdefault(defenses[name][0], name)
    networks = {network for network, step in defenses.values() if step not in ("", STEP)}
    networks |= set(list(plainest)[:1])
    others = {name for name, (_, step) in defenses.items() if step != STEP}
    return others | {name for network, name in plainest.items() if network in networks}


def _plainness(name: str) -> tuple[bool, int, str]:
    return "@" in name, len(name), name


def _defenses(table: Table, chosen: Collection[str]) -> list[str]:
    """Return the chosen defenses that a table has: bare networks, then those with a test-time step."""
    names = [name for name in dict.fromkeys(row.defense for row in table.rows) if name in chosen]
    bare = {row.defense for row in table.rows if row.access == "white-box"}
    return sorted(names, key=lambda name: name not in bare)


def _draw_defense(axis: Axes, y: int, accuracies: _Values, *, clean: bool) -> None:
    """Draw the accuracies of one defense by access, joined by a line; of clean accuracies the first."""
    values = {a: value for a, value in accuracies.items() if a != "transfer" and value and value.number is not None}
    if not values:
        failed = any(value is not None and value.failed for value in accuracies.values())
        axis.text(50, y, "failed" if failed else "–", ha="center", va="center", fontsize=LEAST_POINTS, color=SOFT)
    if clean:
        for value in list(values.values())[:1]:
            axis.plot(100 * (value.number or 0), y, "s", color=INK, markerfacecolor="white", zorder=3, clip_on=False)
        return
    ends = [100 * value.number for value in values.values() if value.number is not None]
    if len(ends) > 1:
        axis.plot([min(ends), max(ends)], [y, y], color=SOFT, linewidth=1.6, alpha=0.45, zorder=1)
    for access, value in values.items():
        whisker(axis, y, value, COLOUR[access], horizontal=True)
        axis.plot(
            100 * (value.number or 0),
            y,
            "o",
            color=COLOUR[access],
            markerfacecolor=COLOUR[access] if access in RANKED else "white",
            zorder=4 if access in RANKED else 3,
            clip_on=False,
        )
