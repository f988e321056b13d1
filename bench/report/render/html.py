"""The leaderboard as one page that needs no server: every number opens to the cells that it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import log10
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from bench.keys import Once
from bench.report.leaderboard.pareto import pareto_front
from bench.report.leaderboard.summaries import ThreatSummary, Value, threat_text
from bench.report.leaderboard.tables import RANKED, Board, Column, Table, TableRow, build, first_columns
from bench.report.render import text
from bench.report.render.samples import SETS, samples
from bench.store.outputs import move_foreign_aside, write_into
from bench.store.working_store import Store
from bench.types import AttackRef, CellError, CellResult, Cost, Metrics, jsonable
from bench.visible import visible, visible_values

_TEMPLATES = Path(__file__).parent / "templates"
#: Bytes of a page that a browser opens at once and scrolls through smoothly, and numbers in its tables at first; while
#: it is larger, half of them, down to a few.
_LARGEST, _VALUES, _FEWEST = 14 * 10**6, 8_000, 100
#: Of one table: lines, attacks, and what its heat map shows of them.
_LINES, _COLUMNS, _HEAT_LINES, _HEAT_COLUMNS = 300, 100, 40, 30
#: Tables at most; and numbers, points and letters of a section that a browser lays out within one frame. A section of
#: no more is laid out when it comes near the window. A larger one would hold up scrolling for as long as that takes, so
#: it is laid out while the page loads.
_TABLES, _AT_ONCE = 200, 300
#: Lines about a table that stand open, and those at most; points of the scatter; results that a number opens to.
_OPEN, _SAID, _MARKS, _KEYS = 20, 200, 80, 40
#: Letters of a traceback, of which the end counts.
_TRACEBACK = 4_000
#: What every page of ours has among its first bytes.
_TITLE = b"<title>Crossfire leaderboard</title>"
_ELSEWHERE = "This page shows a part, csv, md and json have all"


def write_report(
    results: Iterable[CellResult] | Board,
    out_dir: Path,
    *,
    store: Store | None = None,
    data_folder: Path | None = None,
    trusted: bool = False,
) -> Path:
    """Write the page and return its path, ``out_dir/index.html``.

    Args:
        results: what it shows.
        out_dir: where; it is made.
        store: where adversarial images are, some of which the page then shows.
        data_folder: where to look for image sets first.
        trusted: whether folders of images that the results name may be opened.

    Raises:
        UsageError: the folder cannot be written.
    """
    page = out_dir / "index.html"
    # Such as that of a folder which happens to be called report.
    move_foreign_aside(page, lambda head: _TITLE in head)
    board = results if isinstance(results, Board) else build(results)
    write_into(page, render(board, store, data_folder, trusted=trusted).encode(), option="the report")
    return page


def render(board: Board, store: Store | None = None, data_folder: Path | None = None, *, trusted: bool = False) -> str:
    """Return the page, of at most some 14 MB; with sample images where ``store`` has them.

    Of large tables it shows the first lines and columns, says how many, and keeps the details of these alone.
    """
    values, sets = _VALUES, SETS
    pictures = partial(samples, store=store, data_folder=data_folder, trusted=trusted) if store else None
    while True:
        page = _page(board, pictures, values, sets)
        if len(page.encode(errors="replace")) <= _LARGEST or values < _FEWEST:
            return page
        values, sets = values // 2, sets // 2


def _page(board: Board, pictures: Callable[..., dict[str, str]] | None, values: int, sets: int) -> str:
    """Return the page with at most so many numbers, and images of so many adversarial sets."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    tables, without = _tables(board, values)
    shown = _shown(board, tables)
    columns = [column for view in tables for column in view["columns"]]
    page = environment.get_template("leaderboard.html").render(
        board=board,
        tables=tables,
        facts=_facts(board),
        datasets=sorted({view["table"].dataset for view in tables}),
        models=sorted({view["table"].model for view in tables}),
        threats=list(dict.fromkeys(c.group for c in columns if c.group not in ("", "cost"))),
        pieces=text.pieces,
        accesses=[
            a
            for a in ("white-box", "static", "adaptive", "transfer")
            if any(line.access == a for t in board.tables for line in t.rows)
        ],
        optional=list(dict.fromkeys(c.label for c in columns if c.label != "clean")),
        without=without,
        # Inside the data hidden characters are JSON escapes, which the script would read back.
        details=visible_values(_details(board, shown, pictures(shown, most=sets) if pictures else {})),
        absent=text.absent(board),
        foot=text.FOOT,
    )
    return visible(page, lines=True)


class Cell(NamedTuple):
    text: str
    #: The text without the robust accuracy in brackets.
    plain: str
    value: Value | None
    column: Column
    #: What ``ranked`` cells are by their place: best, second, or nothing.
    rank: str
    letters: str
    hint: str
    #: The first of the results that it stands on, and how many more there are.
    keys: str
    more: int


class _Excerpt(NamedTuple):
    """What the page shows of a table, and what it says of the rest."""

    columns: tuple[Column, ...]
    lines: tuple[TableRow, ...]
    about: str


def _tables(board: Board, values: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tables as far as there is room for so many numbers, and the titles of the others."""
    views: list[dict[str, Any]] = []
    without: list[str] = []
    tables = board.tables[:_TABLES]
    for number, table in enumerate(tables):
        # What a small table leaves of its share is for those after it.
        found = _excerpt(table, values // (len(tables) - number))
        if found.lines:
            values -= len(found.columns) * len(found.lines)
            views.append(_table(table, found))
        else:
            without.append(table.title)
    return views, [*without, *(table.title for table in board.tables[_TABLES:])]


def _excerpt(table: Table, values: int) -> _Excerpt:
    """Return the first lines and columns; worst case and gap stand beside the attacks, and costs at the end."""
    columns = first_columns(table.columns, _COLUMNS)
    lines = table.rows[: min(_LINES, values // max(1, len(columns)))]
    parts = [
        f"the first {some:,} of {count:,} {what}"
        for some, count, what in (
            (len(lines), len(table.rows), "lines, the most robust first"),
            (len(columns), len(table.columns), "columns"),
        )
        if some < count
    ]
    return _Excerpt(columns, lines, f"{_ELSEWHERE}: {' and '.join(parts)}" if parts else "")


def _shown(board: Board, tables: Sequence[Mapping[str, Any]]) -> list[CellResult]:
    """Return the results that numbers of the page open to."""
    keys = {key for view in tables for _, cells in view["rows"] for cell in cells for key in cell.keys.split()}
    keys |= {
        key for view in tables if view["scatter"] for point in view["scatter"]["points"] for key in point.keys.split()
    }
    return [result for key, result in board.results.items() if key in keys]


def _table(table: Table, excerpt: _Excerpt) -> dict[str, Any]:
    columns, lines = excerpt.columns, excerpt.lines
    part = replace(table, columns=columns, rows=lines)
    legend = text.legend(part)
    attacked = [column for column in columns if column.group not in ("", "cost") and column.unit == "accuracy"]
    heat, heat_lines = attacked[:_HEAT_COLUMNS], lines[:_HEAT_LINES]
    whole = len(heat) == len(attacked) and len(heat_lines) == len(lines)
    scatter = _scatter(table)
    marked = len(scatter["points"]) if scatter else 0
    numbers = len(columns) * len(lines) + len(heat) * len(heat_lines) + marked + len(legend)
    return {
        "table": table,
        "columns": columns,
        "about": excerpt.about,
        "groups": _spans(columns),
        "rows": [(line, [_cell(table, line, column, legend) for column in columns]) for line in lines],
        "heat": heat,
        "heat_rows": [(line, [_cell(table, line, column, legend) for column in heat]) for line in heat_lines],
        "heat_about": "" if whole else f"the first {len(heat_lines)} lines and {len(heat)} columns",
        "legend": legend,
        "rules": text.first(text.rules(part), _OPEN, "attacks with a rule"),
        "verdicts": _folded(table.verdicts),
        "notes": _folded(table.notes),
        "scatter": scatter,
        "lazy": numbers <= _AT_ONCE,
    }


def _folded(lines: Sequence[str]) -> dict[str, Any]:
    """Return which lines stand open, which are folded away, and how many are left out."""
    kept = lines[:_SAID]
    return {"open": kept[:_OPEN], "folded": kept[_OPEN:], "left_out": len(lines) - len(kept)}


def _cell(table: Table, line: TableRow, column: Column, legend: Mapping[str, str]) -> Cell:
    value = line.values.get(column.id)
    best, second = table.best[column.id]
    rank = ""
    if value and value.number is not None and line.access in RANKED and value.number in (best, second):
        rank = "best" if value.number == best else "second"
    known = value if value and (value.number is not None or value.failed or value.footnotes) else None
    robust = [f"robust accuracy {100 * value.robust:.2f} %"] if value and value.robust is not None else []
    parts = (
        [column.under_attack * "accuracy under attack", text.interval(value), *robust, *value.footnotes]
        if value
        else []
    )
    return Cell(
        text.number(value, column, table.n),
        text.plain(value, column, table.n),
        known,
        column,
        rank,
        text.letters(value, legend) if value else "",
        ", ".join(part for part in parts if part),
        *_opened(known),
    )


def _opened(value: Value | None) -> tuple[str, int]:
    """Return the first keys of a number, and how many more there are."""
    keys = value.keys if value else ()
    return " ".join(keys[:_KEYS]), max(0, len(keys) - _KEYS)


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return found


def _facts(board: Board) -> list[str]:
    """Return where the numbers come from, in a few words each."""
    made = [result.provenance for result in board.results.values()]
    if not made:
        return []
    failed = sum(result.status == "failed" for result in board.results.values())
    commits = sorted({(p.commit or "no commit")[:10] + ("+edits" if p.dirty else "") for p in made})
    machines = sorted({f"{p.machine} ({p.device})" for p in made})
    facts = [
        f"{len(made):,} cells" + (f", {failed} failed" if failed else ""),
        f"{'commit' if len(commits) == 1 else f'{len(commits)} commits:'} {_few(commits)}",
        _few(machines),
        f"finished {max(p.finished for p in made)[:16].replace('T', ' ')} UTC",
    ]
    return facts + ([f"{board.superseded} older results of code since edited left out"] if board.superseded else [])


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (" …" if len(words) > 3 else "")


def _details(board: Board, results: Iterable[CellResult], pictures: Mapping[str, str]) -> dict[str, Any]:
    """Return results as data; what many cells share is kept once and named by its place in ``shared``."""
    shared: list[Any] = []
    places: dict[str, int] = {}
    written = Once(BaseModel.model_dump_json)

    def place(kind: str, part: Any, body: Any) -> int:
        name = kind + written(part)
        if name not in places:
            places[name] = len(shared)
            shared.append(body if body is not None else jsonable(part))
        return places[name]

    def picture(key: str) -> int | None:
        if (address := pictures.get(key)) is None:
            return None
        if address not in places:
            places[address] = len(shared)
            shared.append(address)
        return places[address]

    cells = {}
    for r in results:
        key = r.key
        defense, attack = board.labels[key]
        made = r.cell.attack
        cells[key] = {
            "title": [r.names.dataset, r.names.model, defense, attack, r.names.access],
            "status": r.status,
            "seed": r.cell.seed,
            "flags": r.flags,
            "metrics": _numbers(r.metrics) if r.metrics else None,
            "attack": _parameters(made) if made else None,
            "threat": threat_text(made.threat) if made else None,
            "defense": place("model", r.cell.model, None),
            "step": place("step", r.cell.step, None) if r.cell.step else None,
            "images": place("data", r.cell.data, None),
            "cost": _numbers(r.cost) if r.cost else None,
            "own_cost": place("cost", r.defense_cost, None) if r.defense_cost else None,
            "provenance": place("made", r.provenance, None),
            "error": _error(r.error) if r.error else None,
            "sample": picture(key),
        }
    return {"shared": shared, "cells": cells}


def _numbers(part: Metrics | Cost) -> dict[str, Any]:
    """Return numbers to the seven digits that a float of an image has; the details show five."""
    found = jsonable(part).items()
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in found}


def _error(error: CellError) -> dict[str, Any]:
    trace = error.traceback
    return {**jsonable(error), "traceback": trace if len(trace) <= _TRACEBACK else f"[…]\n{trace[-_TRACEBACK:]}"}


def _parameters(made: AttackRef) -> dict[str, Any]:
    after = {"after": ", ".join(earlier.attack.name for earlier in made.after)} if made.after else {}
    return {**made.attack.params, "eot": made.eot, **after, "code": made.attack.code_sha[:12]}


class ScatterPoint(NamedTuple):
    """A point of the scatter, in the units of its view box."""

    x: float
    y: float
    low: float
    high: float
    open: bool
    label: str
    label_y: float
    left: bool
    hint: str
    keys: str
    more: int
    #: The label as far as there is room for it.
    shown: str = ""


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 320, 50, 16, 12, 48
_LABEL_HEIGHT, _LETTER = 16, 8
#: Two points nearer than this look like one.
_DOT = 4


def _scatter(table: Table) -> dict[str, Any] | None:
    """Return worst cases against inference FLOPs per image, laid out; nothing for fewer than two defenses."""
    first = next((s.threat for s in table.threats if s.threat), None)
    everyone = [s for s in table.threats if s.threat == first and first and s.cost and s.cost.test_flops >= 1]
    standings = everyone[:_MARKS]
    flops = [s.cost.test_flops for s in standings if s.cost]
    if first is None or len(flops) < 2:
        return None
    low, high = log10(min(flops)) - 0.15, log10(max(flops)) + 0.15
    if high - low < 1:
        low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5

    def at_x(value: float) -> float:
        return _LEFT + (log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(share: float) -> float:
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    points = _spread([point for s in standings for point in _points(s, at_x, at_y)])
    # In the picture y grows downwards.
    front = pareto_front((each for each in points if not each.open), lambda each: each.x, lambda each: -each.y)
    ticks = [
        m * 10.0**e for e in range(int(low) - 1, int(high) + 2) for m in (1, 2, 5) if low <= log10(m * 10.0**e) <= high
    ]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if str(f"{tick:e}").startswith("1")]
    return {
        "threat": threat_text(first),
        "about": f"the first {_MARKS} of {len(everyone):,} defenses" if len(everyone) > _MARKS else "",
        "points": points,
        "links": [(a, b) for a in points for b in points if a.open and not b.open and a.label == b.label],
        "front": ""
        if len(front) < 2
        else " ".join(
            f"{m.x:.1f},{y:.1f}" for i, m in enumerate(front) for y in ([front[i - 1].y, m.y] if i else [m.y])
        ),
        "x_ticks": [(at_x(tick), _flops(tick)) for tick in ticks],
        "y_ticks": [(at_y(share), f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)],
        "box": (_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM),
    }


def _points(standing: ThreatSummary, at_x: Any, at_y: Any) -> Iterator[ScatterPoint]:
    for access, value in standing.worst.items():
        if access == "any" or value.number is None or value.low is None or value.high is None or standing.cost is None:
            continue
        score = f"{100 * value.number:.1f} % ({text.interval(value)})"
        hint = f"{standing.defense}, {access}: {score}, {_flops(standing.cost.test_flops)} per image"
        x, y = at_x(standing.cost.test_flops), at_y(value.number)
        yield ScatterPoint(
            x,
            y,
            at_y(value.low),
            at_y(value.high),
            access not in RANKED,
            standing.defense,
            y,
            x > 0.72 * _WIDTH,
            hint,
            *_opened(value),
        )


def _spread(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """Write each name at the nearest free height beside its solid point; where there is none, the hint has it.

    Points that lie on one another share a label; a defense with a static attacker only is named beside its open point.
    """
    placed: list[ScatterPoint] = []
    order = sorted(points, key=lambda m: (-abs(2 * m.y - _HEIGHT), m.label))
    together: dict[ScatterPoint, list[str]] = {}
    for point in order:
        if not point.open or point.label not in {m.label for m in points if not m.open}:
            near = (m for m in together if abs(m.x - point.x) < _DOT and abs(m.y - point.y) < _DOT)
            together.setdefault(next(near, point), []).append(point.label)
    for point in order:
        label = ", ".join(together.get(point, []))
        room = int(((point.x - _LEFT) if point.left else (_WIDTH - point.x)) / _LETTER) - 2
        named = point._replace(shown=label if len(label) <= room else f"{label[: room - 1]}…")
        shifts = (sign * step * _LABEL_HEIGHT / 2 for step in range(19) for sign in (-1, 1))
        free = (
            named._replace(label_y=named.y + shift)
            for shift in shifts
            if _TOP <= named.y + shift <= _HEIGHT - _BOTTOM
            and not any(abs(named.y + shift - p.label_y) < _LABEL_HEIGHT and _meet(named, p) for p in placed)
        )
        placed.append(next(free, point) if label else point)
    return placed


def _meet(one: ScatterPoint, other: ScatterPoint) -> bool:
    """Say whether two names would meet if they stood at one height."""
    ends = []
    for point in (one, other):
        width = _LETTER * (len(point.shown) + 2) if point.shown else 0
        ends.append((point.x - width, point.x) if point.left else (point.x, point.x + width))
    return ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]


def _flops(value: float) -> str:
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP"
