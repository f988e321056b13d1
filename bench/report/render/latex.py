"""The leaderboard as LaTeX, for booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.report.leaderboard.tables import Board, Column, Table, TableRow
from bench.report.render import text
from bench.visible import visible

#: Small letters on a column of LaTeX's text.
_LATEX_WIDTH = 78

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "·": r"$\cdot$",
    "∞": r"$\infty$", "ε": r"$\varepsilon$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _escape_latex(value: str) -> str:
    # After the end of a row a bracket or a star would be taken for its argument.
    return "{}" * value.startswith(("[", "*")) + "".join(_LATEX.get(letter, letter) for letter in visible(value))


def latex(board: Board) -> str:
    """Return booktabs tables: best in bold, second best underlined. Needs the package booktabs.

    What is wider than a column of text goes on in a further table; what is to be known of it follows as text.
    """
    absent = [rf"{{\noindent\bfseries {_escape_latex(each)}.\par}}" + "\n" for each in text.absent(board)]
    if not board.tables:
        return "\n".join([*absent, "% no results yet\n"])
    return "\n".join([*absent, *(_latex_table(table, board) for table in board.tables)])


def _latex_table(table: Table, board: Board) -> str:
    legend = text.legend(table)
    about = [
        _escape_latex(text.FOOT),
        *map(_escape_latex, table.verdicts),
        *(f"$^{{{letter}}}$ {_escape_latex(note)}" for note, letter in legend.items()),
        *map(_escape_latex, (*text.rules(table), *text.precision(table), *table.notes, *text.failures(table, board))),
    ]
    blocks = _latex_blocks(table, legend)
    lines = [line for number, block in enumerate(blocks) for line in _tabular(table, block, legend, number)]
    notes = "; ".join(each.rstrip(".") for each in about)
    return "\n".join([*lines, rf"{{\footnotesize\raggedright\noindent {notes}.\par}}", ""])


def _latex_blocks(table: Table, legend: dict[str, str]) -> list[list[Column]]:
    """Return the columns in blocks of about the width of a column of text."""
    first = max(len(line.defense) + len(line.access) for line in table.rows) + 4
    blocks: list[list[Column]] = [[]]
    taken = first
    for column in table.columns:
        cells = (_latex_cell(table, line, column, legend) for line in table.rows)
        width = 2 + max(
            *map(len, text.pieces(column.label)), *(len(re.sub(r"\\[a-z]+|[{}$^]", "", cell)) for cell in cells)
        )
        if taken + width > _LATEX_WIDTH and blocks[-1]:
            blocks.append([])
            taken = first
        blocks[-1].append(column)
        taken += width
    return blocks


def _latex_cell(table: Table, line: TableRow, column: Column, legend: dict[str, str]) -> str:
    shown = text.ranked(table, line, column, r"\textbf{{{}}}", r"\underline{{{}}}", _escape_latex)
    return shown + text.footnotes(line, column, legend, "$^{{{}}}$")


def _latex_head(label: str) -> str:
    found = [_escape_latex(piece) for piece in text.pieces(label)]
    return r"\shortstack[r]{" + r"\\".join(found) + "}" if len(found) > 1 else found[0]


def _tabular(table: Table, columns: Sequence[Column], legend: dict[str, str], number: int) -> list[str]:
    rows = [
        " & ".join([_escape_latex(line.defense), line.access, *(_latex_cell(table, line, c, legend) for c in columns)])
        + r" \\"
        for line in table.rows
        if any(column.id in line.values for column in columns)
    ]
    groups = [column.group for column in columns]
    starts = [i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group]
    # The first two columns name the line, and LaTeX counts from one.
    spans = [(groups[a], a + 3, b + 2) for a, b in zip(starts, [*starts[1:], len(groups)], strict=True)]
    above = (
        " & & "
        + " & ".join(rf"\multicolumn{{{b - a + 1}}}{{c}}{{{_escape_latex(group)}}}" for group, a, b in spans)
        + r" \\"
    )
    rules = "".join(rf"\cmidrule(lr){{{a}-{b}}}" for group, a, b in spans if group)
    heads = " & ".join(["defense", "access", *(_latex_head(column.label) for column in columns)]) + r" \\"
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
