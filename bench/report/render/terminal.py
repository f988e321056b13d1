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
# Lines of a block, and blocks of columns; who has more than that reads the page.
_LINES = 40
_BLOCKS = 12


def leaderboard(results: Iterable[CellResult] | Board, *, width: int = 100) -> RenderableType:
    """Return the tables laid out for a terminal of ``width`` columns; what does not fit goes into a further block."""
    board = results if isinstance(results, Board) else build(results)
    parts: list[RenderableType] = [_text(each, style="bold red") for each in text.absent(board)]
    if not board.tables:
        return Group(*parts, _text("no results yet"))
    for table in board.tables:
        parts += [*_table(table, board, width), _text()]
    parts.append(_text(text.FOOT, style="dim"))
    if board.superseded:
        parts.append(_text(f"{board.superseded} older results of code since edited are left out.", style="dim"))
    return Group(*parts)


def _table(table: Table, board: Board, width: int) -> Iterator[RenderableType]:
    legend = text.legend(table)
    yield _text(table.title, style="bold")
    if table.incomplete:
        yield _text(table.incomplete, style="bold red")
    scores = [column for column in table.columns if column.group != "cost"]
    pages = list(_pages(table, scores, legend, width))
    for page in pages[:_BLOCKS]:
        met = [
            line
            for line in table.rows
            if page[0] is scores[0] and len(scores) == 1 or any(c.id in line.values for c in page[1:])
        ]
        yield _grid(table, page, met[:_LINES], legend)
    costs = [column for column in table.columns if column.group == "cost"]
    if costs:
        yield _text()
        yield _grid(table, costs, list({line.defense: line for line in table.rows}.values())[:_LINES], legend)
    for what, most, count in (("lines", _LINES, len(table.rows)), ("blocks of columns", _BLOCKS, len(pages))):
        if count > most:
            yield _text(f"! the first {most} of {count} {what}; --format csv, md, tex and json have all of them")
    for each in text.first(table.verdicts, _LINES, "verdicts: --format md or json has all"):
        yield _text(f"> {each}", style="bold")
    for note in text.first(
        [*table.notes, *text.failures(table, board)], _LINES, "notes and failures: --format md or json has all"
    ):
        yield _text(f"! {note}", style="yellow")
    about = [f"{letter.translate(_RAISED)} {note}" for note, letter in legend.items()]
    rules = text.first(text.rules(table), _LINES, "attacks with a rule")
    if found := [*about, *rules, *text.precision(table)]:
        yield _text(" · ".join(found), style="dim")


def _grid(table: Table, columns: Sequence[Column], lines: Sequence[TableRow], legend: dict[str, str]) -> Grid:
    grid = Grid(
        box=SIMPLE_HEAD,
        padding=(0, _GUTTER - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        border_style="dim",
    )
    labels = [text.pieces(column.label) for column in columns]
    deep = max(map(len, labels))
    grid.add_column("\n" * deep + "defense", no_wrap=True)
    scores = columns[0].group != "cost"
    if scores:
        grid.add_column("\n" * deep + "access", no_wrap=True)
    for above, label in zip(_groups(columns), labels, strict=True):
        # As text: the brackets of swept parameters are no markup.
        grid.add_column(_text("\n".join([above, *[""] * (deep - len(label)), *label])), justify="right", no_wrap=True)
    before = ""
    for line in lines:
        style = "" if line.access in RANKED or not scores else "dim"
        head = [_text("" if line.defense == before else line.defense)] + [_text(line.access, style=style)] * scores
        grid.add_row(*head, *(_cell(table, line, column, legend) for column in columns))
        before = line.defense
    return grid


def _groups(columns: Sequence[Column]) -> list[str]:
    """Return the group of each column where it begins, else nothing."""
    before = ["", *(column.group for column in columns)]
    return [column.group if column.group != last else "" for column, last in zip(columns, before, strict=False)]


def _cell(table: Table, line: TableRow, column: Column, legend: dict[str, str]) -> Text:
    value = line.values.get(column.id)
    number, letters = _words(table, line, column, legend)
    shown = _text(number)
    if value is None:
        return shown
    best, second = table.best[column.id]
    if value.failed:
        shown.stylize("bold red")
    elif line.access not in RANKED and column.group != "cost":
        shown.stylize("dim")
    elif best is not None and value.number == best:
        shown.stylize("bold green")
    elif second is not None and value.number == second:
        shown.stylize("underline")
    return shown.append(letters, style="yellow")


def _words(table: Table, line: TableRow, column: Column, legend: dict[str, str]) -> tuple[str, str]:
    """Return a number as text, and the letters of its footnotes."""
    value = line.values.get(column.id)
    return text.number(value, column, table.n), text.letters(value, legend).translate(_RAISED) if value else ""


def _pages(table: Table, columns: Sequence[Column], legend: dict[str, str], width: int) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit, clean accuracy first in each."""
    access = max(len("access"), *(len(line.access) for line in table.rows))
    taken = max(len("defense"), *(cell_len(line.defense) for line in table.rows)) + access + 2 * _GUTTER
    clean, *rest = columns
    page = [clean]
    for column in rest:
        if len(page) > 1 and taken + sum(_width(table, c, legend) for c in [*page, column]) > width:
            yield page
            page = [clean]
        page.append(column)
    yield page


def _width(table: Table, column: Column, legend: dict[str, str]) -> int:
    heads = (*map(cell_len, text.pieces(column.label)), cell_len(column.group) if column.unit == "accuracy" else 0)
    return _GUTTER + max(*heads, *(cell_len("".join(_words(table, line, column, legend))) for line in table.rows))


def _text(content: str = "", *, style: str = "") -> Text:
    """Return text that holds nothing hidden, on whatever console it is shown; brackets in it are no markup."""
    return Text(visible(content, lines=True), style)
