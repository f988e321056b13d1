"""How far static attacks flatter: worst case static against adaptive, for each defense."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import (
    COLOUR,
    SOFT,
    WIDTH,
    WORST,
    measured,
    name_rows,
    need,
    primary,
    seen,
    tables,
    whisker,
)
from bench.report.leaderboard.summaries import ThreatSummary, threat_text


def _gap(standing: ThreatSummary) -> float:
    return standing.gap.number if standing.gap.number is not None else -1.0


def draw(source: Source) -> Drawing:
    found = tables(source, lambda table: any(s.gap.number is not None for s in primary(table)))
    need(found, "no test-time step was attacked both with static and with adaptive access")
    rows = [len(primary(table)) for table in found]
    figure, axes = plt.subplots(
        len(found),
        1,
        figsize=(WIDTH, sum(0.75 + 0.24 * n for n in rows) + 0.3),
        squeeze=False,
        height_ratios=[n + 1 for n in rows],
        sharex=True,
    )
    numbers = []
    for axis, table in zip(axes[:, 0], found, strict=True):
        standings = sorted(primary(table), key=lambda s: (_gap(s), s.defense))
        for y, s in enumerate(standings):
            static, full = s.worst.get("static"), seen(s, "adaptive")
            if static and full and static.number is not None and full.number is not None:
                axis.plot(
                    [100 * full.number, 100 * static.number], [y, y], color=SOFT, linewidth=2, alpha=0.5, zorder=1
                )
            if static and static.number is not None:
                whisker(axis, y, static, COLOUR["static"], horizontal=True)
                axis.plot(100 * static.number, y, "o", color=COLOUR["static"], markerfacecolor="white", zorder=3)
            if full and full.number is not None:
                whisker(axis, y, full, COLOUR["adaptive"], horizontal=True)
                axis.plot(100 * full.number, y, "o", color=COLOUR["adaptive"], zorder=4)
            if s.gap.number is not None and s.gap.low is not None and s.gap.high is not None:
                text = f"{100 * s.gap.number:+.1f}  [{100 * s.gap.low:+.1f}, {100 * s.gap.high:+.1f}]"
                text = ", ".join([text, *s.gap.marks])
                axis.annotate(
                    text,
                    (1, y),
                    (6, 0),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                )
        name_rows(axis, [s.defense for s in standings])
        axis.set(xlim=(-2, 102), ylim=(-0.6, len(standings) + 0.1))
        axis.grid(axis="y", visible=False)
        threat = next(s.threat for s in standings if s.threat)
        axis.set_title(f"{table.title}, {threat_text(threat)}")
        axis.annotate(
            "gap, points",
            (1, len(standings) - 0.4),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=7,
            color=SOFT,
        )
        body = [
            {
                "defense": s.defense,
                "static": measured(s.worst.get("static")),
                "adaptive": measured(seen(s, "adaptive")),
                "gap": measured(s.gap),
            }
            for s in standings
        ]
        numbers.append(
            {"dataset": table.dataset, "model": table.model, "threat": threat_text(threat), "defenses": body}
        )
    axes[-1][0].set_xlabel(f"{WORST}, %")
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color=COLOUR["adaptive"],
            label="adaptive (white-box where there is no test-time step)",
        ),
        Line2D([], [], marker="o", linestyle="", color=COLOUR["static"], markerfacecolor="white", label="static"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return Drawing(figure, {"tables": numbers})
