"""The leaderboard as Markdown, and helpers for all other Markdown: escapes and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from bench.report.leaderboard.flags import explained
from bench.report.leaderboard.tables import Board, Table
from bench.report.render import text
from bench.visible import visible

#: Characters that Markdown reads as markup: some anywhere, others at the beginning of a line or list item.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]|~$]|^[#+=-](?=[#+= -]|$)|(?<=^\d)[.)](?= |$)|(?<=^\d\d)[.)](?= |$)")


def escape_markdown(value: str) -> str:
    """Return a text with all markup escaped."""
    return (
        _MARKDOWN.sub(r"\\\g<0>", visible(value).strip())
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )


_RULES = {"l": "---", "r": "---:"}


def grid(heads: Sequence[object], rows: Iterable[Sequence[object]], align: str) -> Iterator[str]:
    """Yield the lines of a table of Markdown.

    Args:
        heads: of the columns, already escaped.
        rows: their cells, already escaped.
        align: a letter for each column: ``l`` for words, ``r`` for numbers.
    """
    for row in (heads, [_RULES[side] for side in align], *rows):
        yield "| " + " | ".join(map(str, row)) + " |"


def markdown(board: Board) -> str:
    """Return the tables for a README or a pull request: best in bold, second best underlined (GitHub drops ``<u>``)."""
    parts = [_markdown_table(table, board) for table in board.tables] or ["No results yet.\n"]
    absent = [f"**{escape_markdown(line)}**\n" for line in text.absent(board)]
    return "\n".join([*absent, *parts, escape_markdown(text.foot(board.tables)), *text.superseded(board)]) + "\n"


def _markdown_table(table: Table, board: Board) -> str:
    legend = text.legend(table)
    threats = text.threats(table)
    # A title names the only threat once; below somebody's own caption, and of several, each column names its own.
    in_heads = threats if len(threats) > 1 or table.caption else []
    names = (f"{column.label} {column.group}" if column.group in in_heads else column.label for column in table.columns)
    heads = [escape_markdown(name) for name in names]
    title = table.heading if in_heads else " · ".join([table.heading, *threats])
    lines = [f"### {escape_markdown(title)}", ""]
    lines += [f"**{escape_markdown(table.incomplete)}**", ""] if table.incomplete else []
    rows = []
    for row in table.rows:
        cells = [
            text.ranked(table, row, column, "**{}**", "<ins>{}</ins>", str)
            + text.footnotes(row, column, legend, "<sup>{}</sup>")
            for column in table.columns
        ]
        rows.append([*map(escape_markdown, text.row_names(table, row)), *cells])
    names_of_rows = text.row_heads(table)
    align = "".join("l" if column.unit == "words" else "r" for column in table.columns)
    lines += grid([*names_of_rows, *heads], rows, "l" * len(names_of_rows) + align)
    footnotes = (f"{letter}: {explained(note)}" for note, letter in legend.items())
    items = (*table.verdicts, *footnotes, *text.remarks(table, board))
    return "\n".join([*lines, "", *(f"- {escape_markdown(item)}" for item in items), ""])
