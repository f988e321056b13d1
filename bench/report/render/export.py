"""The leaderboard as CSV and JSON, and the writer of every format by its name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

from bench.report.leaderboard.summaries import WORST_CASE, ThreatSummary, Value
from bench.report.leaderboard.tables import Board, Table
from bench.report.render import text
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.store.planned import Count
from bench.types import CellResult, eps_text
from bench.visible import json_text, visible

SCHEMA = 1

#: What spreadsheets begin a formula with, the wide forms of East Asian keyboards among them.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: Where one may begin: in front, and behind a semicolon, which many spreadsheets take for the end of a cell.
_BEGINS = re.compile(rf"^(?=\s*[{_FORMULA}])|(?<=;)(?=[\s\"]*[{_FORMULA}])")


def _escape_csv(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _BEGINS.sub("'", visible(value))


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
        for line in table.rows:
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
                row.setdefault("footnotes", [])
                row["footnotes"] += [
                    f"{name}: {'failed' if value.failed else note}"
                    for note in (value.footnotes or ("",) * value.failed)
                ]
            row["notes"] = [*row.pop("footnotes"), *about.get(line.defense, ()), *about.get(None, ()), *worst]
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
        "defenses": [_defense(table, standing) for table in board.tables for standing in table.threats],
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


def _defense(table: Table, s: ThreatSummary) -> dict[str, Any]:
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
        "notes": sorted({*static.footnotes, *adaptive.footnotes, *overall.footnotes, *s.gap.footnotes}),
    }


FORMATS: dict[str, Callable[[Board], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "json": as_json}
