"""What the figures share: colours, a heat map, labels that keep apart, and the words for numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from bench.report.board import Column, Table
from bench.report.figures import Missing, Source
from bench.report.rows import Standing, Value, threat_text
from bench.types import Access

#: Colours of Okabe and Ito: whoever sees the whole defense is blue, whoever does not is vermilion.
COLOUR = {"white-box": "#0072B2", "adaptive": "#0072B2", "static": "#D55E00", "transfer": "#CC79A7"}
INK, SOFT, RULE = "#1c1e21", "#5f666f", "#e4e6e9"
HEAT = LinearSegmentedColormap.from_list("crossfire", ["#f2f5f8", "#9dbbd8", "#08457e"])
#: Full text width of a two-column page, in inches.
WIDTH = 7.0


def tables(source: Source, fits: Callable[[Table], bool] = lambda table: True) -> list[Table]:
    return [table for table in source.board.tables if fits(table)]


def attacked(table: Table) -> list[Column]:
    """Return the columns that hold accuracies under attack, worst cases among them."""
    return [column for column in table.columns if column.unit == "accuracy" and column.group]


def measured(value: Value | None) -> dict[str, Any]:
    """Return a number for the JSON beside a figure."""
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value.number, "low": value.low, "high": value.high, **({"failed": True} if value.failed else {})}


def seen(standing: Standing, access: Access) -> Value | None:
    """Return a worst case; where there is no test-time step, every attacker is one with white-box access."""
    value = standing.worst.get(access) or standing.worst.get("white-box")
    return value if value and value.number is not None else None


def primary(table: Table) -> list[Standing]:
    """Return how defenses stand under the threat with the most attacks."""
    threats = [standing.threat for standing in table.standings if standing.threat]
    if not threats:
        return []
    order = [column.group for column in table.columns]
    first = min(threats, key=lambda threat: order.index(threat_text(threat)))
    return [standing for standing in table.standings if standing.threat == first]


def heatmap(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    notes: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw accuracies in [0, 1] with their numbers in percent, and small notes below these; absent ones stay empty."""
    import numpy as np

    grid = np.array([[np.nan if share is None else 100 * share for share in row] for row in shares], dtype=float)
    axes.imshow(grid, cmap=HEAT, vmin=0, vmax=100, aspect="auto")
    level = max(map(len, columns)) * len(columns) < 75
    axes.set_xticks(range(len(columns)), columns, rotation=0 if level else 35, ha="center" if level else "right")
    axes.set_yticks(range(len(rows)), rows)
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
            colour = SOFT if share is None else "white" if share > 0.55 else INK
            axes.text(x, y - 0.14 * bool(note), text, ha="center", va="center", color=colour, fontsize=7.5)
            if note:
                axes.text(x, y + 0.24, note, ha="center", va="center", color=colour, fontsize=5.5)


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


def label_apart(axes: Axes, points: Iterable[tuple[float, float, str]], *, height: float = 0.045) -> None:
    """Write names beside points, moved upwards where they would lie on one another.

    Args:
        axes: whose limits are final.
        points: x, y in data units, and the name.
        height: of a line, as a share of the axes.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    placed: list[tuple[float, float]] = []
    for x, y, name in sorted(points, key=lambda point: (point[1], point[0])):
        across, up = to_share.transform((x, y))
        left = across > 0.75
        near = [other for at, other in placed if abs(at - across) < 0.2]
        up = max([up, *(other + height for other in near if other + height > up)])
        placed.append((across, up))
        offset = ScaledTranslation((-6 if left else 6) / 72, 0, axes.figure.dpi_scale_trans)
        axes.text(
            across,
            up,
            name,
            transform=axes.transAxes + offset,
            ha="right" if left else "left",
            va="center",
            fontsize=7.5,
        )


def need(found: Sequence[Any], what: str) -> None:
    """Raises Missing: nothing was found."""
    if not found:
        raise Missing(what)
