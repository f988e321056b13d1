"""A view over a board: which columns and rows it shows, in which order and under which names, and its short form.

A view hides, orders and names. No number changes: worst cases, gaps and verdicts stay over all attacks, as a note says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, product
from typing import TypeVar, get_args

from bench.keys import sha256_hex
from bench.report.leaderboard import tables, view_notes
from bench.report.leaderboard.budgets import BUDGET_LABEL, with_budgets
from bench.report.leaderboard.judging import verdict_lines
from bench.report.leaderboard.patterns import folded, matches, with_threat
from bench.report.leaderboard.questions import KINDS
from bench.report.leaderboard.questions import Kind as QuestionKind
from bench.report.leaderboard.required import ALL_ATTACKS, Policy, unmatched
from bench.report.leaderboard.short import FULL_LABEL, STATIC_LABEL, about_short, shortened
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import (
    COSTS,
    GAP_LABEL,
    RANKED,
    VERDICT_ORDER,
    WORST_LABEL,
    Board,
    Column,
    Kind,
    Table,
    TableRow,
)
from bench.store.planned import PlannedTable
from bench.types import Access, CellResult, PartialResult, UsageError, listed

#: Names that a message lists.
_LISTED = 20
#: What ``sort`` calls the names of the defenses.
_BY_NAME = "defense"
#: Letters of a caption, and digits of what tells views apart.
_CAPTION_LETTERS = 1000
_VIEW_DIGITS = 4

#: Names that tables, their files and patterns use themselves, whatever a board holds.
_WORDS = (
    *get_args(Kind),
    *get_args(Access),
    *(cost.column.label for cost in COSTS),
    *("clean accuracy", "robust accuracy", WORST_LABEL, STATIC_LABEL, FULL_LABEL, GAP_LABEL, BUDGET_LABEL),
    *(
        "defense",
        "access",
        "dataset",
        "model",
        "n",
        "incomplete",
        "caption",
        "notes",
        "table notes",
        "rank",
        "rank settled",
    ),
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class View:
    """What to show of a board.

    Patterns are shell-style. Those of columns match a label, a label followed by its threat, or a kind (``clean``,
    ``attack``, ``worst``, ``gap``, ``verdict``, ``budget``, ``cost``); those of rows match a defense, or
    ``defense/access``. What matches is shown, in the order of the patterns unless it is sorted; without patterns
    everything is.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    #: ``OLD=NEW`` for defenses, attacks, data sets and networks; patterns go by the new names.
    rename: tuple[str, ...] = ()
    #: A column, the best first, or ``defense``; the other way round after a ``-``.
    sort: str = ""
    #: Line ends in it count as spaces.
    caption: str = ""
    #: Whether each defense has one row: clean, worst cases, gap and verdict.
    short: bool = False
    #: Budgets at which robust accuracy is shown as well.
    eps: tuple[Fraction, ...] = ()

    @property
    def digits(self) -> str:
        """Digits that other views have not; empty where nothing is chosen, ordered or named."""
        chosen = (self.columns, self.rows, self.rename, self.sort, *([self.eps] if self.eps else []))
        return sha256_hex(*map(repr, chosen))[:_VIEW_DIGITS] if any(chosen) else ""


def build(
    results: Iterable[CellResult],
    planned: Iterable[PlannedTable],
    view: View,
    begun: Iterable[PartialResult] = (),
    policy: Policy = ALL_ATTACKS,
) -> Board:
    """Return the tables of all results, and of the cells that are begun, as a view shows them.

    Raises:
        UsageError: a pattern or a name is not there, or two things would have one name.
    """
    results, planned = list(results), list(planned)
    begun = list(begun)
    board = tables.build(results, planned, begun=begun, policy=policy)
    if view.rename and board.tables:
        board = tables.build(results, planned, new_names(board, view.rename), begun, policy)
    if view.eps:
        board = with_budgets(board, view.eps)
    return shown(board, view)


def shown(board: Board, view: View) -> Board:
    """Return a board as a view shows it, but for new names, which :func:`build` gives.

    Tables in which no row or no column matches are left out, and the others say so.

    Raises:
        UsageError: a pattern matches nothing, patterns match in no table together, or the caption is too long.
    """
    caption = " ".join(view.caption.split())
    if len(caption) > _CAPTION_LETTERS:
        raise UsageError(f"--caption: {len(caption):,} letters; a caption has at most {_CAPTION_LETTERS:,}")
    whole = [shortened(table) for table in board.tables] if view.short else list(board.tables)
    _check(whole, view)
    parts = [_part(table, view, full) for table, full in zip(whole, board.tables, strict=True)]
    parts = [part for part in parts if part.rows and part.columns]
    if whole and not parts:
        raise UsageError("--rows and --columns: each matches something, but no table has such a row and such a column")
    if caption:
        several = len(parts) > 1
        parts = [replace(t, caption=f"{caption} ({t.title})" if several else caption) for t in parts]
    if len(parts) < len(whole):
        note = f"{len(parts)} of {len(whole)} tables have what is shown; the others are left out"
        parts = [replace(table, notes=(note, *table.notes)) for table in parts]
    return replace(board, tables=tuple(parts))


def unmatched_attacks(board: Board, patterns: Sequence[str]) -> list[str]:
    """Return a line on each pattern of attacks that matches none of a board, with what may be named instead."""
    attacks = ((board.labels[key][1], result) for key, result in board.results.items())
    return [
        f"--require {pattern}: no result is of such an attack; there are {_listed(others) or 'none'}"
        for pattern, others in unmatched(patterns, attacks)
    ]


def new_names(board: Board, pairs: Sequence[str]) -> dict[str, str]:
    """Return new names by the old ones, from pairs ``OLD=NEW``.

    Raises:
        UsageError: nothing has the old name or it has two new ones; a new one is empty, a word of the tables, or a name
            that something else has or had.
    """
    together = list(_names_together(board))
    known = dict.fromkeys(chain.from_iterable(together))
    words = {folded(word) for word in _table_words(board)}
    names: dict[str, str] = {}
    for pair in pairs:
        # Names may hold an equals sign, too, as ``jpeg[quality=50]`` does.
        splits = [(pair[:at], pair[at + 1 :]) for at, letter in enumerate(pair) if letter == "="]
        old, new = next((split for split in splits if split[0] in known), ("", ""))
        if not old:
            raise UsageError(f"--rename {pair}: say OLD=NEW, with one of these as OLD: {_listed(known)}")
        if not new.strip():
            raise UsageError(f"--rename {pair}: the new name is empty")
        if old in names:
            raise UsageError(f"--rename {pair}: {old} is also renamed to {names[old]}; give it one new name")
        if folded(new) in words:
            raise UsageError(f"--rename {pair}: the tables use {new} for something else; choose another name")
        if new in known and new != old:
            raise UsageError(f"--rename {pair}: {new} is the name of something else; choose another name")
        names[old] = new
    for own in together:
        first: dict[str, str] = {}
        for old in own:
            new = names.get(old, old)
            if first.setdefault(new, old) != old:
                raise UsageError(f"--rename: {first[new]} and {old} would both be called {new}")
    return names


def _names_together(board: Board) -> Iterator[list[str]]:
    """Yield names that must stay different: all data sets and networks, and those in one table."""
    titles = [(table.dataset, table.model) for table in board.tables]
    yield list(dict.fromkeys(chain.from_iterable(titles)))
    for table in board.tables:
        names = [table.dataset, table.network, *(row.defense for row in table.rows)]
        names += (column.label for column in table.columns if column.kind == "attack")
        yield list(dict.fromkeys(names))


def _table_words(board: Board) -> Iterator[str]:
    """Yield what the tables, their files and the options call their own columns, threats and accesses."""
    yield from _WORDS
    for table in board.tables:
        yield from (answer.column for answer in table.answers)
        for column in (*table.columns, *shortened(table).columns):
            yield from (column.group, column.group.partition(" ")[0], f"{column.kind} {column.group}")
            if column.kind != "attack":
                yield from (column.label, f"{column.label} {column.group}", f"{column.label} ({column.group})")


def _check(whole: Sequence[Table], view: View) -> None:
    """Refuse patterns that match nothing in any table."""
    all_columns = list(chain.from_iterable(table.columns for table in whole))
    all_rows = list(chain.from_iterable(table.rows for table in whole))
    columns = set(chain.from_iterable(map(_column_names, all_columns)))
    rows = set(chain.from_iterable(map(_row_names, all_rows)))
    labels = dict.fromkeys(chain((column.kind for column in all_columns), (column.label for column in all_columns)))
    lists = {
        "--columns": f"{_listed(labels)}, or one of these and a threat, or a threat",
        "--rows": f"{_listed(row.defense for row in all_rows)}, or one of these, / and an access",
        "--sort": f"{_listed((_BY_NAME, *labels))}, or one of these and a threat, or a threat",
    }
    asked = [("--columns", pattern, columns) for pattern in view.columns]
    asked += [("--rows", pattern, rows) for pattern in view.rows]
    if view.sort and view.sort.removeprefix("-") != _BY_NAME:
        # A name may begin with a hyphen.
        pattern = view.sort if matches(view.sort, columns) else view.sort.removeprefix("-")
        asked.append(("--sort", pattern, columns))
    for option, pattern, names in asked:
        if whole and not matches(pattern, names):
            raise UsageError(f"{option} {pattern}: nothing matches; there are {lists[option]}")


def _listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    return listed(dict.fromkeys(names), _LISTED, between="; ")


def _column_names(column: Column) -> list[str]:
    """Return what a column may be asked for by."""
    if column.group in ("", "cost"):
        return [column.kind, column.label]
    names = (with_threat(name, column.group) for name in (column.kind, column.label))
    # A threat, or its norm alone.
    return [*chain.from_iterable(names), column.group, column.group.partition(" ")[0]]


def _row_names(row: TableRow) -> list[str]:
    return [row.defense, f"{row.defense}/{row.access}"]


def _chosen(items: Sequence[_T], patterns: Sequence[str], names: Callable[[_T], Iterable[str]]) -> list[_T]:
    """Return the items that match, in the order of the patterns."""
    if not patterns:
        return list(items)
    found: dict[int, _T] = {}
    for pattern in patterns:
        found |= {i: item for i, item in enumerate(items) if i not in found and matches(pattern, names(item))}
    return list(found.values())


def _part(table: Table, view: View, full: Table) -> Table:
    """Return what a view shows of a table, with notes on that and on the rest.

    Args:
        table: in the short form where that is asked for.
        view: what to show.
        full: the same, never in the short form.
    """
    in_order = _sorted(table, view.sort)
    rows = _chosen(in_order, view.rows, _row_names)
    if view.sort:
        chosen = set(map(id, rows))
        rows = [row for row in in_order if id(row) in chosen]
    columns = _chosen(table.columns, view.columns, _column_names)
    # A threat is one heading, so what is under it stays together.
    groups = list(dict.fromkeys(column.group for column in columns))
    columns.sort(key=lambda column: groups.index(column.group))
    if not view.columns and len(rows) < len(table.rows):
        # What is only known of rows that are hidden would be an empty column.
        columns = [column for column in columns if any(_is_known(row.values.get(column.id)) for row in rows)]
    ids = {column.id for column in columns}
    defenses = {row.defense for row in rows}
    judged = _said(table, view, columns, "verdict")
    asked = set(chain.from_iterable(product([kind], _said(table, view, columns, kind)) for kind in KINDS))
    threats = tuple(s for s in table.threats if s.defense in defenses and (not s.threat or s.group in groups))
    attacks = {column.label for column in columns if column.kind == "attack"}
    said = list(view_notes.about(table, columns, rows, _sort_column(table, view.sort) if view.sort else None))
    if view.short:
        worst = list(dict.fromkeys(column.group for column in columns if column.kind == "worst"))
        said += about_short(full, worst, defenses)
        attacks |= {column.label for column in full.columns if column.group in worst}
    return replace(
        table,
        columns=tuple(columns),
        rows=tuple(replace(row, values={k: v for k, v in row.values.items() if k in ids}) for row in rows),
        threats=threats,
        view=view.digits,
        verdicts=tuple(verdict_lines(summary for summary in threats if summary.group in judged)),
        notes=(*said, *view_notes.kept(full, threats, judged, attacks)),
        ranking=table.ranking and table.ranking.of(defenses),
        answers=tuple(each for each in table.answers if each.defense in defenses and (each.kind, each.group) in asked),
    )


def _said(table: Table, view: View, columns: Sequence[Column], kind: QuestionKind) -> set[str]:
    """Return the threats whose verdicts, or gaps, are said: not where somebody left their column out."""
    groups = {column.group for column in columns}
    if not view.columns:
        return groups
    shown, all_of = ({column.group for column in each if column.kind == kind} for each in (columns, table.columns))
    return groups - (all_of - shown)


def _is_known(value: Value | None) -> bool:
    return value is not None and (value.number is not None or value.failed or bool(value.words))


def _sort_column(table: Table, sort: str) -> Column | None:
    """Return the first column of a table that ``sort`` matches, one with ranks if there is."""
    for pattern in (sort, sort.removeprefix("-")):
        found = [column for column in table.columns if matches(pattern, _column_names(column))]
        if found:
            # Of two worst cases the one that counts, which also stands for a threat.
            counting = [column for column in found if column.ranked]
            return next((column for column in counting if column.kind == "worst"), (counting or found)[0])
    return None


def _sorted(table: Table, sort: str) -> Sequence[TableRow]:
    """Return the rows by defense, the best first; all rows of a defense stay together, and what is unknown is last."""
    by_name = sort.removeprefix("-") == _BY_NAME
    column = _sort_column(table, sort) if sort and not by_name else None
    if column is None and not by_name:
        return table.rows
    is_reversed = sort.startswith("-") and (column is None or not matches(sort, _column_names(column)))
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
    if value is not None and value.words in VERDICT_ORDER:
        return VERDICT_ORDER.index(value.words)
    if value is None or value.merit is None:
        return None
    return -value.merit if column.unit == "accuracy" else value.merit
