"""Worst-case accuracy against inference FLOPs per image, with the Pareto front."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._labels import label_apart
from bench.report.figures._plot import (
    COLOUR,
    ROW_LETTERS,
    WIDTH,
    WORST,
    access_legend,
    access_points,
    log_axis,
    measured,
    panels,
    tables,
)
from bench.report.leaderboard.pareto import cost_front, full_knowledge, primary
from bench.report.leaderboard.summaries import ThreatSummary
from bench.report.leaderboard.tables import Table


def draw(source: Source) -> Drawing:
    shown = tables(
        source, lambda table: len(_with_cost(table)) > 1, "no data set has two defenses with a measured cost"
    )
    across = min(2, len(shown))
    keys = [_key(table) for table in shown]
    height = sum(2.7 + 0.12 * max(map(len, keys[row : row + across])) for row in range(0, len(shown), across)) + 0.3
    figure, axes = panels(len(shown), across, (WIDTH * across / 2, height), f"{WORST}, %")
    numbers = [_draw_table(axis, table, key) for axis, table, key in zip(axes, shown, keys, strict=True)]
    access_legend(figure, "white-box or adaptive")
    return Drawing(figure, {"tables": numbers})


def _draw_table(axis: Axes, table: Table, key: dict[str, str]) -> dict[str, Any]:
    """Draw the defenses of a table with their Pareto front, and return their numbers.

    Args:
        axis: to draw on.
        table: of the leaderboard.
        key: a number for each defense, to write instead of a long name.
    """
    summaries = _with_cost(table)
    points = [_draw_point(axis, s) for s in summaries]
    front = cost_front(summaries)
    axis.step(
        [x for x, _ in front],
        [100 * y for _, y in front],
        where="post",
        color=COLOUR["adaptive"],
        alpha=0.35,
        zorder=1,
    )
    axis.set(xscale="log", ylim=(-5, 105), xlabel="inference FLOPs per image", title=table.title)
    if key:
        legend = "\n".join(f"{number}  {name}" for name, number in key.items())
        axis.set_xlabel(f"inference FLOPs per image\n{legend}", fontsize=6)
    log_axis(axis, [p["flops"] for p in points])
    # A defense with static attacks alone has its name at its static worst case.
    heights = [(p, p["static" if p["adaptive"]["value"] is None else "adaptive"]["value"]) for p in points]
    label_apart(
        axis,
        [(p["flops"], 100 * y, key.get(p["defense"], p["defense"])) for p, y in heights if y is not None],
    )
    return {
        "dataset": table.dataset,
        "model": table.model,
        "threat": summaries[0].group,
        "points": points,
        "front": front,
    }


def _draw_point(axis: Axes, s: ThreatSummary) -> dict[str, Any]:
    """Draw one defense, its static and adaptive worst case joined by a line, and return its numbers."""
    assert s.cost is not None
    adaptive, static = full_knowledge(s), s.worst.get("static")
    flops = s.cost.test_flops
    access_points(axis, flops, static, adaptive)
    if adaptive and static and adaptive.number is not None and static.number is not None:
        ends = [100 * adaptive.number, 100 * static.number]
        axis.plot([flops] * 2, ends, ":", color=COLOUR["static"], linewidth=1, zorder=1)
    return {"defense": s.defense, "flops": flops, "adaptive": measured(adaptive), "static": measured(static)}


def _with_cost(table: Table) -> list[ThreatSummary]:
    return [s for s in primary(table) if s.cost]


def _key(table: Table) -> dict[str, str]:
    """Return a number for each defense where their names are too long to stand beside points."""
    names = list(dict.fromkeys(s.defense for s in _with_cost(table)))
    return {name: str(i) for i, name in enumerate(names, start=1)} if max(map(len, names)) > ROW_LETTERS else {}
