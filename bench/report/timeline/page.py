"""The timeline as one page that needs no server: for each line a picture over commits, drawn as a few paths."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil, floor
from typing import Any, NamedTuple

from bench.report.render.html import template
from bench.report.timeline import words
from bench.report.timeline.build import Timeline, Told, ToldLane, ToldLine
from bench.report.timeline.costs import NAMES, SECONDS, cost_of
from bench.report.timeline.lines import conditions
from bench.visible import visible, visible_values

#: Points and lines of one page; more would be slow to open on a phone.
_MAX_POINTS, _MAX_LINES = 60_000, 1_500
#: Changes in the list at the top, and entries of the lists of one line.
_MAX_CHANGES, _MAX_ENTRIES = 200, 8
#: Height of a picture in its own units; its width is the number of places.
_HEIGHT = 200
#: Ends of the axis of accuracy are multiples of this, and at least two of them apart.
_STEP = 0.05
#: With more places, single points are not drawn as dots.
_MAX_DOTS = 80
#: Lanes of one picture that look different: four colours, each solid and dashed. Further ones are grey.
_LOOKS = 8


class _Axis(NamedTuple):
    """The range of a picture from bottom to top."""

    low: float
    high: float

    def y(self, value: float) -> int:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(_HEIGHT * (1 - share))


class _Mark(NamedTuple):
    """A sign above the picture, in percent of its width and height from the left and top."""

    left: str
    top: str
    kind: str
    hint: str


def render(t: Timeline) -> str:
    """Return the page. Of very many lines it shows the first, which are those with changes, and says how many."""
    shown = _shown(t)
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(shown):
        about = line.line
        groups[f"{about.dataset} · {about.model}"][about.defense].append(_chart(line, number, len(t.places)))
    left_out = len(t.lines) - len(shown)
    page = template("timeline.html").render(
        summary=words.summary(t),
        method=words.method(t),
        notes=[
            *words.remarks(t),
            *([f"{words.counted(left_out, 'line')} left out; csv, md and json have all"] if left_out else []),
        ],
        changes=_changes(shown),
        more_changes=max(0, sum(len(_events(line)) for line in shown) - _MAX_CHANGES),
        groups=groups,
        first=t.places[0],
        last=t.places[-1],
        count=len(t.places),
        is_dense=len(t.places) > _MAX_DOTS,
        by_ancestry=any(place.known for place in t.places),
        machines=t.machines,
        data=visible_values(
            {
                "places": [[place.label, place.day] for place in t.places],
                "lines": [_data(line) for line in shown],
            }
        ),
    )
    return visible(page, lines=True)


def _shown(t: Timeline) -> list[ToldLine]:
    shown: list[ToldLine] = []
    points = 0
    for line in t.lines[:_MAX_LINES]:
        points += sum(len(lane.points) for lane in line.lanes)
        if points > _MAX_POINTS and shown:
            break
        shown.append(line)
    # The clean one of a row first; which lines have changes is said at the top.
    return sorted(shown, key=lambda line: (*_row(line), line.line.attack != "clean", line.line.name))


def _row(line: ToldLine) -> tuple[str, str, str]:
    return line.line.dataset, line.line.model, line.line.defense


def _events(line: ToldLine) -> list[tuple[ToldLane, Told]]:
    """Return the points of a line with a change of accuracy or of a counted cost, by their places."""
    events = [each for each in line.points if each[1].is_change or each[1].costs]
    return sorted(events, key=lambda each: each[1].point.place)


def _changes(lines: Sequence[ToldLine]) -> list[dict[str, Any]]:
    """Return changes by their commits, the latest first."""
    by_place: dict[int, list[dict[str, Any]]] = defaultdict(list)
    places = {}
    found: list[tuple[int, ToldLane, Told]] = []
    for number, line in enumerate(lines):
        found += [(number, *event) for event in _events(line)]
    for number, lane, told in sorted(found, key=lambda each: (-each[2].point.place, each[0]))[:_MAX_CHANGES]:
        place = told.point.place
        places[place] = told.place
        name = lines[number].line.name_of(lane.lane)
        by_place[place].append({"number": number, "name": name, **_event(lane, told)})
    return [{"place": places[place], "events": events} for place, events in by_place.items()]


def _event(lane: ToldLane, told: Told, threat: str | None = None) -> dict[str, Any]:
    """Return what is said of a point, with its threat if that is another than the given one, which is said already."""
    parts = [words.change(lane, told)] if told.is_change else []
    parts += [words.cost_change(lane, told)] if told.costs else []
    under = f"under {lane.lane.threat}, " if threat is not None and lane.lane.threat != threat else ""
    return {
        "kind": told.judged.verdict if told.is_change else "cost",
        "drifted": told.judged.drifted,
        "text": f"{under}{_unbroken('; '.join(parts))}",
        "remarks": words.remarks_of(lane, told),
        "place": told.place,
    }


def _unbroken(text: str) -> str:
    """Return a text in which no line ends within ``45.2 % → 43.1 %`` or ``p < 0.001``."""
    text = text.replace(" -> ", " → ").replace(" %", "\N{NO-BREAK SPACE}%")
    return re.sub(" ([→=<]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)


def _chart(line: ToldLine, number: int, places: int) -> dict[str, Any]:
    """Return what the template draws of a line."""
    axis = _accuracy_axis(line)
    events = _events(line)
    joined = _joined(line)
    looks = [min(each, _LOOKS) for each in range(len(line.lanes))]
    last_lane, last = max(line.points, key=lambda each: each[1].point.place)
    return {
        "number": number,
        "about": line.line.about_of(last_lane.lane),
        "now": words.percent(last.point.share),
        "range": (f"{100 * axis.low:.0f}", f"{100 * axis.high:.0f}"),
        "lanes": [
            {"look": look, **_paths(runs, axis, dots=places <= _MAX_DOTS)}
            for runs, look in zip(joined, looks, strict=True)
        ],
        "legend": list(zip(_labels(line), looks, strict=False))[:_LOOKS],
        "marks": list(_marks(events, axis, places, last_lane.lane.threat)),
        "breaks": list(_breaks(line, places)),
        "events": [_event(*event, last_lane.lane.threat) for event in events[-_MAX_ENTRIES:]][::-1],
        "more_events": max(0, len(events) - _MAX_ENTRIES),
        "changed": bool(line.changes or line.cost_changes),
        "costs": list(_costs(line, joined, looks)),
        "failed": [_left(told.point.place, places) for _, told in line.points if told.point.share is None][:_MAX_DOTS],
    }


def _labels(line: ToldLine) -> list[str]:
    """Return for each lane what tells it from the others of its line; nothing for a line of one lane."""
    if len(line.lanes) == 1:
        return []
    labels = conditions([lane.lane for lane in line.lanes])
    return [
        label if label and labels.count(label) == 1 else f"{label}{', ' if label else ''}{_begins(lane)}"
        for label, lane in zip(labels, line.lanes, strict=True)
    ]


def _begins(lane: ToldLane) -> str:
    said = "; ".join(lane.lane.words)
    return f"from {lane.points[0].place.label}{': ' if said else ''}{said}"


def _accuracy_axis(line: ToldLine) -> _Axis:
    low = min((told.point.low for _, told in line.points if told.point.low is not None), default=0.0)
    high = max((told.point.high for _, told in line.points if told.point.high is not None), default=1.0)
    bottom, top = floor(low / _STEP), ceil(high / _STEP)
    if top - bottom < 2:
        bottom, top = (bottom, bottom + 2) if bottom * _STEP + 2 * _STEP <= 1 else (top - 2, top)
    return _Axis(bottom * _STEP, top * _STEP)


def _joined(line: ToldLine) -> list[list[list[Told]]]:
    """Return for each lane the points that are joined, run by run."""
    joined = []
    for lane in line.lanes:
        others = {told.point.place for other, told in line.points if other is not lane} if len(line.lanes) > 1 else ()
        joined.append(list(_runs(lane, sorted(others))))
    return joined


def _runs(lane: ToldLane, others: Sequence[int]) -> Iterator[list[Told]]:
    """Yield the points that are joined: each follows the one before it, the first may follow one that is further back.

    What was measured with uncommitted changes stands alone. No line is drawn past results of another lane.

    Args:
        lane: whose points they are.
        others: the places of all other lanes in the picture, sorted.
    """
    run: list[Told] = []
    indices: list[int] = []
    for index, told in enumerate(lane.points):
        if told.point.share is None:
            continue
        if told.place.origin.dirty:
            yield [told]
            continue
        before = None if told.follows is None else lane.points[told.follows]
        if before is not None and _is_between(others, before.point.place, told.point.place):
            before = None
        if run and (before is None or told.follows != indices[-1]):
            yield run
            run = [] if before is None else [before]
        run.append(told)
        indices.append(index)
    if run:
        yield run


def _is_between(places: Sequence[int], low: int, high: int) -> bool:
    """Say whether one of the sorted places lies between two others."""
    return bisect_right(places, low) < bisect_left(places, high)


def _paths(runs: Sequence[Sequence[Told]], axis: _Axis, *, dots: bool) -> dict[str, str]:
    """Return the line, its band, and dots on committed and uncommitted points, each as one path."""
    line: list[str] = []
    band: list[str] = []
    full: list[str] = []
    hollow: list[str] = []
    for run in runs:
        points = [(told.point.place, axis.y(told.point.share or 0.0)) for told in run]
        line.append("M" + "L".join(f"{x} {y}" for x, y in points))
        highs = [(told.point.place, axis.y(told.point.high or told.point.share or 0.0)) for told in run]
        lows = [(told.point.place, axis.y(told.point.low or 0.0)) for told in reversed(run)]
        band.append("M" + "L".join(f"{x} {y}" for x, y in (*highs, *lows)) + "Z")
        marks = [f"M{x} {y}h0" for x, y in points]
        if run[0].place.origin.dirty:
            hollow += marks
        elif dots or len(run) == 1:
            full += marks
    return {"line": "".join(line), "band": "".join(band), "full": "".join(full), "hollow": "".join(hollow)}


def _left(place: float, places: int) -> str:
    """Return a place in percent of the width."""
    return f"{100 * (place + 0.5) / places:.2f}"


def _marks(events: Sequence[tuple[ToldLane, Told]], axis: _Axis, places: int, threat: str) -> Iterator[_Mark]:
    for lane, told in events:
        share = told.point.share
        event = _event(lane, told, threat)
        top = axis.y(share) / _HEIGHT * 100 if share is not None else 100
        kind = f"{event['kind']}{' drift' if event['drifted'] else ''}{' dirty' if told.place.origin.dirty else ''}"
        yield _Mark(_left(told.point.place, places), f"{top:.1f}", kind, f"{told.place.label}: {event['text']}")


def _breaks(line: ToldLine, places: int) -> Iterator[dict[str, Any]]:
    for lane in line.lanes:
        if lane.lane.words and not lane.lane.is_beside:
            first = lane.points[0]
            left = _left(first.point.place - 0.5, places)
            yield {"left": left, "place": first.place, "words": "; ".join(lane.lane.words)}


def _costs(
    line: ToldLine, joined: Sequence[Sequence[Sequence[Told]]], looks: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield the costs of a line: in words where they are constant, else with a picture."""
    for field, name in ({**NAMES, SECONDS: "seconds per image"}).items():
        known = [value for _, told in line.points if (value := cost_of(told.point, field)) is not None]
        if not known:
            continue
        axis = _Axis(min(known), max(known))
        constant = axis.high - axis.low <= 1e-9 * axis.high
        paths = []
        if not constant:
            pieces = [(_cost_path(runs, field, axis), look) for runs, look in zip(joined, looks, strict=True)]
            paths = [piece for piece in pieces if piece[0]]
        yield {"name": name, "low": _short(axis.low), "high": _short(axis.high), "paths": paths}


def _cost_path(runs: Sequence[Sequence[Told]], field: str, axis: _Axis) -> str:
    """Return the line of a cost; seconds are joined only where the number of threads is one."""
    parts: list[str] = []
    for run in runs:
        before: Told | None = None
        for told in run:
            value = cost_of(told.point, field)
            if value is None:
                before = None
                continue
            joined = before is not None and (field != SECONDS or before.point.threads == told.point.threads)
            parts.append(f"{'L' if joined else 'M'}{told.point.place} {axis.y(value)}{'' if joined else 'h0'}")
            before = told
    return "".join(parts)


def _short(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _data(line: ToldLine) -> list[dict[str, Any]]:
    """Return for each lane the places of its points and how many of its images are right, for the readout."""
    lanes = []
    has_threats = len({lane.lane.threat for lane in line.lanes}) > 1
    for lane in line.lanes:
        measured = [told for told in lane.points if told.point.share is not None]
        lanes.append(
            {
                "n": measured[0].point.n if measured else 0,
                "about": f"{lane.lane.threat}, {lane.lane.label}" if has_threats else lane.lane.label,
                "at": [told.point.place for told in measured],
                "right": [round((told.point.share or 0.0) * told.point.n) for told in measured],
            }
        )
    return lanes
