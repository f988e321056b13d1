"""Accuracy under attack against the attacker's budget, one panel for each attack that was run with several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import KEPT, Precedence, natural, precedence
from bench.report.figures._layout import GAP, LEGEND_POINTS, NAME_POINTS, Foot, Grid, fitting
from bench.report.figures._plot import (
    ACCESS_WORDS,
    MAX_CURVES,
    MAX_PANELS,
    UNDER_ATTACK,
    text_width,
    whisker,
    without_eps,
)
from bench.report.leaderboard.summaries import NORMS, Value
from bench.stats import Interval, wilson
from bench.types import eps_text

#: Budgets of one curve that have a marker and an interval each.
_MAX_MARKERS = 25
#: Inches: the height of the axes of one panel, and of each of several.
_HIGH, _LOW = 2.4, 1.5


class _Panel(NamedTuple):
    table: str
    #: Hash of the image list.
    images: str
    attack: str
    norm: str


class _Curve(NamedTuple):
    defense: str
    access: str


#: By budget: accuracies, one for each seed, and the number of images.
_Points = dict[Fraction, tuple[list[float], int]]
_Look = tuple[str, str]


def draw(source: Source) -> Drawing:
    swept = _swept(source)
    if not swept:
        raise Missing("no attack was run with several budgets: give eps as a list in the configuration")
    order = precedence(source)
    panels = sorted(swept, key=lambda panel: list(map(natural, panel)))[:MAX_PANELS]
    first = {panel: _kept(swept[panel], order) for panel in panels}
    count = fitting(len(first), lambda count: _laid_out(swept, first, count, source.width)[0].total)
    grid, foot = _laid_out(swept, first, count, source.width)
    shown = dict(list(first.items())[:count])
    looks = _looks(shown)
    figure, axes = grid.draw(f"{UNDER_ATTACK}, %")
    numbers: list[dict[str, Any]] = []
    for axis, (panel, curves) in zip(axes, shown.items(), strict=True):
        numbers += _draw_panel(axis, panel, curves, looks)
    foot.draw(figure)
    return Drawing(figure, {"curves": numbers})


def _kept(curves: Mapping[_Curve, _Points], order: Precedence) -> dict[_Curve, _Points]:
    """Return as many curves as are legible, in the order of their names."""
    some = sorted(curves, key=lambda curve: (order[curve.defense], curve.access))[:MAX_CURVES]
    return {curve: curves[curve] for curve in sorted(some, key=_by_name)}


def _by_name(curve: _Curve) -> tuple[list[tuple[float, str]], str]:
    return natural(curve.defense), curve.access


def _laid_out(
    swept: Mapping[_Panel, Mapping[_Curve, _Points]],
    first: Mapping[_Panel, Mapping[_Curve, _Points]],
    count: int,
    width: float,
) -> tuple[Grid, Foot]:
    """Return the layout of ``count`` panels.

    Args:
        swept: all panels.
        first: those that may be shown, with the curves that are legible.
        count: how many of these.
        width: of the figure, in inches.
    """
    shown = dict(list(first.items())[:count])
    drawn, total = sum(map(len, shown.values())), sum(map(len, swept.values()))
    several = len({panel.table for panel in shown}) > 1
    heading = "" if several else next(iter(shown)).table
    if drawn < total:
        left_out = f"{drawn:,} of {total:,} curves, {KEPT}"
        if len(shown) < len(swept):
            left_out += f", in {len(shown):,} of {len(swept):,} panels"
        heading = f"{heading}: {left_out}" if heading else left_out
    titles = [f"{panel.attack}\n{panel.table}" if several else panel.attack for panel in shown]
    looks = _looks(shown)
    handles = [
        _line(curve, looks[curve.defense]) for curve in sorted(set(chain.from_iterable(shown.values())), key=_by_name)
    ]
    foot = Foot(width, handles)
    height = _HIGH if len(shown) == 1 else _LOW
    return Grid.of(titles, width, Grid.across_of(len(shown), width), height, foot.height, heading), foot


def _looks(shown: Mapping[_Panel, Mapping[_Curve, _Points]]) -> dict[str, _Look]:
    """Return the colour and the marker of each defense."""
    names = sorted({curve.defense for curve in chain.from_iterable(shown.values())}, key=natural)
    return {name: (f"C{i % 7}", "os^D"[i // 7 % 4]) for i, name in enumerate(names)}


def _line(curve: _Curve, look: _Look) -> Line2D:
    """Return a line of the looks of a curve, without points."""
    colour, marker = look
    limited = curve.access in ("static", "transfer")
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        markersize=4,
        markerfacecolor="white" if limited else colour,
        linestyle="--" if limited else "-",
        label=curve.defense + (f", {ACCESS_WORDS[curve.access]}" if curve.access != "white-box" else ""),
    )


def _draw_panel(
    axis: Axes, panel: _Panel, curves: Mapping[_Curve, _Points], looks: Mapping[str, _Look]
) -> list[dict[str, Any]]:
    """Draw the curves of one attack, and return their numbers."""
    numbers: list[dict[str, Any]] = []
    for curve, points in curves.items():
        accuracies = {eps: wilson(fmean(shares) * n, n) for eps, (shares, n) in sorted(points.items())}
        _draw_curve(axis, curve, accuracies, looks[curve.defense])
        numbers.append(
            {
                "panel": [panel.table, panel.attack, panel.norm],
                "defense": curve.defense,
                "access": curve.access,
                "eps": list(map(eps_text, accuracies)),
                "accuracy": [accuracy._asdict() for accuracy in accuracies.values()],
            }
        )
    axis.set_xlabel(f"{panel.norm} budget ε", fontsize=NAME_POINTS)
    budgets = _with_room(axis, sorted(set(chain.from_iterable(curves.values()))))
    axis.set_xticks(list(map(float, budgets)), list(map(eps_text, budgets)), fontsize=LEGEND_POINTS)
    return numbers


def _with_room(axis: Axes, budgets: Sequence[Fraction]) -> list[Fraction]:
    """Return the budgets whose names have room below the axis; the largest is always one."""
    low, high = axis.get_xlim()
    inches = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted()).width
    free = float("inf")
    named: list[Fraction] = []
    for budget in reversed(budgets):
        middle, width = (float(budget) - low) / (high - low) * inches, text_width(eps_text(budget), LEGEND_POINTS)
        if middle + width / 2 < free and middle > width / 2 - GAP:
            named.append(budget)
            free = middle - width / 2 - GAP
    return named[::-1]


def _draw_curve(axis: Axes, curve: _Curve, accuracies: Mapping[Fraction, Interval], look: _Look) -> None:
    """Draw accuracies by budget, with their intervals."""
    few = len(accuracies) <= _MAX_MARKERS
    budgets = list(map(float, accuracies))
    line = _line(curve, look)
    line.set_data(budgets, [100 * accuracy.value for accuracy in accuracies.values()])
    if not few:
        line.set_marker("")
    axis.add_line(line)
    colour, _ = look
    if few:
        for budget, accuracy in zip(budgets, accuracies.values(), strict=True):
            whisker(axis, budget, Value(*accuracy), colour)
    else:
        lows = [100 * accuracy.low for accuracy in accuracies.values()]
        highs = [100 * accuracy.high for accuracy in accuracies.values()]
        axis.fill_between(budgets, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axis.autoscale_view(scaley=False)


def _swept(source: Source) -> dict[_Panel, dict[_Curve, _Points]]:
    """Return the curves with more than one budget, by panel."""
    every: dict[_Panel, dict[_Curve, _Points]] = defaultdict(lambda: defaultdict(dict))
    for r in source.results:
        if r.cell.attack is None or r.metrics is None or (eps := r.cell.attack.threat.eps) is None:
            continue
        if (share := r.metrics.accuracy_under_attack) is None:
            continue
        defense, attack = source.board.labels[r.key]
        table = f"{r.names.dataset} · {r.names.model} · {r.metrics.n:,} images"
        # The label of a swept attack names its budget, which is the axis here.
        panel = _Panel(table, r.cell.data.indices_sha, without_eps(attack), NORMS[r.cell.attack.threat.norm])
        shares, _ = every[panel][_Curve(defense, r.names.access)].setdefault(eps, ([], r.metrics.n))
        shares.append(share)
    swept = {
        panel: {curve: points for curve, points in curves.items() if len(points) > 1} for panel, curves in every.items()
    }
    return {panel: curves for panel, curves in swept.items() if curves}
