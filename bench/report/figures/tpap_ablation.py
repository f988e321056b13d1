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
    WORST,
    legend_below,
    measured,
    narrow_title,
    over_common_attacks,
    three_across,
    whisker,
)
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings
from bench.report.leaderboard.summaries import Value
from bench.types import eps_text, exact


class _Parameter(NamedTuple):
    """A parameter of the step or of the training, and the title of its panel."""

    part: str
    name: str
    title: str


_PARAMETERS = (
    _Parameter("step", "on", "purification"),
    _Parameter("step", "beta", "beta"),
    _Parameter("step", "steps", "steps"),
    _Parameter("step", "label", "label"),
    _Parameter("step", "direction", "direction"),
    _Parameter("training", "eps", "eps in training"),
)


class _Panel(NamedTuple):
    """One parameter in one table: its values, each with the setting that has it."""

    table: str
    parameter: _Parameter
    bars: list[tuple[str, Setting]]


def draw(source: Source) -> Drawing:
    compared = settings(source)
    tables = sorted({(s.table, s.title) for s in compared if s.step is not None})
    shown: list[_Panel] = []
    for number, title in tables:
        shown += _panels(title, [s for s in compared if s.table == number])
    if not shown:
        raise Missing(f"no two settings of {STEP} differ in one parameter, and none stands beside its bare network")
    figure, axes = three_across(len(shown), "clean accuracy or worst case, %")
    numbers: list[dict[str, Any]] = []
    for axis, panel in zip(axes, shown, strict=True):
        numbers += _draw_panel(axis, panel, several_tables=len(tables) > 1)
    _legend(figure)
    return Drawing(figure, {"settings": numbers})


def _panels(table: str, compared: list[Setting]) -> list[_Panel]:
    """Return the parameters in which settings of one table differ."""
    panels = [_Panel(table, parameter, _bars(compared, parameter)) for parameter in _PARAMETERS]
    return [panel for panel in panels if len(panel.bars) > 1]


def _draw_panel(axis: Axes, panel: _Panel, *, several_tables: bool) -> list[dict[str, Any]]:
    """Draw the settings of one parameter side by side, and return their numbers."""
    compared = over_common_attacks([s.summary for _, s in panel.bars])
    numbers = []
    for x, ((name, s), worst) in enumerate(zip(panel.bars, compared.worst, strict=True)):
        values: dict[str, Value | None] = {"clean": s.summary.clean, **worst}
        _draw_bars(axis, x, values)
        numbers.append(
            {
                "table": panel.table,
                "parameter": panel.parameter.name,
                "value": name,
                "attacks": compared.describe_attacks(worst),
                **{kind: measured(value) for kind, value in values.items()},
            }
        )
    names = [name for name, _ in panel.bars]
    axis.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) * len(names) > 28 else 0)
    heading = [panel.parameter.title, *([panel.table] if several_tables else [])]
    if len({frozenset(attacks) for attacks in compared.attacks.values()}) > 1:
        # This explains why a bare network has bars of two heights.
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
    legend_below(figure, handles, 3, f"% of all images; {WORST}")


def _bars(compared: list[Setting], parameter: _Parameter) -> list[tuple[str, Setting]]:
    """Return the settings that differ from the usual one only in one parameter, in the order of its values."""
    part, name = parameter.part, parameter.name
    if all(s.step is None for s in compared):
        return []
    usual = reference(compared)
    if name == "on":
        bare = [s for s in compared if s.step is None and (s.recipe, s.training) == (usual.recipe, usual.training)]
        return [*(("without", s) for s in bare[:1]), ("with", usual)]
    chosen = [s for s in compared if s.step is not None and differences(s, usual) <= {(part, name)}]
    values = [((s.step or {}) if part == "step" else s.training).get(name) for s in chosen]
    pairs = [(value, s) for value, s in zip(values, chosen, strict=True) if value is not None]
    return [(_text(value, name), s) for value, s in sorted(pairs, key=lambda pair: _order(pair[0], name))]


def _order(value: Any, parameter: str) -> tuple[float, str]:
    return (float(exact(value)), "") if parameter in ("beta", "steps", "eps") else (0.0, str(value))


def _text(value: Any, parameter: str) -> str:
    return eps_text(exact(value)) if parameter in ("beta", "eps") else str(value)
