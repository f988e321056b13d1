"""What the tables of a plan rank and ask, as the cells that answer it: as the leaderboard does once it has results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.anytime import ranking_order
from bench.differences import attack_apart
from bench.keys import Keys, Once
from bench.types import Cell, ModelRef, PlannedCell

#: A row: the keys of its cells by seed.
Row = Mapping[int, Sequence[str]]
#: Ranked are rows whose attacker sees the entire defense.
_SEEING = ("white-box", "adaptive")


class Contest(NamedTuple):
    """Two rows of which one asks which is higher."""

    first: Row
    second: Row


class TableContests(NamedTuple):
    """What a table ranks: rows under the threat that goes first. And what its verdicts and gaps ask."""

    ranked: Sequence[Row]
    contests: Sequence[Contest]


def contests_of(cells: Iterable[PlannedCell]) -> list[TableContests]:
    """Return what each table of a plan ranks and asks."""
    keys = Keys()
    tables: dict[tuple[str, str], list[PlannedCell]] = defaultdict(list)
    for planned in cells:
        tables[keys.text(planned.cell.data), keys.text(planned.cell.model.network)].append(planned)
    models = Once[ModelRef, str](lambda model: model.model_dump_json(exclude={"weights": {"seed"}}))
    return [_of_table(own, keys, models) for own in tables.values()]


def _of_table(cells: Sequence[PlannedCell], keys: Keys, models: Once[ModelRef, str]) -> TableContests:
    threat = _first_threat(cells, keys, models)
    ranked: dict[tuple[str, str], list[PlannedCell]] = defaultdict(list)
    rows: dict[tuple[str, str], dict[str, list[PlannedCell]]] = defaultdict(lambda: defaultdict(list))
    for planned in cells:
        cell = planned.cell
        if cell.attack is None:
            continue
        row, under = (models(cell.model), keys.text(cell.step)), keys.text(cell.attack.threat)
        if cell.access in _SEEING and under == threat:
            ranked[row].append(planned)
        if cell.attack.threat.norm != "corruption" and cell.attack.threat.eps is not None:
            rows[row][under].append(planned)
    asked: list[Contest] = []
    for (model, _), by_threat in rows.items():
        base = rows.get((model, keys.text(None)), {})
        for under, own in by_threat.items():
            asked += _asked(own, base.get(under, []))
    return TableContests([_by_seed(own) for own in ranked.values()], asked)


def _asked(own: Sequence[PlannedCell], base: Sequence[PlannedCell]) -> Iterator[Contest]:
    """Yield what is asked of a row under one threat: nothing where it is not a test-time step.

    Args:
        own: its cells.
        base: those of the classifier under it.
    """
    adaptive, static = ([each for each in own if each.cell.access == access] for access in ("adaptive", "static"))
    if not adaptive:
        return
    attacks = {_attack_of(planned.cell) for planned in own}
    # What only the base was attacked with does not count.
    if common := [planned for planned in base if _attack_of(planned.cell) in attacks]:
        yield Contest(_by_seed(own), _by_seed(common))
    if static:
        yield Contest(_by_seed(static), _by_seed(adaptive))


def _by_seed(cells: Iterable[PlannedCell]) -> Row:
    row: dict[int, list[str]] = defaultdict(list)
    for planned in cells:
        row[planned.cell.seed].append(planned.key)
    return dict(row)


def _attack_of(cell: Cell) -> str:
    assert cell.attack is not None
    return attack_apart(cell.attack)


def _first_threat(cells: Iterable[PlannedCell], keys: Keys, models: Once[ModelRef, str]) -> str | None:
    """Return the text of the threat with a budget that ranks a table."""
    rows: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for planned in cells:
        cell, attack = planned.cell, planned.cell.attack
        if attack is not None and attack.threat.norm != "corruption" and attack.threat.eps is not None:
            column = keys.text(attack.threat), planned.names.attack
            rows[column].add((models(cell.model), keys.text(cell.step)))
    order = ranking_order(rows)
    return min(order, key=order.__getitem__, default=None)
