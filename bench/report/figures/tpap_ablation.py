"""TPAP taken apart: with and without purification, then one parameter at a time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import natural
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    LEAST_POINTS,
    LEGEND_POINTS,
    NAME_POINTS,
    Block,
    Foot,
    Labels,
    axes_at,
    beside_rows,
    fitting,
    row_height,
    stack,
    stack_height,
    write_rows,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    COLOUR,
    INK,
    MAX_PANELS,
    ROBUST_MEANS,
    SOFT,
    access_points,
    marker,
    measured,
    over_common_attacks,
    whisker,
)
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings, threats_remark
from bench.report.leaderboard.summaries import Value
from bench.types import eps_text, exact

#: Share of the width of the figure for names, and values of one parameter that are legible.
_NAMES = 0.36
_MAX_VALUES = 40
#: Inches: right of the axes, and ticks with the label of the x axis.
_RIGHT, _TICKS = 0.14, 0.36


class _Parameter(NamedTuple):
    """A parameter of the step or of the training, and the title of its panel."""

    part: str
    name: str
    title: str


_PARAMETERS = (
    _Parameter("step", "on", "purification"),
    _Parameter("step", "beta", "budget β of purification"),
    _Parameter("step", "steps", "steps of purification"),
    _Parameter("step", "label", "label in purification"),
    _Parameter("step", "direction", "direction of purification"),
    _Parameter("training", "eps", "budget ε in training"),
)


class _Panel(NamedTuple):
    """One parameter in one table: its values, each with the setting that has it."""

    table: str
    parameter: _Parameter
    bars: list[tuple[str, Setting]]


class _Rows(NamedTuple):
    """The first values of a parameter, with their names and accuracies."""

    panel: _Panel
    title: str
    names: Labels
    #: Clean, static and adaptive, by value.
    values: list[dict[str, Value | None]]
    attacks: list[str]

    def block(self, row: float, *, last: bool) -> Block:
        """Return its room on the figure, where rows are at least ``row`` inches high; the last has the ticks."""
        return Block(self.title, max(row, self.names.height) * len(self.values), below=_TICKS if last else GAP)


def draw(source: Source) -> Drawing:
    compared = settings(source)
    tables = sorted({(s.table, s.title) for s in compared if s.step is not None})
    every: list[_Panel] = []
    for number, title in tables:
        every += _panels(title, [s for s in compared if s.table == number])
    if not every:
        raise Missing(f"no two settings of {STEP} differ in one parameter, and none stands beside its bare network")
    width = source.width

    def height(panels: int, values: int, row: float = DENSE_ROW) -> float:
        return stack_height(
            _blocks(_rows(every[:panels], values, width), row), width, _foot(width, panels, every).height
        )

    shown = fitting(min(MAX_PANELS, len(every)), lambda panels: height(panels, 2))
    most = min(_MAX_VALUES, max(len(panel.bars) for panel in every))
    count = fitting(most, lambda values: height(shown, values), 2)
    foot, rows = _foot(width, shown, every), _rows(every[:shown], count, width)
    blocks = _blocks(rows, row_height(lambda row: height(shown, count, row)))
    left = EDGE + max(each.names.width for each in rows) + GAP
    figure, boxes = stack(blocks, width, left=left, right=_RIGHT, foot=foot.height)
    numbers: list[dict[str, Any]] = []
    for box, each in zip(boxes, rows, strict=True):
        numbers += _draw_rows(axes_at(figure, box), each, last=each is rows[-1])
    foot.draw(figure)
    return Drawing(figure, {"settings": numbers})


def _blocks(rows: Sequence[_Rows], height: float) -> list[Block]:
    return [each.block(height, last=each is rows[-1]) for each in rows]


def _foot(width: float, panels: int, every: Sequence[_Panel]) -> Foot:
    handles = [
        marker("clean", INK, "white", shape="s"),
        marker(ACCESS_WORDS["static"], COLOUR["static"], "white"),
        marker("adaptive (white-box without purification)", COLOUR["adaptive"]),
    ]
    left_out = f"the first {panels:,} of {len(every):,} parameters" if panels < len(every) else ""
    threats = threats_remark(s for _, s in chain.from_iterable(panel.bars for panel in every[:panels]))
    return Foot(width, handles, "; ".join(filter(None, [ROBUST_MEANS, threats, "–: not measured", left_out])))


def _rows(panels: Sequence[_Panel], count: int, width: float) -> list[_Rows]:
    """Return the first values of each parameter; the first title of each table names it."""
    rows: list[_Rows] = []
    for panel in panels:
        bars = panel.bars[:count]
        compared = over_common_attacks([s.summary for _, s in bars])
        heading = [panel.parameter.title]
        if not rows or rows[-1].panel.table != panel.table:
            heading.insert(0, panel.table)
        if len({frozenset(attacks) for attacks in compared.attacks.values()}) > 1:
            # This explains why a bare network has two robust accuracies.
            heading.append(f"{compared.describe_attacks(compared.attacks)} attacks")
        if count < len(panel.bars):
            heading.append(f"{count:,} of {len(panel.bars):,} values")
        values: list[dict[str, Value | None]] = [
            {"clean": s.summary.clean, **worst} for (_, s), worst in zip(bars, compared.worst, strict=True)
        ]
        names = beside_rows([name for name, _ in bars], _NAMES * width)
        attacks = [compared.describe_attacks(worst) for worst in compared.worst]
        rows.append(_Rows(panel, " · ".join(heading), names, values, attacks))
    return rows


def _draw_rows(axis: Axes, rows: _Rows, *, last: bool) -> list[dict[str, Any]]:
    """Draw the values of a parameter below each other, and return their numbers."""
    numbers = []
    for y, (values, attacks) in enumerate(zip(rows.values, rows.attacks, strict=True)):
        _draw_setting(axis, y, values)
        name, _ = rows.panel.bars[y]
        numbers.append(
            {
                "table": rows.panel.table,
                "parameter": rows.panel.parameter.name,
                "value": name,
                "attacks": attacks,
                **{kind: measured(value) for kind, value in values.items()},
            }
        )
    write_rows(axis, rows.names)
    axis.set(xlim=(-2, 102), ylim=(len(rows.values) - 0.5, -0.5), xticks=range(0, 101, 25))
    axis.tick_params(axis="x", labelsize=LEGEND_POINTS, labelbottom=last)
    if last:
        axis.set_xlabel("clean accuracy or robust accuracy, %", fontsize=NAME_POINTS)
    return numbers


def _draw_setting(axis: Axes, y: int, values: dict[str, Value | None]) -> None:
    """Draw clean accuracy and both robust accuracies of one setting, with their intervals."""
    clean = values["clean"]
    if clean is not None and clean.number is not None:
        whisker(axis, y, clean, INK, horizontal=True)
        axis.plot(100 * clean.number, y, "s", color=INK, markerfacecolor="white", zorder=3, clip_on=False)
    under_attack = [values["static"], values["adaptive"]]
    if all(value is None or value.number is None for value in under_attack):
        axis.text(50, y, "–", ha="center", va="center", fontsize=LEAST_POINTS, color=SOFT)
    access_points(axis, y, *under_attack, horizontal=True)


def _panels(table: str, compared: list[Setting]) -> list[_Panel]:
    """Return the parameters in which settings of one table differ."""
    panels = [_Panel(table, parameter, _bars(compared, parameter)) for parameter in _PARAMETERS]
    return [panel for panel in panels if len(panel.bars) > 1]


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


def _order(value: Any, parameter: str) -> tuple[float, list[tuple[float, str]]]:
    number = _number(value) if parameter in ("beta", "steps", "eps") else None
    return (float("inf") if number is None else float(number), natural(str(value)))


def _text(value: Any, parameter: str) -> str:
    number = _number(value) if parameter in ("beta", "eps") else None
    return str(value) if number is None else eps_text(number)


def _number(value: Any) -> Fraction | None:
    """Return a number of a configuration; ``None`` for words, which results of other versions may hold."""
    try:
        return exact(value)
    except (ValueError, TypeError, ZeroDivisionError):
        return None
