"""What nobody can know of a result, whoever repeated its predictions: what its attack did, and within which budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench.report.leaderboard.flags import BUDGET_NOT_CHECKED, NO_BUDGET, UNKNOWN_ATTACK
from bench.report.receipts.methods import attack_not_here
from bench.types import DISTANCE_NORMS, CellResult, shortened

#: Characters of a name in a line.
_LONGEST = 100


class Doubt(NamedTuple):
    """The flag of a cell, and the same in words for those who read who measured what."""

    flag: str
    words: str


def doubts(result: CellResult, *, is_corrupted: bool) -> Iterator[Doubt]:
    """Yield what nobody can know of a result: anybody may write any name, and any images are those of no budget.

    ``is_corrupted`` says that its images are those that its common corruption makes.
    """
    attack = result.cell.attack
    if attack is None:
        return
    if (name := attack_not_here(attack)) is not None:
        yield Doubt(UNKNOWN_ATTACK, f"an attack that is not here: {shortened(name, _LONGEST)}")
    threat = attack.threat
    if threat.norm in ("flow", "wasserstein"):
        yield Doubt(BUDGET_NOT_CHECKED, f"a {threat.norm} budget cannot be read off images")
    elif threat.norm == "corruption" and not is_corrupted:
        yield Doubt(BUDGET_NOT_CHECKED, "nobody saw that its images are those of the corruption")
    elif threat.norm in DISTANCE_NORMS and threat.eps is None:
        # Its distances are checked, and count; that images of no budget are wrong says nothing.
        yield Doubt(NO_BUDGET, "no budget to keep to, so any images may be the attack's")
