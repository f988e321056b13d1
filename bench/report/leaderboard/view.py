"""A view over a board: which columns and rows it shows, in which order and under which names, and its short form.

A view hides, orders and names. No number changes: worst cases, gaps and verdicts stay over all attacks, as a note says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import TypeVar

from bench.report.leaderboard import tables
from bench.report.leaderboard.short import shortened
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import RANKED, VERDICT_WORDS, Board, Column, Table, TableRow, lines_by_defense
from bench.store.planned import PlannedTable
from bench.types import CellResult, UsageError

#: Names that a message lists.
_LISTED = 20
#: From the best verdict to the worst.
_VERDICT_ORDER = tuple(
    VERDICT_WORDS[each]
    for each in ("holds", "upper bound only", "broken under adaptive attack", "weaker than its base")
)
#: What ``sort`` calls the names of the defenses.
_BY_NAME = "defense"

_T = TypeVar("_T")


@dataclass(frozen=True)
class View:
    """What to show of a board.

    Patterns are shell-style. Those of columns match a label, a label followed by its threat, or a kind (``clean``,
    ``attack``, ``worst``, ``gap``, ``verdict``, ``cost``); those of rows match a defense, or ``defense/access``. What
    matches is shown, in the order of the patterns unless it is sorted; without patterns everything is.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    #: ``OLD=NEW`` for defenses, attacks, data sets and networks; patterns go by the new names.
    rename: tuple[str, ...] = ()
    #: A column, the best first, or ``defense``; the other way round after a ``-``.
    sort: str = ""
    caption: str = ""
    #: Whether each defense has one row: clean, worst cases, gap and verdict.
    short: bool = False


def build(results: Iterable[CellResult], planned: Iterable[PlannedTable], view: View) -> Board:
    """Return the tables of all results as a view shows them.

    Raises:
        UsageError: a pattern or a name is not there, or two things would have one name.
    """
    results, planned = list(results), list(planned)
    board = tables.build(results, planned)
    if view.rename and board.tables:
        board = tables.build(results, planned, new_names(board, view.rename))
    return shown(board, view)


def shown(board: Board, view: View) -> Board:
    """Return a board as a view shows it, but for new names, which :func:`build` gives.

    Tables in which no row or no column matches are left out, and the others say so.

    Raises:
        UsageError: a pattern matches nothing.
    """
    whole = [shortened(table) for table in board.tables] if view.short else list(board.tables)
    _check(whole, view)
    parts = [part for part in (_part(table, view) for table in whole) if part.rows and part.columns]
    if view.caption:
        several = len(parts) > 1
        parts = [replace(t, caption=f"{view.caption} ({t.title})" if several else view.caption) for t in parts]
    if len(parts) < len(whole):
        note = f"{len(parts)} of {len(whole)} tables have what is shown; the others are left out"
        parts = [replace(table, notes=(note, *table.notes)) for table in parts]
    return replace(board, tables=tuple(parts))


def new_names(board: Board, pairs: Sequence[str]) -> dict[str, str]:
    """Return new names by the old ones, from pairs ``OLD=NEW``.

    Raises:
        UsageError: nothing has the old name, the new one is empty, or two things would have it.
    """
    kinds = list(_names_by_kind(board))
    known = dict.fromkeys(chain.from_iterable(names for _, names in kinds))
    names: dict[str, str] = {}
    for pair in pairs:
        # Names may hold an equals sign, too, as ``jpeg[quality=50]`` does.
        splits = [(pair[:at], pair[at + 1 :]) for at, letter in enumerate(pair) if letter == "="]
        old, new = next((split for split in splits if split[0] in known), ("", ""))
        if not old:
            raise UsageError(f"--rename {pair}: say OLD=NEW, with one of these as OLD: {_listed(known)}")
        if not new.strip():
            raise UsageError(f"--rename {pair}: the new name is empty")
        names[old] = new
    for kind, own in kinds:
        first: dict[str, str] = {}
        for old in own:
            new = names.get(old, old)
            if first.setdefault(new, old) != old:
                raise UsageError(f"--rename: the {kind} {first[new]} and {old} would both be called {new}")
    return names


def _names_by_kind(board: Board) -> Iterator[tuple[str, list[str]]]:
    """Yield what must keep names of their own: the defenses and the attacks of each table, data sets and networks."""
    yield "data sets", list(dict.fromkeys(table.dataset for table in board.tables))
    yield "networks", list(dict.fromkeys(table.model for table in board.tables))
    for table in board.tables:
        yield "defenses", list(dict.fromkeys(row.defense for row in table.rows))
        yield "attacks", list(dict.fromkeys(column.label for column in table.columns if column.kind == "attack"))


def _check(whole: Sequence[Table], view: View) -> None:
    """Refuse patterns that match nothing in any table."""
    all_columns = list(chain.from_iterable(table.columns for table in whole))
    all_rows = list(chain.from_iterable(table.rows for table in whole))
    columns = set(chain.from_iterable(map(_column_names, all_columns)))
    rows = set(chain.from_iterable(map(_row_names, all_rows)))
    labels = dict.fromkeys(chain((column.kind for column in all_columns), (column.label for column in all_columns)))
    lists = {
        "--columns": f"{_listed(labels)}, or one of these and a threat",
        "--rows": f"{_listed(row.defense for row in all_rows)}, or one of these, / and an access",
        "--sort": f"{_listed((_BY_NAME, *labels))}, or one of these and a threat",
    }
    asked = [("--columns", pattern, columns) for pattern in view.columns]
    asked += [("--rows", pattern, rows) for pattern in view.rows]
    if view.sort and view.sort.removeprefix("-") != _BY_NAME:
        # A name may begin with a hyphen.
        pattern = view.sort if _is_there(view.sort, columns) else view.sort.removeprefix("-")
        asked.append(("--sort", pattern, columns))
    for option, pattern, names in asked:
        if whole and not _is_there(pattern, names):
            raise UsageError(f"{option} {pattern}: nothing matches; there are {lists[option]}")


def _listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = len(names) - _LISTED
    return "; ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _column_names(column: Column) -> list[str]:
    """Return what a column may be asked for by."""
    threat = [f"{column.label} {column.group}"] if column.group not in ("", "cost") else []
    return [column.kind, column.label, *threat]


def _row_names(row: TableRow) -> list[str]:
    return [row.defense, f"{row.defense}/{row.access}"]


def _is_there(pattern: str, names: Iterable[str]) -> bool:
    # A name with brackets is itself, whatever these mean in a pattern.
    return any(pattern == name or fnmatchcase(name, pattern) for name in names)


def _chosen(items: Sequence[_T], patterns: Sequence[str], names: Callable[[_T], Iterable[str]]) -> list[_T]:
    """Return the items that match, in the order of the patterns."""
    if not patterns:
        return list(items)
    found: dict[int, _T] = {}
    for pattern in patterns:
        found |= {i: item for i, item in enumerate(items) if i not in found and _is_there(pattern, names(item))}
    return list(found.values())


def _part(table: Table, view: View) -> Table:
    """Return what a view shows of a table, with notes on the rest."""
    rows = _chosen(_sorted(table, view.sort), view.rows, _row_names)
    if view.sort:
        rows = [row for row in _sorted(table, view.sort) if any(row is each for each in rows)]
    columns = _chosen(table.columns, view.columns, _column_names)
    # A threat is one heading, so what is under it stays together.
    groups = list(dict.fromkeys(column.group for column in columns))
    columns.sort(key=lambda column: groups.index(column.group))
    if not view.columns and len(rows) < len(table.rows):
        # What is only known of rows that are hidden would be an empty column.
        columns = [column for column in columns if any(_is_known(row.values.get(column.id)) for row in rows)]
    ids = {column.id for column in columns}
    defenses = {row.defense for row in rows}
    lines = lines_by_defense(table)
    kept = set(chain.from_iterable(lines.get(name, ()) for name in (None, *defenses)))
    return replace(
        table,
        columns=tuple(columns),
        rows=tuple(replace(row, values={k: v for k, v in row.values.items() if k in ids}) for row in rows),
        threats=tuple(s for s in table.threats if s.defense in defenses and (not s.threat or s.group in groups)),
        verdicts=tuple(line for line in table.verdicts if line in kept),
        notes=(*_about(table, view.sort, columns, rows), *(line for line in table.notes if line in kept)),
    )


def _is_known(value: Value | None) -> bool:
    return value is not None and (value.number is not None or value.failed or bool(value.words))


def _about(table: Table, sort: str, columns: Sequence[Column], rows: Sequence[TableRow]) -> Iterator[str]:
    """Yield notes on what is hidden, what the numbers are over all the same, and what the rows are sorted by."""
    parts = [
        f"{shown} of {count} {noun}"
        for shown, count, noun in (
            (len(rows), len(table.rows), "lines"),
            (len(columns), len(table.columns), "columns"),
        )
        if shown < count
    ]
    if parts:
        yield f"shown are {' and '.join(parts)}; best and second best are of the lines shown"
    hidden: list[str] = []
    for group in dict.fromkeys(column.group for column in columns if column.kind in ("worst", "gap", "verdict")):
        attacks = [column for column in table.columns if column.kind == "attack" and column.group == group]
        shown = sum(column in columns for column in attacks)
        if shown < len(attacks):
            hidden.append(f"{shown} of {len(attacks)} under {group}")
    if hidden:
        yield f"robust accuracy, gap and verdict are over all attacks, of which are shown {', '.join(hidden)}"
    if sort and (column := _sort_column(table, sort)) is not None:
        yield f"sorted by {column.label}" + (f", {column.group}" if column.group not in ("", "cost") else "")


def _sort_column(table: Table, sort: str) -> Column | None:
    """Return the first column of a table that ``sort`` matches, one with ranks if there is."""
    for pattern in (sort, sort.removeprefix("-")):
        found = [column for column in table.columns if _is_there(pattern, _column_names(column))]
        if found:
            # Of two worst cases the one that counts.
            return next((column for column in found if column.ranked), found[0])
    return None


def _sorted(table: Table, sort: str) -> Sequence[TableRow]:
    """Return the rows by defense, the best first; all rows of a defense stay together, and what is unknown is last."""
    by_name = sort.removeprefix("-") == _BY_NAME
    column = _sort_column(table, sort) if sort and not by_name else None
    if column is None and not by_name:
        return table.rows
    is_reversed = sort.startswith("-") and (column is None or not _is_there(sort, _column_names(column)))
    own: dict[str, list[TableRow]] = {}
    for row in table.rows:
        own.setdefault(row.defense, []).append(row)
    if column is None:
        return list(chain.from_iterable(own[name] for name in sorted(own, key=str.casefold, reverse=is_reversed)))
    ranks = {name: _rank(rows, column) for name, rows in own.items()}
    known = {name: rank for name, rank in ranks.items() if rank is not None}
    # Python's sort is stable in both directions.
    order = [*sorted(known, key=known.__getitem__, reverse=is_reversed), *(n for n in own if n not in known)]
    return list(chain.from_iterable(own[name] for name in order))


def _rank(rows: Sequence[TableRow], column: Column) -> float | None:
    """Return what a defense is sorted by, less for what is better: its value where the attacker sees all, if it has."""
    seen = sorted(rows, key=lambda row: row.access not in RANKED)
    value = next((v for row in seen if _is_known(v := row.values.get(column.id))), None)
    if value is not None and value.words in _VERDICT_ORDER:
        return _VERDICT_ORDER.index(value.words)
    if value is None or value.number is None:
        return None
    return -value.number if column.unit == "accuracy" else value.number
