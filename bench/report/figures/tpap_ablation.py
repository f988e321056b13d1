"""TPAP taken apart: with and without purification, then one parameter at a time."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import COLOUR, INK, WIDTH, WORST, measured, narrow_title, over_common_attacks, whisker
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings
from bench.report.leaderboard.summaries import Value
from bench.types import eps_text, exact

#: Panel: (where the parameter lives, its name, what the axis says).
_PANELS = (
    ("step", "on", "purification"),
    ("step", "beta", "beta"),
    ("step", "steps", "steps"),
    ("step", "label", "label"),
    ("step", "direction", "direction"),
    ("training", "eps", "eps in training"),
)


def draw(source: Source) -> Drawing:
    found = settings(source)
    groups = sorted({(s.table, s.title) for s in found if s.step is not None})
    panels = [
        (group, *panel, bars)
        for group in groups
        for panel in _PANELS
        if len(bars := _bars([s for s in found if s.table == group[0]], panel)) > 1
    ]
    if not panels:
        raise Missing(f"no two settings of {STEP} differ in one parameter, and none stands beside its bare network")
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(WIDTH if across > 1 else WIDTH / 2, 2.3 * down + 0.3), squeeze=False, sharey=True
    )
    numbers = []
    for axis, (group, _, parameter, title, bars) in zip(axes.flat, panels, strict=False):
        compared = over_common_attacks([s.standing for _, s in bars])
        for x, ((name, s), under) in enumerate(zip(bars, compared.worst, strict=True)):
            shown: dict[str, Value | None] = {"clean": s.standing.clean, **under}
            for place, (kind, value) in zip((-0.26, 0, 0.26), shown.items(), strict=True):
                if value is None or value.number is None:
                    continue
                colour = INK if kind == "clean" else COLOUR[kind]
                axis.bar(
                    x + place,
                    100 * value.number,
                    0.24,
                    color="white" if kind == "clean" else colour,
                    edgecolor=colour,
                    linewidth=1,
                    alpha=1 if kind != "clean" else 0.8,
                )
                whisker(axis, x + place, value, INK)
            numbers.append(
                {
                    "table": group[1],
                    "parameter": parameter,
                    "value": name,
                    "attacks": compared.describe_attacks(under),
                    **{kind: measured(value) for kind, value in shown.items()},
                }
            )
        axis.set_xticks(
            range(len(bars)),
            [name for name, _ in bars],
            rotation=30 if max(len(name) for name, _ in bars) * len(bars) > 28 else 0,
        )
        heading = [title, *([group[1]] if len(groups) > 1 else [])]
        if len({frozenset(made) for made in compared.attacks.values()}) > 1:
            # Else a bare network with bars of two heights would puzzle.
            heading.append(f"{compared.describe_attacks(compared.attacks)} attacks")
        narrow_title(axis, "\n".join(heading))
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 105)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("clean accuracy or worst case, %")
    handles = [
        Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK, label="clean"),
        Rectangle((0, 0), 1, 1, color=COLOUR["static"], label="worst case, static"),
        Rectangle((0, 0), 1, 1, color=COLOUR["adaptive"], label="worst case, adaptive"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, title=f"% of all images; {WORST}", title_fontsize=7
    )  # fmt: skip
    return Drawing(figure, {"settings": numbers})


def _bars(found: list[Setting], panel: tuple[str, str, str]) -> list[tuple[str, Setting]]:
    """Return the settings that differ from the usual one in nothing but one parameter, in its order."""
    where, parameter, _ = panel
    if all(s.step is None for s in found):
        return []
    usual = reference(found)
    if parameter == "on":
        bare = [s for s in found if s.step is None and (s.recipe, s.training) == (usual.recipe, usual.training)]
        return [*(("without", s) for s in bare[:1]), ("with", usual)]
    chosen = [s for s in found if s.step is not None and differences(s, usual) <= {(where, parameter)}]
    values = [((s.step or {}) if where == "step" else s.training).get(parameter) for s in chosen]
    pairs = [(value, s) for value, s in zip(values, chosen, strict=True) if value is not None]
    return [(_text(value, parameter), s) for value, s in sorted(pairs, key=lambda pair: _order(pair[0], parameter))]


def _order(value: Any, parameter: str) -> tuple[float, str]:
    return (float(exact(value)), "") if parameter in ("beta", "steps", "eps") else (0.0, str(value))


def _text(value: Any, parameter: str) -> str:
    return eps_text(exact(value)) if parameter in ("beta", "eps") else str(value)
