"""The leaderboard in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
#: Columns of a terminal that has room for an access in full.
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


def _table(table: Table, board: Board, width: int) -> Iterator[RenderableType]:
    legend = text.legend(table)
    yield _text(table.title, style="bold")
    if table.incomplete:
        yield _text(table.incomplete, style="bold red")
    accuracies = [column for column in table.columns if column.group != "cost"]
    costs = [column for column in table.columns if column.group == "cost"]
    blocks = list(_blocks(table, accuracies, legend, width))
    for block in blocks[:_MAX_BLOCKS]:
        rows = [row for row in table.rows if len(accuracies) == 1 or any(c.id in row.values for c in block[1:])]
        yield _grid(table, block, rows[:_MAX_ROWS], legend, width)
    if costs:
        yield _text()
        defenses = list({row.defense: row for row in table.rows}.values())
        yield _grid(table, costs, defenses[:_MAX_ROWS], legend, width)
    for noun, limit, count in (("lines", _MAX_ROWS, len(table.rows)), ("blocks of columns", _MAX_BLOCKS, len(blocks))):
        if count > limit:
            yield _text(f"! the first {limit} of {count} {noun}; --format csv, md, tex and json have all of them")
    for verdict in text.first(table.verdicts, _MAX_ROWS, "verdicts: --format md or json has all"):
        yield _text(f"> {verdict}", style="bold")
    notes = [*table.notes, *text.failures(table, board)]
    for note in text.first(notes, _MAX_ROWS, "notes and failures: --format md or json has all"):
        yield _text(f"! {note}", style="yellow")
    footnotes = [f"{letter.translate(_RAISED)} {note}" for note, letter in legend.items()]
    rules = text.first(text.rules(table), _MAX_ROWS, "attacks with a rule")
    if remarks := [*footnotes, *rules, *text.precision(table)]:
        yield _text(" · ".join(remarks), style="dim")


def _grid(
    table: Table, columns: Sequence[Column], rows: Sequence[TableRow], legend: dict[str, str], width: int
) -> Grid:
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
    with_access = columns[0].group != "cost"
    if with_access:
        grid.add_column("\n" * height + "access", no_wrap=True)
    for group, label in zip(_groups(columns), labels, strict=True):
        # As text: the brackets of swept parameters are no markup.
        lines = [group, *[""] * (height - len(label)), *label]
        grid.add_column(_text("\n".join(lines)), justify="right", no_wrap=True)
    last_defense = ""
    for row in rows:
        names = [_text("" if row.defense == last_defense else row.defense)]
        if with_access:
            names.append(_text(_access(row, width), style="" if row.access in RANKED else "dim"))
        grid.add_row(*names, *(_cell(table, row, column, legend) for column in columns))
        last_defense = row.defense
    return grid


def _access(row: TableRow, width: int) -> str:
    """Return who attacks a row; a narrow terminal leaves out what the line below all tables explains."""
    return "gray-box" if row.access == "static" and width < _WIDE else text.access(row)


def _groups(columns: Sequence[Column]) -> list[str]:
    """Return the group of each column where it begins, else nothing."""
    previous = ["", *(column.group for column in columns)]
    return [column.group if column.group != before else "" for column, before in zip(columns, previous, strict=False)]


def _cell(table: Table, row: TableRow, column: Column, legend: dict[str, str]) -> Text:
    value = row.values.get(column.id)
    number, letters = _number_and_letters(table, row, column, legend)
    shown = _text(number)
    if value is None:
        return shown
    best, second = table.best[column.id]
    if value.failed:
        shown.stylize("bold red")
    elif row.access not in RANKED and column.group != "cost":
        shown.stylize("dim")
    elif best is not None and value.number == best:
        shown.stylize("bold green")
    elif second is not None and value.number == second:
        shown.stylize("underline")
    return shown.append(letters, style="yellow")


def _number_and_letters(table: Table, row: TableRow, column: Column, legend: dict[str, str]) -> tuple[str, str]:
    """Return a number as text, and the letters of its footnotes."""
    value = row.values.get(column.id)
    return text.number(value, column, table.n), text.letters(value, legend).translate(_RAISED) if value else ""


def _blocks(table: Table, columns: Sequence[Column], legend: dict[str, str], width: int) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit, clean accuracy first in each."""
    access = max(len("access"), *(len(_access(row, width)) for row in table.rows))
    names = max(len("defense"), *(cell_len(row.defense) for row in table.rows)) + access + 2 * _GUTTER
    clean, *others = columns
    block = [clean]
    for column in others:
        if len(block) > 1 and names + _total_width(table, [*block, column], legend) > width:
            yield block
            block = [clean]
        block.append(column)
    yield block


def _total_width(table: Table, columns: Sequence[Column], legend: dict[str, str]) -> int:
    groups = map(cell_len, _groups(columns))
    # The last column has no gutter.
    widths = (max(_width(table, c, legend), group + _GUTTER) for c, group in zip(columns, groups, strict=True))
    return sum(widths) - _GUTTER


def _width(table: Table, column: Column, legend: dict[str, str]) -> int:
    heads = map(cell_len, text.heading(column))
    cells = ("".join(_number_and_letters(table, row, column, legend)) for row in table.rows)
    return _GUTTER + max(*heads, *map(cell_len, cells))


def _text(content: str = "", *, style: str = "") -> Text:
    """Return text without hidden characters; brackets in it are no markup."""
    return Text(visible(content, lines=True), style)
