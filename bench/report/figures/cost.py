"""What each defense costs: seconds and FLOPs, to train for an epoch and to test 10,000 images."""

from __future__ import annotations

from itertools import product
from typing import Any

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import INK, name_rows, stacked, tables
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import COSTS, Table

_SHOWN = COSTS[:4]
_TITLES = {
    "train_seconds": "train an epoch,\ns",
    "train_tflop": "train an epoch,\nTFLOP",
    "test_seconds": "test 10,000 images,\ns",
    "test_tflop": "test 10,000 images,\nTFLOP",
}


def draw(source: Source) -> Drawing:
    shown = tables(source, lambda table: any(s.cost for s in table.threats), "no cell in the store has a measured cost")
    rows = [max(2, len({s.defense for s in table.threats})) for table in shown]
    figure, axes = stacked(rows, sum(0.65 + 0.22 * n for n in rows), len(_SHOWN))
    numbers = [_draw_table(row, table, source) for row, table in zip(axes, shown, strict=True)]
    return Drawing(figure, {"units": "FLOPs count 2 per multiply-add", "tables": numbers})


def _draw_table(row: Any, table: Table, source: Source) -> dict[str, Any]:
    """Draw the costs of a table's defenses, a panel for each kind of cost, and return them."""
    costs = {s.defense: s.cost for s in table.threats if s.cost}
    papers = _published(source, table, list(costs))
    for axis, shown in zip(row, _SHOWN, strict=True):
        values = {name: shown.number(cost) for name, cost in costs.items()}
        printed = {name: papers.get((name, shown.column.id)) for name in costs}
        _draw_panel(axis, values, printed, shown.column.id)
        name_rows(axis, list(costs) if axis is row[0] else [""] * len(costs))
    row[0].annotate(
        table.title,
        (0, 1),
        (0, 30),
        xycoords="axes fraction",
        textcoords="offset points",
        fontweight="bold",
        fontsize=9,
    ).set_in_layout(False)
    body = [
        {
            "defense": name,
            **{c.column.id: c.number(cost) for c in COSTS},
            "published": {c.column.id: papers[name, c.column.id] for c in COSTS if (name, c.column.id) in papers},
        }
        for name, cost in costs.items()
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
    axis.barh(
        range(len(values)),
        [value or 0 for value in values.values()],
        color="#0072B2" if "train" in cost else "#009E73",
        height=0.62,
    )
    top = max((value for value in [*values.values(), *printed.values()] if value), default=1.0)
    for y, (name, value) in enumerate(values.items()):
        paper = printed[name]
        text = "–" if value is None else f"{value:.3g}"
        if paper is not None:
            text += f" (paper {paper:.4g})"
            axis.plot([paper], [y], "D", color=INK, markerfacecolor="white", markersize=3.5, zorder=3)
        axis.text(max(value or 0, paper or 0) + 0.07 * top, y, text, va="center", fontsize=6.5, color=INK)
    axis.set(xlim=(0, (2.0 if any(printed.values()) else 1.35) * top), ylim=(len(values) - 0.4, -0.6))
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines["bottom"].set_visible(False)
    # Two empty lines for the name of the table, which may be wider than the first panel.
    axis.set_title(f"\n\n{_TITLES[cost]}", fontsize=7, fontweight="normal")
