"""How far static attacks flatter: robust accuracy under static and under adaptive attacks, for each defense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import Precedence, kept, natural, of_defenses_text, precedence
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    LEGEND_POINTS,
    NAME_POINTS,
    Block,
    Foot,
    Labels,
    axes_at,
    beside_rows,
    fitting_tables,
    row_height,
    stack,
    stack_height,
    write_rows,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    COLOUR,
    MAX_DEFENSES,
    MAX_TABLES,
    ROBUST,
    ROBUST_MEANS,
    SOFT,
    Suitable,
    access_points,
    in_brackets,
    marker,
    measured,
    signed,
    unbroken,
)
from bench.report.leaderboard.pareto import full_knowledge, primary
from bench.report.leaderboard.summaries import ThreatSummary
from bench.report.leaderboard.tables import Table

#: Shares of the width of the figure: for names, and for gaps with their intervals.
_NAMES, _GAPS = 0.35, 0.35
#: Inches: ticks and the label of the x axis, and the heading above the gaps.
_TICKS, _HEADING = 0.36, 0.13


class _Rows(NamedTuple):
    """Defenses of a table under one threat, the largest gap first, with what is written beside them."""

    table: Table
    title: str
    summaries: list[ThreatSummary]
    names: Labels
    gaps: Labels

    @property
    def threat(self) -> str:
        return self.summaries[0].group


def draw(source: Source) -> Drawing:
    width, first = source.width, precedence(source)
    suitable = _suitable(source)

    def height(tables: Suitable, count: int, row: float = DENSE_ROW) -> float:
        foot = _foot(width, tables.left_out)
        return stack_height(_blocks(_all_rows(tables, count, width, first), row), width, foot.height)

    most = min(MAX_DEFENSES, max(len(primary(table)) for table in suitable.tables))
    fitted, count = fitting_tables(suitable, most, height)
    shown, foot = _all_rows(fitted, count, width, first), _foot(width, fitted.left_out)
    blocks = _blocks(shown, row_height(lambda row: height(fitted, count, row)))
    left, right = max(rows.names.width for rows in shown), max(rows.gaps.width for rows in shown)
    figure, boxes = stack(blocks, width, left=EDGE + left + GAP, right=right + 2 * GAP, foot=foot.height)
    numbers = [_draw_table(axes_at(figure, box), rows) for box, rows in zip(boxes, shown, strict=True)]
    for axis in figure.axes[:-1]:
        axis.tick_params(labelbottom=False)
    figure.axes[-1].set_xlabel(f"{ROBUST}, %", fontsize=NAME_POINTS)
    foot.draw(figure)
    return Drawing(figure, {"tables": numbers})


def _suitable(source: Source) -> Suitable:
    """Return tables of one threat each that has a gap: those of the first threats, then those of the second, and so on.

    Raises:
        Missing: there is none.
    """
    by_place = zip_longest(*map(_of_one_threat, source.board.tables))
    panels = [table for table in chain.from_iterable(by_place) if table is not None]
    if not panels:
        raise Missing("no test-time step was attacked both with static and with adaptive access")
    return Suitable(panels[:MAX_TABLES], len(panels), "panels")


def _of_one_threat(table: Table) -> Iterator[Table]:
    """Yield a table for each threat that has a gap, with what is measured under this threat."""
    for group in dict.fromkeys(column.group for column in table.columns):
        summaries = tuple(s for s in table.threats if s.threat and s.group == group)
        if any(s.gap.number is not None for s in summaries):
            yield replace(table, threats=summaries)


def _all_rows(tables: Suitable, count: int, width: float, first: Precedence) -> list[_Rows]:
    return [_rows(table, count, width, first) for table in tables.tables]


def _rows(table: Table, count: int, width: float, first: Precedence) -> _Rows:
    """Return defenses of a table, the smallest gap below, with their texts."""
    every = sorted(primary(table), key=_gap, reverse=True)
    names_kept = kept([s.defense for s in every], count, first)
    summaries = [s for s in every if s.defense in names_kept]
    part = in_brackets(of_defenses_text(len(summaries), len(every)))
    names = beside_rows([s.defense for s in summaries], _NAMES * width)
    gaps = beside_rows(list(map(_gap_text, summaries)), _GAPS * width)
    return _Rows(table, f"{table.title}, {unbroken(every[0].group)}{part}", summaries, names, gaps)


def _gap(summary: ThreatSummary) -> tuple[float, list[tuple[float, str]]]:
    return summary.gap.number if summary.gap.number is not None else -1.0, natural(summary.defense)


def _gap_text(summary: ThreatSummary) -> str:
    gap = summary.gap
    if gap.number is None or gap.low is None or gap.high is None:
        return ""
    text = f"{signed(100 * gap.number)} [{signed(100 * gap.low)}, {signed(100 * gap.high)}]"
    return ", ".join([text, *gap.footnotes])


def _blocks(shown: Sequence[_Rows], row: float) -> list[Block]:
    blocks = []
    for rows in shown:
        height = max(row, rows.names.height, rows.gaps.height)
        below = _TICKS if rows is shown[-1] else GAP
        blocks.append(Block(rows.title, height * len(rows.summaries), above=_HEADING, below=below))
    return blocks


def _foot(width: float, left_out: str) -> Foot:
    handles = [
        marker("adaptive (white-box where there is no test-time step)", COLOUR["adaptive"]),
        marker(ACCESS_WORDS["static"], COLOUR["static"], "white"),
    ]
    remark = "; ".join(filter(None, [ROBUST_MEANS, "gap: static minus adaptive, with its 95 % interval", left_out]))
    return Foot(width, handles, remark)


def _draw_table(axis: Axes, rows: _Rows) -> dict[str, Any]:
    """Draw the defenses of a table, and return their numbers."""
    for y, s in enumerate(rows.summaries):
        static, adaptive = s.worst.get("static"), full_knowledge(s)
        if static and adaptive and static.number is not None and adaptive.number is not None:
            ends = [100 * adaptive.number, 100 * static.number]
            axis.plot(ends, [y, y], color=SOFT, linewidth=2, alpha=0.5, zorder=1)
        access_points(axis, y, static, adaptive, horizontal=True)
        _beside(axis, y, rows.gaps.texts[y], rows.gaps.points, va="center")
    write_rows(axis, rows.names)
    axis.set(xlim=(-2, 102), ylim=(len(rows.summaries) - 0.5, -0.5), xticks=range(0, 101, 25))
    axis.tick_params(axis="x", labelsize=LEGEND_POINTS)
    axis.grid(axis="y", visible=False)
    _beside(axis, -0.5, "gap, points", LEGEND_POINTS, va="bottom", color=SOFT)
    body = [
        {
            "defense": s.defense,
            "static": measured(s.worst.get("static")),
            "adaptive": measured(full_knowledge(s)),
            "gap": measured(s.gap),
        }
        # The smallest gap comes first in the file.
        for s in reversed(rows.summaries)
    ]
    return {"dataset": rows.table.dataset, "model": rows.table.model, "threat": rows.threat, "defenses": body}


def _beside(axis: Axes, y: float, text: str, points: float, **style: Any) -> None:
    """Write a text to the right of the axes."""
    axis.annotate(
        text,
        (1, y),
        (72 * GAP, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=points,
        linespacing=1.1,
        **style,
    )
