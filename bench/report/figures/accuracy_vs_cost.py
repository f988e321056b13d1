"""Robust accuracy against the FLOP that an image takes, with the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Source
from bench.report.figures._choice import Precedence, kept, of_defenses_text, precedence
from bench.report.figures._labels import Whisker, label_apart
from bench.report.figures._layout import (
    EDGE,
    LEGEND_POINTS,
    NAME_POINTS,
    Foot,
    Grid,
    Listing,
    fitting_tables,
    widest,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    COLOUR,
    MAX_DEFENSES,
    ROBUST,
    ROBUST_MEANS,
    Suitable,
    access_points,
    in_brackets,
    log_axis,
    marker,
    measured,
    suitable_tables,
    threats_text,
    unbroken,
)
from bench.report.leaderboard.pareto import cost_front, full_knowledge, primary
from bench.report.leaderboard.summaries import ThreatSummary
from bench.report.leaderboard.tables import Table

#: Panels with more points in a square inch, or with longer names (inches), have numbers beside the points and the names
#: below.
_MOST_NAMED, _LONGEST_NAME = 1.5, 1.1
#: Inches: the height of the axes of a panel, where there is one row of panels, and where there are more.
_HIGH, _LOW = 2.4, 1.65
#: Inches: the height of one row of panels with more points than these.
_TALL, _MANY = 3.6, 30
#: Points of a panel that numbers stand beside: for each square inch of it, and at least.
_DENSEST, _LEAST_POINTS = 4, 12


class _Panel(NamedTuple):
    """The first defenses of a table."""

    table: Table
    title: str
    summaries: list[ThreatSummary]


class _Sheet(NamedTuple):
    """A figure before it is drawn."""

    panels: list[_Panel]
    grid: Grid
    #: What stands beside a point, by defense.
    labels: dict[str, str]
    #: The names of the numbers beside points; empty where names stand there.
    listing: Listing
    foot: Foot


def draw(source: Source) -> Drawing:
    width, first = source.width, precedence(source)
    suitable = suitable_tables(
        source, lambda table: len(_with_cost(table)) > 1, "no data set has two defenses with a measured cost"
    )
    one = _sheet(suitable, 1, width, first).grid
    legible = max(_LEAST_POINTS, int(_DENSEST * one.panel * one.height))
    most = min(MAX_DEFENSES, legible, max(len(_with_cost(table)) for table in suitable.tables))
    fitted, count = fitting_tables(suitable, most, lambda tables, count: _sheet(tables, count, width, first).grid.total)
    sheet = _sheet(fitted, count, width, first)
    figure, axes = sheet.grid.draw(f"{ROBUST}, %")
    numbers = [_draw_panel(axis, panel, sheet.labels) for axis, panel in zip(axes, sheet.panels, strict=True)]
    sheet.listing.draw(figure, EDGE + sheet.grid.foot)
    sheet.foot.draw(figure)
    return Drawing(figure, {"tables": numbers})


def _foot(width: float, panels: Sequence[_Panel], left_out: str) -> Foot:
    handles = [
        marker("white-box or adaptive", COLOUR["adaptive"]),
        marker(ACCESS_WORDS["static"], COLOUR["static"], "white"),
    ]
    has_line = any(len(cost_front(panel.summaries)) > 1 for panel in panels)
    front = "line: the Pareto front of white-box and adaptive" if has_line else ""
    return Foot(width, handles, "; ".join(filter(None, [ROBUST_MEANS, front, left_out])))


def _sheet(tables: Suitable, count: int, width: float, first: Precedence) -> _Sheet:
    """Lay out ``count`` defenses of each table."""
    panels = [_panel(table, count, first) for table in tables.tables]
    names = list(dict.fromkeys(s.defense for s in chain.from_iterable(panel.summaries for panel in panels)))
    across = min(2, len(panels)) if width > 5 or len(panels) > 2 else 1
    height = _height(panels)
    most = _MOST_NAMED * Grid.panel_width(width, across) * height
    crowded = max(len(panel.summaries) for panel in panels) > min(_LEAST_POINTS, most)
    labels = {name: name for name in names}
    if crowded or widest(names, LEGEND_POINTS) > _LONGEST_NAME:
        labels = {name: str(number) for number, name in enumerate(names, start=1)}
    listing = Listing([f"{labels[name]}\xa0\xa0{name}" for name in names if labels[name] != name], width)
    foot = _foot(width, panels, tables.left_out)
    grid = Grid.of([panel.title for panel in panels], width, across, height, foot.height + listing.height)
    return _Sheet(panels, grid, labels, listing, foot)


def _height(panels: Sequence[_Panel]) -> float:
    """Return the height of the axes of each panel, in inches."""
    if len(panels) > 2:
        return _LOW
    return _TALL if max(len(panel.summaries) for panel in panels) > _MANY else _HIGH


def _panel(table: Table, count: int, first: Precedence) -> _Panel:
    every = _with_cost(table)
    names = kept([s.defense for s in every], count, first)
    part = in_brackets(threats_text(table), of_defenses_text(len(names), len(every)))
    title = f"{table.title}, {unbroken(every[0].group)}{part}"
    return _Panel(table, title, [s for s in every if s.defense in names])


def _draw_panel(axis: Axes, panel: _Panel, labels: dict[str, str]) -> dict[str, Any]:
    """Draw defenses with their Pareto front, and return their numbers.

    Args:
        axis: to draw on.
        panel: the defenses.
        labels: what stands beside a point, by defense.
    """
    summaries = panel.summaries
    points = [_draw_point(axis, s) for s in summaries]
    front = cost_front(summaries)
    axis.step(
        [x for x, _ in front],
        [100 * y for _, y in front],
        where="post",
        color=COLOUR["adaptive"],
        alpha=0.35,
        zorder=1,
    )
    axis.set_xscale("log")
    axis.set_xlabel("inference FLOP/image", fontsize=NAME_POINTS)
    log_axis(axis, [p["flops"] for p in points])
    # A defense with static attacks alone has its name at its static robust accuracy.
    heights = [(p, p["static" if p["adaptive"]["value"] is None else "adaptive"]["value"]) for p in points]
    label_apart(
        axis,
        [(p["flops"], 100 * y, labels[p["defense"]]) for p, y in heights if y is not None],
        list(chain.from_iterable(map(_whiskers, points))),
    )
    return {
        "dataset": panel.table.dataset,
        "model": panel.table.model,
        "threat": summaries[0].group,
        "points": points,
        "front": front,
    }


def _whiskers(point: dict[str, Any]) -> Iterator[Whisker]:
    """Yield the lines of a point that no name may cover: its intervals, and what joins static and adaptive."""
    shares = [point[access]["value"] for access in ("static", "adaptive")]
    if None not in shares:
        yield Whisker(point["flops"], 100 * min(shares), 100 * max(shares))
    for access in ("static", "adaptive"):
        low, high = point[access]["low"], point[access]["high"]
        if low is not None and high is not None:
            yield Whisker(point["flops"], 100 * low, 100 * high)


def _draw_point(axis: Axes, s: ThreatSummary) -> dict[str, Any]:
    """Draw one defense, its static and adaptive worst case joined by a line, and return its numbers."""
    assert s.cost is not None
    adaptive, static = full_knowledge(s), s.worst.get("static")
    flops = s.cost.test_flops
    access_points(axis, flops, static, adaptive)
    if adaptive and static and adaptive.number is not None and static.number is not None:
        ends = [100 * adaptive.number, 100 * static.number]
        axis.plot([flops] * 2, ends, ":", color=COLOUR["static"], linewidth=1, zorder=1)
    return {"defense": s.defense, "flops": flops, "adaptive": measured(adaptive), "static": measured(static)}


def _with_cost(table: Table) -> list[ThreatSummary]:
    # The axis is logarithmic.
    return [s for s in primary(table) if s.cost and s.cost.test_flops > 0]
