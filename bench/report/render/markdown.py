"""The leaderboard as Markdown, and what all our Markdown is made of: escapes and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from bench.report.leaderboard.tables import Board, Table
from bench.report.render import text
from bench.visible import visible

#: What Markdown takes for more than itself: some marks anywhere, others where a line or an item of a list begins.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]|~$]|^[#+=-](?=[#+= -]|$)|(?<=^\d)[.)](?= |$)|(?<=^\d\d)[.)](?= |$)")


def escape_markdown(value: str) -> str:
    """Return a text as Markdown shows it: what would be markup is escaped."""
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
        heads: of the columns. What Markdown would take for more than itself is escaped already, in rows too.
        rows: their cells.
        align: a letter for each column: ``l`` for words, ``r`` for numbers.
    """
    for row in (heads, [_RULES[side] for side in align], *rows):
        yield "| " + " | ".join(map(str, row)) + " |"


def markdown(board: Board) -> str:
    """Return the tables for a README or a pull request: best in bold, second best underlined."""
    parts = [_markdown_table(table, board) for table in board.tables] or ["No results yet.\n"]
    absent = [f"**{escape_markdown(each)}**\n" for each in text.absent(board)]
    return "\n".join([*absent, *parts, escape_markdown(text.FOOT), *text.superseded(board)]) + "\n"


def _markdown_table(table: Table, board: Board) -> str:
    legend = text.legend(table)
    several = text.has_several_threats(table)
    names = (f"{column.label} {column.group}" if several and column.group else column.label for column in table.columns)
    heads = [escape_markdown(name) for name in names]
    lines = [f"### {escape_markdown(table.title)}", ""]
    lines += [f"**{escape_markdown(table.incomplete)}**", ""] if table.incomplete else []
    rows = []
    for line in table.rows:
        cells = [
            text.ranked(table, line, column, "**{}**", "<u>{}</u>", str)
            + text.footnotes(line, column, legend, "<sup>{}</sup>")
            for column in table.columns
        ]
        rows.append([escape_markdown(line.defense), line.access, *cells])
    lines += grid(["defense", "access", *heads], rows, "ll" + "r" * len(heads))
    about = [
        *table.verdicts,
        *(f"{letter}: {note}" for note, letter in legend.items()),
        *text.rules(table),
        *text.precision(table),
        *table.notes,
        *text.failures(table, board),
    ]
    return "\n".join([*lines, "", *(f"- {escape_markdown(each)}" for each in about), ""])
