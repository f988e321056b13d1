"""The ranks of a table, and which of them are settled at whatever moment the run stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.anytime import Contender, Rank, Standings
from bench.report.leaderboard.summaries import UPPER_BOUND, DefenseSummary
from bench.types import Access, Threat


@dataclass(frozen=True)
class Ranking:
    """The rows of a table by their worst case under its first threat, where the attacker sees all."""

    #: The threat as tables write it.
    group: str
    ranks: tuple[Rank, ...]
    #: Defenses that were to be ranked and of which nothing is known yet.
    waiting: tuple[str, ...] = ()

    def of(self, defenses: Collection[str]) -> Ranking:
        """Return the ranks of some of the defenses, which are among all."""
        return replace(self, ranks=tuple(rank for rank in self.ranks if rank.name in defenses))


def ranking(
    defenses: Sequence[DefenseSummary],
    threats: Mapping[str, Threat],
    accesses: Sequence[Access],
    missing: Mapping[str, int],
) -> Ranking | None:
    """Return the ranks of a table, or ``None`` where there are no two rows to compare.

    Left out are rows that were attacked by fewer attacks or with fewer seeds than the others, because cells failed or
    were never planned. A worst case that is an upper bound only has a rank: that under the attacks of the table.

    Args:
        defenses: the rows.
        threats: those of the table by the text of each, the first one first.
        accesses: those whose rows are ranked.
        missing: how many planned cells are missing, by defense; also of defenses that have none yet.
    """
    group = next(iter(threats), "")
    # What corruptions leave, and attacks without a budget, ranks no table.
    if not group or threats[group].norm == "corruption" or threats[group].eps is None:
        return None
    contenders = [_contender(defense, group, accesses, missing.get(defense.name, 0)) for defense in defenses]
    names = {defense.name for defense in defenses}
    contenders += (Contender(name, {}) for name, count in missing.items() if count and name not in names)
    rows = [contender for contender in contenders if contender is not None]
    ranks = Standings(rows).ranks()
    return Ranking(group, tuple(ranks), tuple(row.name for row in rows if not row.n)) if len(ranks) > 1 else None


def _contender(defense: DefenseSummary, group: str, accesses: Sequence[Access], missing: int) -> Contender | None:
    """Return a row with the images that survive, or ``None`` where it is not ranked."""
    seen = next(
        (access for access in accesses if any(coord[0] == access for coord in defense.cells.coords.get(group, ()))),
        None,
    )
    if missing:
        return Contender(defense.name, {})
    if seen is None:
        return None
    summary = next(each for each in defense.threats if each.group == group)
    if any((seen, group, attack) in defense.cells.begun for attack in summary.labels):
        return Contender(defense.name, defense.cells.first_survivors(group, seen, list(summary.labels)))
    value, survivors = defense.cells.worst_case(group, [seen], list(summary.labels))
    is_whole = all(note.startswith(UPPER_BOUND) for note in value.footnotes)
    return Contender(defense.name, survivors) if survivors and is_whole else None
