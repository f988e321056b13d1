"""The leaderboard as CSV and JSON, and the writer of every format by its name."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from bench.report.leaderboard import corruption_error
from bench.report.leaderboard.queries import queries_of
from bench.report.leaderboard.questions import Answer
from bench.report.leaderboard.standing import Ranking
from bench.report.leaderboard.summaries import WORST_CASE, ThreatSummary, Value
from bench.report.leaderboard.tables import (
    RANKED,
    WORST_LABEL,
    Board,
    Column,
    Table,
    TableRow,
    column_id,
    lines_by_defense,
)
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.store.planned import Count
from bench.types import CellResult, eps_text
from bench.visible import json_text, visible

SCHEMA = 1

#: Characters that begin a formula in a spreadsheet, including the wide forms of East Asian keyboards.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: Where a formula may begin: at the start, and after a semicolon, which many spreadsheets read as the end of a cell.
_FORMULA_START = re.compile(rf"^(?=\s*[{_FORMULA}])|(?<=;)(?=[\s\"]*[{_FORMULA}])")


def escape_csv(value: Any) -> Any:
    """Return a value of a cell; a text that a spreadsheet would read as a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    return _FORMULA_START.sub("'", visible(value))


def comma_separated(board: Board, more: Callable[[TableRow], Mapping[str, Any]] | None = None) -> str:
    """Return one row for each defense and access, accuracies as fractions, absent values empty.

    ``more`` gives further values of a row by the names of their columns.

    An attack has its accuracy under attack, the ends of its interval, and the robust accuracy beside them. ``notes``
    has what is known of the row alone; what is said of a defense is at its adaptive row. Where there are several seeds,
    ``seeds`` counts them, and ``... spread`` is the standard deviation over them. The columns ``incomplete``,
    ``table notes`` and, where it has one, ``caption`` repeat in each row what its table lacks, says and is called.

    ``rank`` is that by the worst case under the first threat, of rows whose attacker sees all, and ``rank settled``
    says whether it is settled (:mod:`bench.anytime`). So does, at the adaptive row of a step, ``verdict ... settled``
    of the comparison with its base, and ``gap ... settled`` of the gap, with ``above``, ``below``, ``equal`` (within a
    point) or ``open``.

    A text that a spreadsheet would read as a formula begins with an apostrophe.
    """
    records: list[dict[str, Any]] = []
    for table in board.tables:
        remarks = lines_by_defense(table)
        seeds = _seeds(table)
        general = remarks.get(None, [])
        if any(column.kind == "worst" for column in table.columns):
            general = [*general, f"{WORST_LABEL}: {WORST_CASE}"]
        speaking = {row.defense: row.access for row in table.rows[::-1]}
        speaking |= {row.defense: row.access for row in table.rows if row.access == "adaptive"}
        for row in table.rows:
            own = remarks.get(row.defense, []) if row.access == speaking[row.defense] else []
            record = {**_csv_record(table, row, own, seeds), "table notes": "; ".join(general)}
            records.append({**record, **(more(row) if more else {})})
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record)
    out = io.StringIO()
    default = ["dataset", "model", "n", "incomplete", "defense", "access"]
    writer = csv.DictWriter(out, list(names) or default, lineterminator="\n")
    writer.writerow({name: escape_csv(name) for name in writer.fieldnames})
    writer.writerows({name: escape_csv(value) for name, value in record.items()} for record in records)
    return out.getvalue()


def _seeds(table: Table) -> dict[str, int]:
    """Return how many seeds each defense has; nothing where none has several."""
    seeds = {threat.defense: len(threat.cells.seeds) for threat in table.threats}
    return seeds if max(seeds.values(), default=1) > 1 else {}


def _csv_record(table: Table, row: TableRow, remarks: list[str], seeds: Mapping[str, int]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": table.dataset,
        "model": table.network,
        "n": table.n,
        **({"caption": table.caption} if table.caption else {}),
        "incomplete": table.incomplete,
        "defense": row.defense,
        **({"access": row.access} if table.has_access else {}),
        **({"seeds": seeds[row.defense]} if seeds else {}),
        **_csv_rank(table, row),
        **_csv_answers(table, row),
    }
    footnotes: list[str] = []
    for column in table.columns:
        name = f"{column.label} ({column.group})" if column.group not in ("", "cost") else column.label
        value = row.values.get(column.id) or Value(None)
        record |= _csv_numbers(name, column, value, with_spread=bool(seeds))
        notes = value.footnotes or ("",) * value.failed
        footnotes += (f"{name}: {'failed' if value.failed else note}" for note in notes)
    return {**record, "notes": "; ".join([*footnotes, *remarks])}


def _csv_rank(table: Table, row: TableRow) -> dict[str, Any]:
    """Return the rank of a row and whether it is settled; nothing in a table without ranks."""
    if table.ranking is None:
        return {}
    ranks = {rank.name: rank for rank in table.ranking.ranks}
    rank = ranks.get(row.defense) if row.access in RANKED else None
    return {"rank": rank and rank.rank, "rank settled": rank and ("yes" if rank.is_settled else "no")}


def _csv_answers(table: Table, row: TableRow) -> dict[str, Any]:
    """Return what is settled of the verdicts and gaps of a row, by the kind and the threat."""
    return {
        answer.column: answer.finding
        for answer in table.answers
        if answer.defense == row.defense and row.access in RANKED
    }


def _csv_numbers(
    name: str, column: Column, value: Value, *, with_spread: bool
) -> Iterator[tuple[str, float | str | None]]:
    yield name, value.words or value.number
    if column.unit in ("accuracy", "gap"):
        yield f"{name} low", value.low
        yield f"{name} high", value.high
        if with_spread:
            yield f"{name} spread", value.spread
    if column.kind == "attack":
        yield f"{name} robust accuracy", value.robust


def as_json(board: Board) -> str:
    """Return the JSON format, with one table, cell or defense on each line."""
    return written(payload(board))


def written(body: Mapping[str, Any]) -> str:
    """Return an object as :func:`payload` gives it as JSON, with one element of its lists on each line."""
    fields = [name for name in body if name != "schema"]
    lists = (f'"{field}": [\n' + ",\n".join(map(json_text, body[field])) + "\n]" for field in fields)
    return '{"schema": ' + str(body["schema"]) + ",\n" + ",\n".join(lists) + "}\n"


def payload(board: Board) -> dict[str, Any]:
    """Return the object of the JSON format: fractions in [0, 1], FLOPs 2 per multiply-add, absent values ``None``."""
    defenses: list[dict[str, Any]] = []
    for table in board.tables:
        errors = _corruption_errors(table)
        defenses += (_defense(table, summary, errors.get(summary.defense, {})) for summary in table.threats)
    return {
        "schema": SCHEMA,
        "tables": [
            *(_table(table.title, table.cells, table) for table in board.tables),
            *(_table(title, Count(cells, 0, 0)) for title, cells in board.absent),
        ],
        "cells": cell_rows(board),
        "defenses": defenses,
        **({"budgets": budgets} if (budgets := list(_budgets(board))) else {}),
    }


def _table(title: str, cells: Count, table: Table | None = None) -> dict[str, Any]:
    """Return what is known of a table; one of which there is no cell has the same fields, empty or ``None``."""
    return {
        "title": title,
        "dataset": table and table.dataset,
        "model": table and table.model,
        "network": table and table.network,
        "incomplete": cells.incomplete or None,
        **cells._asdict(),
        "verdicts": list(table.verdicts) if table else [],
        "notes": list(table.notes) if table else [],
        **_ranks(table.ranking if table else None),
        "settled": list(map(_answer, table.answers)) if table else [],
    }


def _ranks(ranking: Ranking | None) -> dict[str, Any]:
    """Return the ranks of a table, and by what: the worst case under its first threat; none of a single row."""
    if ranking is None:
        return {"ranked_under": None, "ranks": [], "not_begun": []}
    ranks = [
        {"defense": each.name, "rank": each.rank, "settled": each.is_settled, "n": each.n} for each in ranking.ranks
    ]
    required = {"required": ranking.required} if ranking.required else {}
    return {"ranked_under": ranking.group, **required, "ranks": ranks, "not_begun": list(ranking.waiting)}


def _answer(answer: Answer) -> dict[str, Any]:
    """Return what is settled of a verdict or a gap."""
    return {
        "defense": answer.defense,
        "threat": answer.group,
        "of": answer.kind,
        "first": answer.first,
        "second": answer.second,
        "finding": answer.finding,
        "n": answer.n,
    }


def _budgets(board: Board) -> Iterator[dict[str, Any]]:
    """Yield the robust accuracy at the budgets that were asked for, one for each defense, access, norm and budget."""
    for table in board.tables:
        columns = [column for column in table.columns if column.kind == "budget"]
        for row, column in product(table.rows, columns):
            value, threat = row.values.get(column.id), column.threat
            if value is None or threat is None or threat.eps is None:
                continue
            yield {
                "dataset": table.dataset,
                "model": table.model,
                "network": table.network,
                "defense": row.defense,
                "access": row.access,
                "norm": threat.norm,
                "eps": eps_text(threat.eps),
                "n": table.n,
                "robust_accuracy": value.number,
                "low": value.low,
                "high": value.high,
                "spread": value.spread,
                "notes": list(value.footnotes),
            }


def cell_rows(board: Board) -> list[dict[str, Any]]:
    """Return the cells of the JSON format, with the labels of the leaderboard."""
    return [_cell(r, board) for r in board.results.values()]


def _cell(r: CellResult, board: Board) -> dict[str, Any]:
    (defense, attack), place = board.labels[r.key], board.places[r.key]
    threat = r.cell.attack.threat if r.cell.attack else None
    eps = threat.eps if threat else None
    m, c = r.metrics, r.cost
    return {
        "dataset": place.dataset,
        "model": place.model,
        "network": place.network,
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
        "robust_mean": m.robust_mean if m else None,
        "robust_worst": m.robust_worst if m else None,
        "queries": queries_of(m) if m else None,
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
        "max_passes": r.cell.attack.max_passes if r.cell.attack else None,
        "target": r.cell.attack.target if r.cell.attack else None,
        "craft_precision": r.craft_precision,
        "images": r.cell.data.indices_sha,
        "classes": r.cell.data.num_classes,
        "classes_present": r.cell.data.classes_present or r.cell.data.num_classes,
        "protocol": board.protocols[r.key],
        "commit": r.provenance.commit,
        "dirty": r.provenance.dirty,
        "machine": r.provenance.machine,
        "device": r.provenance.device,
        "finished": r.provenance.finished,
        "error": f"{r.error.kind}: {r.error.message}" if r.error else None,
        "key": r.key,
    }


def _defense(table: Table, s: ThreatSummary, errors: Mapping[str, float | None]) -> dict[str, Any]:
    white_box = s.worst.get("white-box", Value(None))
    static, adaptive = s.worst.get("static", white_box), s.worst.get("adaptive", white_box)
    overall = s.worst.get("any", Value(None))
    over_base = s.judgement.over_base if s.judgement else Value(None)
    eps = s.threat.eps if s.threat else None
    return {
        "dataset": table.dataset,
        "model": table.model,
        "network": table.network,
        "defense": s.defense,
        "norm": s.threat.norm if s.threat else None,
        "eps": eps_text(eps) if eps is not None else None,
        "n": s.cells.n,
        "seeds": list(s.cells.seeds),
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
        "mean_corruption_error": _corruption_error(errors, s.group, corruption_error.UNNORMALISED),
        "mean_corruption_error_normalised": _corruption_error(errors, s.group, corruption_error.NORMALISED),
        "relative_mean_corruption_error": _corruption_error(errors, s.group, corruption_error.RELATIVE),
        "gap": s.gap.number,
        "gap_low": s.gap.low,
        "gap_high": s.gap.high,
        "verdict": s.judgement.verdict if s.judgement else None,
        "base": s.judgement.base if s.judgement else None,
        "over_base": over_base.number,
        "over_base_low": over_base.low,
        "over_base_high": over_base.high,
        "over_base_p": s.judgement.p_value if s.judgement else None,
        "verdict_reasons": list(s.judgement.reasons) if s.judgement else [],
        "params": s.cost.params if s.cost else None,
        "train_flops_per_epoch": s.cost.train_flops_per_epoch if s.cost else None,
        "train_seconds_per_epoch": s.cost.train_seconds_per_epoch if s.cost else None,
        "test_flops": s.cost.test_flops if s.cost else None,
        "test_seconds": s.cost.test_seconds if s.cost else None,
        "notes": sorted({*static.footnotes, *adaptive.footnotes, *overall.footnotes, *s.gap.footnotes}),
    }


def _corruption_errors(table: Table) -> dict[str, dict[str, float | None]]:
    """Return the mean corruption errors of each defense by the id of their column, which any of its rows may fill."""
    columns = [column.id for column in table.columns if column.kind == "mce"]
    errors: dict[str, dict[str, float | None]] = defaultdict(dict)
    for row, name in product(table.rows, columns):
        if name in row.values:
            errors[row.defense].setdefault(name, row.values[name].number)
    return errors


def _corruption_error(errors: Mapping[str, float | None], group: str, label: str) -> float | None:
    """Return a mean corruption error over all severities, of the set or under a threat; else nothing."""
    return errors.get(column_id(group, label), errors.get(column_id("clean", label)))


FORMATS: dict[str, Callable[[Board], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "json": as_json}
