"""Numbers and remarks as text, the same in every format."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, product
from string import ascii_lowercase

from bench.anytime import Finding, Rank
from bench.report.leaderboard.corruption_error import UNNORMALISED
from bench.report.leaderboard.questions import Answer
from bench.report.leaderboard.summaries import WORST_CASE, Value
from bench.report.leaderboard.tables import Board, Column, Table, TableRow
from bench.types import listed

ABSENT = "–"
#: A label with more letters is broken into several lines.
_LABEL_LETTERS = 16
#: Ranks that a line names of those that are settled, and of the others.
_RANKS = 12
#: What stands between two shares that are compared.
_FINDINGS: Mapping[Finding, str] = {"above": "above", "below": "below", "equal": "within 1 point of", "open": "against"}
#: Where the heading of a column that is no attack may be broken.
_WORDS_BREAK = re.compile(r"(?<=[,−]) | (?=accuracy|\(static\)|or adaptive|s/|TFLOP/)")


def number(value: Value | None, column: Column, n: int) -> str:
    """Return a number as text: accuracies in percent, gaps in points with sign and interval, costs to 4 digits.

    The robust accuracy follows an accuracy under attack in brackets, where its text differs.
    """
    shown = plain(value, column, n)
    if value is None or value.number is None or value.robust is None:
        return shown
    robust = f"{100 * value.robust:.{_digits(n)}f}"
    return shown if robust == f"{100 * value.number:.{_digits(n)}f}" else f"{shown} ({robust})"


def plain(value: Value | None, column: Column, n: int) -> str:
    """Return a number as text, without the robust accuracy beside it."""
    if value is not None and value.words:
        return value.words
    if value is None or (value.number is None and not value.failed):
        return ABSENT
    if value.number is None:
        return "failed"
    digits = _digits(n)
    if column.unit in ("accuracy", "error"):
        spread = "" if value.spread is None else f"±{100 * value.spread:.{digits}f}"
        return f"{100 * value.number:.{digits}f}{spread}"
    if column.unit == "gap":
        points = [f"{100 * end:+.{digits}f}" for end in (value.number, value.low, value.high) if end is not None]
        return f"{points[0]} [{', '.join(points[1:])}]" if len(points) == 3 else points[0]
    return f"{value.number:.4g}" if value.number < 1000 else f"{value.number:.0f}"


def _digits(n: int) -> int:
    return 1 if n <= 1000 else 2


def interval(value: Value) -> str:
    """Return the 95 % interval in percent, empty where there is none."""
    return "" if value.low is None or value.high is None else f"95 % {100 * value.low:.1f} to {100 * value.high:.1f}"


def precision(table: Table) -> list[str]:
    """Return how far the widest interval reaches, for formats that have no room for each."""
    accuracies = [column for column in table.columns if column.unit == "accuracy"]
    values = [row.values.get(column.id) for row, column in product(table.rows, accuracies)]
    whole, begun = (_reach(value for value in values if value and value.anytime is each) for each in (False, True))
    parts = [f"95 % intervals (Wilson) reach at most {100 * whole:.1f} points"] if whole is not None else []
    parts += [f"those of begun cells, which hold at any stop, at most {100 * begun:.1f}"] if begun is not None else []
    return [f"{', '.join(parts)}; csv, html and json have each"] if parts else []


def _reach(values: Iterable[Value]) -> float | None:
    """Return how far the widest of some intervals reaches from its number; ``None`` where there is none."""
    return max(
        (
            max(value.high - value.number, value.number - value.low)
            for value in values
            if value.number is not None and value.low is not None and value.high is not None
        ),
        default=None,
    )


def pieces(label: str) -> list[str]:
    """Return a long label in pieces, to be broken between them: before its parameters and after each of them."""
    return re.split(r"(?=[\[@])|(?<=,)", label) if len(label) > _LABEL_LETTERS else [label]


def heading(column: Column) -> list[str]:
    """Return the label of a column in pieces: words of the table one below another, names of attacks as they are."""
    return pieces(column.label) if column.kind == "attack" else _WORDS_BREAK.split(column.label)


def blocks(
    columns: Sequence[Column], fits: Callable[[Sequence[Column]], bool], first: Sequence[Column] = ()
) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit side by side, each of them after the columns ``first``.

    A threat begins another block where it does not fit as a whole; only what fits in no block is broken within.
    """
    block = list(first)
    for group in _runs([column for column in columns if column not in first]):
        if len(block) > len(first) and not fits([*block, *group]):
            yield block
            block = list(first)
        for column in group:
            if len(block) > len(first) and not fits([*block, column]):
                yield block
                block = list(first)
            block.append(column)
    if block:
        yield block


def _runs(columns: Sequence[Column]) -> list[list[Column]]:
    """Return the columns of each threat; clean accuracy is with those after it."""
    runs: list[list[Column]] = []
    for _, run in groupby(columns, lambda column: column.group):
        if runs and not runs[-1][-1].group:
            runs[-1].extend(run)
        else:
            runs.append(list(run))
    return runs


def access(row: TableRow) -> str:
    """Return who attacks a row, in the words of the field."""
    return access_words(row.access)


def access_words(access: str) -> str:
    """Return an access in the words of the field."""
    return "gray-box (static)" if access == "static" else access


def row_heads(table: Table) -> list[str]:
    """Return the headings of what names a row."""
    return ["defense", "access"] if table.has_access else ["defense"]


def row_names(table: Table, row: TableRow) -> list[str]:
    """Return what names a row: a defense, and the access where each has a row of its own."""
    return [row.defense, access(row)] if table.has_access else [row.defense]


def legend(table: Table) -> dict[str, str]:
    """Return a letter for every note that the table carries, in the order of reading."""
    letter_of: dict[str, str] = {}
    for row, column in product(table.rows, table.columns):
        value = row.values.get(column.id)
        for note in value.footnotes if value else ():
            letter_of.setdefault(note, _letter(len(letter_of)))
    return letter_of


def _letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ... for 0, 1, ..., as spreadsheets name their columns."""
    letters = ""
    index += 1
    while index:
        index, last = divmod(index - 1, 26)
        letters = ascii_lowercase[last] + letters
    return letters


def letters(value: Value, legend: Mapping[str, str]) -> str:
    """Return the letters of a number's notes in the order of the legend; with commas where some have two letters."""
    between = "," if len(legend) > len(ascii_lowercase) else ""
    return between.join(sorted((legend[note] for note in value.footnotes), key=lambda letter: (len(letter), letter)))


def rules(table: Table) -> list[str]:
    """Return which iterate each iterative attack keeps, once for each label."""
    return list(dict.fromkeys(f"{column.label}: {column.rule}" for column in table.columns if column.rule))


def failures(table: Table, board: Board) -> list[str]:
    """Return a line for every failed cell of a table, with its error."""
    keys = dict.fromkeys(chain.from_iterable(row.keys for row in table.rows))
    results = (board.results[key] for key in keys)
    return [
        f"failed: {r.names}: {r.error.kind}: {(r.error.message.splitlines() or [''])[0]}" for r in results if r.error
    ]


def remarks(table: Table, board: Board) -> Iterator[str]:
    """Yield the lines below a table, after its verdicts and its legend."""
    if table.caption:
        yield table.title
    yield from settled(table)
    yield from ranking(table)
    yield from spreads(table)
    yield from rules(table)
    yield from precision(table)
    yield from table.notes
    yield from failures(table, board)


def first(lines: Sequence[str], limit: int, noun: str, formats: str = "") -> list[str]:
    """Return the first lines, and one that says how many are left out, and which formats have them."""
    more = len(lines) - limit
    where = f"; --format {formats} has all" if formats else ""
    return list(lines) if more <= 0 else [*lines[:limit], f"{noun} left out: {more:,}{where}"]


def absent(board: Board) -> list[str]:
    """Return a line for every table that was planned and of which there is no cell."""
    return [f"{title}: incomplete: 0 of {cells:,} cells" for title, cells in board.absent]


def threats(table: Table) -> list[str]:
    """Return the threats of the columns."""
    return list(dict.fromkeys(column.group for column in table.columns if column.group not in ("", "cost")))


def has_several_threats(table: Table) -> bool:
    """Say whether a column must name its threat."""
    return len(threats(table)) > 1


def ranked(table: Table, row: TableRow, column: Column, bold: str, under: str, escape: Callable[[str], str]) -> str:
    """Return a number with the form ``bold`` if it is the best of its column, ``under`` if it is the second best."""
    value = row.values.get(column.id)
    shown = escape(number(value, column, table.n))
    return {"best": bold, "second": under, "": "{}"}[table.mark(row, column)].format(shown)


def settled(table: Table) -> list[str]:
    """Return what is settled of a table: a line about its ranks, and one about its verdicts and gaps, if it has any."""
    return [*_settled_ranks(table), *_settled_answers(table)]


def _settled_ranks(table: Table) -> list[str]:
    ranking = table.ranking
    if ranking is None or not ranking.ranks:
        return []
    done, unsettled = (_ranks([rank for rank in ranking.ranks if rank.is_settled is each]) for each in (True, False))
    by = f"by robust accuracy, worst case, under {ranking.group}"
    by += f", of rows with {ranking.required}" * bool(ranking.required)
    parts = [f"ranks settled at any stop (95 %), {by}: {done or 'none'}"]
    parts.append(f"not settled: {unsettled}" * bool(unsettled))
    parts.append(f"cells missing: {listed(ranking.waiting, _RANKS)}" * bool(ranking.waiting))
    return ["; ".join(filter(None, parts))]


def _settled_answers(table: Table) -> list[str]:
    if not table.answers:
        return []
    has_several = len({answer.group for answer in table.answers}) > 1
    done, unsettled = (
        [_answer(answer, has_several) for answer in table.answers if (answer.finding != "open") is each]
        for each in (True, False)
    )
    parts = [f"verdicts settled at any stop (95 %), image by image: {listed(done, _RANKS) or 'none'}"]
    parts.append(f"not settled: {listed(unsettled, _RANKS)}" * bool(unsettled))
    return ["; ".join(filter(None, parts))]


def _answer(answer: Answer, has_several: bool) -> str:
    """Return an answer in words, with the threat if a table has several."""
    of, under = f" for {answer.defense}" * (answer.kind == "gap"), f" ({answer.group})" * has_several
    return f"{answer.first} {_FINDINGS[answer.finding]} {answer.second}{of}{under}"


def _ranks(ranks: Sequence[Rank]) -> str:
    return listed((f"{rank.rank} {rank.name}" for rank in ranks), _RANKS)


def ranking(table: Table) -> list[str]:
    """Return what bold and underlined numbers are, for formats that have both; nothing where none is marked."""
    marks = {table.mark(row, column) for row, column in product(table.rows, table.columns)}
    if "best" not in marks:
        return []
    second = ", underlined: second best" * ("second" in marks)
    by = ", by the number in brackets where there is one" * _has_brackets(table)
    return [f"bold: best of its column{second}{by}"]


def _has_brackets(table: Table) -> bool:
    shown = ((row.values.get(column.id), column) for row, column in product(table.rows, table.columns))
    return any(number(value, column, table.n) != plain(value, column, table.n) for value, column in shown)


def spreads(table: Table) -> list[str]:
    """Return what stands behind ± where several seeds were measured."""
    accuracies = [column for column in table.columns if column.unit == "accuracy"]
    values = (row.values.get(column.id) for row, column in product(table.rows, accuracies))
    if not any(value is not None and value.spread is not None for value in values):
        return []
    shown = {row.defense for row in table.rows}
    counts = sorted({len(s.cells.seeds) for s in table.threats if s.defense in shown} - {1})
    return [f"a ± b: mean ± standard deviation over {' or '.join(map(str, counts)) or 'several'} seeds"]


def footnotes(row: TableRow, column: Column, legend: dict[str, str], form: str) -> str:
    """Return the letters of the notes on a number in a form of a format; empty where it has none."""
    value = row.values.get(column.id)
    shown = letters(value, legend) if value else ""
    return form.format(shown) if shown else ""


def superseded(board: Board) -> Sequence[str]:
    """Return a line about results that newer ones replace, if there are any."""
    return [f"{board.superseded} older results of code since edited are left out."] if board.superseded else []


_PERCENT = "Percent of all images."
_SEEING_ALL = "White-box and adaptive attackers see the whole defense"
_STATIC = f"{_SEEING_ALL}; gray-box (static) ones see only the network under it, and their rows are not ranked."
_BRACKETS = "Under an attack, in brackets, where it differs: also right when clean."
_WORST = f"Worst case: {WORST_CASE}."
_GAP = "Gap: in points."
_VERDICT = (
    "Verdict: a step holds if its worst case over all its attacks together (gray-box, adaptive, transfer) is above "
    "that of its base by more than chance (p, for all verdicts of the table together) and its attackers could have "
    "shown otherwise; else that is an upper bound only."
)
_SETTLED = (
    "Ranks at any stop: a rank is settled if each other row is above or below it by more than chance, whenever the run "
    "stops and whatever decided that; at most 5 % of tables ever say so wrongly. It is about images of this kind, in a "
    "random order, under these attacks."
)
_ANSWERED = (
    "Verdicts at any stop: of the worst case of a step and that of its base, or of gray-box (static) and adaptive, one "
    "is above the other or both are within a point, by more than chance; these and the ranks together are wrong in at "
    "most 5 % of tables."
)
_BUDGET = (
    "Robust accuracy at ε: right when clean, and no attack of this norm found a wrong image within ε; those without a "
    "budget count at every ε, others from theirs on. A better attack may find nearer images."
)
_NORMALISED = (
    "mCE: the mean, over corruptions, of the error divided by that of AlexNet on ImageNet-C (Hendrycks and Dietterich, "
    "2019); relative mCE: the same of what errors exceed the clean error by."
)
_UNNORMALISED = "mCE, unnormalised: the mean error over corruptions, not divided by that of AlexNet."
_FOOT = " ".join((_PERCENT, _STATIC, _BRACKETS, _WORST, _GAP, _VERDICT))


def page_foot(columns: Iterable[Column], tables: Collection[Table]) -> str:
    """Return what all words below tables are, for a page whose reader chooses what it shows of some columns."""
    columns = list(columns)
    more = {
        _SETTLED: any(map(_settled_ranks, tables)),
        _ANSWERED: any(table.answers for table in tables),
        _BUDGET: any(column.kind == "budget" for column in columns),
        **_about_errors(columns),
    }
    return " ".join((_FOOT, *(sentence for sentence, is_needed in more.items() if is_needed)))


def _about_errors(columns: Iterable[Column]) -> dict[str, bool]:
    """Return what mean corruption errors are, and whether some columns have them."""
    labels = [column.label for column in columns if column.kind == "mce"]
    unnormalised = [label.startswith(UNNORMALISED) for label in labels]
    return {_NORMALISED: not all(unnormalised), _UNNORMALISED: any(unnormalised)}


def foot(tables: Collection[Table]) -> str:
    """Return what the words of some tables mean; of words that they do not have, nothing."""
    columns = list(chain.from_iterable(table.columns for table in tables))
    kinds = {column.kind for column in columns}
    accesses = {row.access for row in chain.from_iterable(table.rows for table in tables)}
    # In the short form what a static attacker leaves is a column, and no row is his.
    with_access = chain.from_iterable(table.rows for table in tables if table.has_access)
    is_static = any(row.access == "static" for row in with_access)
    is_static = is_static or any(column.kind == "worst" and not column.ranked for column in columns)
    sentences = {
        _PERCENT: any(column.unit == "accuracy" for column in columns),
        _STATIC: is_static,
        f"{_SEEING_ALL}.": not is_static and "adaptive" in accesses,
        _BRACKETS: any(map(_has_brackets, tables)),
        _WORST: bool(kinds & {"worst", "gap", "verdict"}),
        _GAP: "gap" in kinds,
        _VERDICT: "verdict" in kinds or any(table.verdicts for table in tables),
        _SETTLED: any(map(_settled_ranks, tables)),
        _ANSWERED: any(table.answers for table in tables),
        _BUDGET: "budget" in kinds,
        **_about_errors(columns),
    }
    return " ".join(sentence for sentence, is_needed in sentences.items() if is_needed)
