"""The leaderboard in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from bench.report.leaderboard.flags import explained
from bench.report.leaderboard.tables import RANKED, Board, Column, Table, TableRow, build
from bench.report.render import text
from bench.report.render.names import breakable, short_names
from bench.types import CellResult
from bench.visible import visible

_RAISED = str.maketrans("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_GUTTER = 2
#: Rows and blocks of columns of one table in a terminal; the page shows more.
_MAX_ROWS = 40
_MAX_BLOCKS = 12
#: Columns of a terminal that has room for accesses in full and for the intervals of gaps.
_WIDE = 100
#: Letters of a name that is cut: at least, so that names stay apart, whatever the width.
_FEWEST_LETTERS = 12
#: Letters of one line of a heading at most.
_HEAD_LETTERS = 20


def leaderboard(results: Iterable[CellResult] | Board, *, width: int = 100) -> RenderableType:
    """Return the tables for a terminal of ``width`` characters; columns that do not fit follow in further blocks."""
    board = results if isinstance(results, Board) else build(results)
    parts: list[RenderableType] = [_text(line, style="bold red") for line in text.absent(board)]
    if not board.tables:
        return Group(*parts, _text("no results yet"))
    for table in board.tables:
        parts += [*_table(table, board, width), _text()]
    parts.append(_text(text.foot(board.tables), style="dim"))
    parts += [_text(line, style="dim") for line in text.superseded(board)]
    return Group(*parts)


@dataclass(frozen=True)
class _Layout:
    """A table, the letters of its notes, and the columns of the terminal: names give way, numbers never."""

    table: Table
    legend: dict[str, str]
    width: int

    @property
    def is_narrow(self) -> bool:
        """Whether there is no room for accesses in full and for the intervals of gaps."""
        return self.width < _WIDE

    def access(self, row: TableRow) -> str:
        return "gray-box" if row.access == "static" and self.is_narrow else text.access(row)

    def number_and_letters(self, row: TableRow, column: Column) -> tuple[str, str]:
        """Return a number as text, and the letters of its footnotes."""
        value = row.values.get(column.id)
        number = text.number(value, column, self.table.n)
        if column.unit == "gap" and self.is_narrow:
            number = number.partition(" [")[0]
        return number, text.letters(value, self.legend).translate(_RAISED) if value else ""

    @cached_property
    def widths(self) -> Mapping[str, int]:
        """The width of each column by its id, with its gutter, without the threat above it."""
        return {column.id: _width(self, column) for column in self.table.columns}

    def width_of(self, block: Sequence[Column]) -> int:
        """Return the width of some columns side by side, and of the accesses before them."""
        groups = map(cell_len, _groups(block))
        wide = sum(max(self.widths[c.id], group + _GUTTER) for c, group in zip(block, groups, strict=True))
        # The last column has no gutter.
        return wide - _GUTTER + (self.access_width if self.has_access(block) else 0)

    @cached_property
    def access_width(self) -> int:
        """The width of the accesses, with their gutter."""
        return _GUTTER + max(len("access"), *(len(self.access(row)) for row in self.table.rows))

    def has_access(self, block: Sequence[Column]) -> bool:
        """Say whether accesses stand before a block: costs are the same under each."""
        return self.table.has_access and block[0].group != "cost"

    @cached_property
    def first(self) -> list[Column]:
        """What each block of accuracies begins with: the clean accuracy, where there is room for one more number."""
        clean = [column for column in self.table.columns[:1] if column.kind == "clean"]
        others = [column for column in self.table.columns[1:] if column.group != "cost"]
        widest = max((self.width_of([*clean, column]) for column in others), default=0)
        return clean if _FEWEST_LETTERS + _GUTTER + widest <= self.width else []

    @cached_property
    def name_width(self) -> int:
        """The width of the names: all of them, or half the terminal, or less where a number needs it."""
        blocks = ([column] if column.group == "cost" else [*self.first, column] for column in self.table.columns[1:])
        most = self.width - _GUTTER - max(map(self.width_of, blocks), default=self.width_of(self.table.columns))
        longest = max(len("defense"), *(cell_len(visible(row.defense)) for row in self.table.rows))
        return min(longest, max(_FEWEST_LETTERS, min(self.width // 2, most)))


def _table(table: Table, board: Board, width: int) -> Iterator[RenderableType]:
    layout = _Layout(table, text.legend(table), width)
    yield _text(table.heading, style="bold")
    if table.caption:
        yield _text(table.title, style="dim")
    if table.incomplete:
        yield _text(table.incomplete, style="bold red")
    yield from _grids(layout)
    for verdict in text.first(table.verdicts, _MAX_ROWS, "verdicts", "md or json"):
        yield _text(f"> {verdict}", style="bold")
    yield from (_text(f"= {line}") for line in text.settled(table))
    notes = [*table.notes, *text.failures(table, board)]
    for note in text.first(notes, _MAX_ROWS, "notes and failures", "md or json"):
        yield _text(f"! {note}", style="yellow")
    footnotes = [f"{letter.translate(_RAISED)} {explained(note)}" for note, letter in layout.legend.items()]
    rules = text.first(text.rules(table), _MAX_ROWS, "attacks with a rule", "md")
    precision = [*text.spreads(table), *text.precision(table), *_without_intervals(layout)]
    if remarks := [*footnotes, *rules, *precision]:
        yield _text(" · ".join(remarks), style="dim")


def _grids(layout: _Layout) -> Iterator[RenderableType]:
    """Yield the numbers in blocks that fit, costs last, and below them the names that were cut."""
    rows = layout.table.rows
    accuracies = [column for column in layout.table.columns if column.group != "cost"]
    costs = [column for column in layout.table.columns if column.group == "cost"]
    blocks: list[Sequence[Column]] = [*_blocks(layout, accuracies, layout.first)]
    shown: list[tuple[Sequence[Column], Sequence[TableRow]]] = []
    attacked = [column for column in accuracies if column.kind != "clean"]
    # Of such a row the clean accuracy is all there is to show, and it is shown once.
    only_clean = {id(row) for row in rows if not any(column.id in row.values for column in attacked)}
    for block in blocks[:_MAX_BLOCKS]:
        own = [column for column in block if column.kind != "clean"] or block
        more = only_clean if block is blocks[0] else ()
        here = [row for row in rows if id(row) in more or any(column.id in row.values for column in own)]
        shown.append((block, here[:_MAX_ROWS]))
    once = list({row.defense: row for row in rows}.values())[:_MAX_ROWS]
    shown += ((block, once) for block in _blocks(layout, costs))
    names = _names(chain.from_iterable(some for _, some in shown), layout.name_width)
    for block, some in shown:
        if block[0].group == "cost":
            yield _text()
        yield _grid(layout, block, some, names)
    for noun, limit, count in (("rows", _MAX_ROWS, len(rows)), ("blocks of columns", _MAX_BLOCKS, len(blocks))):
        if count > limit:
            yield _text(f"! the first {limit} of {count} {noun}; --format csv, md and tex have all of them")
    for defense, name in names.items():
        if name != visible(defense):
            yield _text(f"{name} = {defense}", style="dim")


def _names(rows: Iterable[TableRow], width: int) -> dict[str, str]:
    """Return each defense in at most so many columns of the terminal, different names in different letters."""
    full = {row.defense: visible(row.defense) for row in rows}
    if all(cell_len(name) <= width for name in full.values()):
        return full
    is_wide = any(cell_len(name) > len(name) for name in full.values())
    short = short_names(full.values(), width // 2 if is_wide else width)
    return {defense: short[name] for defense, name in full.items()}


def _without_intervals(layout: _Layout) -> Iterator[str]:
    if layout.is_narrow and any(column.unit == "gap" for column in layout.table.columns):
        yield f"a terminal of {_WIDE} columns shows the 95 % interval of each gap"


def _grid(layout: _Layout, columns: Sequence[Column], rows: Sequence[TableRow], short_names: Mapping[str, str]) -> Grid:
    grid = Grid(
        box=SIMPLE_HEAD,
        padding=(0, _GUTTER - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        border_style="dim",
    )
    labels = [_head(column) for column in columns]
    height = max(map(len, labels))
    grid.add_column("\n" * height + "defense", no_wrap=True)
    with_access = layout.has_access(columns)
    if with_access:
        grid.add_column("\n" * height + "access", no_wrap=True)
    for column, group, label in zip(columns, _groups(columns), labels, strict=True):
        # As text: the brackets of swept parameters are no markup.
        lines = [group, *[""] * (height - len(label)), *label]
        side: Literal["left", "right"] = "left" if column.unit == "words" else "right"
        grid.add_column(_text("\n".join(lines)), justify=side, no_wrap=True)
    last_defense = ""
    for row in rows:
        names = [_text("" if row.defense == last_defense else short_names[row.defense])]
        if with_access:
            names.append(_text(layout.access(row), style="" if row.access in RANKED else "dim"))
        grid.add_row(*names, *(_cell(layout, row, column) for column in columns))
        last_defense = row.defense
    return grid


def _groups(columns: Sequence[Column]) -> list[str]:
    """Return the group of each column where it begins, else nothing."""
    previous = ["", *(column.group for column in columns)]
    return [column.group if column.group != before else "" for column, before in zip(columns, previous, strict=False)]


def _cell(layout: _Layout, row: TableRow, column: Column) -> Text:
    value = row.values.get(column.id)
    number, letters = layout.number_and_letters(row, column)
    shown = _text(number)
    if value is None:
        return shown
    mark = layout.table.mark(row, column)
    if value.failed:
        shown.stylize("bold red")
    elif row.access not in RANKED and column.group != "cost":
        shown.stylize("dim")
    elif mark == "best":
        shown.stylize("bold green")
    elif mark == "second":
        shown.stylize("underline")
    return shown.append(letters, style="yellow")


def _blocks(layout: _Layout, columns: Sequence[Column], first: Sequence[Column] = ()) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit, the ``first`` ones first in each."""

    def fits(block: Sequence[Column]) -> bool:
        return layout.name_width + _GUTTER + layout.width_of(block) <= layout.width

    return text.blocks(columns, fits, first)


def _head(column: Column) -> list[str]:
    """Return the lines of the heading of a column."""
    return list(chain.from_iterable(map(_folded, text.heading(column))))


def _folded(piece: str) -> list[str]:
    if len(piece) <= _HEAD_LETTERS:
        return [piece]
    parts = (re.findall(rf".{{1,{_HEAD_LETTERS}}}", part) for part in breakable(visible(piece)))
    return list(chain.from_iterable(parts))


def _width(layout: _Layout, column: Column) -> int:
    heads = map(cell_len, _head(column))
    cells = ("".join(layout.number_and_letters(row, column)) for row in layout.table.rows)
    return _GUTTER + max(*heads, *map(cell_len, cells))


def _text(content: str = "", *, style: str = "") -> Text:
    """Return text without hidden characters; brackets in it are no markup."""
    return Text(visible(content, lines=True), style)
