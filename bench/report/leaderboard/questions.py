"""What a table's verdicts and gaps ask of images, and which answers are settled at whatever moment the run stopped.

A verdict asks whether the worst case of a step is above that of its base, a gap whether what a static attacker leaves
is above what an adaptive one does. More images may answer either (:func:`bench.anytime.compared`). What else a verdict
rests on, such as which attacks were run, they do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from bench.anytime import MARGIN, Contender, Finding, compared
from bench.report.leaderboard.judging import Attacks, PurifierRow, attacks_in_common, no_contest
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.verdicts import RobustnessVerdict

#: What is asked: whether a step is above its base, or static above adaptive.
Kind = Literal["verdict", "gap"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What must be settled for a verdict to be.
_RESTS_ON: Mapping[RobustnessVerdict, Finding] = {
    "holds": "above",
    "upper bound only": "above",
    "weaker than its base": "below",
    "broken under adaptive attack": "equal",
}
_EVERY = frozenset[Finding](get_args(Finding))


class Question(NamedTuple):
    """Which of two worst cases of a table is higher."""

    defense: str
    #: The threat as tables write it.
    group: str
    kind: Kind
    first: Contender
    second: Contender
    #: Findings that do not contradict what the table says of all images.
    possible: frozenset[Finding] = _EVERY

    def answer(self, least: float) -> Answer:
        """Return what is settled, given the logarithm of the stake that settles a statement."""
        finding = compared(self.first, self.second, least)
        names = self.first.name, self.second.name
        n = min(self.first.n, self.second.n)
        return Answer(self.defense, self.group, self.kind, *names, finding if finding in self.possible else "open", n)


@dataclass(frozen=True)
class Answer:
    """What is settled of a question, in words such as ``jpeg``, ``standard`` and ``above``."""

    defense: str
    group: str
    kind: Kind
    first: str
    second: str
    finding: Finding
    #: How many images it rests on.
    n: int

    @property
    def column(self) -> str:
        """What files call the column that has it."""
        return f"{self.kind} ({self.group}) settled"


def questions(steps: Iterable[PurifierRow], attacks: Attacks, missing: Mapping[str, int]) -> Iterator[Question]:
    """Yield what the verdicts and gaps of a table ask, also those that it does not have yet as cells are only begun.

    Args:
        steps: every step of the table, judged.
        attacks: the labels of all attacks of the table by their id, for each threat.
        missing: how many planned cells of each defense have no image; such a defense answers nothing.
    """
    for step in steps:
        for threat in step.row.threats:
            if (verdict := _of_verdict(step, threat, attacks)) is not None:
                yield _waiting(verdict, any(missing.get(row.name, 0) for row in (step.row, step.base) if row))
            if (gap := _of_gap(threat, attacks)) is not None:
                yield _waiting(gap, missing.get(step.row.name, 0) > 0)


def _waiting(question: Question, is_waiting: bool) -> Question:
    """Return a question, without any images where some cells have none."""
    if not is_waiting:
        return question
    return question._replace(first=Contender(question.first.name, {}), second=Contender(question.second.name, {}))


def _of_verdict(step: PurifierRow, threat: ThreatSummary, attacks: Attacks) -> Question | None:
    """Return what the verdict on a step asks; nothing where there is none, and none is to come as cells grow."""
    if step.base is None:
        return None
    row, base = step.row.cells, step.base.cells
    group = threat.group
    is_begun = row.is_begun(group) or base.is_begun(group)
    if threat.judgement is None and (not is_begun or no_contest(step, threat) is not None):
        return None
    common, spared = attacks_in_common(row, base, group, attacks[group])
    if not common:
        return None
    # Attacks that the base was spared would make the step look weaker than it.
    possible = frozenset[Finding](("above", "open")) if spared else _EVERY
    if threat.judgement is not None:
        possible &= {_RESTS_ON[threat.judgement.verdict], "open"}
    first = Contender(row.name, row.known_survivors(group, row.accesses, list(attacks[group]), by_all=False))
    second = Contender(base.name, base.known_survivors(group, base.accesses, common, by_all=False))
    return Question(row.name, group, "verdict", first, second, possible)


def _of_gap(threat: ThreatSummary, attacks: Attacks) -> Question | None:
    """Return what the gap of a step asks; nothing where there is none, and none is to come as cells grow."""
    cells, group = threat.cells, threat.group
    if not {"static", "adaptive"} <= {access for access, _, _ in cells.coords.get(group, ())}:
        return None
    if cells.other_code(group) or (threat.gap.number is None and not cells.is_begun(group)):
        return None
    labels = list(attacks[group])
    first = Contender("gray-box (static)", cells.known_survivors(group, ["static"], labels))
    second = Contender("adaptive", cells.known_survivors(group, ["adaptive"], labels))
    return Question(cells.name, group, "gap", first, second, _possible_gap(threat.gap))


def _possible_gap(gap: Value) -> frozenset[Finding]:
    """Return the findings that the interval of a gap agrees with; all where it has none yet."""
    if gap.low is None or gap.high is None:
        return _EVERY
    agreeing: Mapping[Finding, bool] = {
        "above": gap.low > 0,
        "below": gap.high < 0,
        "equal": gap.low < MARGIN and gap.high > -MARGIN,
        "open": True,
    }
    return frozenset(finding for finding, agrees in agreeing.items() if agrees)
