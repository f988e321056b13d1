"""Accuracy under attack against the attacker's budget, one panel for each attack that was run with several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import (
    MAX_CURVES,
    MAX_PANELS,
    SOFT,
    WIDTH,
    legend_below,
    three_across,
    whisker,
    without_eps,
)
from bench.report.leaderboard.summaries import NORMS, Value
from bench.stats import Interval, wilson
from bench.types import eps_text

#: Budgets of one curve that have a marker, an interval and a tick each.
_MAX_MARKERS = 25


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
    shown = {panel: dict(sorted(curves.items())[:MAX_CURVES]) for panel, curves in sorted(swept.items())[:MAX_PANELS]}
    columns = 4 if len(shown) > 1 else 2
    different = set(chain.from_iterable(shown.values()))
    legend = 0.18 * -(-len(different) // columns)
    figure, axes = three_across(len(shown), "accuracy under attack, %", single=WIDTH / 1.6, below=legend)
    names = sorted({curve.defense for curve in different})
    looks = {name: (f"C{i % 7}", "os^D"[i // 7 % 4]) for i, name in enumerate(names)}
    numbers: list[dict[str, Any]] = []
    for axis, (panel, curves) in zip(axes, shown.items(), strict=True):
        numbers += _draw_panel(axis, panel, curves, looks)
    drawn, total = sum(map(len, shown.values())), sum(map(len, swept.values()))
    if drawn < total:
        remark = f"the first {drawn:,} of {total:,} curves by name, in {len(shown):,} of {len(swept):,} panels"
        figure.suptitle(remark, fontsize=8, color=SOFT)
    handles = {
        line.get_label(): line for line in chain.from_iterable(axis.get_legend_handles_labels()[0] for axis in axes)
    }
    legend_below(figure, handles.values(), columns)
    return Drawing(figure, {"curves": numbers})


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
    axis.set(title=f"{panel.attack}, {panel.norm}", xlabel=f"eps ({panel.table})", ylim=(-3, 103))
    budgets = sorted(set(chain.from_iterable(curves.values())))
    ticks = budgets[:: -(-len(budgets) // _MAX_MARKERS)]
    labels = list(map(eps_text, ticks))
    axis.set_xticks(list(map(float, ticks)), labels, rotation=40 if len(ticks) > 5 else 0, fontsize=7)
    return numbers


def _draw_curve(axis: Axes, curve: _Curve, accuracies: Mapping[Fraction, Interval], look: _Look) -> None:
    """Draw accuracies by budget, with their intervals."""
    colour, marker = look
    limited = curve.access in ("static", "transfer")
    few = len(accuracies) <= _MAX_MARKERS
    budgets = list(map(float, accuracies))
    axis.plot(
        budgets,
        [100 * accuracy.value for accuracy in accuracies.values()],
        color=colour,
        marker=marker if few else "",
        markerfacecolor="white" if limited else colour,
        linestyle="--" if limited else "-",
        label=curve.defense + (f" ({curve.access})" if curve.access != "white-box" else ""),
    )
    if few:
        for budget, accuracy in zip(budgets, accuracies.values(), strict=True):
            whisker(axis, budget, Value(*accuracy), colour)
    else:
        lows = [100 * accuracy.low for accuracy in accuracies.values()]
        highs = [100 * accuracy.high for accuracy in accuracies.values()]
        axis.fill_between(budgets, lows, highs, color=colour, alpha=0.15, linewidth=0)


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
