"""A comparison as text for the terminal, Markdown for a pull request, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from statistics import geometric_mean
from typing import Any

from bench.report.comparison.compare import Change, ChangeVerdict, Comparison, CostChange, Lost
from bench.report.comparison.seeds import OverSeeds
from bench.report.comparison.touched import BESIDE
from bench.report.render.markdown import escape_markdown, grid
from bench.stats import ALPHA, p_number, p_text
from bench.types import listed
from bench.visible import json_text, visible

_SIGNS = {"regression": "-", "improvement": "+", "same": "=", "not comparable": "?"}
#: Entries of one list in text and Markdown.
_MAX_ENTRIES = 20
#: Machines whose own difference is shown.
_MAX_MACHINES = 5


def summary(c: Comparison) -> str:
    """Return the verdict in one sentence, which says how many cells of the base were not tested."""
    worse = sum(change.verdict == "regression" for change in c.changes)
    worse_over = sum(cell.verdict == "regression" for cell in c.over_seeds)
    rose = sum(cost.regression for cost in c.costs)
    failed = sum(change.verdict == "not comparable" for change in c.changes)
    missing = f"{_cells(len(c.lost))} of the base not tested"
    problems = {
        f"{worse} regression{'s' * (worse != 1)}": worse,
        f"{_cells(worse_over)} worse over {'its' if worse_over == 1 else 'their'} seeds": worse_over,
        f"{rose} cost{'s' * (rose != 1)} rose": rose,
        f"coverage lost: {missing}": c.lost and not c.allow_lost,
    }
    if not c.compared:
        verdict = f"no cell could be compared{f', {missing}' if c.lost else ''}"
    else:
        verdict = ", ".join(_holding(problems)) or f"no regression in {_cells(_measured(c))}"
    remarks = {
        f"{missing}, which --allow-lost accepts": c.compared and c.lost and c.allow_lost,
        f"{_cells(failed)} failed in the base": failed,
    }
    return "; ".join([verdict, *_holding(remarks)])


def _holding(statements: dict[str, Any]) -> list[str]:
    return [statement for statement, holds in statements.items() if holds]


def _measured(c: Comparison) -> int:
    return c.identical + sum(change.verdict != "not comparable" for change in c.changes)


def _header(c: Comparison) -> str:
    tested = sum(change.counts is not None for change in c.changes)
    return (
        f"{_cells(tested)} tested image by image (exact McNemar, Holm at {100 * ALPHA:g} %, at least "
        f"{c.min_effect:g} points), {c.identical} measured once for both"
    )


def _touched(c: Comparison) -> Iterator[str]:
    if c.touched.cells:
        yield c.touched.words
        yield f"  ({BESIDE})"


def _edits(c: Comparison) -> list[str]:
    """Return the renamed methods and changed parameters, each with the number of cells that it affects."""
    counts = Counter(str(edit) for edit in chain.from_iterable((*x.renamed, *x.changed_parameters) for x in c.changes))
    return [f"{edit} ({_cells(count)})" for edit, count in counts.items()]


def _with_verdict(c: Comparison, *verdicts: ChangeVerdict) -> list[Change]:
    return [change for change in c.changes if change.verdict in verdicts]


def _with_changed_images(changes: Iterable[Change]) -> list[Change]:
    return [change for change in changes if change.counts and change.counts.lost + change.counts.gained]


def _remarks(change: Change) -> list[str]:
    return [*map(str, change.renamed), *map(str, change.changed_parameters), *change.notes]


def _why(lost: Lost) -> list[str]:
    return list(lost.why) or ["not in the head"]


def as_text(c: Comparison) -> str:
    """Return the comparison for a terminal of 100 columns."""
    lines = [
        f"{c.base} -> {c.head}: {summary(c)}",
        _header(c),
        *_touched(c),
        *(f"note: {note}" for note in c.notes),
        "",
    ]
    if c.lost:
        lines.append(f"coverage lost: {_cells(len(c.lost))} of the base not tested")
        for cell in c.lost[:_MAX_ENTRIES]:
            lines += [f"  ! {cell.name} ({_percent(cell.base)} in the base)", *(f"      {why}" for why in _why(cell))]
        lines += [*_more(c.lost), ""]
    if edits := _edits(c):
        lines += ["changed parameters and names", *_indented(edits[:_MAX_ENTRIES]), *_more(edits), ""]
    if regressions := _with_verdict(c, "regression"):
        lines += ["regressions", *_entries(regressions), ""]
    if improvements := _with_verdict(c, "improvement"):
        lines += ["improvements", *_entries(improvements), ""]
    for same in (True, False):
        if unclear := _unclear(c, same=same):
            moved = _with_changed_images(unclear)
            heading = f"{_title(c, same=same)}: {_cells(len(unclear))}, {len(moved)} of them with images that changed"
            lines += [heading, *_indented(_hint(c, unclear)), *_entries(_clearest(moved)), ""]
    if c.over_seeds:
        lines += [_OVER_SEEDS, *_indented(chain.from_iterable(map(_over, _clearest_over(c)))), *_more(c.over_seeds), ""]
    if failed := _with_verdict(c, "not comparable"):
        lines.append("not comparable: they failed in the base")
        lines += [*_entries(failed[:_MAX_ENTRIES]), *_more(failed), ""]
    lines += _costs_and_times(c)
    return "\n".join(map(visible, lines)).rstrip() + "\n"


#: Heads the cells that several seeds or machines measured; its intervals are those of 95 %.
_OVER_SEEDS = "over seeds and machines: mean differences with 95 % intervals for seeds and images like these"


def _title(c: Comparison, *, same: bool) -> str:
    return f"the same within {c.same_within:g} points" if same else "cannot tell"


def _unclear(c: Comparison, *, same: bool) -> list[Change]:
    """Return the tested cells without a clear change that are the same within the margin, or that are not known to."""
    statement = "same" if same else "cannot tell"
    return [change for change in c.changes if change.equivalence == statement]


def _hint(c: Comparison, unclear: Iterable[Change]) -> list[str]:
    """Return with how many images a cell in which none changed is the same, where one has fewer, or why none do."""
    still = [change for change in unclear if change.counts and not change.counts.lost + change.counts.gained]
    if not still or any(change.equivalence == "same" for change in still):
        return []
    if needed := max(change.images_needed or 0 for change in still):
        return [f"cells without a changed image have too few: about {needed:,} would tell"]
    return [f"cells without a changed image; needed: {still[0].needed}"]


def _clearest_over(c: Comparison) -> list[OverSeeds]:
    return sorted(c.over_seeds, key=lambda cell: (cell.p, cell.name))[:_MAX_ENTRIES]


def _over(cell: OverSeeds) -> Iterator[str]:
    yield f"{_SIGNS[cell.verdict] if cell.equivalence != 'cannot tell' else '~'} {cell.name}"
    yield f"    {_sizes(cell)}: {_percent(cell.base)} -> {_percent(cell.head)} ({_interval(cell)}), {_p_values(cell)}"
    yield f"    {_statement(cell)}"
    if cell.by_machine:
        yield f"    {_machines(cell)}"
    if cell.left_out:
        yield f"    {_left_out(cell)}"


def _sizes(cell: OverSeeds) -> str:
    seeds = f"{len(cell.seeds):,} seeds" if len(cell.seeds) > 1 else "1 seed"
    machines = f", {len(cell.by_machine):,} machines" if cell.by_machine else ""
    return f"{seeds} x {cell.n:,} images{machines}"


def _interval(cell: OverSeeds) -> str:
    return f"{100 * cell.difference:+.2f}, {100 * cell.low:+.2f} to {100 * cell.high:+.2f}"


def _p_values(cell: OverSeeds) -> str:
    return f"{p_text(cell.p)}, {p_text(cell.adjusted_p, 'Holm')}"


def _statement(cell: OverSeeds) -> str:
    """Return what is said of a cell over its seeds."""
    if cell.equivalence == "different":
        return "different: worse" if cell.verdict == "regression" else "different: better"
    interval = f"90 % {100 * cell.same_low:+.2f} to {100 * cell.same_high:+.2f}"
    if cell.equivalence == "same":
        # The t quantile of one degree of freedom rests on nothing but that.
        normal = ", if seeds differ normally" if len(cell.seeds) == 2 else ""
        return f"the same within {cell.margin:g} points ({interval}){normal}"
    return f"cannot tell ({interval}){f'; needed: {cell.needed}' if cell.needed else ''}"


def _machines(cell: OverSeeds) -> str:
    return listed((f"on {machine} {100 * value:+.2f}" for machine, value in cell.by_machine.items()), _MAX_MACHINES)


def _left_out(cell: OverSeeds) -> str:
    return f"left out: {', '.join(cell.left_out)}"


def _clearest(changes: list[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.p or 1.0, change.name))[:_MAX_ENTRIES]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _entries(changes: Iterable[Change]) -> list[str]:
    return _indented(chain.from_iterable(map(_entry, changes)))


def _entry(change: Change) -> Iterator[str]:
    yield f"{'~' if change.equivalence == 'cannot tell' else _SIGNS[change.verdict]} {change.name}"
    if change.counts:
        yield f"    {_numbers(change)}"
        if change.equivalence != "different":
            yield f"    {_ends(change)}{_wanted(change)}"
    elif change.base is not None or change.head is not None:
        yield f"    {_percent(change.base)} -> {_percent(change.head)}"
    for remark in _remarks(change):
        yield f"    {remark}"


def _numbers(change: Change) -> str:
    if change.base is None or change.head is None or change.counts is None:
        return ""
    if change.p is None or change.adjusted_p is None:
        return ""
    counts, p_values = change.counts, f"{p_text(change.p)}, {p_text(change.adjusted_p, 'Holm')}"
    return (
        f"{_percent(change.base)} -> {_percent(change.head)} ({100 * (change.head - change.base):+.2f}), "
        f"{counts.lost} lost and {counts.gained} gained of {counts.n:,}, {p_values}"
    )


def _ends(change: Change) -> str:
    return (
        "" if change.low is None or change.high is None else f"90 % {100 * change.low:+.2f} to {100 * change.high:+.2f}"
    )


def _wanted(change: Change) -> str:
    if change.images_needed is None:
        return f"; needed: {change.needed}" if change.needed else ""
    return f"; {change.needed} would tell"


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.2f} %"


def _more(entries: Sequence[object]) -> list[str]:
    """Return a line about the entries that do not fit, if there are any."""
    more = len(entries) - _MAX_ENTRIES
    return [f"  ... and {more} more; --format json has all"] if more > 0 else []


def _costs_and_times(c: Comparison) -> Iterator[str]:
    if c.costs:
        yield "costs, counted"
        names = list(dict.fromkeys(cost.name for cost in c.costs))
        for name in names[:_MAX_ENTRIES]:
            costs = [cost for cost in c.costs if cost.name == name]
            yield f"  {'-' if any(cost.regression for cost in costs) else ' '} {name}"
            yield f"      {', '.join(map(_cost, costs))}"
        yield from _more(names)
    elif c.changes:
        yield "costs, counted: FLOPs, passes and parameters are the same wherever both were measured"
    yield from _times(c)
    if c.only_head:
        yield f"only in {c.head}: {_cells(len(c.only_head))}"
        yield from _indented(c.only_head[:_MAX_ENTRIES])
        yield from _more(c.only_head)


def _cost(cost: CostChange) -> str:
    what = cost.what.replace("_", " ").replace(" per example", "")
    # As many digits as tell the two apart.
    digits = next((each for each in range(6, 17) if f"{cost.base:.{each}g}" != f"{cost.head:.{each}g}"), 17)
    change = f"{cost.base:.{digits}g} -> {cost.head:.{digits}g}"
    if cost.base <= 1e-9:
        return f"{what} {change}"
    ratio = f"{cost.head / cost.base:.4g}"
    return f"{what} {change} ({f'x{ratio}' if ratio != '1' else f'{cost.head - cost.base:+.4g}'})"


def _times(c: Comparison) -> Iterator[str]:
    if not c.times:
        yield "time: not compared, nothing was measured twice with the same parameters on one machine and device"
        return
    slowest = max(c.times, key=lambda time: time.ratio)
    mean = geometric_mean(time.ratio for time in c.times)
    yield f"time: x{mean:.2f} over {_cells(len(c.times))} on one machine and device; time alone is never a regression"
    if slowest.ratio > 1:
        repeats = f"{slowest.low:.2f} to {slowest.high:.2f} over {_seeds(slowest.repeats)}"
        yield f"  slowest: x{slowest.ratio:.2f} ({repeats}) {slowest.name}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _cells(count: int) -> str:
    return f"{count:,} cell{'s' * (count != 1)}"


def as_markdown(c: Comparison) -> str:
    """Return the comparison as a comment for a pull request."""
    not_passed = "❌" if c.compared else "⚠️"
    lines = [
        f"### {'✅' if c.passed else not_passed} Crossfire: {escape_markdown(summary(c))}",
        "",
        f"{escape_markdown(c.base)} → {escape_markdown(c.head)}. {_header(c)}.",
        "",
        *(escape_markdown(line.strip()) for line in _touched(c)),
        "",
        *(f"> {escape_markdown(note)}\n" for note in c.notes),
        *_markdown_lost(c),
    ]
    if edits := _edits(c):
        items = [f"- {escape_markdown(edit)}" for edit in edits[:_MAX_ENTRIES]]
        lines += ["**Changed parameters and names**", "", *items, *_more(edits), ""]
    if clear := _with_verdict(c, "regression", "improvement"):
        lines += [*_markdown_table(clear), ""]
    for same in (True, False):
        if unclear := _unclear(c, same=same):
            title = _title(c, same=same)
            heading = f"{title[0].upper()}{title[1:]}: {_cells(len(unclear))}"
            lines += _details(heading, _markdown_unclear(c, unclear))
    if c.over_seeds:
        lines += [f"**{_OVER_SEEDS[0].upper()}{_OVER_SEEDS[1:]}**", "", *_markdown_over(c), *_more(c.over_seeds), ""]
    if failed := _with_verdict(c, "not comparable"):
        shown = failed[:_MAX_ENTRIES]
        items = [f"- {escape_markdown(x.name)}: {escape_markdown('; '.join(x.notes))}" for x in shown]
        lines += _details("Not comparable: they failed in the base", [*items, *_more(failed)])
    lines += map(_item, _costs_and_times(c))
    return "\n".join(lines) + "\n"


def _details(title: str, lines: Iterable[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _markdown_lost(c: Comparison) -> Iterator[str]:
    if not c.lost:
        return
    yield from (f"**Coverage lost: {_cells(len(c.lost))} of the base not tested**", "")
    rows = [
        (escape_markdown(cell.name), _percent(cell.base), escape_markdown("; ".join(_why(cell))))
        for cell in c.lost[:_MAX_ENTRIES]
    ]
    yield from grid(("cell", "base", "in the head"), rows, "lrl")
    if more := _more(c.lost):
        yield from ("", *(line.strip() for line in more))
    yield ""


def _item(line: str) -> str:
    """Return a line of the terminal's text as a list item, as deep as the line is indented."""
    text = line.lstrip()
    depth = (len(line) - len(text) + 2) // 4
    return f"{'  ' * depth}- {escape_markdown(text.replace('- ', '🔻 ', 1) if text.startswith('- ') else text)}"


def _markdown_table(changes: Iterable[Change]) -> Iterator[str]:
    heads = ("", "cell", "base", "head", "points", "lost", "gained", "p (Holm)", "")
    yield from grid(heads, map(_markdown_row, changes), "llrrrrrrl")


def _markdown_unclear(c: Comparison, unclear: list[Change]) -> Iterator[str]:
    """Yield how many images changed, and the cells in which any did."""
    moved = _with_changed_images(unclear)
    yield f"{len(moved)} of them with images that changed. Intervals are of two one-sided tests at 5 %, in points."
    yield ""
    yield from (f"{hint}.\n" for hint in _hint(c, unclear))
    if moved:
        heads = ("cell", "base", "head", "points", "90 %", "lost", "gained", "p (Holm)", "")
        yield from grid(heads, map(_markdown_unclear_row, _clearest(moved)), "lrrrrrrrl")


def _markdown_unclear_row(change: Change) -> list[object]:
    _, *cells, remarks = _markdown_row(change)
    wanted = _wanted(change).removeprefix("; ")
    remarks = "; ".join(filter(None, (escape_markdown(wanted), str(remarks))))
    return [*cells[:4], escape_markdown(_ends(change).removeprefix("90 % ")), *cells[4:], remarks]


def _markdown_over(c: Comparison) -> Iterator[str]:
    heads = ("", "cell", "over", "base", "head", "points", "95 %", "p (Holm)", "")
    yield from grid(heads, map(_markdown_over_row, _clearest_over(c)), "lllrrrrrl")


def _markdown_over_row(cell: OverSeeds) -> list[object]:
    said = [_statement(cell), *([_machines(cell)] if cell.by_machine else [])]
    said += [_left_out(cell)] if cell.left_out else []
    return [
        {"regression": "🔻", "improvement": "🔺"}.get(cell.verdict, ""),
        escape_markdown(cell.name),
        escape_markdown(_sizes(cell)),
        _percent(cell.base),
        _percent(cell.head),
        f"{100 * cell.difference:+.2f}",
        f"{100 * cell.low:+.2f} to {100 * cell.high:+.2f}",
        escape_markdown(p_number(cell.adjusted_p)),
        escape_markdown("; ".join(said)),
    ]


def _markdown_row(change: Change) -> list[object]:
    points = ""
    if change.base is not None and change.head is not None:
        points = f"{100 * (change.head - change.base):+.2f}"
    return [
        {"regression": "🔻", "improvement": "🔺"}.get(change.verdict, ""),
        escape_markdown(change.name),
        _percent(change.base),
        _percent(change.head),
        points,
        change.counts.lost if change.counts else "",
        change.counts.gained if change.counts else "",
        escape_markdown(p_number(change.adjusted_p)) if change.adjusted_p is not None else "",
        escape_markdown("; ".join(_remarks(change))),
    ]


def as_json(c: Comparison) -> str:
    verdict = {"passed": c.passed, "regressed": c.regressed, "summary": summary(c)}
    # Field by field: a deep copy of thousands of changes takes longer than comparing them.
    flat = {field: [vars(entry) for entry in getattr(c, field)] for field in ("lost", "costs", "times", "over_seeds")}
    body = {"schema": 1, **verdict, **vars(c), "changes": list(map(_as_dict, c.changes)), **flat}
    return json_text({**body, "only_base": c.only_base, "touched": c.touched._asdict()}, indent=1) + "\n"


def _as_dict(change: Change) -> dict[str, Any]:
    return {
        **vars(change),
        "counts": change.counts._asdict() if change.counts else None,
        "changed_parameters": [edit._asdict() for edit in change.changed_parameters],
        "renamed": [edit._asdict() for edit in change.renamed],
    }


FORMATS: dict[str, Callable[[Comparison], str]] = {"text": as_text, "md": as_markdown, "json": as_json}
