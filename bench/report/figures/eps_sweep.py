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
from bench.report.figures._choice import natural, precedence
from bench.report.figures._layout import NAME_POINTS
from bench.report.figures._lines import Line, Look, drawn_line, laid_out, legible, looks, name_budgets
from bench.report.figures._plot import (
    MAX_PANELS,
    UNDER_ATTACK,
    whisker,
    without_eps,
)
from bench.report.leaderboard.summaries import Value
from bench.stats import Interval, wilson
from bench.types import NORMS, eps_text

#: Budgets of one curve that have a marker and an interval each.
_MAX_MARKERS = 25


class _Panel(NamedTuple):
    table: str
    #: Hash of the image list.
    images: str
    attack: str
    norm: str

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.attack


#: By budget: accuracies, one for each seed, and the number of images.
_Points = dict[Fraction, tuple[list[float], int]]


def draw(source: Source) -> Drawing:
    swept = _swept(source)
    if not swept:
        raise Missing("no attack was run with several budgets: give eps as a list in the configuration")
    order = precedence(source)
    panels = sorted(swept, key=lambda panel: list(map(natural, panel)))[:MAX_PANELS]
    first = {panel: legible(swept[panel], order) for panel in panels}
    shown, grid, foot = laid_out(swept, first, source.width)
    look_of = looks(chain.from_iterable(shown.values()))
    figure, axes = grid.draw(f"{UNDER_ATTACK}, %")
    numbers: list[dict[str, Any]] = []
    for axis, (panel, curves) in zip(axes, shown.items(), strict=True):
        numbers += _draw_panel(axis, panel, curves, look_of)
    foot.draw(figure)
    return Drawing(figure, {"curves": numbers})


def _draw_panel(
    axis: Axes, panel: _Panel, curves: Mapping[Line, _Points], look_of: Mapping[str, Look]
) -> list[dict[str, Any]]:
    """Draw the curves of one attack, and return their numbers."""
    numbers: list[dict[str, Any]] = []
    for curve, points in curves.items():
        accuracies = {eps: wilson(fmean(shares) * n, n) for eps, (shares, n) in sorted(points.items())}
        _draw_curve(axis, curve, accuracies, look_of[curve.defense])
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
    name_budgets(axis, {float(budget): eps_text(budget) for budget in chain.from_iterable(curves.values())})
    return numbers


def _draw_curve(axis: Axes, curve: Line, accuracies: Mapping[Fraction, Interval], look: Look) -> None:
    """Draw accuracies by budget, with their intervals."""
    few = len(accuracies) <= _MAX_MARKERS
    budgets = list(map(float, accuracies))
    line = drawn_line(curve, look)
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


def _swept(source: Source) -> dict[_Panel, dict[Line, _Points]]:
    """Return the curves with more than one budget, by panel."""
    every: dict[_Panel, dict[Line, _Points]] = defaultdict(lambda: defaultdict(dict))
    for r in source.results:
        if r.cell.attack is None or r.metrics is None or (eps := r.cell.attack.threat.eps) is None:
            continue
        if (share := r.metrics.accuracy_under_attack) is None:
            continue
        defense, attack = source.board.labels[r.key]
        table = f"{r.names.dataset} · {r.names.model} · {r.metrics.n:,} images"
        # The label of a swept attack names its budget, which is the axis here.
        panel = _Panel(table, r.cell.data.indices_sha, without_eps(attack), NORMS[r.cell.attack.threat.norm])
        shares, _ = every[panel][Line(defense, r.names.access)].setdefault(eps, ([], r.metrics.n))
        shares.append(share)
    swept = {
        panel: {curve: points for curve, points in curves.items() if len(points) > 1} for panel, curves in every.items()
    }
    return {panel: curves for panel, curves in swept.items() if curves}
