"""The leaderboard in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from bench.report.leaderboard.tables import RANKED, Board, Column, Table, TableRow, build
from bench.report.render import text
from bench.types import CellResult
from bench.visible import visible

_RAISED = str.maketrans("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_GUTTER = 2
#: Rows and blocks of columns of one table in a terminal; the page shows more.
_MAX_ROWS = 40
_MAX_BLOCKS = 12
#: Columns of a terminal that has room for accesses in full and for the intervals of gaps.
_WIDE = 100


def leaderboard(results: Iterable[CellResult] | Board, *, width: int = 100) -> RenderableType:
    """Return the tables for a terminal of ``width`` characters; columns that do not fit follow in further blocks."""
    board = results if isinstance(results, Board) else build(results)
    parts: list[RenderableType] = [_text(line, style="bold red") for line in text.absent(board)]
    if not board.tables:
        return Group(*parts, _text("no results yet"))
    for table in board.tables:
        parts += [*_table(table, board, width), _text()]
    parts.append(_text(text.FOOT, style="dim"))
    parts += [_text(line, style="dim") for line in text.superseded(board)]
    return Group(*parts)


@dataclass(frozen=True)
class _Layout:
    """A table, the letters of its notes, and the columns of the terminal."""

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


def _table(table: Table, board: Board, width: int) -> Iterator[RenderableType]:
    layout = _Layout(table, text.legend(table), width)
    yield _text(table.heading, style="bold")
    if table.caption:
        yield _text(table.title, style="dim")
    if table.incomplete:
        yield _text(table.incomplete, style="bold red")
    accuracies = [column for column in table.columns if column.group != "cost"]
    costs = [column for column in table.columns if column.group == "cost"]
    blocks = list(_blocks(layout, accuracies))
    for block in blocks[:_MAX_BLOCKS]:
        own = [column for column in block if column.kind != "clean"] or block
        rows = [row for row in table.rows if any(column.id in row.values for column in own)]
        yield _grid(layout, block, rows[:_MAX_ROWS])
    if costs:
        yield _text()
        yield _grid(layout, costs, list({row.defense: row for row in table.rows}.values())[:_MAX_ROWS])
    for noun, limit, count in (("lines", _MAX_ROWS, len(table.rows)), ("blocks of columns", _MAX_BLOCKS, len(blocks))):
        if count > limit:
            yield _text(f"! the first {limit} of {count} {noun}; --format csv, md and tex have all of them")
    for verdict in text.first(table.verdicts, _MAX_ROWS, "verdicts: --format md or json has all"):
        yield _text(f"> {verdict}", style="bold")
    notes = [*table.notes, *text.failures(table, board)]
    for note in text.first(notes, _MAX_ROWS, "notes and failures: --format md or json has all"):
        yield _text(f"! {note}", style="yellow")
    footnotes = [f"{letter.translate(_RAISED)} {note}" for note, letter in layout.legend.items()]
    rules = text.first(text.rules(table), _MAX_ROWS, "attacks with a rule")
    if remarks := [*footnotes, *rules, *text.precision(table), *_without_intervals(layout)]:
        yield _text(" · ".join(remarks), style="dim")


def _without_intervals(layout: _Layout) -> Iterator[str]:
    if layout.is_narrow and any(column.unit == "gap" for column in layout.table.columns):
        yield f"a terminal of {_WIDE} columns shows the 95 % interval of each gap"


def _grid(layout: _Layout, columns: Sequence[Column], rows: Sequence[TableRow]) -> Grid:
    grid = Grid(
        box=SIMPLE_HEAD,
        padding=(0, _GUTTER - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        border_style="dim",
    )
    labels = [text.heading(column) for column in columns]
    height = max(map(len, labels))
    grid.add_column("\n" * height + "defense", no_wrap=True)
    with_access = layout.table.has_access and columns[0].group != "cost"
    if with_access:
        grid.add_column("\n" * height + "access", no_wrap=True)
    for column, group, label in zip(columns, _groups(columns), labels, strict=True):
        # As text: the brackets of swept parameters are no markup.
        lines = [group, *[""] * (height - len(label)), *label]
        side: Literal["left", "right"] = "left" if column.unit == "words" else "right"
        grid.add_column(_text("\n".join(lines)), justify=side, no_wrap=True)
    last_defense = ""
    for row in rows:
        names = [_text("" if row.defense == last_defense else row.defense)]
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


def _blocks(layout: _Layout, columns: Sequence[Column]) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit, clean accuracy first in each where it is first."""
    rows = layout.table.rows
    names = max(len("defense"), *(cell_len(row.defense) for row in rows)) + _GUTTER
    if layout.table.has_access:
        names += max(len("access"), *(len(layout.access(row)) for row in rows)) + _GUTTER
    widths = {column.id: _width(layout, column) for column in columns}

    def fits(block: Sequence[Column]) -> bool:
        groups = map(cell_len, _groups(block))
        wide = (max(widths[c.id], group + _GUTTER) for c, group in zip(block, groups, strict=True))
        # The last column has no gutter.
        return names + sum(wide) - _GUTTER <= layout.width

    return text.blocks(columns, fits, [column for column in columns[:1] if column.kind == "clean"])


def _width(layout: _Layout, column: Column) -> int:
    heads = map(cell_len, text.heading(column))
    cells = ("".join(layout.number_and_letters(row, column)) for row in layout.table.rows)
    return _GUTTER + max(*heads, *map(cell_len, cells))


def _text(content: str = "", *, style: str = "") -> Text:
    """Return text without hidden characters; brackets in it are no markup."""
    return Text(visible(content, lines=True), style)
