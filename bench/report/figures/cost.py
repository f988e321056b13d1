"""What each defense costs: seconds and TFLOP, to train for an epoch and to test 10,000 images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._choice import Precedence, kept, of_defenses_text, precedence
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    LEGEND_POINTS,
    SMALL_POINTS,
    Block,
    Box,
    Foot,
    Labels,
    axes_at,
    beside_rows,
    fitting_tables,
    row_height,
    stack,
    stack_height,
    text_height,
    write_rows,
)
from bench.report.figures._plot import (
    INK,
    MAX_DEFENSES,
    SOFT,
    Suitable,
    fold,
    in_brackets,
    number_text,
    suitable_tables,
    text_width,
)
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import COSTS, Table
from bench.types import DefenseCost

_SHOWN = COSTS[:4]
#: Share of the width of the figure for names: beside four panels, and beside two.
_NAMES = {4: 0.3, 2: 0.42}
#: Inches: the least width of a figure of four panels side by side.
_WIDE = 5.0
#: Inches: what is between two panels, and the height of a bar.
_BETWEEN, _BAR = 0.1, 0.15
_NOT_MEASURED = "not measured"


class _Costs(NamedTuple):
    """Defenses of a table and what they cost, by name."""

    table: Table
    title: str
    costs: dict[str, DefenseCost]
    names: Labels


def draw(source: Source) -> Drawing:
    width, across = source.width, _across(source.width)
    first = precedence(source)
    suitable = suitable_tables(
        source, lambda table: any(s.cost for s in table.threats), "no cell in the store has a measured cost"
    )
    panel = ((1 - _NAMES[across]) * width - across * _BETWEEN) / across
    heads = [fold(cost.column.label.replace("10k ", "10k\xa0"), panel, LEGEND_POINTS) for cost in _SHOWN]
    above = max(text_height(head, LEGEND_POINTS) for head in heads)

    def height(tables: Suitable, count: int, row: float = DENSE_ROW) -> float:
        blocks = _blocks(_all_shown(tables, count, width, first), row, above, across)
        return stack_height(blocks, width, _foot(width, tables).height)

    most = min(MAX_DEFENSES, max(len(_all_costs(table)) for table in suitable.tables))
    fitted, count = fitting_tables(suitable, most, height)
    shown, foot = _all_shown(fitted, count, width, first), _foot(width, fitted)
    row = row_height(lambda row: height(fitted, count, row))
    left = EDGE + max(costs.names.width for costs in shown) + GAP
    figure, boxes = stack(_blocks(shown, row, above, across), width, left=left, foot=foot.height)
    places = list(chain.from_iterable(_beside_each_other(box, across) for box in boxes))
    numbers = []
    for index, costs in enumerate(shown):
        axes = [axes_at(figure, box) for box in places[index * len(_SHOWN) : (index + 1) * len(_SHOWN)]]
        numbers.append(_draw_table(axes, costs, source, heads, across))
    foot.draw(figure)
    return Drawing(figure, {"units": "FLOPs count 2 per multiply-add", "tables": numbers})


def _foot(width: float, tables: Suitable) -> Foot:
    return Foot(width, remark="; ".join(filter(None, ["1 multiply-add is 2 FLOP", tables.left_out])))


def _blocks(shown: Sequence[_Costs], row: float, above: float, across: int) -> list[Block]:
    """Return the rows of panels: one or two for each table, whose headings are ``above`` inches high."""
    blocks = []
    for costs in shown:
        height = max(row, costs.names.height) * len(costs.costs)
        blocks.append(Block(costs.title, height, above=above + GAP))
        blocks += [Block("", height, above=above)] * (len(_SHOWN) // across - 1)
    return blocks


def _all_shown(tables: Suitable, count: int, width: float, first: Precedence) -> list[_Costs]:
    return [_costs(table, count, width, first) for table in tables.tables]


def _across(width: float) -> int:
    """Return how many panels are side by side."""
    return 4 if width >= _WIDE else 2


def _beside_each_other(box: Box, across: int) -> list[Box]:
    """Return the places of panels that share the room of one."""
    width = (box.width - (across - 1) * _BETWEEN) / across
    return [box._replace(left=box.left + index * (width + _BETWEEN), width=width) for index in range(across)]


def _all_costs(table: Table) -> dict[str, DefenseCost]:
    return {s.defense: s.cost for s in table.threats if s.cost}


def _costs(table: Table, count: int, width: float, first: Precedence) -> _Costs:
    every = _all_costs(table)
    names = kept(list(every), count, first)
    title = table.title + in_brackets(of_defenses_text(len(names), len(every)))
    shown = {name: every[name] for name in names}
    return _Costs(table, title, shown, beside_rows(names, _NAMES[_across(width)] * width))


def _draw_table(
    axes: Sequence[Axes], costs: _Costs, source: Source, heads: Sequence[str], across: int
) -> dict[str, Any]:
    """Draw the costs of a table's defenses, a panel for each kind of cost, and return them."""
    table = costs.table
    papers = _published(source, table, list(costs.costs))
    for index, (axis, shown) in enumerate(zip(axes, _SHOWN, strict=True)):
        values = {name: shown.number(cost) for name, cost in costs.costs.items()}
        printed = {name: papers.get((name, shown.column.id)) for name in costs.costs}
        _draw_panel(axis, values, printed, shown.column.id)
        axis.set_title(heads[index], fontsize=LEGEND_POINTS, fontweight="normal", pad=72 * GAP / 2)
        if index % across == 0:
            write_rows(axis, costs.names)
        else:
            axis.set_yticks([])
    body = [
        {
            "defense": name,
            **{c.column.id: c.number(cost) for c in COSTS},
            "published": {c.column.id: papers[name, c.column.id] for c in COSTS if (name, c.column.id) in papers},
        }
        for name, cost in costs.costs.items()
    ]
    return {"dataset": table.dataset, "model": table.model, "defenses": body}


def _published(source: Source, table: Table, names: list[str]) -> dict[tuple[str, str], float]:
    """Return the published costs, by defense and the id of the column."""
    rows = {row.defense: row for row in reversed(table.rows)}
    papers = {}
    for name, cost in product(names, COSTS):
        if number_and_source := published(source.board, table, rows[name], cost.column):
            papers[name, cost.column.id] = number_and_source[0]
    return papers


def _draw_panel(axis: Axes, values: dict[str, float | None], printed: dict[str, float | None], cost: str) -> None:
    """Draw one kind of cost, a bar for each defense, with the published number."""
    colour = "#0072B2" if "train" in cost else "#009E73"
    texts = {name: _text(value, printed[name]) for name, value in values.items()}
    top = max((value for value in [*values.values(), *printed.values()] if value), default=1.0)
    # In units of the axis: the bars leave the longest text its room.
    inches = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted())
    size, row = inches.width, inches.height / len(values)
    room = max(text_width(text, SMALL_POINTS) for text in texts.values()) + 2 * GAP
    scale = top / max(size - room, 0.25 * size)
    axis.set(xlim=(0, scale * size), ylim=(len(values) - 0.5, -0.5))
    for y, (name, value) in enumerate(values.items()):
        paper = printed[name]
        if value is not None:
            axis.barh(y, value, color=colour, height=min(0.7, _BAR / row))
        if paper is not None:
            axis.plot([paper], [y], "D", color=INK, markerfacecolor="white", markersize=3.5, zorder=3)
        end = max(value or 0, paper or 0) + scale * GAP
        axis.text(end, y, texts[name], va="center", fontsize=SMALL_POINTS, color=SOFT if value is None else INK)
    axis.set_xticks([])
    axis.grid(False)
    axis.spines["bottom"].set_visible(False)


def _text(value: float | None, paper: float | None) -> str:
    text = _NOT_MEASURED if value is None else number_text(value)
    return text if paper is None else f"{text} (paper {number_text(paper, 4)})"
