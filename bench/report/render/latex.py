"""The leaderboard as LaTeX, for booktabs: one float for a table wherever it fits a page."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count, groupby
from math import ceil

from bench.keys import sha256_hex
from bench.report.leaderboard.flags import explained
from bench.report.leaderboard.tables import Board, Column, Table, TableRow
from bench.report.render import text
from bench.visible import visible

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "−": "$-$", "·": r"$\cdot$",
    "∞": r"$\infty$", "ε": r"$\varepsilon$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip

#: Points of a table across two columns and in one of them. Article has 469 and 229, IEEEtran 516 and 252; what is wider
#: is made smaller to fit.
_TEXT_WIDTH = 500
_COLUMN_WIDTH = 270
#: Points of what is not made smaller, captions and notes: article has a text of 345 points where it has one column.
_LEAST_TEXT_WIDTH = 345
_LEAST_COLUMN_WIDTH = 229
#: Points that a float may be high, caption included, so that it fits a page of article.
_PAGE_HEIGHT = 555
#: Points of a line, of one of a caption, and of the rules and spaces of a panel.
_LINE = 9.5
#: Points of the line that says where the notes are.
_POINTER = 14
_CAPTION_LINE, _RULES = 12, 22
#: A table that goes on on another page has more rows than these.
_FEW_ROWS = 8
#: Points of the space on both sides of a column.
_GUTTER = 6
#: Letters of a line of a heading, and of the name of a defense.
_HEAD_LETTERS, _NAME_LETTERS = 14, 26
#: The same where a table may only then be in one of two columns.
_FEW_NAME_LETTERS = 14
#: Letters of a word that LaTeX may break anywhere, and of its pieces.
_LONG_WORD, _PIECE = 24, 16
#: Floats that LaTeX can hold back at once, with room for others.
_MAX_FLOATS = 10

#: Letters of a label, and digits that stand for what these leave out.
_LABEL_LETTERS, _LABEL_DIGITS = 60, 6
#: What tells captions apart and is not in their labels.
_TELLING = re.compile(r"[^a-zA-Z0-9 .,:;!?'()/_·-]")

# Widths of letters of Computer Modern at 8 points, in classes; Times is narrower.
_WIDTHS = {
    **dict.fromkeys("ijl.,:;'|![]ᵃ", 2.4),
    **dict.fromkeys('frst()-" ', 3.4),
    **dict.fromkeys("mw#%=+−±∞@MW", 7.1),
    **dict.fromkeys("ABCDEFGHIJKLNOPQRSTUVXYZ", 5.8),
}
_USUAL_WIDTH = 4.5

_MINUS = re.compile(r"(?<![^ \[(])-(?=\d)")

_PACKAGES = (
    r"% \usepackage{booktabs}, and \usepackage{graphicx}, which makes a table smaller that is wider than the text"
)
#: What pdflatex has no letters for: all but Latin scripts and dashes, quotation marks and dots.
_NOT_LATIN = re.compile("[^\x00-\u017f\u2010-\u2026]")
_OTHER_LETTERS = "% letters other than Latin ones need xelatex or lualatex, and a font that has them"


def _escape_latex(value: str) -> str:
    # LaTeX reads a bracket or a star after the end of a row as an argument.
    return "{}" * value.startswith(("[", "*")) + "".join(_LATEX.get(letter, letter) for letter in visible(value))


def _escape_signed(value: str) -> str:
    """Return text in which a hyphen before a digit is a minus sign."""
    return _escape_latex(_MINUS.sub("−", value))


def _escape_text(value: str) -> str:
    """Return running text, in which words too long for a line may be broken."""
    return " ".join(_breakable(word) for word in _MINUS.sub("−", visible(value)).split(" "))


def _breakable(word: str) -> str:
    if len(word) <= _LONG_WORD:
        return _escape_latex(word)
    return r"\allowbreak{}".join(map(_escape_latex, _lines([word], _PIECE)))


def latex(board: Board) -> str:
    """Return booktabs tables: best in bold, second best underlined.

    A table is one float of one column if it is narrow, else of the width of the text; what does not fit side by side is
    stacked in it, and costs are below. Only what fits no page goes on in further floats. Notes are inside the last
    float, or after it where a page has no room for them.
    """
    absent = [rf"{{\noindent\bfseries {_escape_text(line)}.\par}}" + "\n" for line in text.absent(board)]
    if not board.tables:
        return "\n".join([*absent, "% no results yet\n"])
    parts: dict[str, str] = {}
    for table in board.tables:
        label = _free(_slug(table), parts)
        parts[label] = _latex_table(table, board, label)
    text_of_all = "\n".join([*absent, *parts.values()])
    hints = [_PACKAGES] + [_OTHER_LETTERS] * bool(_NOT_LATIN.search(text_of_all))
    return "\n".join([*hints, text_of_all])


def _slug(table: Table) -> str:
    """Return the label of a table: of its caption, or else of its images, its network and what is shown of it.

    It stays the same while these do. Digits stand for what is left out of it.
    """
    short = " short" * (not table.has_access)
    words = table.caption or f"{table.dataset} {table.network} {table.n}{short} {table.view}"
    slug = re.sub("[^a-z0-9]+", "-", words.lower()).strip("-")
    if _TELLING.search(words) or not 0 < len(slug) <= _LABEL_LETTERS:
        slug = f"{slug[:_LABEL_LETTERS]}-{sha256_hex(words)[:_LABEL_DIGITS]}".strip("-")
    return f"tab:{slug}"


def _free(slug: str, taken: Collection[str]) -> str:
    """Return a label that no other table of the output has."""
    return next(label for label in chain([slug], (f"{slug}-{i}" for i in count(2))) if label not in taken)


@dataclass(frozen=True)
class _Layout:
    """A table, the letters of its notes, and whether the intervals of gaps are among these."""

    table: Table
    legend: dict[str, str]
    is_compact: bool
    #: Whether it is in one of two columns of text.
    is_narrow: bool = False
    #: Letters of a line of the name of a defense.
    name_letters: int = _NAME_LETTERS

    def number(self, row: TableRow, column: Column) -> str:
        """Return a number with its marks as LaTeX; the interval of a gap is smaller."""
        escape = _escape_signed if column.unit == "gap" else _escape_latex
        shown = text.ranked(self.table, row, column, r"\textbf{{{}}}", r"\underline{{{}}}", escape)
        gap, bracket, ends = shown.partition(" [")
        if column.unit == "gap" and bracket:
            shown = gap if self.is_compact else rf"{gap} {{\scriptsize[{ends}}}"
        return shown + text.footnotes(row, column, self.legend, "$^{{{}}}$")

    @property
    def text_width(self) -> float:
        """How wide captions and notes are at least, in points."""
        return _LEAST_COLUMN_WIDTH if self.is_narrow else _LEAST_TEXT_WIDTH

    @property
    def room(self) -> float:
        """How much of a page its caption leaves, in points."""
        # Captions are a quarter larger than what is in a table.
        lines = ceil(1.25 * _width(_caption(self.table)) / self.text_width)
        return _PAGE_HEIGHT - _CAPTION_LINE * (1 + lines)

    def name(self, row: TableRow) -> list[str]:
        """Return the lines of the name of a defense."""
        return _lines([row.defense], self.name_letters)

    @cached_property
    def widths(self) -> Mapping[str, float]:
        """How wide each column is, in points, by its id."""
        return {column.id: self._width(column) for column in self.table.columns}

    def _width(self, column: Column) -> float:
        cells = [re.sub(r"\\[a-z]+ ?|[{}$^]", "", self.number(row, column)) for row in self.table.rows]
        return _GUTTER + max(map(_width, [*_head(column), *cells]))

    @cached_property
    def names_width(self) -> float:
        """How wide the columns are that name a row, in points."""
        names = chain.from_iterable(self.name(row) for row in self.table.rows)
        width = _GUTTER + max(map(_width, ["defense", *names]))
        if self.table.has_access:
            width += _GUTTER + max(map(_width, ["access", *map(text.access, self.table.rows)]))
        return width


def _width(line: str) -> float:
    return sum(_WIDTHS.get(letter, _USUAL_WIDTH) for letter in line)


def _lines(pieces: Iterable[str], letters: int) -> list[str]:
    """Return pieces of a name in lines of at most so many letters, broken after a mark where there is one."""
    lines: list[str] = []
    for piece in pieces:
        line = ""
        for word in re.findall(r"[^-_/.,:@ ]*[-_/.,:@ ]|[^-_/.,:@ ]+$", piece):
            parts = [word[at : at + letters] for at in range(0, len(word), letters)]
            for part in parts:
                if line and len(line) + len(part) > letters:
                    lines.append(line)
                    line = ""
                line += part
        lines.append(line)
    return lines


def _head(column: Column) -> list[str]:
    return _lines(text.heading(column), _HEAD_LETTERS)


@dataclass(frozen=True)
class _Panel:
    """Columns side by side, of some rows: a tabular."""

    layout: _Layout
    columns: list[Column]
    rows: list[TableRow]

    @property
    def height(self) -> float:
        lines = sum(len(self.layout.name(row)) for row in self.rows)
        return _LINE * (lines + 1 + _head_lines(self.columns)) + _RULES


def _head_lines(columns: Sequence[Column]) -> int:
    return max(len(_head(column)) for column in columns)


def _latex_table(table: Table, board: Board, label: str) -> str:
    layout, blocks = _laid_out(table)
    floats = _floats(layout, blocks)
    notes = _notes(layout, board)
    has_room = sum(panel.height for panel in floats[-1]) + _notes_height(notes, layout) <= layout.room
    last = _label(label, len(floats) - 1)
    # Floats move: only LaTeX knows the page of text that stands between them.
    below, after = rf"Notes: below Table~\ref{{{last}}}.", rf"Notes: in the text on page~\pageref{{{label}:notes}}."
    lines: list[str] = []
    for number, panels in enumerate(floats):
        inside = below if has_room else after
        if has_room and number == len(floats) - 1:
            inside = notes
        lines += _float(layout, panels, label, number, inside)
        lines += [r"\clearpage"] if (number + 1) % _MAX_FLOATS == 0 else []
    if not has_room:
        about = rf"Table~\ref{{{label}}}" if len(floats) == 1 else rf"Tables~\ref{{{label}}} to~\ref{{{last}}}"
        begin = rf"\footnotesize\raggedright\noindent\label{{{label}:notes}}"
        lines.append(rf"{{{begin}Notes on {about}: {notes}\par}}")
    return "\n".join([*lines, ""])


def _notes_height(notes: str, layout: _Layout) -> float:
    """Return how high notes are, in points."""
    letters = re.sub(r"\\[a-z]+ ?", "m", re.sub(r"\\allowbreak|[{}$^]", "", notes))
    # Lines with an uneven end hold less.
    return _LINE * (1 + ceil(1.06 * _width(letters) / layout.text_width))


def _laid_out(table: Table) -> tuple[_Layout, list[list[Column]]]:
    """Return how a table is laid out, and its columns in blocks: in one column of text if all fit there."""
    legend = text.legend(table)
    for is_compact, letters in ((False, _NAME_LETTERS), (True, _NAME_LETTERS), (True, _FEW_NAME_LETTERS)):
        layout = _Layout(table, legend, is_compact, is_narrow=True, name_letters=letters)
        blocks = _blocks(layout, _COLUMN_WIDTH)
        if len(blocks) == 1 and _fits(layout, blocks[0], _COLUMN_WIDTH):
            return layout, blocks
    layouts = [_Layout(table, legend, is_compact) for is_compact in (False, True)]
    wide = [(layout, _blocks(layout, _TEXT_WIDTH)) for layout in layouts]
    # Intervals are left to the notes where fewer threats are broken then.
    return min(wide, key=lambda each: sum(len({column.group for column in block}) for block in each[1]))


def _notes(layout: _Layout, board: Board) -> str:
    """Return the notes on a table: letters, words, verdicts, and the rest."""
    table = layout.table
    letters = [f"$^{{{letter}}}$~{_escape_text(explained(note))}" for note, letter in layout.legend.items()]
    others = [*table.verdicts, *(_gap_intervals(table) if layout.is_compact else ())]
    # Where the others are is nothing to readers of a paper.
    others += (remark.partition("; csv")[0] for remark in text.remarks(table, board))
    lists = [letters, [_escape_text(text.foot([table]))], list(map(_escape_text, others))]
    joined = ("; ".join(note.rstrip(".") for note in each if note) for each in lists)
    return " ".join(f"{each}." for each in joined if each)


def _gap_intervals(table: Table) -> Iterator[str]:
    """Yield the 95 % intervals of the gaps, for a table that has no room for them."""
    for column in table.columns:
        if column.unit == "gap":
            shown = ((row.defense, text.number(row.values.get(column.id), column, table.n)) for row in table.rows)
            ends = [f"{defense} [{number.partition(' [')[2]}" for defense, number in shown if " [" in number]
            yield f"95 % intervals of the gap under {column.group}: {', '.join(ends)}"


def _blocks(layout: _Layout, limit: float) -> list[list[Column]]:
    """Return the columns in blocks of a width in points, costs in blocks of their own."""
    costs = [column for column in layout.table.columns if column.group == "cost"]
    others = [column for column in layout.table.columns if column.group != "cost"]
    parts = [others, costs] if layout.table.has_access else [layout.table.columns]
    return list(chain.from_iterable(text.blocks(part, lambda block: _fits(layout, block, limit)) for part in parts))


def _fits(layout: _Layout, block: Sequence[Column], limit: float) -> bool:
    width = layout.names_width
    for group, run in groupby(block, lambda column: column.group):
        width += max(sum(layout.widths[column.id] for column in run), _GUTTER + _width(group))
    return width <= limit


def _floats(layout: _Layout, blocks: Iterable[list[Column]]) -> list[list[_Panel]]:
    """Return blocks of columns with their rows, by the float that they are in: as many as a page has room for."""
    room = layout.room - _POINTER
    floats: list[list[_Panel]] = [[]]
    for columns in blocks:
        left = room - sum(panel.height for panel in floats[-1])
        for panel in _panels(_Panel(layout, columns, _shown_rows(layout.table, columns)), left, room):
            if floats[-1] and sum(each.height for each in [*floats[-1], panel]) > room:
                floats.append([])
            floats[-1].append(panel)
    return floats


def _shown_rows(table: Table, columns: Sequence[Column]) -> list[TableRow]:
    """Return the rows that have something in some columns; costs have a row for each defense."""
    if columns[0].group == "cost":
        return list({row.defense: row for row in table.rows}.values())
    return [row for row in table.rows if any(column.id in row.values for column in columns)]


def _panels(whole: _Panel, left: float, room: float) -> Iterator[_Panel]:
    """Yield a panel in parts: what fits the rest of a page, and then whole pages; a defense stays in one piece.

    Args:
        whole: with all rows.
        left: points that are left of the first page; what fits a page as a whole does not begin there to be broken.
        room: points of a whole page.
    """
    panel = replace(whole, rows=[])
    limit = left if whole.height > room and left > panel.height + _FEW_ROWS * _LINE else room
    for _, run in groupby(whole.rows, lambda row: row.defense):
        own = list(run)
        if panel.rows and replace(panel, rows=[*panel.rows, *own]).height > limit:
            yield panel
            panel, limit = replace(whole, rows=[]), room
        panel.rows.extend(own)
    yield panel


def _float(layout: _Layout, panels: Sequence[_Panel], label: str, number: int, notes: str) -> list[str]:
    environment = "table" if layout.is_narrow else "table*"
    caption = _caption(layout.table)
    bodies: list[str] = []
    for panel in panels:
        bodies += [r"\par\medskip"] * bool(bodies) + _tabular(panel)
    return [
        rf"\begin{{{environment}}}[{'htbp' if layout.is_narrow else 'tp'}]",
        r"\centering",
        rf"\caption{{{_escape_text(_sentence(caption, ' (continued)' * bool(number)))}}}",
        rf"\label{{{_label(label, number)}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        *bodies,
        r"\par\smallskip",
        rf"\begin{{minipage}}{{\linewidth}}\raggedright {notes}\end{{minipage}}",
        rf"\end{{{environment}}}",
        "",
    ]


def _label(label: str, number: int) -> str:
    """Return the label of a float of a table: a label of its own, with a colon, which no caption gives."""
    return f"{label}:part-{number + 1}" if number else label


def _sentence(caption: str, end: str) -> str:
    """Return a caption that ends as a sentence does, with one mark."""
    if end:
        caption = caption.removesuffix(".") + end
    return caption if caption.endswith((".", "!", "?")) else f"{caption}."


def _caption(table: Table) -> str:
    return f"{table.heading} ({table.incomplete})" if table.incomplete else table.heading


def _tabular(panel: _Panel) -> list[str]:
    layout = panel.layout
    columns = panel.columns
    with_access = layout.table.has_access and columns[0].group != "cost"
    named = ["defense", "access"] if with_access else ["defense"]
    rows: list[str] = []
    last_defense: str | None = None
    for row in panel.rows:
        defense = "" if row.defense == last_defense else _stack(layout.name(row), "l", "t")
        access = [text.access(row)] if with_access else []
        numbers = (layout.number(row, column) for column in columns)
        rows.append(" & ".join([defense, *access, *numbers]) + r" \\")
        last_defense = row.defense
    heads = " & ".join([*named, *(_stack(_head(column), _side(column)) for column in columns)]) + r" \\"
    spec = "l" * len(named) + "".join(map(_side, columns))
    return [
        rf"\sbox0{{\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        *_group_heads(columns, len(named)),
        heads,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
    ]


def _side(column: Column) -> str:
    return "l" if column.unit == "words" else "r"


def _stack(lines: Sequence[str], side: str, position: str = "b") -> str:
    """Return lines one below another, of which the last (``b``) or first (``t``) is level with the row."""
    escaped = list(map(_escape_latex, lines))
    if len(escaped) == 1:
        return escaped[0]
    return rf"\begin{{tabular}}[{position}]{{@{{}}{side}@{{}}}}" + r"\\".join(escaped) + r"\end{tabular}"


def _group_heads(columns: Sequence[Column], first: int) -> list[str]:
    """Return a row with the threat above its columns, and the rules below it; nothing where there is none."""
    cells, rules = [""] * first, ""
    at = first
    for group, run in groupby(columns, lambda column: column.group):
        width = len(list(run))
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_escape_latex(group)}}}")
        # LaTeX counts columns from one.
        rules += rf"\cmidrule(lr){{{at + 1}-{at + width}}}" if group else ""
        at += width
    return [" & ".join(cells) + r" \\", rules] if rules else []
