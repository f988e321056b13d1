"""Accuracy under attack against the attacker's budget, one panel for each attack that was run with several."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import LINES, PANELS, SOFT, WIDTH, need, panels, whisker, without_eps
from bench.report.leaderboard.summaries import NORMS, Value
from bench.stats import Interval, wilson
from bench.types import eps_text

#: Budgets of one curve that have a mark, an interval and a tick each.
_WHISKERS = 25

Panel = tuple[str, str, str, str]
#: By budget: accuracies, one a seed, and the number of images.
Points = dict[Fraction, tuple[list[float], int]]


def draw(source: Source) -> Drawing:
    every = _curves(source)
    curves = {panel: dict(sorted(found.items())[:LINES]) for panel, found in sorted(every.items())[:PANELS]}
    need(list(curves), "no attack was run with several budgets: give eps as a list in the configuration")
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    columns = 4 if across > 1 else 2
    legend = 0.18 * -(-len({line for found in curves.values() for line in found}) // columns)
    figure, axes = panels(len(curves), across, (WIDTH if across > 1 else WIDTH / 1.6, 2.3 * down + legend))
    numbers: list[dict[str, Any]] = []
    names = sorted({name for found in curves.values() for name, _ in found})
    looks = {name: (f"C{i % 7}", "os^D"[i // 7 % 4]) for i, name in enumerate(names)}
    for axis, (panel, found) in zip(axes.flat, sorted(curves.items()), strict=False):
        for (name, access), points in sorted(found.items()):
            eps, ends = _plot(axis, name, access, points, looks[name])
            numbers.append(
                {
                    "panel": [panel[0], *panel[2:]],
                    "defense": name,
                    "access": access,
                    "eps": [eps_text(e) for e in eps],
                    "accuracy": [e._asdict() for e in ends],
                }
            )
        axis.set(title=f"{panel[2]}, {panel[3]}", xlabel=f"eps ({panel[0]})", ylim=(-3, 103))
        ticks = sorted({e for points in found.values() for e in points})
        ticks = ticks[:: -(-len(ticks) // _WHISKERS)]
        axis.set_xticks(
            [float(e) for e in ticks], [eps_text(e) for e in ticks], rotation=40 if len(ticks) > 5 else 0, fontsize=7
        )
    for line in axes:
        line[0].set_ylabel("accuracy under attack, %")
    lines, most = sum(map(len, curves.values())), sum(map(len, every.values()))
    if lines < most:
        about = f"the first {lines:,} of {most:,} curves by name, in {len(curves):,} of {len(every):,} panels"
        figure.suptitle(about, fontsize=8, color=SOFT)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return Drawing(figure, {"curves": numbers})


def _plot(
    axis: Axes, name: str, access: str, points: Points, look: tuple[str, str]
) -> tuple[list[Fraction], list[Interval]]:
    """Draw one curve with its intervals; return its budgets, and its accuracies as fractions with their intervals."""
    color, marker = look
    eps = sorted(points)
    ends = [wilson(fmean(shares) * n, n) for shares, n in (points[e] for e in eps)]
    hidden = access in ("static", "transfer")
    few = len(eps) <= _WHISKERS
    at = [float(e) for e in eps]
    label = name + (f" ({access})" if access != "white-box" else "")
    axis.plot(
        at,
        [100 * end.value for end in ends],
        color=color,
        marker=marker if few else "",
        markerfacecolor="white" if hidden else color,
        linestyle="--" if hidden else "-",
        label=label,
    )
    if few:
        for budget, end in zip(at, ends, strict=True):
            whisker(axis, budget, Value(*end), color)
    else:
        lows, highs = ([100 * getattr(end, which) for end in ends] for which in ("low", "high"))
        axis.fill_between(at, lows, highs, color=color, alpha=0.15, linewidth=0)
    return eps, ends


def _curves(source: Source) -> dict[Panel, dict[tuple[str, str], Points]]:
    """Return accuracies (one a seed) and the number of images, by panel, by defense and access, and by budget."""
    found: dict[Panel, dict[tuple[str, str], Points]] = defaultdict(lambda: defaultdict(dict))
    for r in source.results:
        if r.cell.attack is None or r.metrics is None or (eps := r.cell.attack.threat.eps) is None:
            continue
        if (share := r.metrics.accuracy_under_attack) is None:
            continue
        defense, attack = source.board.labels[r.key]
        # The label of a swept attack names its budget, which is the axis here.
        place = f"{r.names.dataset} · {r.names.model} · {r.metrics.n:,} images"
        panel = (place, r.cell.data.indices_sha, without_eps(attack), NORMS[r.cell.attack.threat.norm])
        shares, _ = found[panel][defense, r.names.access].setdefault(eps, ([], r.metrics.n))
        shares.append(share)
    swept = {
        panel: {name: points for name, points in lines.items() if len(points) > 1} for panel, lines in found.items()
    }
    return {panel: lines for panel, lines in swept.items() if lines}
