"""The short form of a table: one row for each defense, with clean accuracy, worst cases, gap and verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from bench.report.leaderboard.summaries import WORST_CASE, Value
from bench.report.leaderboard.tables import RANKED, Column, Table, TableRow, column_id
from bench.types import listed

STATIC_LABEL = "robust accuracy, gray-box (static)"
FULL_LABEL = "robust accuracy, white-box or adaptive"
#: Names of attacks that a note lists.
_LISTED = 12


def shortened(table: Table) -> Table:
    """Return a table with one row for each defense, and for each threat worst cases, gap and verdict side by side.

    What a static attacker leaves stands beside what is left when the whole defense is seen, which without a test-time
    step is white-box. Lines under ``transfer`` are left out.
    """
    groups = list(dict.fromkeys(column.group for column in table.columns if column.kind in ("attack", "budget")))
    errors = [column.id for column in table.columns if column.kind == "mce"]
    by_defense: dict[str, list[TableRow]] = {}
    for row in table.rows:
        by_defense.setdefault(row.defense, []).append(row)
    columns = [column for column in table.columns if not column.group]
    for group in groups:
        columns += _columns(table, group)
    return replace(
        table,
        columns=tuple(columns),
        rows=tuple(_row(rows, groups, errors) for rows in by_defense.values()),
        has_access=False,
    )


def _columns(table: Table, group: str) -> Iterator[Column]:
    worst = column_id(group, "worst")
    accesses = {row.access for row in table.rows if worst in row.values}
    if "static" in accesses:
        # Nobody is ranked by what an attacker finds who does not see the defense.
        yield Column(_static(group), STATIC_LABEL, "accuracy", "worst", group, WORST_CASE, ranked=False)
    if accesses.intersection(RANKED):
        yield Column(worst, FULL_LABEL, "accuracy", "worst", group, WORST_CASE)
    beside = ("mce", "gap", "verdict", "budget")
    yield from (column for column in table.columns if column.group == group and column.kind in beside)


def _static(group: str) -> str:
    return column_id(group, "worst static")


def _row(rows: Sequence[TableRow], groups: Sequence[str], errors: Sequence[str]) -> TableRow:
    """Return one row from those of a defense; its access is that of the attacker who sees the most.

    ``errors`` are columns that any row may fill, since corruptions see no defense.
    """
    seen = next((row for row in rows if row.access in RANKED), None)
    static = next((row for row in rows if row.access == "static"), None)
    values: dict[str, Value] = dict(seen.values if seen is not None else _clean(rows[0]))
    for group in groups:
        if static is not None and (value := static.values.get(column_id(group, "worst"))) is not None:
            values[_static(group)] = value
    for name in errors:
        if (known := next((row.values[name] for row in rows if name in row.values), None)) is not None:
            values.setdefault(name, known)
    return TableRow(rows[0].defense, (seen or static or rows[0]).access, values)


def _clean(row: TableRow) -> Mapping[str, Value]:
    return {name: value for name, value in row.values.items() if name == "clean"}


def about_short(table: Table, groups: Sequence[str], defenses: Collection[str]) -> Iterator[str]:
    """Yield what the worst cases of the short form of a table are over, and what it leaves out.

    Args:
        table: not in the short form.
        groups: the threats whose worst cases are shown.
        defenses: that are shown.
    """
    lists: list[str] = []
    for group in groups:
        attacks = [column.label for column in table.columns if column.kind == "attack" and column.group == group]
        lists.append(f"{listed(attacks, _LISTED)} under {group}")
    if lists:
        yield f"robust accuracy is the worst case over all attacks of a threat: {'; '.join(lists)}"
    if any(row.access == "transfer" and row.defense in defenses for row in table.rows):
        yield "what transfers from other networks is left out"
