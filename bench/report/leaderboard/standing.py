"""The ranks of a table and what its verdicts and gaps ask, and what of it is settled whenever the run stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench.anytime import Contender, Rank, Standings, needed
from bench.report.leaderboard.questions import KINDS, Answer, Question
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
    #: The attacks that a row needs, where not all of the table.
    required: str = ""

    def of(self, defenses: Collection[str]) -> Ranking:
        """Return the ranks of some of the defenses, which are among all."""
        return replace(self, ranks=tuple(rank for rank in self.ranks if rank.name in defenses))


class Standing(NamedTuple):
    """What a table says that holds at any stop: all together is wrong in at most 5 % of tables."""

    #: ``None`` where there are no two rows to compare.
    ranking: Ranking | None
    #: To what its verdicts and gaps ask.
    answers: tuple[Answer, ...]


def standing(
    defenses: Sequence[DefenseSummary],
    threats: Mapping[str, Threat],
    accesses: Sequence[Access],
    missing: Mapping[str, int],
    questions: Sequence[Question],
    required: str = "",
) -> Standing:
    """Return the ranks of a table and, in the order of ``defenses``, the answers to its questions.

    Not ranked are rows that were attacked by fewer attacks or with fewer seeds than the others, because cells failed or
    were never planned. A worst case that is an upper bound only has a rank: that under the attacks of the table.

    Args:
        defenses: the rows.
        threats: those of the table by the text of each, the first one first.
        accesses: those whose rows are ranked.
        missing: how many planned cells are missing, by defense; also of defenses that have none yet.
        questions: what its verdicts and gaps ask.
        required: the attacks that a row needs, in words, where not all of the table.
    """
    group, rows = next(iter(threats), ""), _ranked(defenses, threats, accesses, missing)
    # A cell that is missing may bring one more of each kind, so what is settled before it comes stays valid.
    comparisons = len(questions) + len(KINDS) * sum(missing.values())
    ranks = Standings(rows, comparisons).ranks()
    waiting = tuple(row.name for row in rows if not row.n)
    least = needed(len(rows), comparisons)
    place = {defense.name: i for i, defense in enumerate(defenses)}
    in_order = sorted(questions, key=lambda question: place[question.defense])
    return Standing(
        Ranking(group, tuple(ranks), waiting, required) if len(ranks) > 1 else None,
        tuple(question.answer(least) for question in in_order),
    )


def _ranked(
    defenses: Sequence[DefenseSummary],
    threats: Mapping[str, Threat],
    accesses: Sequence[Access],
    missing: Mapping[str, int],
) -> list[Contender]:
    """Return the rows that are ranked; none where the first threat has no budget or is one of corruptions."""
    group = next(iter(threats), "")
    if not group or threats[group].norm == "corruption" or threats[group].eps is None:
        return []
    known = (_contender(defense, group, accesses, missing.get(defense.name, 0)) for defense in defenses)
    names = {defense.name for defense in defenses}
    later = (Contender(name, {}) for name, count in missing.items() if count and name not in names)
    return [*filter(None, known), *later]


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
        return Contender(defense.name, defense.cells.first_survivors(group, [seen], list(summary.labels)))
    value, survivors = defense.cells.worst_case(group, [seen], list(summary.labels))
    is_whole = all(note.startswith(UPPER_BOUND) for note in value.footnotes)
    return Contender(defense.name, survivors) if survivors and is_whole else None
