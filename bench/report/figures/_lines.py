"""Lines of defenses over budgets: which are kept, how they look, where their panels are, and the names of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple, Protocol, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.report.figures._choice import KEPT, Precedence, natural
from bench.report.figures._layout import GAP, LEGEND_POINTS, Foot, Grid, fitting
from bench.report.figures._plot import ACCESS_WORDS, MAX_CURVES, text_width

_STYLES: Mapping[str, Literal["--", ":"]] = {"static": "--", "transfer": ":"}
#: Inches: the height of the axes of one panel, and of each of several.
_HIGH, _LOW = 2.4, 1.5

#: The colour and the marker of a defense.
Look = tuple[str, str]
T = TypeVar("T")
P = TypeVar("P", bound="Panel")


class Line(NamedTuple):
    """What a line is of."""

    defense: str
    access: str


def by_name(line: Line) -> tuple[list[tuple[float, str]], str]:
    """Return what lines are sorted by."""
    return natural(line.defense), line.access


def legible(lines: Mapping[Line, T], order: Precedence) -> dict[Line, T]:
    """Return as many lines as are legible in one panel, in the order of their names."""
    some = sorted(lines, key=lambda line: (order[line.defense], line.access))[:MAX_CURVES]
    return {line: lines[line] for line in sorted(some, key=by_name)}


def looks(lines: Iterable[Line]) -> dict[str, Look]:
    """Return the colour and the marker of each defense."""
    names = sorted({line.defense for line in lines}, key=natural)
    return {name: (f"C{i % 7}", "os^D"[i // 7 % 4]) for i, name in enumerate(names)}


def sees_all(line: Line) -> bool:
    """Say whether the attacker sees the entire defense."""
    return line.access not in _STYLES


def drawn_line(line: Line, look: Look) -> Line2D:
    """Return a line without points: its markers are hollow where the attacker does not see the entire defense."""
    colour, marker = look
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        markersize=4,
        markerfacecolor=colour if sees_all(line) else "white",
        linestyle=_STYLES.get(line.access, "-"),
        label=line.defense + (f", {ACCESS_WORDS[line.access]}" if line.access != "white-box" else ""),
    )


def name_budgets(axis: Axes, budgets: Mapping[float, str]) -> None:
    """Write the names of budgets below an axis with its final limits, where they have room; the largest always has."""
    low, high = axis.get_xlim()
    inches = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted()).width
    free = float("inf")
    named: dict[float, str] = {}
    for budget, text in sorted(budgets.items(), reverse=True):
        middle, width = (budget - low) / (high - low) * inches, text_width(text, LEGEND_POINTS)
        if middle + width / 2 < free and middle > width / 2 - GAP:
            named[budget] = text
            free = middle - width / 2 - GAP
    axis.set_xticks(list(named), list(named.values()), fontsize=LEGEND_POINTS)


class Panel(Protocol):
    """What a panel is of: a table, and what else tells it from other panels."""

    @property
    def table(self) -> str:
        """The title of the table."""

    @property
    def title(self) -> str:
        """What stands above the panel, beside the table."""


def laid_out(
    every: Mapping[P, Mapping[Line, T]],
    first: Mapping[P, Mapping[Line, T]],
    width: float,
    *,
    more: Sequence[Artist] = (),
    remark: str = "",
) -> tuple[dict[P, Mapping[Line, T]], Grid, Foot]:
    """Return the panels that fit a page, and the layout of these.

    Args:
        every: all panels.
        first: those that may be shown, with the lines that are legible.
        width: of the figure, in inches.
        more: entries of the legend after the lines.
        remark: below the legend.
    """

    def layout(count: int) -> tuple[Grid, Foot]:
        shown = dict(list(first.items())[:count])
        own = set(chain.from_iterable(shown.values()))
        look_of = looks(own)
        handles = [drawn_line(line, look_of[line.defense]) for line in sorted(own, key=by_name)]
        foot = Foot(width, [*handles, *more], remark)
        several = len({panel.table for panel in shown}) > 1
        titles = [f"{panel.title}\n{panel.table}" if several else panel.title for panel in shown]
        height = _HIGH if count == 1 else _LOW
        across = Grid.across_of(count, width)
        return Grid.of(titles, width, across, height, foot.height, _heading(every, shown, several=several)), foot

    count = fitting(len(first), lambda count: layout(count)[0].total)
    return dict(list(first.items())[:count]), *layout(count)


def _heading(every: Mapping[P, Mapping[Line, T]], shown: Mapping[P, Mapping[Line, T]], *, several: bool) -> str:
    """Return what stands above all panels: the table, if it is one, and what is left out."""
    heading = "" if several else next(iter(shown)).table
    drawn, total = sum(map(len, shown.values())), sum(map(len, every.values()))
    if drawn == total:
        return heading
    left_out = f"{drawn:,} of {total:,} curves, {KEPT}"
    if len(shown) < len(every):
        left_out += f", in {len(shown):,} of {len(every):,} panels"
    return f"{heading}: {left_out}" if heading else left_out
