"""The tables of the page as its templates need them: which part is shown, and every number with its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, NamedTuple

from bench.registry import LIVE
from bench.report.leaderboard.flags import explained, unproven
from bench.report.leaderboard.judging import verdict_sentence
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import RANKED, VERDICT_ORDER, Board, Column, Table, TableRow, first_columns
from bench.report.render import text
from bench.report.render.names import CUT, breakable, short_names
from bench.report.render.scatter import first_keys, scatter

_MAX_TABLES = 200
#: Of one table.
_MAX_ROWS = 300
_MAX_ATTACKS = 100
#: Of the heat map of one table.
_MAX_HEAT_ROWS = 40
_MAX_HEAT_COLUMNS = 30
#: Numbers, points and letters of a section that a browser lays out within one frame. A section of no more is laid out
#: when it comes near the window. A larger one would hold up scrolling, so it is laid out while the page loads.
_MAX_LAZY_NUMBERS = 300
#: Verdicts or notes of a table, and the attacks with a rule.
_MAX_LINES = 200
_MAX_RULES = 20
#: Letters of the name of a defense, which stands on one line, and of an attack, which may take several.
_NAME_LETTERS = 28
_HEAD_LETTERS = 48
#: Of the marks behind a number; the hint has all.
_MARK_LETTERS = 5
#: What the words of a verdict mean, for a reader who has not met them.
_CONCLUSIONS = {
    "holds": "more robust than the network under it",
    "upper bound": "its attacks were too weak for a verdict",
    "broken": "no more robust than the network under it",
    "weaker": "less robust than the network under it",
}
_ELSEWHERE = "This page shows a part, csv, md and json have all"


class Cell(NamedTuple):
    text: str
    #: The robust accuracy in brackets, or the interval of a gap; empty where there is none.
    second: str
    value: Value | None
    column: Column
    #: ``best``, ``second``, or nothing.
    rank: str
    letters: str
    hint: str
    #: The keys of its first results, and how many more there are.
    keys: str
    more: int

    @property
    def is_unproven(self) -> bool:
        """Whether it is the word of a stranger, which is said wherever the number is."""
        return self.value is not None and bool(unproven(self.value.footnotes))

    @property
    def sorted_by(self) -> str | None:
        """What the script sorts by: a number, the place of a verdict, or nothing where an attack failed.

        ``None`` where nothing is known.
        """
        if self.value is None or not (self.value.number is not None or self.value.failed or self.value.words):
            return None
        if self.value.words:
            return str(VERDICT_ORDER.index(self.value.words))
        return "" if self.value.merit is None else repr(self.value.merit)


class Head(NamedTuple):
    """The heading of a column: its label, as far as there is room, in pieces."""

    column: Column
    pieces: list[str]
    hint: str
    #: How many marks the numbers below it carry at most.
    marks: int

    @property
    def best(self) -> str:
        """In which direction the column is sorted when the best comes first."""
        return "descending" if self.column.unit == "accuracy" else "ascending"


class _Excerpt(NamedTuple):
    """The part of a table that the page shows, and a remark about the rest."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    remark: str


def views(board: Board, numbers: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tables as far as there is room for so many numbers, and the titles of the others."""
    shown: list[dict[str, Any]] = []
    left_out: list[str] = []
    tables = board.tables[:_MAX_TABLES]
    for index, table in enumerate(tables):
        # Later tables share what a small table leaves of its part.
        excerpt = _excerpt(table, numbers // (len(tables) - index))
        if excerpt.rows:
            numbers -= len(excerpt.columns) * len(excerpt.rows)
            shown.append(_view(table, excerpt))
        else:
            left_out.append(table.title)
    return shown, [*left_out, *(table.title for table in board.tables[_MAX_TABLES:])]


def _plain_name(name: str) -> str:
    """Return what a set of images or a network is called, whether a file or a running program holds it."""
    return name.removeprefix(LIVE)


def _excerpt(table: Table, numbers: int) -> _Excerpt:
    """Return the first rows and columns; worst case and gap are beside the attacks, and costs at the end.

    A column in which no row has anything is left out.
    """
    columns = first_columns(table.columns, _MAX_ATTACKS)
    rows = table.rows[: min(_MAX_ROWS, numbers // max(1, len(columns)))]
    parts = [
        f"the first {shown:,} of {count:,} {noun}"
        for shown, count, noun in (
            (len(rows), len(table.rows), "rows, the most robust first"),
            (len(columns), len(table.columns), "columns"),
        )
        if shown < count
    ]
    filled = tuple(column for column in columns if any(map(_is_shown, _values(rows, column))))
    return _Excerpt(filled, rows, f"{_ELSEWHERE}: {' and '.join(parts)}" if parts else "")


def _values(rows: Sequence[TableRow], column: Column) -> Iterator[Value]:
    return (row.values[column.id] for row in rows if column.id in row.values)


def _is_shown(value: Value) -> bool:
    return value.number is not None or value.failed or bool(value.footnotes or value.words)


def _view(table: Table, excerpt: _Excerpt) -> dict[str, Any]:
    columns, rows = excerpt.columns, excerpt.rows
    shown = replace(table, columns=columns, rows=rows)
    legend = text.legend(shown)
    numbers = _Numbers(table, legend)
    heads = _heads(shown, legend)
    attacked = [head for head in heads if head.column.group not in ("", "cost") and head.column.unit == "accuracy"]
    heat, heat_rows = attacked[:_MAX_HEAT_COLUMNS], rows[:_MAX_HEAT_ROWS]
    all_in_heat = len(heat) == len(attacked) and len(heat_rows) == len(rows)
    cost_scatter = scatter(table)
    points = len(cost_scatter["points"]) if cost_scatter else 0
    lines = [(row, [numbers.cell(row, column) for column in columns]) for row in rows]
    return {
        "table": table,
        "title": table.caption or f"{_plain_name(table.dataset)} · {_plain_name(table.network)}",
        "subtitle": f"{table.title}. {_subtitle(shown)}" if table.caption else _subtitle(shown),
        "names": short_names((row.defense for row in rows), _NAME_LETTERS),
        "about": excerpt.remark,
        "groups": _spans(heads),
        "heads": heads,
        "rows": lines,
        "has_ranks": any(cell.rank for cell in _cells_of(lines)),
        "has_brackets": any(cell.second and cell.column.kind == "attack" for cell in _cells_of(lines)),
        "heat": heat,
        "heat_groups": _spans(heat),
        "heat_rows": [(row, [numbers.cell(row, head.column) for head in heat]) for row in heat_rows],
        "heat_about": "" if all_in_heat else f"the first {len(heat_rows)} rows and {len(heat)} columns",
        "has_unranked": any(row.access not in RANKED for row in rows),
        "has_gap": any(column.kind == "gap" for column in columns),
        "has_worst": any(column.kind == "worst" for column in columns),
        "conclusions": _conclusions(rows, columns),
        "legend": {explained(note): letter for note, letter in legend.items()},
        "rules": text.first(text.rules(shown), _MAX_RULES, "attacks with a rule"),
        "verdicts": _first(table.verdicts),
        "settled": text.settled(table),
        "ranks": _ranks(table),
        "notes": _first(table.notes),
        "scatter": cost_scatter,
        "lazy": len(columns) * len(rows) + len(heat) * len(heat_rows) + points + len(legend) <= _MAX_LAZY_NUMBERS,
    }


def _ranks(table: Table) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the rank of each row, by defense and access, and what it is in words; empty where nothing is ranked."""
    if table.ranking is None:
        return {}
    ranked = {rank.name: rank for rank in table.ranking.ranks}
    ranks: dict[tuple[str, str], tuple[str, str]] = {}
    for row in table.rows:
        if row.access in RANKED:
            rank = ranked.get(row.defense)
            why = "" if rank is None or rank.is_settled else ", not settled"
            words = f"rank by robust accuracy, worst case, under {table.ranking.group}{why}"
            ranks[row.defense, row.access] = ("–", "no rank") if rank is None else (str(rank.rank), words)
    return ranks


def _spans(heads: Sequence[Head]) -> list[tuple[str, int]]:
    """Return each group of neighboring columns with its width."""
    return [(group, len(list(span))) for group, span in groupby(heads, lambda head: head.column.group)]


def _first(lines: Sequence[str]) -> dict[str, Any]:
    """Return the lines that the page has, and how many are left out."""
    return {"lines": lines[:_MAX_LINES], "left_out": max(0, len(lines) - _MAX_LINES)}


def _cells_of(lines: Sequence[tuple[TableRow, Sequence[Cell]]]) -> Iterator[Cell]:
    """Yield every cell of some lines."""
    return chain.from_iterable(cells for _, cells in lines)


def _conclusions(rows: Sequence[TableRow], columns: Sequence[Column]) -> dict[str, str]:
    """Return the verdicts of some rows with their meaning."""
    values = chain.from_iterable(_values(rows, column) for column in columns if column.kind == "verdict")
    given = {value.words for value in values}
    return {word: meaning for word, meaning in _CONCLUSIONS.items() if word in given}


def _subtitle(table: Table) -> str:
    """Return in one line what the numbers of a table are, and what its attackers see."""
    # Where a row is all accesses of its defense, only the columns say whether any attacker is static.
    has_gap = not table.has_access and any(column.kind == "gap" for column in table.columns)
    accesses = {row.access for row in table.rows} | ({"static"} if has_gap else set())
    has_steps = bool(accesses & {"static", "adaptive"})
    full = [access for access in RANKED if access in accesses]
    seen = {
        " and ".join(full): "the defense as deployed" if has_steps else "the whole network",
        text.access_words("static") * ("static" in accesses): "only the network under it",
        "transfer" * ("transfer" in accesses): "only another network",
    }
    first, *others = [f"{who} {{}} {what}" for who, what in seen.items() if who] or [""]
    parts = [first.format("attackers see"), *(other.format("ones") for other in others)]
    sentence = ", ".join(parts) if any(column.kind in ("attack", "worst") for column in table.columns) else ""
    about = f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""
    return f"Accuracy in percent of {table.n:,} images. {about}".rstrip()


def _heads(table: Table, legend: Mapping[str, str]) -> list[Head]:
    labels = short_names((column.label for column in table.columns), _HEAD_LETTERS)
    heads = []
    for column in table.columns:
        label = labels[column.label]
        rule = f"keeps {column.rule}" if column.rule else ""
        hint = " · ".join(part for part in (column.label * (label != column.label), column.hint, rule) if part)
        marks = max((len(_marks(value, legend)) for value in _values(table.rows, column)), default=0)
        heads.append(Head(column, breakable(label), hint, marks))
    return heads


def _marks(value: Value, legend: Mapping[str, str]) -> str:
    """Return the letters of a number's notes as far as there is room."""
    letters = text.letters(value, legend)
    return letters if len(letters) <= _MARK_LETTERS else letters[: _MARK_LETTERS - 1] + CUT


class _Numbers:
    """The numbers of a table in words, with what opens at a click."""

    def __init__(self, table: Table, legend: Mapping[str, str]) -> None:
        self._table = table
        self._legend = legend
        self._threats = {(threat.defense, threat.group): threat for threat in table.threats}

    def cell(self, row: TableRow, column: Column) -> Cell:
        """Return the number of a row in a column."""
        value = row.values.get(column.id)
        if value is None or not _is_shown(value):
            return Cell(text.ABSENT, "", None, column, "", "", "", "", 0)
        if value.words:
            return self._verdict(row, column, value)
        rank = self._table.mark(row, column)
        number, _, bracket = _compact(value, column, self._table.n).partition(" ")
        marks = _marks(value, self._legend)
        return Cell(number, bracket, value, column, rank, marks, _hint(value, column), *first_keys(value))

    def _verdict(self, row: TableRow, column: Column, value: Value) -> Cell:
        """Return a verdict in a word, its whole sentence, and the cells of the worst case that it is about."""
        threat = self._threats.get((row.defense, column.group))
        if threat is None:
            return Cell(value.words, "", value, column, "", "", "", "", 0)
        keys, marks = first_keys(threat.worst.get("any")), _marks(value, self._legend)
        return Cell(value.words, "", value, column, "", marks, verdict_sentence(threat), *keys)


def _compact(value: Value, column: Column, n: int) -> str:
    """Return a number as every format has it, but costs to three digits."""
    if column.kind == "cost" and value.number is not None and value.number < 1000:
        return f"{value.number:.3g}"
    return text.number(value, column, n)


def _hint(value: Value, column: Column) -> str:
    robust = "" if value.robust is None else f"robust accuracy {100 * value.robust:.2f} %"
    parts = ((column.kind == "attack") * "accuracy under attack", text.interval(value), robust, *value.footnotes)
    return ", ".join(part for part in parts if part)
