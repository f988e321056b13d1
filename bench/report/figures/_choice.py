"""What figures keep where not all fits: baselines and test-time steps, then the most robust; and the order of names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bench.report.figures import Source
from bench.report.leaderboard.summaries import RowIds
from bench.report.leaderboard.tables import Table
from bench.types import CellResult, TrainRef

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)")
_STANDARD = "standard"
#: How a figure says which defenses it keeps.
KEPT = "baselines and test-time steps first"

#: By defense: its group (standard training, then test-time steps and their bases, then the others), and its place in
#: the table, the most robust first. The least is kept first.
Precedence = Mapping[str, tuple[int, int]]


def natural(text: str) -> list[tuple[float, str]]:
    """Return the key that sorts texts by the numbers in them: ``2`` before ``10``, ``0.05`` before ``0.1``."""
    parts = _NUMBER.split(text)
    # Every second part is a number.
    return [(float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts)]


def precedence(source: Source) -> Precedence:
    """Return what to keep first of the defenses of a store."""
    ids, groups = RowIds(), dict[str, int]()
    bases = {ids.base(r.cell) for r in source.results if r.cell.step}
    for r in source.results:
        name = source.board.labels[r.key][0]
        groups[name] = min(groups.get(name, 2), _group(r, ids.base(r.cell) in bases))
    places: dict[str, int] = {}
    for table in source.board.tables:
        for place, row in enumerate(table.rows):
            places.setdefault(row.defense, place)
    return {name: (group, places.get(name, len(places))) for name, group in groups.items()}


def _group(r: CellResult, is_base: bool) -> int:
    weights = r.cell.model.weights
    if r.cell.step is None and isinstance(weights, TrainRef) and weights.recipe.name == _STANDARD:
        return 0
    return 1 if r.cell.step or is_base else 2


def kept(names: Sequence[str], count: int, first: Precedence) -> list[str]:
    """Return the ``count`` names to keep, in the order that they have."""
    some = set(sorted(names, key=first.__getitem__)[:count])
    return [name for name in names if name in some]


def of_defenses(table: Table, names: Collection[str]) -> Table:
    """Return the part of a table that is about some defenses."""
    rows = tuple(row for row in table.rows if row.defense in names)
    return replace(table, rows=rows, threats=tuple(s for s in table.threats if s.defense in names))


def of_defenses_text(some: int, total: int) -> str:
    """Say how many defenses are kept; nothing where all are."""
    return f"{some:,} of {total:,} defenses, {KEPT}" if some < total else ""
