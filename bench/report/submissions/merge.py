"""Which of many people's results counts: withdrawn, replaced and copied ones do not, and differing ones are said.

Of two that differ the one that is known better counts, then the less flattering one, so that nobody gains by a claim
that nobody can check. That goes before all that people say of themselves, such as that a result is newer and theirs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from bench.keys import Keys
from bench.outcomes import Outcomes
from bench.report.leaderboard.flags import BY_OTHERS, is_by_others, is_proven
from bench.report.submissions import weights
from bench.report.submissions.aside import Differing, Superseded, Taken
from bench.report.submissions.averaged import as_others_state
from bench.report.submissions.broken_too import broken_too
from bench.report.submissions.copies import measured_once, outcomes_of
from bench.report.submissions.identity import identified
from bench.report.submissions.images import of_one_set
from bench.report.submissions.known import how_known, rank, unproven_flags
from bench.report.submissions.marks import differing_flags, may_mark, no_op_flags, stated_flags
from bench.report.submissions.newer import newest_of_folders, without_replaced
from bench.report.submissions.one_name import with_one_name
from bench.report.submissions.read import Entry, LeftOut, Submissions, order, person
from bench.report.submissions.seeds import Counting, known_equally, of_all_seeds
from bench.report.submissions.withdrawn import resembling_withdrawn, without_withdrawn
from bench.stats import wilson
from bench.types import CellResult

#: How far an accuracy of a file may be from that of its outcomes.
_ROUND_OFF = 1e-6


class Merged(NamedTuple):
    """What counts, and what does not and why.

    Attributes:
        ranked: a result for each cell, flagged where somebody measured it otherwise.
        sources: who measured it, by the key of the result: the one that counts first.
        differing: results of the same cells by others that differ.
        superseded: earlier results of the same person.
        withdrawn: what was taken back.
        remarks: results that are not used, and why.
        unreplaced: files that say they replace what is somebody else's or known better, which is not done.
        like_withdrawn: results with the outcomes of one that was withdrawn, which count.
        broken_too: other measurements whose broken images count in worst cases, by the key of a result of the row.
    """

    ranked: list[CellResult]
    sources: Mapping[str, tuple[Entry, ...]]
    differing: list[Differing]
    superseded: list[Superseded]
    withdrawn: list[Taken]
    remarks: list[LeftOut]
    unreplaced: list[LeftOut]
    like_withdrawn: list[LeftOut]
    broken_too: Mapping[str, tuple[Entry, ...]]

    @property
    def survivors(self) -> dict[str, list[Outcomes]]:
        """Which images survived in other measurements, by the key of a result of the row."""
        outcomes = {key: [each.result.robust_outcomes for each in own] for key, own in self.broken_too.items()}
        return {key: [each for each in own if each is not None] for key, own in outcomes.items()}


def merged(submissions: Submissions) -> Merged:
    """Return which results count."""
    remarks: list[LeftOut] = []
    unreplaced: list[LeftOut] = []
    submissions = submissions._replace(entries=as_others_state(map(_exact, submissions.entries)))
    entries, taken = without_withdrawn(submissions)
    like_withdrawn = resembling_withdrawn(entries, taken)
    entries = measured_once(of_one_set(identified(entries), remarks), remarks)
    entries, replaced = without_replaced(entries, unreplaced)
    entries, older = newest_of_folders(entries, remarks)
    counting, differing = _counted(entries)
    superseded = _with_shown(replaced + older, counting)
    others = [*(each.entry for each in differing), *(each.entry for each in superseded)]
    others += (each.first for each in counting if is_by_others(each.result))
    own = (each for each in counting if is_proven(each.result))
    too = broken_too(own, (each for each in others if not any(unproven_flags(each))))
    remembered = {id(entry) for entry in chain.from_iterable(too.values())}
    return Merged(
        with_one_name(counting),
        {each.result.key: tuple(each.agreeing) for each in counting},
        [each._replace(counts_too=id(each.entry) in remembered) for each in differing],
        [each._replace(counts_too=id(each.entry) in remembered) for each in superseded],
        taken,
        remarks,
        unreplaced,
        like_withdrawn,
        too,
    )


def _counted(entries: Iterable[Entry]) -> tuple[list[Counting], list[Differing]]:
    """Return what counts of each cell, and the other results of these."""
    entries = list(entries)
    groups = weights.groups(entries)
    differing: list[Differing] = []
    counting: list[Counting] = []
    for own, earlier in _by_question(entries):
        differing += (Differing(entry, None, "measured by an earlier protocol") for entry in earlier)
        candidates = [entry for entry in own if groups.is_ranked(entry)]
        if not candidates:
            differing += (Differing(entry, None, groups.why(entry)) for entry in own)
            continue
        first = min(candidates, key=lambda entry: rank(entry, is_of_row=groups.is_of_row([entry])))
        agreeing = [entry for entry in candidates if outcomes_of(entry) == outcomes_of(first)]
        agree = set(map(id, agreeing))
        others = [entry for entry in own if id(entry) not in agree]
        differing += (Differing(entry, first, _difference(entry, first, groups)) for entry in others)
        agreeing.sort(key=lambda entry: (entry is not first, order(entry)))
        counting.append(Counting(first, _flagged(first, others, groups), agreeing))
    counting = of_all_seeds(known_equally(counting, differing), groups)
    counting = [each if groups.is_of_row(each.agreeing) else each.flagged(BY_OTHERS) for each in counting]
    # Of what a row says once, such as its costs, the last result has it: the one that nobody could copy.
    counting.sort(key=lambda each: (how_known(each.first), each.first.arrival), reverse=True)
    return counting, differing


def _flagged(first: Entry, others: Iterable[Entry], groups: weights.Groups) -> CellResult:
    """Return the result that counts of a cell, with all that is to be said of it."""
    differing = differing_flags(first, [each for each in others if may_mark(each, first, groups)])
    flags = {*stated_flags(first, groups), *differing, *unproven_flags(first), *no_op_flags(first)}
    return first.result.model_copy(update={"flags": tuple(sorted(flags))})


def _with_shown(superseded: Iterable[Superseded], counting: Iterable[Counting]) -> list[Superseded]:
    """Return results of which others took the place, with what tables show of their cells."""
    keys = Keys()
    shown = {keys.comparison_key(each.result.cell): each.first for each in counting}
    return [each._replace(shown=shown.get(keys.comparison_key(each.by.result.cell))) for each in superseded]


def _exact(entry: Entry) -> Entry:
    """Return an entry with the accuracies and the interval that counts of images give, to the last digit.

    What a file says may be beside them by round-off, and nobody is to count for that.
    """
    metrics = entry.result.metrics
    if metrics is None:
        return entry
    n, under_attack = metrics.n, metrics.accuracy_under_attack
    names = [name for name in ("clean_accuracy", "robust_accuracy") if getattr(metrics, name) is not None]
    exact: dict[str, float] = {name: round(getattr(metrics, name) * n) / n for name in names}
    main = metrics.clean_accuracy if under_attack is None else under_attack
    share, low, high = wilson(round(main * n), n)
    exact |= {"ci_low": low, "ci_high": high, **({} if under_attack is None else {"accuracy_under_attack": share})}
    changed = {
        name: value
        for name, value in exact.items()
        if (stated := getattr(metrics, name)) != value and math.isclose(stated, value, rel_tol=0, abs_tol=_ROUND_OFF)
    }
    if not changed:
        return entry
    return entry._replace(
        result=entry.result.model_copy(update={"metrics": metrics.model_copy(update=changed)}),
    )


def under_one_name(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the folders of each person who has several, by the name as it is written first."""
    names: dict[str, str] = {}
    folders: dict[str, set[str]] = defaultdict(set)
    for entry in sorted(entries, key=lambda entry: entry.file):
        names.setdefault(person(entry.who), entry.who)
        folders[person(entry.who)].add(entry.folder)
    return {names[who]: sorted(own) for who, own in folders.items() if len(own) > 1}


def _by_question(entries: Iterable[Entry]) -> Iterator[tuple[list[Entry], list[Entry]]]:
    """Yield the entries of each cell, whatever the code of its methods: those of this protocol, or all, and the others.

    Two protocols measure other things by one question, and tables show one of them.
    """
    keys = Keys()
    by_question: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_question[keys.comparison_key(entry.result.cell)].append(entry)
    for own in by_question.values():
        now: list[Entry] = []
        earlier: list[Entry] = []
        for entry in own:
            (now if keys.of(entry.result.cell) == entry.result.key else earlier).append(entry)
        yield (now, earlier) if now else (own, [])


def _difference(entry: Entry, ranked: Entry, groups: weights.Groups) -> str:
    if why := groups.why(entry):
        return why
    mine, other = entry.result.outcomes_under_attack, ranked.result.outcomes_under_attack
    if mine is None or other is None:
        return "without outcomes to compare" if entry.result.status == ranked.result.status else "one of the two failed"
    count = sum(a != b for a, b in zip(mine, other, strict=True))
    of_clean = sum(
        a != b for a, b in zip(entry.result.clean_outcomes or (), ranked.result.clean_outcomes or (), strict=False)
    )
    said = f"differs at {count:,} of {entry.result.cell.data.n:,} images attacked and {of_clean:,} clean"
    return said + (", and changed no image" if any(no_op_flags(entry)) else "")
