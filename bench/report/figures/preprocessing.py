"""TPAP and the other test-time steps against each attack, static and adaptive, beside the bare networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    COLOUR,
    INK,
    SOFT,
    UNDER_ATTACK,
    WIDTH,
    WORST,
    attacked,
    folded,
    measured,
    name_rows,
    need,
    over_common_attacks,
    tables,
    whisker,
    without_eps,
)
from bench.report.figures._tpap import STEP
from bench.report.leaderboard.summaries import RowIds, Value
from bench.report.leaderboard.tables import RANKED, Column, Table
from bench.types import Access

_STEPS = 2
_ATTACKS = 5


def draw(source: Source) -> Drawing:
    chosen = _chosen(source)
    found = tables(source, lambda t: (t.dataset, t.model) in chosen and bool(attacked(t)))
    need(found, f"no data set has {_STEPS} kinds of test-time steps")
    defenses = [_defenses(table, chosen[table.dataset, table.model]) for table in found]
    rows = [len(names) for names in defenses]
    most = max(len(_shown(table)) for table in found)
    heads = [[_head(column) for column in _shown(table)] for table in found]
    above = [max(head.count("\n") for head in row) - 1 for row in heads]
    figure, axes = plt.subplots(
        len(found),
        most,
        figsize=(WIDTH, sum(0.7 + 0.2 * n for n in rows) + 0.11 * sum(above) + 0.3),
        squeeze=False,
        sharex=True,
        height_ratios=[n + 1.5 for n in rows],
    )
    numbers: list[dict[str, Any]] = []
    for line, table, row, names in zip(axes, found, heads, defenses, strict=True):
        shown = _shown(table)
        for axis in line[len(shown) :]:
            axis.set_visible(False)
        group = shown[-1].group
        standings = {s.defense: s for s in table.threats if s.group == group and s.defense in names}
        worst = dict(zip(standings, over_common_attacks(list(standings.values())).worst, strict=True))
        for axis, column, head in zip(line, shown, row, strict=False):
            for y, name in enumerate(names):
                lines = [each for each in table.rows if each.defense == name]
                values = {each.access: each.values.get(column.id) for each in lines}
                if column.label == "worst case" and name in worst:
                    values = {a: worst[name].get("adaptive" if a == "white-box" else a) for a in values}
                _row(axis, y, values, clean=column.id == "clean")
                for each in lines:
                    numbers.append(
                        {
                            "dataset": table.dataset,
                            "model": table.model,
                            "attack": column.label,
                            "threat": column.group,
                            "defense": name,
                            "access": each.access,
                            "accuracy": measured(values[each.access]),
                        }
                    )
            axis.set(xlim=(-4, 104), ylim=(len(names) - 0.4, -0.6))
            axis.set_title(head, fontsize=7)
            name_rows(axis, names if axis is line[0] else [""] * len(names))
            axis.tick_params(axis="y", length=0)
        line[0].set_ylabel(table.title.replace(" · ", "\n"))
    _legend(figure)
    return Drawing(figure, {"accuracies": numbers})


def _legend(figure: Figure) -> None:
    marks = {
        "adaptive, or white-box for a bare network": (COLOUR["adaptive"], COLOUR["adaptive"]),
        "static": (COLOUR["static"], "white"),
        "clean": (INK, "white"),
    }
    handles = [
        Line2D(
            [], [], marker="s" if name == "clean" else "o", linestyle="", color=edge, markerfacecolor=face, label=name
        )
        for name, (edge, face) in marks.items()
    ]
    title = f"% of all images; under one attack: {UNDER_ATTACK}; {WORST}"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=title, title_fontsize=7)


def _head(column: Column) -> str:
    return f"{folded(without_eps(column.label), 12)}\n{column.group}"


def _shown(table: Table) -> list[Column]:
    """Return clean accuracy, the attacks of the first threat that most lines met, and their worst case."""
    first = [column for column in attacked(table) if column.group == attacked(table)[0].group]
    met = {c.id: sum(c.id in line.values for line in table.rows if line.access != "transfer") for c in first}
    widest = sorted(first, key=lambda c: (c.label != "worst case", -met[c.id]))[:_ATTACKS]
    return [table.columns[0], *(column for column in first if column in widest)]


def _chosen(source: Source) -> Mapping[tuple[str, str], set[str]]:
    """Return the defenses to show, by data set and network, where there are several kinds of steps.

    TPAP has a figure of its own for its settings. Here the plainest name stands for all on its weights, and only on
    weights that carry another kind of step, too, or where no name is plainer.
    """
    places: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    ids = RowIds()
    for r in source.results:
        of = places.setdefault((r.names.dataset, r.names.model), {})
        of[source.board.labels[r.key][0]] = ids.base(r.cell), r.cell.step.name if r.cell.step else ""
    found: dict[tuple[str, str], set[str]] = {}
    for group, of in places.items():
        if len({kind for _, kind in of.values()} - {""}) < _STEPS:
            continue
        plainest: dict[str, str] = {}
        for name in sorted((name for name, (_, kind) in of.items() if kind == STEP), key=_plainness):
            plainest.setdefault(of[name][0], name)
        carrying = {weights for weights, kind in of.values() if kind not in ("", STEP)}
        carrying |= set(list(plainest)[:1])
        found[group] = {name for name, (_, kind) in of.items() if kind != STEP}
        found[group] |= {name for weights, name in plainest.items() if weights in carrying}
    return found


def _plainness(name: str) -> tuple[bool, int, str]:
    return "@" in name, len(name), name


def _defenses(table: Table, chosen: Collection[str]) -> list[str]:
    """Return bare networks first, then those with a test-time step, each in the order of the leaderboard."""
    names = dict.fromkeys(line.defense for line in table.rows if line.defense in chosen)
    bare = {line.defense for line in table.rows if line.access == "white-box"}
    return sorted(names, key=lambda name: name not in bare)


def _row(axis: Axes, y: int, found: Mapping[Access, Value | None], *, clean: bool) -> None:
    values = {a: value for a, value in found.items() if a != "transfer" and value and value.number is not None}
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
