"""Each test-time step of a table against the classifier under it, the tests of one table corrected together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import NamedTuple

from bench.differences import attack_apart
from bench.report.leaderboard.flags import unproven
from bench.report.leaderboard.summaries import (
    UPPER_BOUND,
    BaseComparison,
    CellCoord,
    DefenseCells,
    DefenseSummary,
    ThreatSummary,
    Value,
)
from bench.report.leaderboard.verdicts import lacking, only_noise, verdict
from bench.stats import Interval, changed_images, holm_mcnemar, p_text
from bench.types import CellResult, Measured, listed

#: The labels of a table's attacks by their id, for each threat.
Attacks = Mapping[str, Mapping[str, str]]

_UNDER = "attacks on the classifier under it"
#: Threats that a line of words names.
_THREATS = 20


class PurifierRow(NamedTuple):
    """The row of a test-time step, that of the classifier under it if there is one, and how many cells it lacks."""

    row: DefenseSummary
    base: DefenseSummary | None
    missing: int = 0


class _Contest(NamedTuple):
    """A step and its base under one threat, on the same images."""

    base: str
    over: Value
    #: Images that step or base alone keeps.
    changed: tuple[int, int]
    reasons: tuple[str, ...]
    #: Attacks that were run on the step and not on its base, and why that makes no verdict; empty where none was.
    spared: str


def judge(steps: Iterable[PurifierRow], attacks: Attacks) -> list[DefenseSummary]:
    """Return the row of each step with its verdict under each threat, or why there is none.

    Args:
        steps: every step of the table: p-values are adjusted for all of them together.
        attacks: the labels of all attacks of the table by their id, for each threat.
    """
    steps = list(steps)
    outcomes = [[_outcome(step, threat, attacks) for threat in step.row.threats] for step in steps]
    contests = [each for each in chain.from_iterable(outcomes) if isinstance(each, _Contest)]
    p_values = iter(holm_mcnemar([contest.changed for contest in contests]))
    rows = []
    for step, of_step in zip(steps, outcomes, strict=True):
        threats = tuple(_judged(threat, each, p_values) for threat, each in zip(step.row.threats, of_step, strict=True))
        rows.append(replace(step.row, threats=threats))
    return rows


def _judged(threat: ThreatSummary, outcome: _Contest | str, p_values: Iterator[float]) -> ThreatSummary:
    """Return a threat with its verdict, for which the next p-value is taken, or with why there is none."""
    if isinstance(outcome, str):
        return replace(threat, unjudged=outcome)
    p_value, over = next(p_values), outcome.over
    assert over.number is not None and over.low is not None and over.high is not None
    conclusion = verdict(Interval(over.number, over.low, over.high), p_value, outcome.reasons)
    if outcome.spared and conclusion not in ("holds", "upper bound only"):
        # Such attacks make the step look weaker than a base that they were not tried on.
        return replace(threat, unjudged=outcome.spared)
    return replace(threat, judgement=BaseComparison(conclusion, outcome.base, over, p_value, outcome.reasons))


def _outcome(step: PurifierRow, threat: ThreatSummary, attacks: Attacks) -> _Contest | str:
    """Return the comparison of a step with its base, or why there is none; empty where none is to be expected."""
    row, group = step.row.cells, threat.group
    base = step.base.cells if step.base is not None else None
    if (why := no_contest(step, threat)) == "":
        return ""
    for cells in filter(None, (row, base)):
        if cells.is_begun(group):
            return f"not all cells of {cells.name} are done"
    if why is not None or base is None:
        return why or ""
    contest = _contest(row, base, group, attacks[group], step.missing)
    counting = "that counts " if _aside(row, group) or _aside(base, group) else ""
    return contest or f"no attack {counting}was run on both it and {base.name} with the same seed"


def no_contest(step: PurifierRow, threat: ThreatSummary) -> str | None:
    """Return why a step cannot be compared with its base, by which attacks were run; ``None`` where it can.

    Empty where no comparison is to be expected. Cells that are begun count like those that are done.
    """
    row, group = step.row.cells, threat.group
    base = step.base.cells if step.base is not None else None
    # What an attack without a budget leaves says how far it got, not how robust the step is.
    if threat.threat is None or threat.threat.eps is None:
        return ""
    if not any(access == "adaptive" for access, _, _ in row.coords.get(group, ())):
        return ""
    if base is None or not (on_base := _measured(base, group)):
        aside = [] if base is None else _aside(base, group)
        return f"{_UNDER} do not count ({_marks(aside)})" if aside else "the classifier under it was not attacked"
    if row.is_proven and not base.is_proven:
        return f"{_UNDER} are only the word of those who measured"
    if only_noise(each for each in _measured(row, group) if each.cell.access == "adaptive"):
        counts = any(each.cell.access == "adaptive" for each in _aside(row, group))
        return f"no adaptive attack {'that counts ' * counts}but noise finished"
    if only_noise(on_base):
        return f"no attack on {base.name} {'that counts ' * bool(_aside(base, group))}but noise finished"
    return None


def _contest(
    row: DefenseCells, base: DefenseCells, group: str, labels: Mapping[str, str], missing: int
) -> _Contest | None:
    # What others broke on one of the two was not tried on the other.
    value, survivors = row.worst_case(group, row.accesses, list(labels), by_all=False)
    common, spared = attacks_in_common(row, base, group, labels)
    _, base_survivors = base.worst_case(group, base.accesses, common, by_all=False)
    over = row.paired(survivors, base_survivors)
    if over.number is None or over.low is None or over.high is None:
        return None
    changed = changed_images(
        [(survivors[seed].bits, base_survivors[seed].bits) for seed in survivors if seed in base_survivors]
    )
    bounds = [note.removeprefix(UPPER_BOUND) for note in value.footnotes if note.startswith(UPPER_BOUND)]
    failed = sum(result.status == "failed" for result in row.under(group))
    fell_out = [f"{failed} of its attacks failed"] if failed else []
    fell_out += [f"{missing} of its cells are missing"] if missing else []
    reasons = (*bounds, *fell_out, *lacking(_finished(row, group)))
    return _Contest(base.name, over, changed, reasons, _why_spared(base, group, spared, labels))


def _why_spared(base: DefenseCells, group: str, spared: Iterable[str], labels: Mapping[str, str]) -> str:
    """Return in words what a base was not attacked with, and what it was attacked with by somebody and does not count.

    Args:
        base: the classifier under a step.
        group: the threat.
        spared: the attacks, by label, that count on the step and not on the base.
        labels: of the attacks by their id.
    """
    aside: dict[str, list[CellResult]] = defaultdict(list)
    for (_, threat, attack), results in base.aside.items():
        if threat == group:
            aside[labels[attack]] += results
    lacking_there = [label for label in spared if label not in aside]
    uncounted = [label for label in spared if label in aside]
    words = [f"{base.name} was not attacked with {', '.join(lacking_there)}"] if lacking_there else []
    if uncounted:
        marks = _marks(chain.from_iterable(aside[label] for label in uncounted))
        words.append(f"the numbers of {base.name} under {', '.join(uncounted)} do not count ({marks})")
    return ", and ".join(words)


def _aside(cells: DefenseCells, group: str) -> list[CellResult]:
    """Return the results of a row under a threat that somebody measured and that do not count."""
    return [*chain.from_iterable(results for coord, results in cells.aside.items() if coord[1] == group)]


def _marks(results: Iterable[CellResult]) -> str:
    """Return why results do not count, by their marks."""
    return ", ".join(unproven(chain.from_iterable(result.flags for result in results)))


def attacks_in_common(
    row: DefenseCells, base: DefenseCells, group: str, labels: Mapping[str, str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the attacks, by id, that count against the base of a step, and by label those that it was spared.

    What only the base was attacked with would make it look weaker than the step, so it does not count.
    """
    evaluated = {attack for access, _, attack in row.coords[group] if _has_outcomes(row, (access, group, attack))}
    return [attack for attack in labels if attack in evaluated], _spared(row, base, group, labels)


def _has_outcomes(cells: DefenseCells, coord: CellCoord) -> bool:
    return bool(cells.robust[coord] or cells.begun.get(coord))


def _measured(row: DefenseCells, group: str) -> list[Measured]:
    """Return the cells of a row under a threat that have an outcome, of some images at least."""
    begun = (parts for coord, parts in row.begun.items() if coord[1] == group)
    return [*_finished(row, group), *chain.from_iterable(begun)]


def _finished(row: DefenseCells, group: str) -> list[CellResult]:
    """Return the cells of a row under a threat that have an outcome."""
    return [result for result in row.under(group) if result.status == "done"]


def _spared(row: DefenseCells, base: DefenseCells, group: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the attacks that were run on a row and not on its base, though they can be run on both."""
    on_base = {_attack_of(each) for each in _measured(base, group)}
    labels_of_row: list[str] = []
    for coord in row.coords[group]:
        attack = coord[2]
        on_row: list[Measured] = [*(r for r in row.cells[coord] if r.status == "done"), *row.begun.get(coord, ())]
        missing = any(_attack_of(each) not in on_base for each in on_row)
        if missing and attack not in row.conditional_attacks:
            labels_of_row.append(labels[attack])
    return tuple(dict.fromkeys(labels_of_row))


def _attack_of(result: Measured) -> str:
    assert result.cell.attack is not None
    return attack_apart(result.cell.attack)


def verdict_lines(threats: Iterable[ThreatSummary]) -> Iterator[str]:
    """Yield the verdicts of a table in words, one line for all threats under which a step has the same.

    Args:
        threats: each defense under each threat, those of a defense together.
    """
    for name, own in groupby(threats, lambda threat: threat.defense):
        by_words: dict[str, list[str]] = {}
        for threat in own:
            if (comparison := threat.judgement) is not None:
                by_words.setdefault(_conclusion(comparison), []).append(_in_numbers(threat, comparison))
        # JSON has the verdict under each threat.
        for conclusion, under in by_words.items():
            yield f"{name}: {conclusion} ({listed(under, _THREATS, between='; ', noun='threat')})"


def verdict_sentence(threat: ThreatSummary) -> str:
    """Return the verdict on a step under one threat with its numbers; empty where there is none."""
    comparison = threat.judgement
    return "" if comparison is None else f"{_conclusion(comparison)} ({_in_numbers(threat, comparison)})"


def _conclusion(comparison: BaseComparison) -> str:
    """Return a verdict, and why it is an upper bound only where it is."""
    why = f": {', '.join(comparison.reasons)}" if comparison.verdict == "upper bound only" else ""
    return comparison.verdict + why


def _in_numbers(threat: ThreatSummary, comparison: BaseComparison) -> str:
    over = comparison.over_base
    low, high = _points(over.low), _points(over.high)
    count = len(set(chain.from_iterable(threat.evaluated_attacks.values())))
    attacks = {1: "1 attack", 2: "both attacks"}.get(count, f"all {count} attacks")
    share = 100 * (threat.worst["any"].number or 0)
    return (
        f"{threat.group}: {share:.1f} % right when clean and under {attacks}, {_points(over.number)} points "
        f"over {comparison.base}, 95 % {low} to {high}, {p_text(comparison.p_value)}"
    )


def _points(share: float | None) -> str:
    return f"{100 * (share or 0):+.1f}"


def unjudged_lines(threats: Sequence[ThreatSummary]) -> Iterator[str]:
    """Yield why a defense has no verdict under some threats, where one was to be expected."""
    why: dict[str, list[str]] = {}
    for threat in threats:
        if threat.unjudged:
            why.setdefault(threat.unjudged, []).append(threat.group)
    everywhere = len(why) == 1 and not any(threat.judgement for threat in threats)
    for reason, groups in why.items():
        where = "" if everywhere else f", {listed(groups, _THREATS, noun='threat')}"
        yield f"{threats[0].defense}{where}: no verdict, for {reason}"


def gapless_lines(threats: Sequence[ThreatSummary]) -> Iterator[str]:
    """Yield why a defense has no gap under some threats: static and adaptive attacks are of different code."""
    for threat in threats:
        if names := threat.cells.other_code(threat.group):
            why = f"static and adaptive attacks are of different code of {', '.join(names)}"
            yield f"{threat.defense}, {threat.group}: no gap, for {why}"
