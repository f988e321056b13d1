"""A comparison as text for the terminal, Markdown for a pull request, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from statistics import geometric_mean

from bench.report.compare import ALPHA, Change, Comparison, CostChange
from bench.report.formats import escape_markdown

_SIGNS = {"regression": "-", "improvement": "+", "same": "=", "not comparable": "?"}
_SHOWN = 20


def summary(c: Comparison) -> str:
    """Return the verdict in one sentence."""
    worse = sum(change.verdict == "regression" for change in c.changes)
    dearer = sum(cost.regression for cost in c.costs)
    if not c.compared:
        return "no cell could be compared"
    parts = [f"{worse} regression{'s' * (worse != 1)}"] * bool(worse) + [
        f"{dearer} cost{'s' * (dearer != 1)} rose"
    ] * bool(dearer)
    return " and ".join(parts) if parts else "no regression"


def _header(c: Comparison) -> str:
    tested = sum(change.counts is not None for change in c.changes)
    return (
        f"{_cells(tested)} tested image by image (exact McNemar, Holm at {100 * ALPHA:g} %, at least "
        f"{c.min_effect:g} points), {c.identical} measured once for both"
    )


def as_text(c: Comparison) -> str:
    """Return the comparison for a terminal of 100 columns."""
    lines = [f"{c.base} -> {c.head}: {summary(c)}", _header(c), ""]
    for verdict, title in (("regression", "regressions"), ("improvement", "improvements")):
        if found := [change for change in c.changes if change.verdict == verdict]:
            lines += [title, *(f"  {line}" for change in found for line in _lines(change)), ""]
    if found := [change for change in c.changes if change.verdict == "same"]:
        moved = [change for change in found if change.counts and change.counts.lost + change.counts.gained]
        lines += [f"no clear change: {_cells(len(found))}, {len(moved)} of them with images that changed"]
        lines += [*(f"  {line}" for change in _largest(moved) for line in _lines(change)), ""]
    if found := [change for change in c.changes if change.verdict == "not comparable"]:
        lines += [
            "not comparable",
            *(f"  {line}" for change in found[:_SHOWN] for line in _lines(change)),
            *_more(len(found)),
            "",
        ]
    lines += [line for line in _costs_and_times(c)]
    return "\n".join(lines).rstrip() + "\n"


def _largest(changes: list[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.p or 1.0, change.name))[:_SHOWN]


def _lines(change: Change) -> Iterator[str]:
    yield f"{_SIGNS[change.verdict]} {change.name}"
    if change.counts:
        yield f"    {_numbers(change)}"
    elif change.base is not None or change.head is not None:
        yield f"    {_percent(change.base)} -> {_percent(change.head)}"
    for note in change.notes:
        yield f"    {note}"


def _numbers(change: Change) -> str:
    if change.base is None or change.head is None or change.counts is None:
        return ""
    lost, gained, n = change.counts
    return (
        f"{_percent(change.base)} -> {_percent(change.head)} ({100 * (change.head - change.base):+.2f}), "
        f"{lost} lost and {gained} gained of {n:,}, p {change.p:.2g}, Holm {change.adjusted_p:.2g}"
    )


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.2f} %"


def _more(count: int) -> list[str]:
    return [f"  ... and {count - _SHOWN} more; --format json has all"] if count > _SHOWN else []


def _costs_and_times(c: Comparison) -> Iterator[str]:
    if c.costs:
        yield "costs, counted"
        names = list(dict.fromkeys(cost.name for cost in c.costs))
        for name in names[:_SHOWN]:
            found = [cost for cost in c.costs if cost.name == name]
            yield f"  {'-' if any(cost.regression for cost in found) else ' '} {name}"
            yield f"      {', '.join(map(_cost, found))}"
        yield from _more(len(names))
    elif c.changes:
        yield "costs, counted: FLOPs, passes and parameters are the same wherever both were measured"
    yield from _times(c)
    for title, single in ((f"only in {c.base}", c.only_base), (f"only in {c.head}", c.only_head)):
        if single:
            yield f"{title}: {_cells(len(single))}"
            yield from (f"  {name}" for name in single[:_SHOWN])
            yield from _more(len(single))
    yield from (f"note: {note}" for note in c.notes)


def _cost(cost: CostChange) -> str:
    ratio = f" (x{cost.head / cost.base:.4g})" if cost.base else ""
    return f"{cost.what.replace('_', ' ').replace(' per example', '')} {cost.base:.6g} -> {cost.head:.6g}{ratio}"


def _times(c: Comparison) -> Iterator[str]:
    if not c.times:
        yield "time: not compared, no cell was measured twice on one machine and device"
        return
    slow = max(c.times, key=lambda time: time.ratio)
    mean = geometric_mean(time.ratio for time in c.times)
    yield f"time: x{mean:.2f} over {_cells(len(c.times))} on one machine and device; time alone is never a regression"
    if slow.ratio > 1:
        repeats = f"{slow.low:.2f} to {slow.high:.2f} over {_seeds(slow.repeats)}"
        yield f"  slowest: x{slow.ratio:.2f} ({repeats}) {slow.name}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _cells(count: int) -> str:
    return f"{count:,} cell{'s' * (count != 1)}"


def as_markdown(c: Comparison) -> str:
    """Return the comparison as a comment for a pull request."""
    mark = "❌" if c.regressed else "✅" if c.compared else "⚠️"
    lines = [
        f"### {mark} Crossfire: {escape_markdown(summary(c))}",
        "",
        f"{escape_markdown(c.base)} → {escape_markdown(c.head)}. {_header(c)}.",
        "",
    ]
    clear = [change for change in c.changes if change.verdict in ("regression", "improvement")]
    moved = [
        change
        for change in c.changes
        if change.verdict == "same" and change.counts and change.counts.lost + change.counts.gained
    ]
    if clear:
        lines += [*_markdown_table(clear), ""]
    if moved:
        lines += [
            "<details><summary>No clear change</summary>",
            "",
            *_markdown_table(_largest(moved)),
            "",
            "</details>",
            "",
        ]
    if refused := [change for change in c.changes if change.verdict == "not comparable"]:
        lines += ["<details><summary>Not comparable</summary>", ""]
        lines += [
            f"- {escape_markdown(change.name)}: {escape_markdown('; '.join(change.notes))}"
            for change in refused[:_SHOWN]
        ]
        lines += [*_more(len(refused)), "", "</details>", ""]
    lines += map(_item, _costs_and_times(c))
    return "\n".join(lines) + "\n"


def _item(line: str) -> str:
    """Return a line of the terminal's text as an item of a list, as deep as the line is indented."""
    text = line.lstrip()
    depth = (len(line) - len(text) + 2) // 4
    return f"{'  ' * depth}- {escape_markdown(text.replace('- ', '🔻 ', 1) if text.startswith('- ') else text)}"


def _markdown_table(changes: Iterable[Change]) -> Iterator[str]:
    yield "| | cell | base | head | points | lost | gained | p (Holm) | |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for change in changes:
        points = (
            f"{100 * (change.head - change.base):+.2f}" if change.base is not None and change.head is not None else ""
        )
        lost, gained = (change.counts.lost, change.counts.gained) if change.counts else ("", "")
        p = f"{change.adjusted_p:.2g}" if change.adjusted_p is not None else ""
        mark = {"regression": "🔻", "improvement": "🔺"}.get(change.verdict, "")
        cells = [
            mark,
            escape_markdown(change.name),
            _percent(change.base),
            _percent(change.head),
            points,
            lost,
            gained,
            p,
        ]
        yield f"| {' | '.join(map(str, cells))} | {escape_markdown('; '.join(change.notes))} |"


def as_json(c: Comparison) -> str:
    body = {"schema": 1, "regressed": c.regressed, "summary": summary(c), **asdict(c)}
    for change, given in zip(body["changes"], c.changes, strict=True):
        change["counts"] = given.counts._asdict() if given.counts else None
    return json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"text": as_text, "md": as_markdown, "json": as_json}
