"""TPAP and the other test-time steps against each attack, static and adaptive, beside the bare networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    COLOUR,
    INK,
    SOFT,
    UNDER_ATTACK,
    WORST,
    attacked,
    column_name,
    folded,
    legend_below,
    marker,
    measured,
    name_rows,
    over_common_attacks,
    stacked,
    tables,
    whisker,
    without_eps,
)
from bench.report.figures._tpap import STEP
from bench.report.leaderboard.summaries import RowIds, Value
from bench.report.leaderboard.tables import RANKED, Column, Table
from bench.types import Access

#: Kinds of test-time steps that a data set must have to be shown.
_MIN_STEPS = 2
_MAX_ATTACKS = 5
_Values = Mapping[Access, Value | None]


class _Panels(NamedTuple):
    """A row of panels: one for each column of a table, with the defenses that it shows."""

    table: Table
    columns: list[Column]
    defenses: list[str]

    @property
    def extra_lines(self) -> int:
        """Lines of the highest title beyond two."""
        return max(_title(column).count("\n") for column in self.columns) - 1


def draw(source: Source) -> Drawing:
    chosen = _chosen(source)
    shown = tables(
        source,
        lambda table: (table.dataset, table.model) in chosen and bool(attacked(table)),
        f"no data set has {_MIN_STEPS} kinds of test-time steps",
    )
    rows = [_Panels(table, _columns(table), _defenses(table, chosen[table.dataset, table.model])) for table in shown]
    height = sum(0.7 + 0.2 * len(row.defenses) for row in rows) + 0.11 * sum(row.extra_lines for row in rows) + 0.3
    ratios = [len(row.defenses) + 1.5 for row in rows]
    figure, axes = stacked(ratios, height, max(len(row.columns) for row in rows), sharex=True)
    numbers: list[dict[str, Any]] = []
    for line, row in zip(axes, rows, strict=True):
        numbers += _draw_panels(line, row)
    _legend(figure)
    return Drawing(figure, {"accuracies": numbers})


def _draw_panels(axes: Sequence[Axes], panels: _Panels) -> list[dict[str, Any]]:
    """Draw the defenses of a table, a panel for each column, and return their numbers."""
    table, columns = panels.table, panels.columns
    defenses = panels.defenses
    worst = _worst_cases(panels)
    numbers: list[dict[str, Any]] = []
    for axis, column in zip(axes, columns, strict=False):
        head = {"dataset": table.dataset, "model": table.model, "attack": column_name(column), "threat": column.group}
        for y, name in enumerate(defenses):
            values: _Values = {row.access: row.values.get(column.id) for row in table.rows if row.defense == name}
            if column.kind == "worst" and name in worst:
                values = {access: worst[name].get("adaptive" if access == "white-box" else access) for access in values}
            _draw_defense(axis, y, values, clean=column.id == "clean")
            numbers += (
                {**head, "defense": name, "access": access, "accuracy": measured(value)}
                for access, value in values.items()
            )
        axis.set(xlim=(-4, 104), ylim=(len(defenses) - 0.4, -0.6))
        axis.set_title(_title(column), fontsize=7)
        name_rows(axis, defenses if axis is axes[0] else [""] * len(defenses))
        axis.tick_params(axis="y", length=0)
    for unused in axes[len(columns) :]:
        unused.set_visible(False)
    axes[0].set_ylabel(table.title.replace(" · ", "\n"))
    return numbers


def _worst_cases(panels: _Panels) -> dict[str, Mapping[str, Value | None]]:
    """Return the worst cases of each defense over the attacks that all of them have in common."""
    group = panels.columns[-1].group
    summaries = {s.defense: s for s in panels.table.threats if s.group == group and s.defense in panels.defenses}
    return dict(zip(summaries, over_common_attacks(list(summaries.values())).worst, strict=True))


def _legend(figure: Figure) -> None:
    handles = [
        marker("adaptive, or white-box for a bare network", COLOUR["adaptive"]),
        marker("static", COLOUR["static"], "white"),
        marker("clean", INK, "white", shape="s"),
    ]
    legend_below(figure, handles, 3, f"% of all images; under one attack: {UNDER_ATTACK}; {WORST}")


def _title(column: Column) -> str:
    return f"{folded(without_eps(column.label), 12)}\n{column.group}"


def _columns(table: Table) -> list[Column]:
    """Return clean accuracy, the attacks of the first threat that most rows have, and their worst case."""
    first = [column for column in attacked(table) if column.group == attacked(table)[0].group]
    rows = [row for row in table.rows if row.access != "transfer"]
    counts = {column.id: sum(column.id in row.values for row in rows) for column in first}
    widest = sorted(first, key=lambda column: (column.kind != "worst", -counts[column.id]))[:_MAX_ATTACKS]
    return [table.columns[0], *(column for column in first if column in widest)]


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
    """Return bare networks first, then those with a test-time step, each in the order of the leaderboard."""
    names = dict.fromkeys(row.defense for row in table.rows if row.defense in chosen)
    bare = {row.defense for row in table.rows if row.access == "white-box"}
    return sorted(names, key=lambda name: name not in bare)


def _draw_defense(axis: Axes, y: int, accuracies: _Values, *, clean: bool) -> None:
    """Draw the accuracies of one defense by access, joined by a line; of clean accuracies the first."""
    values = {a: value for a, value in accuracies.items() if a != "transfer" and value and value.number is not None}
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
