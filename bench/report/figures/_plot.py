"""What the figures share: colours, a heat map, labels that keep apart, and the words for numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from textwrap import fill, wrap
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from bench.report.figures import Missing, Source
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.tables import Column, Table, first_defenses
from bench.types import Access

#: Colours of Okabe and Ito: whoever sees the whole defense is blue, whoever does not is vermilion.
COLOUR = {"white-box": "#0072B2", "adaptive": "#0072B2", "static": "#D55E00", "transfer": "#CC79A7"}
INK, SOFT, RULE = "#1c1e21", "#5f666f", "#e4e6e9"
HEAT = LinearSegmentedColormap.from_list("crossfire", ["#f2f5f8", "#9dbbd8", "#08457e"])
#: Full text width of a two-column page, in inches.
WIDTH = 7.0
#: Letters that a row's name may have on one line.
ROW = 30
#: Letters of a title on one line, where three panels stand side by side.
NARROW = 30
#: Inches that a character of a label takes.
LETTER = 0.065
#: Inches within which two points look like one.
DOT = 0.04
#: Tables, and defenses and attacks of each, that stay legible in one figure.
TABLES, DEFENSES, ATTACKS = 6, 40, 30
#: Panels side by side and below one another, and lines of one panel.
PANELS, LINES = 12, 12
#: What a figure says of the number in a cell, and of a worst case.
UNDER_ATTACK = "accuracy under attack"
WORST = "worst case (clean counts as an attack)"


def tables(source: Source, fits: Callable[[Table], bool] = lambda table: True) -> list[Table]:
    """Return the first of each table that fits, as many as stay legible; the titles say what is left out."""
    found = [table for table in source.board.tables if fits(table)]
    shown = [first_defenses(table, DEFENSES, ATTACKS) for table in found[:TABLES]]
    if len(found) > TABLES:
        part = f"the last of {len(found):,} tables that is shown"
        shown[-1] = replace(shown[-1], part=f"{shown[-1].part}; {part}" if shown[-1].part else part)
    return shown


def attacked(table: Table) -> list[Column]:
    """Return the columns that hold accuracies under attack, worst cases among them."""
    return [column for column in table.columns if column.unit == "accuracy" and column.group]


def panels(count: int, across: int, figsize: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure of ``count`` panels that share their y axis, and its axes as an array (rows, across)."""
    figure, axes = plt.subplots(-(-count // across), across, figsize=figsize, squeeze=False, sharey=True)
    for unused in axes.flat[count:]:
        unused.set_visible(False)
    return figure, axes


def access_points(
    axes: Axes, at: float, static: Value | None, adaptive: Value | None, *, horizontal: bool = False
) -> None:
    """Draw the worst cases of one defense, in percent: static as a ring, adaptive as a disc, with their intervals."""
    for kind, value in (("static", static), ("adaptive", adaptive)):
        if value is None or value.number is None:
            continue
        whisker(axes, at, value, COLOUR[kind], horizontal=horizontal)
        place = (100 * value.number, at) if horizontal else (at, 100 * value.number)
        if kind == "static":
            axes.plot(*place, "o", color=COLOUR[kind], markerfacecolor="white", zorder=3)
        else:
            axes.plot(*place, "o", color=COLOUR[kind], zorder=4)


def access_legend(figure: Figure, adaptive: str) -> None:
    """Say below a figure what the points of :func:`access_points` are."""
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOUR["adaptive"], label=adaptive),
        Line2D([], [], marker="o", linestyle="", color=COLOUR["static"], markerfacecolor="white", label="static"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def measured(value: Value | None) -> dict[str, Any]:
    """Return a number for the JSON beside a figure; beside an accuracy under attack stands the robust accuracy."""
    if value is None:
        return {"value": None, "low": None, "high": None}
    more: dict[str, Any] = {}
    if value.failed:
        more = {"failed": True}
    elif value.robust is not None:
        more = {"robust_accuracy": value.robust}
    return {"value": value.number, "low": value.low, "high": value.high, **more}


class CommonAttacks(NamedTuple):
    """Worst cases that compare: each over the attacks that all of them met, of those that met any."""

    attacks: Mapping[str, Sequence[str]]
    worst: Sequence[Mapping[str, Value | None]]

    def describe_attacks(self, found: Mapping[str, object]) -> str:
        """Say how many attacks stand behind each of these worst cases."""
        return ", ".join(f"{len(made)} {access}" for access, made in self.attacks.items() if found.get(access))


def over_common_attacks(standings: Sequence[ThreatSummary]) -> CommonAttacks:
    """Return static and adaptive worst cases; where there is no test-time step, white-box stands for both."""
    attacks: dict[str, list[str]] = {}
    worst: list[dict[str, Value | None]] = [{} for _ in standings]
    accesses: tuple[Access, ...] = ("static", "adaptive")
    for access in accesses:
        kinds: list[Access] = [
            access if access in standing.evaluated_attacks else "white-box" for standing in standings
        ]
        met = [standing.evaluated_attacks.get(kind, ()) for standing, kind in zip(standings, kinds, strict=True)]
        most = next((each for each in met if each), ())
        attacks[access] = [attack for attack in most if all(attack in each for each in met if each)]
        for standing, kind, own, found in zip(standings, kinds, met, worst, strict=True):
            found[access] = standing.worst_under(kind, attacks[access]) if own and attacks[access] else None
    return CommonAttacks(attacks, worst)


def heatmap(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    notes: Sequence[Sequence[str]] | None = None,
    *,
    width: float = WIDTH - 1.8,
) -> None:
    """Draw accuracies in [0, 1] with their numbers in percent, and small notes below these; absent ones stay empty.

    Args:
        axes: where.
        rows: their labels.
        columns: their labels.
        shares: accuracies by row and column.
        notes: texts by row and column.
        width: of the axes in inches, about.
    """
    import numpy as np

    grid = np.array([[np.nan if share is None else 100 * share for share in row] for row in shares], dtype=float)
    axes.imshow(grid, cmap=HEAT, vmin=0, vmax=100, aspect="auto")
    flat = level(columns, width)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if flat else 35, ha="center" if flat else "right")
    name_rows(axes, rows)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            note = notes[y][x] if notes else ""
            text = "–" if share is None else f"{100 * share:.1f}"
            colour = SOFT
            if share is not None:
                colour = "white" if share > 0.55 else INK
            axes.text(x, y - 0.14 * bool(note), text, ha="center", va="center", color=colour, fontsize=7.5)
            if note:
                axes.text(x, y + 0.24, note, ha="center", va="center", color=colour, fontsize=5.5)


def level(labels: Sequence[str], width: float) -> bool:
    """Say whether labels, evenly spaced over so many inches, can be written without turning them."""
    return max(map(len, labels)) * LETTER < width / len(labels)


def without_eps(label: str) -> str:
    """Return the label of an attack without its budget, which stands beside it."""
    return re.sub(r"\[\]", "", re.sub(r"(?<=[\[,])eps=[^,\]]*,?", "", label)).replace(",]", "]")


def folded(label: str, letters: int) -> str:
    """Return a label in lines of about so many letters, broken at brackets, commas, hyphens, and "=" if it must be."""
    if len(label) <= letters:
        return label
    words = label.replace("[", " [").replace(",", ", ").split()
    short = (word if len(word) <= letters else word.replace("=", "= ") for word in words)
    return "\n".join(wrap(" ".join(short), letters, break_long_words=False)).replace("= ", "=")


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of axes; long names, such as those of swept defenses, on two small lines."""
    long = max(map(len, names)) > ROW
    axes.set_yticks(
        range(len(names)),
        [_on_two_lines(name) for name in names],
        fontsize=6 if long else 8,
        linespacing=0.95,
    )


def _on_two_lines(name: str) -> str:
    lines = (folded(name, width) for width in range(ROW + 4, ROW + 4 + len(name) + 1))
    return next(text for text in lines if text.count("\n") < 2)


def trained_with(recipe: str, params: Mapping[str, Any]) -> str:
    """Return a recipe, with the attack that it crafts with where that is one of its parameters."""
    inner = params.get("inner")
    return recipe if inner is None else f"{recipe} {str(inner).partition('[')[0]}"


def narrow_title(axes: Axes, text: str) -> None:
    """Give a title to one of three panels side by side."""
    axes.set_title("\n".join(fill(line, NARROW) for line in text.splitlines()), fontsize=7.5)


def whisker(axes: Axes, x: float, value: Value, colour: str, *, horizontal: bool = False) -> None:
    """Draw the 95 % interval of an accuracy, in percent."""
    if value.low is None or value.high is None:
        return
    ends = [100 * value.low, 100 * value.high]
    axes.plot(
        *((ends, [x, x]) if horizontal else ([x, x], ends)),
        color=colour,
        linewidth=1,
        alpha=0.6,
        solid_capstyle="butt",
        zorder=2,
    )


def log_axis(axes: Axes, flops: Sequence[float]) -> None:
    """Give a logarithmic x axis of FLOPs room for its labels: at least a decade, few ticks, units in words."""
    low, high = min(flops) / 1.6, max(flops) * 1.6
    stretch = max(1.0, (10 / (high / low)) ** 0.5)
    axes.set_xlim(low / stretch, high * stretch)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 100 else (1.0,)))
    axes.xaxis.set_major_formatter(EngFormatter(unit="FLOP", sep=" "))
    axes.xaxis.set_minor_locator(NullLocator())


def label_apart(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, as near as they may stand without lying on one another or leaving the axes.

    Points that lie on one another share a label.

    Args:
        axes: whose limits are final, and whose y axis is in percent.
        points: x, y in data units, and the name.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    # Inches without the room that ticks and labels will take.
    across, up = axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi
    line, beside = 0.14 / up, 0.08 / across
    together: dict[tuple[float, float], list[str]] = {}
    for left, height, name in sorted(points, key=lambda point: (-abs(point[1] - 50), *point)):
        x, y = to_share.transform((left, height))
        close = (at for at in together if abs(at[0] - x) * across < DOT and abs(at[1] - y) * up < DOT)
        together.setdefault(next(close, (x, y)), []).append(name)
    placed: list[tuple[float, float, float, float]] = []
    for (x, y), names in together.items():
        text = "\n".join(wrap(", ".join(names), ROW, break_long_words=False, break_on_hyphens=False))
        width = LETTER * max(map(len, text.splitlines())) / across
        lines = line * (1 + text.count("\n"))
        above = min(max(x - width / 2, 0.0), max(1 - width, 0.0))
        free = [
            (abs(shift), start, y + shift)
            for shift in (line * step / 2 for step in range(-40, 41))
            for start in (x + beside, x - beside - width, *([above] if abs(shift) >= line else []))
            if start >= 0 and start + width <= 1 and 0 <= y + shift <= 1
            if all(
                abs(y + shift - b) >= (lines + tall) / 2 or start >= a + w or a >= start + width
                for a, b, w, tall in placed
            )
        ]
        _, start, height = min(free, default=(0.0, above, y), key=lambda place: place[0])
        placed.append((start, height, width, lines))
        if abs(height - y) > line / 2 and lines == line or abs(height - y) > lines:
            near = min(max(x, start), start + width)
            axes.plot([x, near], [y, height], transform=axes.transAxes, color=SOFT, linewidth=0.4, zorder=1)
        before = start + width <= x
        axes.text(
            start + width * before,
            height,
            text,
            transform=axes.transAxes,
            ha="right" if before else "left",
            va="center",
            fontsize=7.5,
        )


def need(found: Sequence[Any], what: str) -> None:
    """Raises Missing: nothing was found."""
    if not found:
        raise Missing(what)
