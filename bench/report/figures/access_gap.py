"""How far static attacks flatter: worst case static against adaptive, for each defense."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    SOFT,
    WORST,
    access_legend,
    access_points,
    measured,
    name_rows,
    stacked,
    tables,
)
from bench.report.leaderboard.pareto import full_knowledge, primary
from bench.report.leaderboard.summaries import ThreatSummary
from bench.report.leaderboard.tables import Table


def _gap(summary: ThreatSummary) -> float:
    return summary.gap.number if summary.gap.number is not None else -1.0


def draw(source: Source) -> Drawing:
    shown = tables(
        source,
        lambda table: any(s.gap.number is not None for s in primary(table)),
        "no test-time step was attacked both with static and with adaptive access",
    )
    rows = [len(primary(table)) for table in shown]
    height = sum(0.75 + 0.24 * n for n in rows) + 0.3
    figure, axes = stacked([n + 1 for n in rows], height, sharex=True)
    numbers = [_draw_table(axis, table) for axis, table in zip(axes[:, 0], shown, strict=True)]
    axes[-1][0].set_xlabel(f"{WORST}, %")
    access_legend(figure, "adaptive (white-box where there is no test-time step)")
    return Drawing(figure, {"tables": numbers})


def _draw_table(axis: Axes, table: Table) -> dict[str, Any]:
    """Draw the defenses of a table, the smallest gap below, and return their numbers."""
    summaries = sorted(primary(table), key=lambda s: (_gap(s), s.defense))
    for y, s in enumerate(summaries):
        static, adaptive = s.worst.get("static"), full_knowledge(s)
        if static and adaptive and static.number is not None and adaptive.number is not None:
            axis.plot(
                [100 * adaptive.number, 100 * static.number], [y, y], color=SOFT, linewidth=2, alpha=0.5, zorder=1
            )
        access_points(axis, y, static, adaptive, horizontal=True)
        if s.gap.number is not None and s.gap.low is not None and s.gap.high is not None:
            text = f"{100 * s.gap.number:+.1f}  [{100 * s.gap.low:+.1f}, {100 * s.gap.high:+.1f}]"
            _beside(axis, y, ", ".join([text, *s.gap.footnotes]), va="center")
    name_rows(axis, [s.defense for s in summaries])
    axis.set(xlim=(-2, 102), ylim=(-0.6, len(summaries) + 0.1))
    axis.grid(axis="y", visible=False)
    threat = summaries[0].group
    axis.set_title(f"{table.title}, {threat}")
    _beside(axis, len(summaries) - 0.4, "gap, points", color=SOFT)
    body = [
        {
            "defense": s.defense,
            "static": measured(s.worst.get("static")),
            "adaptive": measured(full_knowledge(s)),
            "gap": measured(s.gap),
        }
        for s in summaries
    ]
    return {"dataset": table.dataset, "model": table.model, "threat": threat, "defenses": body}


def _beside(axis: Axes, y: float, text: str, **style: Any) -> None:
    """Write a text to the right of the axes."""
    axis.annotate(
        text,
        (1, y),
        (6, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=7,
        **style,
    )
