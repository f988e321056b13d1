"""Robust accuracy at every budget, from attacks that search for the nearest wrong image of each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import chain, product
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import natural, precedence
from bench.report.figures._layout import NAME_POINTS
from bench.report.figures._lines import Line, Look, drawn_line, laid_out, legible, looks, name_budgets, sees_all
from bench.report.figures._plot import MAX_PANELS, ROBUST, SOFT, marker, measured
from bench.report.leaderboard.budgets import BudgetCurve, curves, older
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import Table
from bench.stats import wilson
from bench.types import NORMS, Norm, eps_text

#: Steps from zero to the end of the axis; in L∞, where that is a power of two of 255ths, each 255th is one of them.
_STEPS, _LINF_STEPS = 200, 256
#: The share of distances that the axis covers; a few images may be very far from any wrong one.
_COVERED = 0.98
#: The axis is made this much longer for a budget that an attack was run with.
_STRETCH = 2
_REMARK = (
    "Right when clean, and no attack of this norm found a wrong image within ε: those without a budget count at every "
    "ε, others from theirs on. A better attack may find nearer images, so each curve is an upper bound."
)


class _Panel(NamedTuple):
    table: str
    #: Tells tables of one title apart.
    number: int
    norm: Norm

    @property
    def title(self) -> str:
        """What stands above it."""
        return NORMS[self.norm]


class _Cell(NamedTuple):
    """An attack with a budget, and the robust accuracy that it leaves."""

    eps: Fraction
    attack: str
    value: Value


class _Drawn(NamedTuple):
    """A curve with the cells of attacks with a budget."""

    curve: BudgetCurve
    cells: list[_Cell]


def draw(source: Source) -> Drawing:
    every = _panels(source.board.tables)
    if not every:
        raise Missing(
            "no attack searched for the nearest wrong images and kept their distances: run one that minimises a norm, "
            f"without eps and target{older(source.board.tables)}"
        )
    order = precedence(source)
    panels = sorted(every, key=lambda panel: (natural(panel.table), panel.number, list(NORMS).index(panel.norm)))
    first = {panel: legible(every[panel], order) for panel in panels[:MAX_PANELS]}
    drawn = chain.from_iterable(lines.values() for lines in first.values())
    legend = _legend(with_cells=any(each.cells for each in drawn))
    shown, grid, foot = laid_out(every, first, source.width, more=legend, remark=_REMARK)
    figure, axes = grid.draw(f"{ROBUST}, %")
    look_of = looks(chain.from_iterable(shown.values()))
    numbers: list[dict[str, Any]] = []
    for axis, (panel, lines) in zip(axes, shown.items(), strict=True):
        numbers += _draw_panel(axis, panel, lines, look_of)
    foot.draw(figure)
    return Drawing(figure, {"counts": _REMARK, "curves": numbers})


def _panels(tables: Sequence[Table]) -> dict[_Panel, dict[Line, _Drawn]]:
    """Return the curves that an attack without a budget gave, by panel."""
    panels: dict[_Panel, dict[Line, _Drawn]] = {}
    for number, table in enumerate(tables):
        for curve in (each for each in curves(table) if each.is_whole and each.at(Fraction(0)).number is not None):
            panel = _Panel(table.title, number, curve.norm)
            drawn = _Drawn(curve, _cells(table, curve))
            panels.setdefault(panel, {})[Line(curve.cells.name, curve.access)] = drawn
    return panels


def _cells(table: Table, curve: BudgetCurve) -> list[_Cell]:
    """Return what each attack with a budget leaves of a defense, alone."""
    labels = {s.group: s.labels for s in table.threats}
    cells: list[_Cell] = []
    for (access, group, attack), results in curve.cells.cells.items():
        threat = results[0].cell.attack.threat if results[0].cell.attack else None
        robust = curve.cells.robust[access, group, attack]
        if access != curve.access or threat is None or threat.eps is None or threat.norm != curve.norm or not robust:
            continue
        share = sum(outcomes.share for outcomes in robust.values()) / len(robust)
        n = curve.cells.n
        value = Value(*wilson(min(n, share * n), n), keys=tuple(r.key for r in results))
        cells.append(_Cell(threat.eps, labels[group][attack], value))
    return sorted(cells, key=lambda cell: (cell.eps, cell.attack))


def _legend(*, with_cells: bool) -> list[Line2D | Patch]:
    band = Patch(color=SOFT, alpha=0.2, linewidth=0, label="95 % interval")
    cell = marker("one attack with this budget", SOFT)
    return [band, cell] if with_cells else [band]


def _draw_panel(
    axis: Axes, panel: _Panel, lines: Mapping[Line, _Drawn], look_of: Mapping[str, Look]
) -> list[dict[str, Any]]:
    """Draw the curves of one norm, and return their numbers."""
    end = _end(panel.norm, lines.values())
    steps = _STEPS if panel.norm != "linf" else _LINF_STEPS - (end == 1)
    grid = [end * step / steps for step in range(steps + 1)]
    numbers: list[dict[str, Any]] = []
    for line, (curve, cells) in lines.items():
        values = {eps: curve.at(eps) for eps in sorted({*grid, *(eps for eps in curve.budgets if eps <= end)})}
        known = {eps: value for eps, value in values.items() if value.number is not None}
        _draw_curve(axis, line, known, [cell for cell in cells if cell.eps <= end], look_of[line.defense])
        numbers.append(
            {
                "panel": [panel.table, NORMS[panel.norm]],
                "defense": line.defense,
                "access": line.access,
                "n": curve.cells.n,
                "seeds": list(curve.cells.seeds),
                "notes": list(curve.at(end).footnotes),
                "eps": list(map(eps_text, known)),
                "robust_accuracy": list(map(measured, known.values())),
                "cells": [
                    {"attack": cell.attack, "eps": eps_text(cell.eps), "robust_accuracy": measured(cell.value)}
                    for cell in cells
                ],
            }
        )
    axis.set_xlabel(f"{NORMS[panel.norm]} budget ε", fontsize=NAME_POINTS)
    axis.set_xlim(-0.02 * float(end), 1.02 * float(end))
    # Names of 255ths are long. A fifth of a round number is one too, and in L0 a whole one.
    parts = 2 if panel.norm == "linf" else 5
    ticks = [end * part / parts for part in range(parts + 1)]
    name_budgets(axis, {float(eps): _budget_text(panel.norm, eps) for eps in ticks})
    # The largest comes first, and else would touch the zero of the next panel.
    axis.get_xticklabels()[0].set_horizontalalignment("right")
    return numbers


def _draw_curve(axis: Axes, line: Line, values: Mapping[Fraction, Value], cells: Sequence[_Cell], look: Look) -> None:
    """Draw the robust accuracy at budgets, with its band, and the cells of attacks with a budget."""
    colour, shape = look
    budgets = list(map(float, values))
    drawn = drawn_line(line, look)
    drawn.set_data(budgets, [100 * (value.number or 0.0) for value in values.values()])
    # Between two budgets the curve falls; the higher number is an upper bound in between, too.
    drawn.set_drawstyle("steps-post")
    drawn.set_marker("")
    axis.add_line(drawn)
    lows, highs = [100 * (v.low or 0.0) for v in values.values()], [100 * (v.high or 0.0) for v in values.values()]
    axis.fill_between(budgets, lows, highs, step="post", color=colour, alpha=0.15, linewidth=0)
    axis.plot(
        [float(cell.eps) for cell in cells],
        [100 * (cell.value.number or 0.0) for cell in cells],
        linestyle="",
        marker=shape,
        markersize=4,
        color=colour,
        markerfacecolor=colour if sees_all(line) else "white",
        zorder=3,
    )


def _end(norm: Norm, lines: Iterable[_Drawn]) -> Fraction:
    """Return the end of the axis: a round number that covers nearly all distances, and budgets that are not far off."""
    lines = list(lines)
    covered = Fraction(0)
    for curve, _ in lines:
        distances = curve.distances()
        if distances:
            covered = max(covered, Fraction(distances[min(len(distances) - 1, int(_COVERED * len(distances)))]))
    budgets = list(chain.from_iterable(curve.budgets for curve, _ in lines))
    near = [eps for eps in budgets if eps <= _STRETCH * covered or not covered]
    return _round(norm, max([covered, *near]))


def _round(norm: Norm, least: Fraction) -> Fraction:
    """Return the first round number that is not below another: in L∞ some 255ths, a power of two of them."""
    if norm == "linf":
        rounds: Iterable[Fraction] = (Fraction(2) ** power / 255 for power in range(-4, 8))
        return next((each for each in rounds if each >= least), Fraction(1))
    rounds = (digit * Fraction(10) ** power for power, digit in product(range(-4, 7), (1, 2, 5)))
    least = max(least, Fraction(4)) if norm == "l0" else least
    return next((each for each in rounds if each >= least), Fraction(10**7))


def _budget_text(norm: Norm, eps: Fraction) -> str:
    return f"{float(255 * eps):g}/255" if norm == "linf" and 0 < eps < 1 else f"{float(eps):g}"
