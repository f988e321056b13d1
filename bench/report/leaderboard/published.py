"""Published numbers beside measured ones, each with its source; where none is known, that is said."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import COSTS, Board, Column, Table, TableRow
from bench.types import TrainRef

NOT_KNOWN = "not known"
# Published with static access or none; a worst case and an adaptive attack have no counterpart in print.
_ACCESSES = ("white-box", "static")
_THREAT = "L∞ ε=8/255"


@dataclass(frozen=True)
class Beside:
    """A measured number and its published counterpart; accuracies in percent, costs in their own unit."""

    dataset: str
    model: str
    #: Test images; each number of images has its own table.
    n: int
    defense: str
    access: str
    what: str
    #: Of an attack accuracy under attack, which is what is published.
    measured: float
    low: float | None
    high: float | None
    published: float | None
    #: Measured minus published.
    deviation: float | None
    #: Of an attack, what is right clean as well; not what is published.
    robust_accuracy: float | None
    source: str | None
    references: tuple[str, ...]
    #: What the table of the number lacks of what was asked for.
    incomplete: str = ""


def beside(board: Board) -> list[Beside]:
    """Return every measured clean accuracy, accuracy under attack and cost, with its published counterpart."""
    rows: list[Beside] = []
    for table in board.tables:
        for row in table.rows:
            rows += _beside(board, table, row)
    return rows


def published(board: Board, table: Table, row: TableRow, column: Column) -> tuple[float, str] | None:
    """Return the published number of a measured one and its source; ``None`` where it is not known."""
    if row.access not in _ACCESSES:
        return None
    value = row.values.get(column.id)
    defense, label = _bare(row.defense), _measure(column)
    for entry in _numbers()["published"]:
        measured = (table.dataset, table.model, _trained_on(board, row))
        if (entry["dataset"], entry["model"], entry["train_images"]) == measured and column.group in ("", _THREAT):
            number = entry["accuracy"].get(defense, {}).get(label)
            if number is not None and value and _same_parameters(board, value, entry.get("where", {}).get(label, {})):
                return number, _numbers()["sources"][entry["source"]]
    for entry in _numbers()["costs"]:
        if (entry["dataset"], entry["model"], entry["defense"]) == (table.dataset, table.model, defense):
            number = entry["numbers"].get(column.id)
            same = not column.id.startswith("train") or _trained_on(board, row) == entry["train_images"]
            if number is not None and same:
                return number, _numbers()["sources"][entry["source"]]
    return None


def _bare(label: str) -> str:
    """Return a label without the preset that it names: a number is published for a method, in whose settings or not."""
    return re.sub(r"\[preset=[\w-]+\]$", "", label)


def _measure(column: Column) -> str:
    """Return what published numbers call a column: ``clean``, or an attack."""
    return "clean" if column.kind == "clean" else _bare(column.label)


@cache
def _numbers() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "paper.toml").read_text(encoding="utf-8"))


def _same_parameters(board: Board, value: Value, wanted: dict[str, Any]) -> bool:
    attacks = [attack for key in value.keys if (attack := board.results[key].cell.attack)]
    return all(wanted.items() <= attack.attack.params.items() for attack in attacks)


def _trained_on(board: Board, row: TableRow) -> int | None:
    """Return how many images an epoch of a row's training has."""
    weights = board.results[row.keys[0]].cell.model.weights
    return weights.data.n - weights.schedule.holdout if isinstance(weights, TrainRef) else None


def _beside(board: Board, table: Table, row: TableRow) -> Iterator[Beside]:
    costs = {cost.column.id for cost in COSTS}
    for column in table.columns:
        value = row.values.get(column.id)
        if value is None or value.number is None or column.unit == "gap" or column.kind == "worst":
            continue
        scale = 100.0 if column.unit == "accuracy" else 1.0
        known = published(board, table, row, column)
        low, high = (None if end is None else scale * end for end in (value.low, value.high))
        yield Beside(
            table.dataset,
            table.model,
            table.n,
            row.defense,
            row.access,
            column.label if column.id in costs or not column.group else f"{column.label}, {column.group}",
            scale * value.number,
            low,
            high,
            known[0] if known else None,
            scale * value.number - known[0] if known else None,
            None if value.robust is None else scale * value.robust,
            known[1] if known else None,
            tuple(_references(table, row, column)),
            table.incomplete,
        )


def _references(table: Table, row: TableRow, column: Column) -> Iterator[str]:
    for entry in _numbers()["reference"]:
        reported = (entry["dataset"], entry["model"], entry["defense"])
        if reported == (table.dataset, table.model, _bare(row.defense)) and column.group in ("", _THREAT):
            percent = entry["percent"].get(_measure(column))
            if percent is not None and row.access in _ACCESSES:
                note = f", {entry['note']}" if "note" in entry else ""
                yield f"{percent:.2f} ({_numbers()['sources'][entry['source']]}{note})"
