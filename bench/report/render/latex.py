"""The leaderboard as LaTeX, for booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.report.leaderboard.tables import Board, Column, Table, TableRow
from bench.report.render import text
from bench.visible import visible

#: Letters of footnote size that fit the width of the text.
_TEXT_WIDTH_LETTERS = 78

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "−": "$-$", "·": r"$\cdot$",
    "∞": r"$\infty$", "ε": r"$\varepsilon$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _escape_latex(value: str) -> str:
    # LaTeX reads a bracket or a star after the end of a row as an argument.
    return "{}" * value.startswith(("[", "*")) + "".join(_LATEX.get(letter, letter) for letter in visible(value))


def latex(board: Board) -> str:
    """Return booktabs tables: best in bold, second best underlined. Needs the package booktabs.

    Columns that do not fit the width of the text follow in further tables. Verdicts and notes follow as text.
    """
    absent = [rf"{{\noindent\bfseries {_escape_latex(line)}.\par}}" + "\n" for line in text.absent(board)]
    if not board.tables:
        return "\n".join([*absent, "% no results yet\n"])
    return "\n".join([*absent, *(_latex_table(table, board) for table in board.tables)])


def _latex_table(table: Table, board: Board) -> str:
    legend = text.legend(table)
    notes = [
        *map(_escape_latex, (text.FOOT, *table.verdicts)),
        *(f"$^{{{letter}}}$ {_escape_latex(note)}" for note, letter in legend.items()),
        *map(_escape_latex, text.remarks(table, board)),
    ]
    lines: list[str] = []
    for number, block in enumerate(_latex_blocks(table, legend)):
        lines += _tabular(table, block, legend, number)
    joined = "; ".join(note.rstrip(".") for note in notes)
    return "\n".join([*lines, rf"{{\footnotesize\raggedright\noindent {joined}.\par}}", ""])


def _latex_blocks(table: Table, legend: dict[str, str]) -> list[list[Column]]:
    """Return the columns in blocks of about the width of a column of text."""
    names = max(len(row.defense) + len(text.access(row)) for row in table.rows) + 4
    blocks: list[list[Column]] = [[]]
    used = names
    for column in table.columns:
        cells = (_latex_cell(table, row, column, legend) for row in table.rows)
        width = 2 + max(*map(len, text.heading(column)), *(len(re.sub(r"\\[a-z]+|[{}$^]", "", cell)) for cell in cells))
        if used + width > _TEXT_WIDTH_LETTERS and blocks[-1]:
            blocks.append([])
            used = names
        blocks[-1].append(column)
        used += width
    return blocks


def _latex_cell(table: Table, row: TableRow, column: Column, legend: dict[str, str]) -> str:
    number = text.ranked(table, row, column, r"\textbf{{{}}}", r"\underline{{{}}}", _escape_latex)
    return number + text.footnotes(row, column, legend, "$^{{{}}}$")


def _latex_head(column: Column) -> str:
    pieces = [_escape_latex(piece) for piece in text.heading(column)]
    return r"\shortstack[r]{" + r"\\".join(pieces) + "}" if len(pieces) > 1 else pieces[0]


def _tabular(table: Table, columns: Sequence[Column], legend: dict[str, str], number: int) -> list[str]:
    rows = [
        " & ".join(
            [_escape_latex(row.defense), text.access(row), *(_latex_cell(table, row, c, legend) for c in columns)]
        )
        + r" \\"
        for row in table.rows
        if any(column.id in row.values for column in columns)
    ]
    groups = [column.group for column in columns]
    starts = [i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group]
    # The first two columns name the row, and LaTeX counts from one.
    spans = [(groups[a], a + 3, b + 2) for a, b in zip(starts, [*starts[1:], len(groups)], strict=True)]
    above = (
        " & & "
        + " & ".join(rf"\multicolumn{{{b - a + 1}}}{{c}}{{{_escape_latex(group)}}}" for group, a, b in spans)
        + r" \\"
    )
    rules = "".join(rf"\cmidrule(lr){{{a}-{b}}}" for group, a, b in spans if group)
    heads = " & ".join(["defense", "access", *(_latex_head(column) for column in columns)]) + r" \\"
    return [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_escape_latex(_caption(table))}{', continued' if number else ''}.}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        r"\toprule",
        *([above, rules] if rules else []),
        heads,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]


def _caption(table: Table) -> str:
    return f"{table.title} ({table.incomplete})" if table.incomplete else table.title
