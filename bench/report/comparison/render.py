"""A comparison as text for the terminal, Markdown for a pull request, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from statistics import geometric_mean
from typing import Any

from bench.report.comparison.compare import ALPHA, Change, Comparison, CostChange, Lost
from bench.report.render.markdown import escape_markdown, grid
from bench.visible import json_text, visible

_SIGNS = {"regression": "-", "improvement": "+", "same": "=", "not comparable": "?"}
_SHOWN = 20


def summary(c: Comparison) -> str:
    """Return the verdict in one sentence, which says how many cells of the base were not tested."""
    worse = sum(change.verdict == "regression" for change in c.changes)
    dearer = sum(cost.regression for cost in c.costs)
    failed = sum(change.verdict == "not comparable" for change in c.changes)
    missing = f"{_cells(len(c.lost))} of the base not tested"
    found = {
        f"{worse} regression{'s' * (worse != 1)}": worse,
        f"{dearer} cost{'s' * (dearer != 1)} rose": dearer,
        f"coverage lost: {missing}": c.lost and not c.allow_lost,
    }
    parts = [part for part, holds in found.items() if holds]
    if not c.compared:
        verdict = f"no cell could be compared{f', {missing}' if c.lost else ''}"
    else:
        verdict = ", ".join(parts) or f"no regression in {_cells(_measured(c))}"
    more = {
        f"{missing}, which --allow-lost accepts": c.compared and c.lost and c.allow_lost,
        f"{_cells(failed)} failed in the base": failed,
    }
    return "; ".join([verdict, *(part for part, holds in more.items() if holds)])


def _measured(c: Comparison) -> int:
    return c.identical + sum(change.verdict != "not comparable" for change in c.changes)


def _header(c: Comparison) -> str:
    tested = sum(change.counts is not None for change in c.changes)
    return (
        f"{_cells(tested)} tested image by image (exact McNemar, Holm at {100 * ALPHA:g} %, at least "
        f"{c.min_effect:g} points), {c.identical} measured once for both"
    )


def _questions(c: Comparison) -> Iterator[str]:
    """Yield what the head asks otherwise in the cells tested, each with the number of these."""
    told = Counter(str(each) for change in c.changes for each in (*change.renamed, *change.changed_parameters))
    yield from (f"{text} ({_cells(count)})" for text, count in told.items())


def _about(change: Change) -> list[str]:
    return [*map(str, change.renamed), *map(str, change.changed_parameters), *change.notes]


def _why(lost: Lost) -> list[str]:
    return list(lost.why) or ["not in the head"]


def as_text(c: Comparison) -> str:
    """Return the comparison for a terminal of 100 columns."""
    lines = [f"{c.base} -> {c.head}: {summary(c)}", _header(c), *(f"note: {note}" for note in c.notes), ""]
    if c.lost:
        lines += [f"coverage lost: {_cells(len(c.lost))} of the base not tested"]
        for each in c.lost[:_SHOWN]:
            lines += [f"  ! {each.name} ({_percent(each.base)} in the base)", *(f"      {why}" for why in _why(each))]
        lines += [*_more(len(c.lost)), ""]
    if asked := list(_questions(c)):
        lines += ["changed parameters and names", *(f"  {line}" for line in asked[:_SHOWN]), *_more(len(asked)), ""]
    for verdict, title in (("regression", "regressions"), ("improvement", "improvements")):
        if found := [change for change in c.changes if change.verdict == verdict]:
            lines += [title, *(f"  {line}" for change in found for line in _lines(change)), ""]
    if found := [change for change in c.changes if change.verdict == "same"]:
        moved = [change for change in found if change.counts and change.counts.lost + change.counts.gained]
        lines += [f"no clear change: {_cells(len(found))}, {len(moved)} of them with images that changed"]
        lines += [*(f"  {line}" for change in _largest(moved) for line in _lines(change)), ""]
    if found := [change for change in c.changes if change.verdict == "not comparable"]:
        lines += [
            "not comparable: they failed in the base",
            *(f"  {line}" for change in found[:_SHOWN] for line in _lines(change)),
            *_more(len(found)),
            "",
        ]
    lines += [line for line in _costs_and_times(c)]
    return "\n".join(map(visible, lines)).rstrip() + "\n"


def _largest(changes: list[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.p or 1.0, change.name))[:_SHOWN]


def _lines(change: Change) -> Iterator[str]:
    yield f"{_SIGNS[change.verdict]} {change.name}"
    if change.counts:
        yield f"    {_numbers(change)}"
    elif change.base is not None or change.head is not None:
        yield f"    {_percent(change.base)} -> {_percent(change.head)}"
    for note in _about(change):
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
    if c.only_head:
        yield f"only in {c.head}: {_cells(len(c.only_head))}"
        yield from (f"  {name}" for name in c.only_head[:_SHOWN])
        yield from _more(len(c.only_head))


def _cost(cost: CostChange) -> str:
    ratio = f" (x{cost.head / cost.base:.4g})" if cost.base > 1e-9 else ""
    return f"{cost.what.replace('_', ' ').replace(' per example', '')} {cost.base:.6g} -> {cost.head:.6g}{ratio}"


def _times(c: Comparison) -> Iterator[str]:
    if not c.times:
        yield "time: not compared, nothing was measured twice with the same parameters on one machine and device"
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
    failed = "❌" if c.compared else "⚠️"
    lines = [
        f"### {'✅' if c.passed else failed} Crossfire: {escape_markdown(summary(c))}",
        "",
        f"{escape_markdown(c.base)} → {escape_markdown(c.head)}. {_header(c)}.",
        "",
        *(f"> {escape_markdown(note)}\n" for note in c.notes),
        *_markdown_lost(c),
    ]
    if asked := list(_questions(c)):
        lines += ["**Changed parameters and names**", "", *(f"- {escape_markdown(line)}" for line in asked[:_SHOWN])]
        lines += [*_more(len(asked)), ""]
    clear = [change for change in c.changes if change.verdict in ("regression", "improvement")]
    moved = [
        change
        for change in c.changes
        if change.verdict == "same" and change.counts and change.counts.lost + change.counts.gained
    ]
    if clear:
        lines += [*_markdown_table(clear), ""]
    if moved:
        lines += ["<details><summary>No clear change</summary>", "", *_markdown_table(_largest(moved)), ""]
        lines += ["</details>", ""]
    if refused := [change for change in c.changes if change.verdict == "not comparable"]:
        lines += ["<details><summary>Not comparable: they failed in the base</summary>", ""]
        lines += [
            f"- {escape_markdown(change.name)}: {escape_markdown('; '.join(change.notes))}"
            for change in refused[:_SHOWN]
        ]
        lines += [*_more(len(refused)), "", "</details>", ""]
    lines += map(_item, _costs_and_times(c))
    return "\n".join(lines) + "\n"


def _markdown_lost(c: Comparison) -> Iterator[str]:
    if not c.lost:
        return
    yield from (f"**Coverage lost: {_cells(len(c.lost))} of the base not tested**", "")
    rows = [
        (escape_markdown(each.name), _percent(each.base), escape_markdown("; ".join(_why(each))))
        for each in c.lost[:_SHOWN]
    ]
    yield from grid(("cell", "base", "in the head"), rows, "lrl")
    if more := _more(len(c.lost)):
        yield from ("", *(line.strip() for line in more))
    yield ""


def _item(line: str) -> str:
    """Return a line of the terminal's text as an item of a list, as deep as the line is indented."""
    text = line.lstrip()
    depth = (len(line) - len(text) + 2) // 4
    return f"{'  ' * depth}- {escape_markdown(text.replace('- ', '🔻 ', 1) if text.startswith('- ') else text)}"


def _markdown_table(changes: Iterable[Change]) -> Iterator[str]:
    rows = []
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
        rows.append([*cells, escape_markdown("; ".join(_about(change)))])
    heads = ("", "cell", "base", "head", "points", "lost", "gained", "p (Holm)", "")
    yield from grid(heads, rows, "llrrrrrrl")


def as_json(c: Comparison) -> str:
    verdict = {"passed": c.passed, "regressed": c.regressed, "summary": summary(c)}
    # Field by field: a deep copy of thousands of changes takes longer than comparing them.
    flat = {part: [vars(each) for each in getattr(c, part)] for part in ("lost", "costs", "times")}
    body = {"schema": 1, **verdict, **vars(c), "changes": list(map(_as_dict, c.changes)), **flat}
    return json_text({**body, "only_base": c.only_base}, indent=1) + "\n"


def _as_dict(change: Change) -> dict[str, Any]:
    return {
        **vars(change),
        "counts": change.counts._asdict() if change.counts else None,
        "changed_parameters": [each._asdict() for each in change.changed_parameters],
        "renamed": [each._asdict() for each in change.renamed],
    }


FORMATS: dict[str, Callable[[Comparison], str]] = {"text": as_text, "md": as_markdown, "json": as_json}
