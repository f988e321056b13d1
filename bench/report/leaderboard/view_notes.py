"""The notes of a view: those on the rows, columns and threats that it shows, and what it says of the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

from bench.report.leaderboard.judging import unjudged_lines
from bench.report.leaderboard.summaries import ThreatSummary
from bench.report.leaderboard.tables import Column, Table, TableRow, lines_by_defense


def kept(
    table: Table, threats: Iterable[ThreatSummary], judged: Collection[str], attacks: Collection[str]
) -> Iterator[str]:
    """Yield those notes of a table that are about what is shown of it, and about the table.

    Args:
        table: all of it.
        threats: the defenses that are shown, under each threat that is.
        judged: the threats whose verdicts are shown.
        attacks: labels of the attacks that are shown or named.
    """
    seen = {(summary.defense, summary.group) for summary in threats}
    unjudged = dict(_unjudged(table, {(defense, group) for defense, group in seen if group in judged}))
    lines = lines_by_defense(table)
    own = set(chain.from_iterable(lines.get(name, ()) for name in {defense for defense, _ in seen}))
    hidden = tuple(f"{s.defense}, {s.group}: " for s in table.threats if (s.defense, s.group) not in seen)
    others = tuple(f"{c.label}: " for c in table.columns if c.kind == "attack" and c.label not in attacks)
    general = {line for line in lines.get(None, ()) if not line.startswith(others)}
    for note in table.notes:
        if note in unjudged:
            yield from unjudged[note]
        elif note in general or (note in own and not note.startswith(hidden)):
            yield note


def _unjudged(table: Table, seen: Collection[tuple[str, str]]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each line on a missing verdict, and what stands in its place: the first has all of its defense."""
    for _, run in groupby(table.threats, lambda summary: summary.defense):
        threats = list(run)
        shown = list(unjudged_lines([s for s in threats if (s.defense, s.group) in seen]))
        for i, line in enumerate(unjudged_lines(threats)):
            yield line, () if i else shown


def about(table: Table, columns: Sequence[Column], rows: Sequence[TableRow], by: Column | None) -> Iterator[str]:
    """Yield notes on what is hidden, what the numbers are over all the same, and what the rows are sorted by."""
    counts: Mapping[str, tuple[int, int]] = {
        "rows": (len(rows), len(table.rows)),
        "columns": (len(columns), len(table.columns)),
    }
    parts = [f"{shown} of {count} {noun}" for noun, (shown, count) in counts.items() if shown < count]
    if parts:
        # Marks compare rows alone.
        among = "; best and second best are of the rows shown" * (len(rows) < len(table.rows))
        yield f"shown are {' and '.join(parts)}{among}"
    hidden: list[str] = []
    for group in dict.fromkeys(column.group for column in columns if column.kind in ("worst", "gap", "verdict")):
        attacks = [column for column in table.columns if column.kind == "attack" and column.group == group]
        shown = sum(column in columns for column in attacks)
        if shown < len(attacks):
            hidden.append(f"{shown} of {len(attacks)} under {group}")
    if hidden:
        yield f"robust accuracy, gap and verdict are over all attacks, of which are shown {', '.join(hidden)}"
    if by is not None:
        yield f"sorted by {by.label}" + (f", {by.group}" if by.group not in ("", "cost") else "")
