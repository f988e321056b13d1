"""TPAP taken apart: with and without purification, then one parameter at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import (
    COLOUR,
    INK,
    WIDTH,
    WORST,
    measured,
    narrow_title,
    over_common_attacks,
    panels,
    whisker,
)
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


class Panel(NamedTuple):
    """One parameter: the table's title, the parameter's name and title, and its settings with their labels."""

    table: str
    parameter: str
    title: str
    bars: list[tuple[str, Setting]]


def draw(source: Source) -> Drawing:
    compared = settings(source)
    groups = sorted({(s.table, s.title) for s in compared if s.step is not None})
    shown = [panel for group in groups for panel in _panels(compared, *group)]
    if not shown:
        raise Missing(f"no two settings of {STEP} differ in one parameter, and none stands beside its bare network")
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure, axes = panels(len(shown), across, (WIDTH if across > 1 else WIDTH / 2, 2.3 * down + 0.3))
    numbers = []
    for axis, panel in zip(axes.flat, shown, strict=False):
        numbers += _draw_panel(axis, panel, several_tables=len(groups) > 1)
    for row in axes:
        row[0].set_ylabel("clean accuracy or worst case, %")
    _legend(figure)
    return Drawing(figure, {"settings": numbers})


def _panels(compared: list[Setting], table: int, title: str) -> list[Panel]:
    """Return the parameters in which settings of one table differ."""
    mine = [s for s in compared if s.table == table]
    every = [Panel(title, panel[1], panel[2], _bars(mine, panel)) for panel in _PANELS]
    return [panel for panel in every if len(panel.bars) > 1]


def _draw_panel(axis: Axes, panel: Panel, *, several_tables: bool) -> list[dict[str, Any]]:
    """Draw the settings of one parameter side by side, and return their numbers."""
    compared = over_common_attacks([s.standing for _, s in panel.bars])
    numbers = []
    for x, ((name, s), under) in enumerate(zip(panel.bars, compared.worst, strict=True)):
        values: dict[str, Value | None] = {"clean": s.standing.clean, **under}
        _draw_bars(axis, x, values)
        numbers.append(
            {
                "table": panel.table,
                "parameter": panel.parameter,
                "value": name,
                "attacks": compared.describe_attacks(under),
                **{kind: measured(value) for kind, value in values.items()},
            }
        )
    names = [name for name, _ in panel.bars]
    axis.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) * len(names) > 28 else 0)
    heading = [panel.title, *([panel.table] if several_tables else [])]
    if len({frozenset(attacks) for attacks in compared.attacks.values()}) > 1:
        # Else a bare network with bars of two heights would puzzle.
        heading.append(f"{compared.describe_attacks(compared.attacks)} attacks")
    narrow_title(axis, "\n".join(heading))
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 105)
    return numbers


def _draw_bars(axis: Axes, x: float, values: dict[str, Value | None]) -> None:
    """Draw clean accuracy and the two worst cases of one setting, with their intervals."""
    for offset, (kind, value) in zip((-0.26, 0, 0.26), values.items(), strict=True):
        if value is None or value.number is None:
            continue
        colour = INK if kind == "clean" else COLOUR[kind]
        axis.bar(
            x + offset,
            100 * value.number,
            0.24,
            color="white" if kind == "clean" else colour,
            edgecolor=colour,
            linewidth=1,
            alpha=1 if kind != "clean" else 0.8,
        )
        whisker(axis, x + offset, value, INK)


def _legend(figure: Figure) -> None:
    handles = [
        Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK, label="clean"),
        Rectangle((0, 0), 1, 1, color=COLOUR["static"], label="worst case, static"),
        Rectangle((0, 0), 1, 1, color=COLOUR["adaptive"], label="worst case, adaptive"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, title=f"% of all images; {WORST}", title_fontsize=7
    )


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
