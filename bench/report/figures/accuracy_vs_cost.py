"""Worst-case accuracy against inference FLOPs per image, with the Pareto front."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    COLOUR,
    ROW,
    WIDTH,
    WORST,
    label_apart,
    log_axis,
    measured,
    need,
    primary,
    seen,
    tables,
    whisker,
)
from bench.report.leaderboard.summaries import threat_text
from bench.report.leaderboard.tables import Table


def draw(source: Source) -> Drawing:
    found = tables(source, lambda table: len([s for s in primary(table) if s.cost]) > 1)
    need(found, "no data set has two defenses with a measured cost")
    across = min(2, len(found))
    down = -(-len(found) // across)
    keys = [_key(table) for table in found]
    height = sum(2.7 + 0.12 * max(map(len, keys[row : row + across])) for row in range(0, len(found), across)) + 0.3
    figure, axes = plt.subplots(down, across, figsize=(WIDTH * across / 2, height), squeeze=False, sharey=True)
    numbers = []
    for axis, table, key in zip(axes.flat, found, keys, strict=False):
        points: list[dict[str, Any]] = []
        for s in primary(table):
            if s.cost is None or s.threat is None:
                continue
            full, static = seen(s, "adaptive"), s.worst.get("static")
            points.append(
                {
                    "defense": s.defense,
                    "flops": s.cost.test_flops,
                    "adaptive": measured(full),
                    "static": measured(static),
                }
            )
            if static and static.number is not None:
                whisker(axis, s.cost.test_flops, static, COLOUR["static"])
                axis.plot(
                    s.cost.test_flops,
                    100 * static.number,
                    "o",
                    color=COLOUR["static"],
                    markerfacecolor="white",
                    zorder=3,
                )
            if full and full.number is not None:
                whisker(axis, s.cost.test_flops, full, COLOUR["adaptive"])
                axis.plot(s.cost.test_flops, 100 * full.number, "o", color=COLOUR["adaptive"], zorder=4)
            if full and static and full.number is not None and static.number is not None:
                axis.plot(
                    [s.cost.test_flops] * 2,
                    [100 * full.number, 100 * static.number],
                    ":",
                    color=COLOUR["static"],
                    linewidth=1,
                    zorder=1,
                )
        ranked = [p for p in points if p["adaptive"]["value"] is not None]
        front = _front([(p["flops"], p["adaptive"]["value"]) for p in ranked])
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
            about = "\n".join(f"{number}  {name}" for name, number in key.items())
            axis.set_xlabel(f"inference FLOPs per image\n{about}", fontsize=6)
        log_axis(axis, [p["flops"] for p in points])
        # A defense that only a static attacker met is named at what that one left.
        heights = [(p, p["adaptive"]["value"] if p in ranked else p["static"]["value"]) for p in points]
        label_apart(
            axis,
            [(p["flops"], 100 * y, key.get(p["defense"], p["defense"])) for p, y in heights if y is not None],
        )
        threat = next(s.threat for s in primary(table) if s.threat)
        numbers.append(
            {
                "dataset": table.dataset,
                "model": table.model,
                "threat": threat_text(threat),
                "points": points,
                "front": front,
            }
        )
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel(f"{WORST}, %")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOUR["adaptive"], label="white-box or adaptive"),
        Line2D([], [], marker="o", linestyle="", color=COLOUR["static"], markerfacecolor="white", label="static"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return Drawing(figure, {"tables": numbers})


def _key(table: Table) -> dict[str, str]:
    """Return a number for each defense where their names are too long to stand beside points."""
    names = list(dict.fromkeys(s.defense for s in primary(table) if s.cost))
    return {name: str(i) for i, name in enumerate(names, start=1)} if max(map(len, names)) > ROW else {}


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no cheaper or equally cheap one beats, from cheap to dear."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
