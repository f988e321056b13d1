"""A timeline as text for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from bench.report.render.export import escape_csv
from bench.report.render.markdown import escape_markdown, grid
from bench.report.timeline import small, words
from bench.report.timeline.build import Timeline, Told, ToldLane, ToldLine
from bench.stats import ALPHA, p_number
from bench.visible import json_text, visible

#: Entries of one list in text.
_MAX_ENTRIES = 20
#: Breaks of one small line that are written out in text.
_MAX_BREAKS = 5
#: Small lines of one line.
_MAX_ROWS = 5

_Entry = tuple[ToldLine, ToldLane, Told]


def as_text(t: Timeline) -> str:
    """Return a summary for a terminal of 100 columns: changes by their commits, then small lines."""
    lines = [words.summary(t), words.method(t), *(f"note: {note}" for note in words.remarks(t)), ""]
    if changes := _by_place(t):
        lines += ["changes", *_change_lines(changes), ""]
    pictures = [small.drawn(line, len(t.places)) for line in t.lines[:_MAX_ENTRIES]]
    width = max(map(len, chain.from_iterable(pictures)), default=0)
    if any(small.BAR in picture for picture in chain.from_iterable(pictures)):
        lines += [
            f"{small.BAR} in a small line is a break: its two sides are of two machines, protocols, cells or branches, "
            "or the left one kept no outcomes of images, and they are not compared"
        ]
    for line, drawn in zip(t.lines, pictures, strict=False):
        lines += _small_lines(line, [f"{picture:{width}}" for picture in drawn])
    if len(t.lines) > _MAX_ENTRIES:
        lines.append(f"... and {len(t.lines) - _MAX_ENTRIES:,} more lines; --format html, csv and json have all")
    return "\n".join(map(visible, lines)).rstrip() + "\n"


def _small_lines(line: ToldLine, pictures: Sequence[str]) -> Iterator[str]:
    """Yield a row for each lane that stands beside another, and below it the lanes that follow in it."""
    rows = small.rows(line)
    blank = " " * len(pictures[0])
    for number, (lanes, picture) in enumerate(zip(rows[:_MAX_ROWS], pictures, strict=False)):
        about = f"beside it {_begins(lanes[0])}" if number else line.line.name_of(_latest(lanes).lane)
        if number == 0 and len(rows) > 1 and lanes[0].where:
            about += f", {lanes[0].where}"
        yield f"{picture}  {words.percent(_latest(lanes).points[-1].point.share):>8}  {about}"
        yield from (f"{blank}  {small.BAR} {_begins(lane)}" for lane in lanes[1 : _MAX_BREAKS + 1])
        if len(lanes) > _MAX_BREAKS + 1:
            yield f"{blank}  and {len(lanes) - _MAX_BREAKS - 1:,} more"
    if len(rows) > _MAX_ROWS:
        yield f"{blank}  and {len(rows) - _MAX_ROWS:,} more beside it; --format html, csv and json have all"


def _begins(lane: ToldLane) -> str:
    return f"from {lane.points[0].place.label}: {'; '.join(lane.lane.words)}"


def _latest(lanes: Sequence[ToldLane]) -> ToldLane:
    return max(lanes, key=lambda lane: lane.points[-1].point.place)


def _by_place(t: Timeline) -> list[tuple[int, list[_Entry]]]:
    """Return the entries with a change of accuracy or cost by their place, the latest first."""
    entries: dict[int, list[_Entry]] = defaultdict(list)
    for line, lane, told in t.points:
        if told.is_change or told.costs:
            entries[told.point.place].append((line, lane, told))
    return sorted(entries.items(), reverse=True)


def _change_lines(changes: Sequence[tuple[int, list[_Entry]]]) -> Iterator[str]:
    shown = 0
    for _, entries in changes:
        place = entries[0][2].place
        yield f"  {place.label}  {place.day}  {place.subject}".rstrip()
        for line, lane, told in entries[: max(_MAX_ENTRIES - shown, 0)]:
            yield f"    {words.SIGNS.get(told.judged.verdict, ' ')} {line.line.name_of(lane.lane)}"
            yield from (f"        {part}" for part in _parts(lane, told))
            shown += 1
        if shown >= _MAX_ENTRIES:
            break
    left = sum(len(entries) for _, entries in changes) - shown
    if left > 0:
        yield f"  ... and {left:,} more; --format html, csv and json have all"


def _parts(lane: ToldLane, told: Told) -> Iterator[str]:
    if told.is_change:
        yield words.change(lane, told)
    if told.costs:
        yield words.cost_change(lane, told)
    yield from words.remarks_of(lane, told)


def as_markdown(t: Timeline) -> str:
    """Return changes by their commits and one row for each line and commit."""
    lines = [f"### Crossfire over time: {escape_markdown(words.summary(t))}", "", f"{words.method(t)}.", ""]
    lines += [f"> {escape_markdown(note)}\n" for note in words.remarks(t)]
    for _, entries in _by_place(t):
        lines += [f"**{_markdown_place(entries[0][2])}**", ""]
        for line, lane, told in entries:
            said = "; ".join(_parts(lane, told))
            lines.append(f"- {escape_markdown(f'{line.line.name_of(lane.lane)}: {said}')}")
        lines.append("")
    heads = ("line", "commit", "%", "low", "high", "n", "machine", "protocol", "verdict", "p", "p (Holm)", "")
    lines += grid(heads, _markdown_rows(t), "llrrrrlllrrl")
    return "\n".join(lines) + "\n"


def _markdown_place(told: Told) -> str:
    place = told.place
    label = escape_markdown(place.label)
    linked = f"[{label}]({place.url})" if place.url else label
    return " ".join(part for part in (linked, place.day, escape_markdown(place.subject)) if part)


def _markdown_rows(t: Timeline) -> Iterator[list[object]]:
    for line in t.lines:
        for lane, told in line.points:
            point, test = told.point, told.judged.test
            shares = ["" if share is None else f"{100 * share:.2f}" for share in (point.share, point.low, point.high)]
            is_first = told is lane.points[0]
            remarks = [*(lane.lane.words if is_first else ()), *words.remarks_of(lane, told)]
            yield [
                escape_markdown(line.line.name_of(lane.lane)),
                escape_markdown(told.place.label),
                *shares,
                point.n,
                escape_markdown(f"{lane.lane.machine}, {lane.lane.device}"),
                escape_markdown(lane.lane.protocol),
                told.judged.verdict + (" (drift)" if told.judged.drifted else ""),
                escape_markdown(p_number(test.p)) if test else "",
                escape_markdown(p_number(test.adjusted)) if test else "",
                escape_markdown("; ".join(part for part in (*remarks, words.cost_change(lane, told)) if part)),
            ]


def as_csv(t: Timeline) -> str:
    """Return one row for each line and commit, with accuracies as fractions and absent values empty.

    A text that a spreadsheet would read as a formula begins with an apostrophe.
    """
    out = io.StringIO()
    records = list(_records(t))
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape_csv(value) for name, value in record.items()} for record in records)
    return out.getvalue()


def _records(t: Timeline) -> Iterator[dict[str, Any]]:
    for line in t.lines:
        for number, lane in enumerate(line.lanes):
            about = {**_names(line), **_of_lane(line, lane), "lane": number, **_conditions(lane)}
            for told in lane.points:
                yield {**about, **words.record(line, lane, told)}


def _names(line: ToldLine) -> dict[str, Any]:
    names = ("dataset", "model", "defense", "attack", "access", "threat", "seed")
    return {"line": line.line.name, **{name: getattr(line.line, name) for name in names}}


def _of_lane(line: ToldLine, lane: ToldLane) -> dict[str, Any]:
    """Return those of the names of a line that a lane has for itself."""
    return {"line": line.line.name_of(lane.lane), "threat": lane.lane.threat}


def _conditions(lane: ToldLane) -> dict[str, Any]:
    about = lane.lane
    return {
        "machine": about.machine,
        "device": about.device,
        "protocol": about.protocol,
        "break": "; ".join(about.words),
    }


def as_json(t: Timeline) -> str:
    """Return everything as one object of schema 1."""
    body = {
        "schema": 1,
        "summary": words.summary(t),
        "alpha": ALPHA,
        "min_effect": t.min_effect,
        "tests": t.tests,
        "measurements": t.measurements,
        "notes": list(words.remarks(t)),
        "commits": [
            {
                "commit": place.origin.commit,
                "dirty": place.origin.dirty,
                "label": place.label,
                "known": place.known,
                "subject": place.subject,
                "day": place.day,
                "url": place.url,
            }
            for place in t.places
        ],
        "lines": [{**_names(line), "lanes": list(map(_json_lane, _of_line(line)))} for line in t.lines],
    }
    return json_text(body) + "\n"


def _of_line(line: ToldLine) -> list[tuple[ToldLine, ToldLane]]:
    return [(line, lane) for lane in line.lanes]


def _json_lane(of_line: tuple[ToldLine, ToldLane]) -> dict[str, Any]:
    line, lane = of_line
    points = [{"place": told.point.place, **words.record(line, lane, told)} for told in lane.points]
    return {**_of_lane(line, lane), **_conditions(lane), "points": points}


FORMATS: dict[str, Callable[[Timeline], str]] = {"text": as_text, "md": as_markdown, "csv": as_csv, "json": as_json}
