"""Accuracy against the attacker's budget, one panel for each attack that was run with several."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

from matplotlib import pyplot as plt

from bench.report.board import eps_text
from bench.report.figures import Drawing, Source
from bench.report.figures._plot import WIDTH, need
from bench.stats import wilson


def draw(source: Source) -> Drawing:
    curves: dict[tuple[str, ...], dict[tuple[str, str], dict[Fraction, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    sizes = {}
    for r in source.results:
        if r.cell.attack and r.metrics and r.cell.attack.threat.eps is not None:
            threat = r.cell.attack.threat
            panel = (r.names.dataset, r.names.model, r.names.attack.partition("[")[0], threat.norm)
            curves[panel][source.board.labels[r.key][0], r.names.access][threat.eps].append(r.metrics.robust_accuracy)
            sizes[panel] = r.metrics.n
    curves = {panel: lines for panel, found in curves.items() if (lines := {name: points for name, points in found.items() if len(points) > 1})}  # type: ignore[assignment]
    need(list(curves), "no attack was run with several budgets: give eps as a list in the configuration")
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    figure, axes = plt.subplots(down, across, figsize=(WIDTH if across > 1 else WIDTH / 1.6, 2.5 * down), squeeze=False, sharey=True)
    numbers: list[dict[str, Any]] = []
    names = sorted({name for found in curves.values() for name, _ in found})
    colours = {name: f"C{i % 7}" for i, name in enumerate(names)}
    for axis, (panel, found) in zip(axes.flat, sorted(curves.items()), strict=False):
        for (name, access), points in sorted(found.items()):
            eps = sorted(points)
            ends = [wilson(sum(points[e]) / len(points[e]) * sizes[panel], sizes[panel]) for e in eps]
            style = {"linestyle": "--", "markerfacecolor": "white"} if access in ("static", "transfer") else {"linestyle": "-"}
            label = name + (f" ({access})" if access != "white-box" else "")
            axis.plot([float(e) for e in eps], [100 * end.value for end in ends], marker="o", color=colours[name], label=label, **style)
            axis.fill_between([float(e) for e in eps], [100 * e.low for e in ends], [100 * e.high for e in ends], color=colours[name], alpha=0.12, linewidth=0)
            numbers.append({"panel": panel, "defense": name, "access": access, "eps": [eps_text(e) for e in eps], "accuracy": [e._asdict() for e in ends]})
        axis.set(title=f"{panel[2]}, {panel[3]}", xlabel=f"eps ({panel[0]} · {panel[1]})", ylim=(-3, 103))
        ticks = sorted({e for points in found.values() for e in points})
        axis.set_xticks([float(e) for e in ticks], [eps_text(e) for e in ticks], rotation=40 if len(ticks) > 5 else 0, fontsize=7)
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    axes[0][0].set_ylabel("accuracy under attack, %")
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return Drawing(figure, {"curves": numbers})
