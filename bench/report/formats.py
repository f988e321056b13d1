"""The leaderboard as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from bench.planned import Count
from bench.report import text
from bench.report.board import RANKED, Board, Column, Line, Table
from bench.report.rows import WORST_CASE, Standing, Value
from bench.types import CellResult, eps_text
from bench.visible import json_text, visible

SCHEMA = 1

#: Small letters on a column of LaTeX's text.
_LATEX_WIDTH = 78


def markdown(board: Board) -> str:
    """Return the tables for a README or a pull request: best in bold, second best underlined."""
    parts = [_markdown_table(table, board) for table in board.tables] or ["No results yet.\n"]
    absent = [f"**{escape_markdown(each)}**\n" for each in text.absent(board)]
    return "\n".join([*absent, *parts, escape_markdown(text.FOOT), *_left_out(board)]) + "\n"


def _markdown_table(table: Table, board: Board) -> str:
    marks = text.legend(table)
    heads = [
        escape_markdown(f"{column.label} {column.group}" if _many(table) and column.group else column.label)
        for column in table.columns
    ]
    lines = [f"### {escape_markdown(table.title)}", ""]
    lines += [f"**{escape_markdown(table.incomplete)}**", ""] if table.incomplete else []
    lines.append("| defense | access | " + " | ".join(heads) + " |")
    lines.append("| --- | --- |" + " ---: |" * len(heads))
    for line in table.lines:
        cells = [
            _ranked(table, line, column, "**{}**", "<u>{}</u>", str) + _letters(line, column, marks, "<sup>{}</sup>")
            for column in table.columns
        ]
        lines.append(f"| {escape_markdown(line.defense)} | {line.access} | " + " | ".join(cells) + " |")
    about = [
        *table.verdicts,
        *(f"{letter}: {mark}" for mark, letter in marks.items()),
        *text.rules(table),
        *text.precision(table),
        *table.notes,
        *text.failures(table, board),
    ]
    return "\n".join([*lines, "", *(f"- {escape_markdown(each)}" for each in about), ""])


def latex(board: Board) -> str:
    """Return booktabs tables: best in bold, second best underlined. Needs the package booktabs.

    What is wider than a column of text goes on in a further table; what is to be known of it follows as text.
    """
    absent = [rf"{{\noindent\bfseries {_escape_latex(each)}.\par}}" + "\n" for each in text.absent(board)]
    if not board.tables:
        return "\n".join([*absent, "% no results yet\n"])
    return "\n".join([*absent, *(_latex_table(table, board) for table in board.tables)])


def _latex_table(table: Table, board: Board) -> str:
    marks = text.legend(table)
    about = [
        _escape_latex(text.FOOT),
        *map(_escape_latex, table.verdicts),
        *(f"$^{{{letter}}}$ {_escape_latex(mark)}" for mark, letter in marks.items()),
        *map(_escape_latex, (*text.rules(table), *text.precision(table), *table.notes, *text.failures(table, board))),
    ]
    blocks = _latex_blocks(table, marks)
    lines = [line for number, block in enumerate(blocks) for line in _tabular(table, block, marks, number)]
    notes = "; ".join(each.rstrip(".") for each in about)
    return "\n".join([*lines, rf"{{\footnotesize\raggedright\noindent {notes}.\par}}", ""])


def _latex_blocks(table: Table, marks: dict[str, str]) -> list[list[Column]]:
    """Return the columns in blocks of about the width of a column of text."""
    first = max(len(line.defense) + len(line.access) for line in table.lines) + 4
    blocks: list[list[Column]] = [[]]
    taken = first
    for column in table.columns:
        cells = (_latex_cell(table, line, column, marks) for line in table.lines)
        width = 2 + max(
            *map(len, text.pieces(column.label)), *(len(re.sub(r"\\[a-z]+|[{}$^]", "", cell)) for cell in cells)
        )
        if taken + width > _LATEX_WIDTH and blocks[-1]:
            blocks.append([])
            taken = first
        blocks[-1].append(column)
        taken += width
    return blocks


def _latex_cell(table: Table, line: Line, column: Column, marks: dict[str, str]) -> str:
    shown = _ranked(table, line, column, r"\textbf{{{}}}", r"\underline{{{}}}", _escape_latex)
    return shown + _letters(line, column, marks, "$^{{{}}}$")


def _latex_head(label: str) -> str:
    found = [_escape_latex(piece) for piece in text.pieces(label)]
    return r"\shortstack[r]{" + r"\\".join(found) + "}" if len(found) > 1 else found[0]


def _tabular(table: Table, columns: Sequence[Column], marks: dict[str, str], number: int) -> list[str]:
    rows = [
        " & ".join([_escape_latex(line.defense), line.access, *(_latex_cell(table, line, c, marks) for c in columns)])
        + r" \\"
        for line in table.lines
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


def comma_separated(board: Board) -> str:
    """Return one row for each defense and access, accuracies as fractions, absent values empty.

    An attack has its accuracy under attack, the ends of its interval, and the robust accuracy beside them. What a table
    lacks stands in the column ``incomplete`` of each of its rows, so that the text stays one table. ``notes`` has what
    is said of the row and of the table as a whole.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    heads: dict[str, tuple[str, str]] = {}
    rows: list[dict[str, Any]] = []
    for table in board.tables:
        about = text.by_row(table)
        worst = [f"worst case: {WORST_CASE}"] if any(c.label == "worst case" for c in table.columns) else []
        for line in table.lines:
            row: dict[str, Any] = {
                "dataset": table.dataset,
                "model": table.model,
                "n": table.n,
                "incomplete": table.incomplete,
                "defense": line.defense,
                "access": line.access,
            }
            for column in table.columns:
                name = f"{column.label} ({column.group})" if column.group not in ("", "cost") else column.label
                value = line.values.get(column.id) or Value(None)
                row[name] = value.number
                if column.unit in ("accuracy", "gap"):
                    row |= {f"{name} low": value.low, f"{name} high": value.high}
                if column.under_attack:
                    row[f"{name} robust accuracy"] = value.robust
                row.setdefault("marks", [])
                row["marks"] += [
                    f"{name}: {'failed' if value.failed else mark}" for mark in (value.marks or ("",) * value.failed)
                ]
            row["notes"] = [*row.pop("marks"), *about.get(line.defense, ()), *about.get(None, ()), *worst]
            rows.append(row)
            heads |= dict.fromkeys(row)  # type: ignore[arg-type]
    out = io.StringIO()
    always = ["dataset", "model", "n", "incomplete", "defense", "access"]
    writer = csv.DictWriter(out, list(heads) or always, lineterminator="\n")
    writer.writerow({name: _escape_csv(name) for name in writer.fieldnames})
    writer.writerows(
        {key: _escape_csv("; ".join(v) if isinstance(v, list) else v) for key, v in row.items()} for row in rows
    )
    return out.getvalue()


def as_json(board: Board) -> str:
    """Return the JSON format, one table, cell or defense a line."""
    body = payload(board)
    lists = (f'"{name}": [\n' + ",\n".join(map(_line, body[name])) + "\n]" for name in ("tables", "cells", "defenses"))
    return '{"schema": ' + str(body["schema"]) + ",\n" + ",\n".join(lists) + "}\n"


def _line(value: Any) -> str:
    return json_text(value)


def payload(board: Board) -> dict[str, Any]:
    """Return the object of the JSON format: fractions in [0, 1], FLOPs 2 per multiply-add, absent values ``None``."""
    return {
        "schema": SCHEMA,
        "tables": [*map(_about, board.tables), *(_none_of(*each) for each in board.absent)],
        "cells": cell_rows(board),
        "defenses": [_defense(table, standing) for table in board.tables for standing in table.standings],
    }


def _about(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "incomplete": table.incomplete or None,
        **table.cells._asdict(),
        "verdicts": list(table.verdicts),
        "notes": list(table.notes),
    }


def _none_of(title: str, asked: int) -> dict[str, Any]:
    count = Count(asked, 0, 0)
    return {"title": title, "incomplete": count.incomplete, **count._asdict(), "verdicts": [], "notes": []}


def cell_rows(board: Board) -> list[dict[str, Any]]:
    """Return every cell as the JSON format has it, under the labels of the leaderboard."""
    return [_cell(r, *board.labels[key], board.protocols[key]) for key, r in board.results.items()]


def _cell(r: CellResult, defense: str, attack: str, protocol: str) -> dict[str, Any]:
    threat = r.cell.attack.threat if r.cell.attack else None
    eps = threat.eps if threat else None
    m, c = r.metrics, r.cost
    return {
        "dataset": r.names.dataset,
        "model": r.names.model,
        "defense": defense,
        "attack": attack,
        "access": r.names.access,
        "norm": threat.norm if threat else None,
        "eps": eps_text(eps) if eps is not None else None,
        "n": r.cell.data.n,
        "seed": r.cell.seed,
        "clean_accuracy": m.clean_accuracy if m else None,
        "accuracy_under_attack": m.accuracy_under_attack if m else None,
        "robust_accuracy": m.robust_accuracy if m else None,
        "ci_low": m.ci_low if m else None,
        "ci_high": m.ci_high if m else None,
        "status": r.status,
        "flags": list(r.flags),
        "forwards_per_example": c.forwards_per_example if c else None,
        "backwards_per_example": c.backwards_per_example if c else None,
        "seconds_per_example": c.seconds_per_example if c else None,
        "flops_per_example": c.flops_per_example if c else None,
        "mean_linf": m.mean_linf if m else None,
        "mean_l2": m.mean_l2 if m else None,
        "attack_params": dict(r.cell.attack.attack.params) if r.cell.attack else {},
        "eot": r.cell.attack.eot if r.cell.attack else None,
        "images": r.cell.data.indices_sha,
        "classes": r.cell.data.num_classes,
        "classes_present": r.cell.data.classes_present or r.cell.data.num_classes,
        "protocol": protocol,
        "commit": r.provenance.commit,
        "dirty": r.provenance.dirty,
        "machine": r.provenance.machine,
        "device": r.provenance.device,
        "finished": r.provenance.finished,
        "error": f"{r.error.kind}: {r.error.message}" if r.error else None,
        "key": r.key,
    }


def _defense(table: Table, s: Standing) -> dict[str, Any]:
    seen = s.worst.get("white-box", Value(None))
    static, adaptive = s.worst.get("static", seen), s.worst.get("adaptive", seen)
    overall = s.worst.get("any", Value(None))
    over = s.judgement.over_base if s.judgement else Value(None)
    eps = s.threat.eps if s.threat else None
    return {
        "dataset": table.dataset,
        "model": table.model,
        "defense": s.defense,
        "norm": s.threat.norm if s.threat else None,
        "eps": eps_text(eps) if eps is not None else None,
        "n": s.n,
        "seeds": list(s.seeds),
        "attacks": list(s.attacks),
        "clean_accuracy": s.clean.number,
        "clean_spread": s.clean.spread,
        "worst_case_static": static.number,
        "worst_case_adaptive": adaptive.number,
        "worst_case": overall.number,
        "worst_case_low": overall.low,
        "worst_case_high": overall.high,
        "worst_case_spread": overall.spread,
        "worst_case_counts": WORST_CASE,
        "gap": s.gap.number,
        "gap_low": s.gap.low,
        "gap_high": s.gap.high,
        "verdict": s.judgement.verdict if s.judgement else None,
        "base": s.judgement.base if s.judgement else None,
        "over_base": over.number,
        "over_base_low": over.low,
        "over_base_high": over.high,
        "over_base_p": s.judgement.p_value if s.judgement else None,
        "verdict_reasons": list(s.judgement.reasons) if s.judgement else [],
        "params": s.cost.params if s.cost else None,
        "train_flops_per_epoch": s.cost.train_flops_per_epoch if s.cost else None,
        "train_seconds_per_epoch": s.cost.train_seconds_per_epoch if s.cost else None,
        "test_flops": s.cost.test_flops if s.cost else None,
        "test_seconds": s.cost.test_seconds if s.cost else None,
        "notes": sorted({*static.marks, *adaptive.marks, *overall.marks, *s.gap.marks}),
    }


def _many(table: Table) -> bool:
    return len({column.group for column in table.columns} - {"", "cost"}) > 1


def _ranked(table: Table, line: Line, column: Column, bold: str, under: str, escape: Callable[[str], str]) -> str:
    value = line.values.get(column.id)
    shown = escape(text.number(value, column, table.n))
    best, second = table.best[column.id]
    if value is None or value.number is None or line.access not in RANKED:
        return shown
    return bold.format(shown) if value.number == best else under.format(shown) if value.number == second else shown


def _letters(line: Line, column: Column, marks: dict[str, str], form: str) -> str:
    value = line.values.get(column.id)
    letters = text.letters(value, marks) if value else ""
    return form.format(letters) if letters else ""


def _left_out(board: Board) -> Sequence[str]:
    return [f"{board.superseded} older results of code since edited are left out."] if board.superseded else []


#: What Markdown takes for more than itself: some marks anywhere, others where a line or an item of a list begins.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]|~$]|^[#+=-](?=[#+= -]|$)|(?<=^\d)[.)](?= |$)|(?<=^\d\d)[.)](?= |$)")


def escape_markdown(value: str) -> str:
    return (
        _MARKDOWN.sub(r"\\\g<0>", visible(value).strip())
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "·": r"$\cdot$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


def _escape_latex(value: str) -> str:
    # After the end of a row a bracket or a star would be taken for its argument.
    return "{}" * value.startswith(("[", "*")) + "".join(_LATEX.get(mark, mark) for mark in visible(value))


#: What spreadsheets begin a formula with, the wide forms of East Asian keyboards among them.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: Where one may begin: in front, and behind a semicolon, which many spreadsheets take for the end of a cell.
_BEGINS = re.compile(rf"^(?=\s*[{_FORMULA}])|(?<=;)(?=[\s\"]*[{_FORMULA}])")


def _escape_csv(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _BEGINS.sub("'", visible(value))


FORMATS: dict[str, Callable[[Board], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "json": as_json}
