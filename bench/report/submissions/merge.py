"""Which of many people's results counts: withdrawn, replaced and copied ones do not, and differing ones are said.

Of two that differ the one that is known better counts, then the less flattering one, so that nobody gains by a claim
that nobody can check. That goes before all that people say of themselves, such as that a result is newer and theirs.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple

from bench.keys import Keys
from bench.outcomes import Outcomes
from bench.report.leaderboard.flags import (
    CLEAN_DIFFERS,
    DIFFERS,
    IMAGES_NOT_COMPARED,
    NO_OP,
    NOT_ALL_SEEDS,
    NOT_PLAUSIBLE,
    NOT_REPEATED,
    OF_TABLES,
)
from bench.report.leaderboard.soundness import MISLEADING
from bench.report.receipts import passes
from bench.report.submissions import weights
from bench.report.submissions.averaged import as_others_state
from bench.report.submissions.broken_too import broken_too
from bench.report.submissions.form import Withdrawal
from bench.report.submissions.identity import identified
from bench.report.submissions.images import of_one_set
from bench.report.submissions.read import REPEATED, STATES, Entry, LeftOut, Submissions, order, person
from bench.stats import wilson
from bench.types import Cell, CellResult, MethodRef, ModelRef, TrainRef, WeightsRef

#: How far an accuracy of a file may be from that of its outcomes.
_ROUND_OFF = 1e-6
#: An attack whose changes are smaller, in the mean over images of the largest one, did nothing.
_UNCHANGED = 1e-5
#: What is to be done about a result that is like one that was withdrawn.
_ASK = "if it is a copy, withdraw it too"


class Superseded(NamedTuple):
    """A result that another of the same person took the place of, and the one that tables show of that cell.

    ``counts_too`` says, here and of those that differ, that worst cases count what it broke.
    """

    entry: Entry
    by: Entry
    shown: Entry | None = None
    counts_too: bool = False


class Differing(NamedTuple):
    """A result that is not in the tables, since another of the same cell is, and how the two differ."""

    entry: Entry
    ranked: Entry | None
    why: str
    counts_too: bool = False


class Taken(NamedTuple):
    """A result that was withdrawn, and what was said of it."""

    entry: Entry | None
    withdrawal: Withdrawal


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
        broken_too: other measurements whose broken images count in worst cases, by the key of the result that counts.
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
        """Which images survived in other measurements, by the key of the result that counts."""
        outcomes = {key: [each.result.robust_outcomes for each in own] for key, own in self.broken_too.items()}
        return {key: [each for each in own if each is not None] for key, own in outcomes.items()}


def merged(submissions: Submissions) -> Merged:
    """Return which results count."""
    remarks: list[LeftOut] = []
    unreplaced: list[LeftOut] = []
    submissions = submissions._replace(entries=as_others_state(map(_exact, submissions.entries)))
    entries, taken = _withdrawn(submissions)
    like_withdrawn = _like_withdrawn(entries, taken)
    entries = _measured_once(of_one_set(identified(entries), remarks), remarks)
    entries, superseded = _replaced(entries, unreplaced)
    entries, older = _newest(entries, remarks)
    groups = weights.groups(entries)
    differing: list[Differing] = []
    counting: list[_Counting] = []
    for own, earlier in _by_question(entries):
        differing += (Differing(entry, None, "measured by an earlier protocol") for entry in earlier)
        candidates = [entry for entry in own if groups.is_ranked(entry)]
        if not candidates:
            differing += (Differing(entry, None, groups.why(entry)) for entry in own)
            continue
        first = min(candidates, key=_rank)
        agreeing: list[Entry] = []
        others: list[Entry] = []
        for entry in own:
            agrees = groups.is_ranked(entry) and _outcomes(entry) == _outcomes(first)
            (agreeing if agrees else others).append(entry)
        differing += (Differing(entry, first, _difference(entry, first, groups)) for entry in others)
        marking = [each for each in others if _may_mark(each, first, groups)]
        flags = {*_stated(first, groups), *_marks(first, marking), *_unproven(first), *_unchanged(first)}
        result = first.result.model_copy(update={"flags": tuple(sorted(flags))})
        agreeing.sort(key=lambda entry: (entry is not first, order(entry)))
        counting.append(_Counting(first, result, agreeing))
    counting = _of_all_seeds(_known_equally(counting, differing), groups)
    # Of what a row says once, such as its costs, the last result has it: the one that nobody could copy.
    counting.sort(key=lambda each: (_known(each.first), each.first.arrival), reverse=True)
    keys = Keys()
    shown = {keys.comparison_key(each.result.cell): each.first for each in counting}
    all_older = [
        each._replace(shown=shown.get(keys.comparison_key(each.by.result.cell))) for each in superseded + older
    ]
    sources = {each.result.key: tuple(each.agreeing) for each in counting}
    beside = [entry for entry in _entries(differing, all_older) if not any(_unproven(entry))]
    too = broken_too((each.first for each in counting), beside)
    counted = {id(entry) for entry in chain.from_iterable(too.values())}
    return Merged(
        _with_one_name(counting),
        sources,
        [each._replace(counts_too=id(each.entry) in counted) for each in differing],
        [each._replace(counts_too=id(each.entry) in counted) for each in all_older],
        taken,
        remarks,
        unreplaced,
        like_withdrawn,
        too,
    )


def _entries(differing: Iterable[Differing], older: Iterable[Superseded]) -> list[Entry]:
    return [*(each.entry for each in differing), *(each.entry for each in older)]


class _Counting(NamedTuple):
    """A cell of the tables: the entry that counts, its result with all marks, and those that agree, that one first."""

    first: Entry
    result: CellResult
    agreeing: list[Entry]


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


def _known_equally(counting: Iterable[_Counting], differing: list[Differing]) -> list[_Counting]:
    """Return what counts without seeds of which less is known than of others of the same row and attack."""
    kept: list[_Counting] = []
    for seeds in _columns(counting):
        best = min(_known(each.first) for each in seeds)
        for each in seeds:
            if _known(each.first) == best:
                kept.append(each)
            else:
                why = f"another seed ({each.result.cell.seed:,}) of the same recipe, of which less is known"
                differing += (Differing(entry, None, why) for entry in each.agreeing)
    return kept


def _columns(counting: Iterable[_Counting]) -> list[list[_Counting]]:
    """Return the seeds of each row and attack."""
    keys = Keys()
    columns: dict[str, list[_Counting]] = defaultdict(list)
    for each in counting:
        columns[keys.comparison_key(_unseeded(each.first.result.cell))].append(each)
    return list(columns.values())


def _of_all_seeds(counting: Iterable[_Counting], groups: weights.Groups) -> list[_Counting]:
    """Return what counts with a mark on attacks that were not measured on all seeds that a row has.

    Else numbers of a row would be those of the seeds that somebody chose.
    """
    counting = list(counting)
    wanted: dict[weights.Row, set[int]] = defaultdict(set)
    for each in counting:
        if groups.is_of_owner(each.agreeing):
            wanted[groups.row(each.first)].add(each.result.cell.seed)
    lacking = [
        own for own in _columns(counting) if wanted[groups.row(own[0].first)] - {each.result.cell.seed for each in own}
    ]
    marked = {id(each) for each in chain.from_iterable(lacking)}
    return [
        each._replace(result=_flagged(each.result, NOT_ALL_SEEDS)) if id(each) in marked else each for each in counting
    ]


def _flagged(result: CellResult, flag: str) -> CellResult:
    return result.model_copy(update={"flags": tuple(sorted({*result.flags, flag}))})


def _unseeded(cell: Cell) -> Cell:
    """Return a cell as if all seeds were 0: what the seeds of a row and a column have in common."""

    def unseeded(model: ModelRef) -> ModelRef:
        if not isinstance(model.weights, TrainRef):
            return model
        return model.model_copy(update={"weights": model.weights.model_copy(update={"seed": 0})})

    def of_step(step: MethodRef | None) -> MethodRef | None:
        if step is None or step.score is None:
            return step
        return step.model_copy(update={"score": unseeded(step.score)})

    changes: dict[str, object] = {"model": unseeded(cell.model), "step": of_step(cell.step), "seed": 0}
    if (attack := cell.attack) is not None:
        own = {"model": unseeded(attack.model), "step": of_step(attack.step), "seed": 0}
        changes["attack"] = attack.model_copy(update=own)
    return cell.model_copy(update=changes)


def _known(entry: Entry) -> tuple[bool, int]:
    """Return how well an entry is known, the best first."""
    return any(_unproven(entry)), STATES.index(entry.state)


def _rank(entry: Entry) -> tuple[object, ...]:
    """Return by what it is decided which entry of a cell counts: the best known one, then the less flattering one."""
    return _known(entry), order(entry)


def _unproven(entry: Entry) -> Iterator[str]:
    """Yield the flags of a result of which little is known."""
    if entry.state not in REPEATED:
        yield NOT_REPEATED
    if not entry.are_images_known:
        yield IMAGES_NOT_COMPARED
    if passes.remark(entry.result) is not None:
        yield NOT_PLAUSIBLE
    yield from entry.doubts


def _stated(entry: Entry, groups: weights.Groups) -> frozenset[str]:
    """Return the flags that a file states and that count.

    None of those that tables give. That a network misleads attacks nobody can check, so only those whose row it is
    may say so.
    """
    not_counting = OF_TABLES if groups.is_of_owner([entry]) else OF_TABLES | MISLEADING
    return frozenset(entry.result.flags) - not_counting


def _may_mark(entry: Entry, first: Entry, groups: weights.Groups) -> bool:
    """Say whether an entry with other outcomes marks one: it is of the same weights, known as well, and attacked.

    Where predictions were repeated neither is in doubt: the other is of weaker images.
    """
    if first.state in REPEATED:
        return False
    return _is_known_as_well(entry, first) and groups.may_be_one(entry, first) and not any(_unchanged(entry))


def _unchanged(entry: Entry) -> Iterator[str]:
    """Yield the flag of an attack that changed no image at all, though some were right: its file may leave it out."""
    metrics, attack = entry.result.metrics, entry.result.cell.attack
    if metrics is None or attack is None or attack.threat.eps == 0:
        return
    if metrics.mean_linf < _UNCHANGED and metrics.clean_accuracy > 0:
        yield NO_OP


def _with_one_name(counting: Iterable[_Counting]) -> list[CellResult]:
    """Return results in which a file of weights and an attack have one name, whatever each person called it.

    So they are one row and one column. A file is called as by the one of whom most is known, or who was first. Tables
    name the parameters of an attack where several have its name.
    """
    counting = list(counting)
    results = [each.result for each in counting]
    names: dict[str, str] = {}
    for each in sorted(counting, key=lambda each: (_known(each.first), each.first.arrival, each.first.file)):
        if isinstance(weights_of := each.result.cell.model.weights, WeightsRef):
            names.setdefault(weights_of.sha256, weights_of.name)

    def renamed(model: ModelRef) -> ModelRef:
        if not isinstance(model.weights, WeightsRef) or model.weights.sha256 not in names:
            return model
        return model.model_copy(
            update={"weights": model.weights.model_copy(update={"name": names[model.weights.sha256]})}
        )

    def whole(result: CellResult) -> CellResult:
        cell, attack = result.cell, result.cell.attack
        changes: dict[str, object] = {"model": renamed(cell.model)}
        names = result.names
        if attack is not None:
            changes["attack"] = attack.model_copy(update={"model": renamed(attack.model)})
            names = names.model_copy(update={"attack": _without_parameters(names.attack, attack.attack.name)})
        return result.model_copy(update={"cell": cell.model_copy(update=changes), "names": names})

    return [whole(result) for result in results]


def _without_parameters(label: str, name: str) -> str:
    """Return the label of an attack without the parameters in brackets behind its name, which anybody may write."""
    begins = label.startswith(f"{name}[")
    return name + re.sub(r"^\[[^\]]*\]?", "", label.removeprefix(name)) if begins else label


def _outcomes(entry: Entry) -> tuple[str | None, str | None, str]:
    return entry.result.clean_bits, entry.result.adversarial_bits, entry.result.status


def _marks(first: Entry, others: Iterable[Entry]) -> set[str]:
    """Return the flags of a result that others measured otherwise: which of its outcomes differ."""
    mine = first.result
    marks: set[str] = set()
    for other in (each.result for each in others):
        if mine.cell.attack is None:
            marks |= {DIFFERS} if (mine.clean_bits, mine.status) != (other.clean_bits, other.status) else set()
            continue
        if (mine.adversarial_bits, mine.status) != (other.adversarial_bits, other.status):
            marks.add(DIFFERS)
        if None not in (mine.clean_bits, other.clean_bits) and mine.clean_bits != other.clean_bits:
            marks.add(CLEAN_DIFFERS)
    return marks


def _measurement(entry: Entry) -> tuple[object, ...]:
    """Return what no two measurements have in common: seconds are never the same to the last digit.

    Where no seconds are stated, it is the moment. A copy whose seconds were altered cannot be told from a second
    measurement, which has the same answers on hardware of one kind.
    """
    return *_key_and_cost(entry), *_outcomes(entry)


def _key_and_cost(entry: Entry) -> tuple[str, str]:
    cost = entry.result.cost
    return entry.result.key, entry.finished if cost is None else cost.model_dump_json()


def _withdrawn(submissions: Submissions) -> tuple[list[Entry], list[Taken]]:
    """Return what is left, and what was taken back: a copy of such a result, under any name, is taken back as well.

    What was merged before it, or is known better, is no copy of it: else whoever withdraws a copy of theirs would
    withdraw the original. Nor are copies taken back where the withdrawal says that it is of that file alone.
    """
    by_sha = {each.sha256: each for each in submissions.withdrawals}
    copied: dict[tuple[object, ...], list[Taken]] = defaultdict(list)
    named: dict[int, list[Withdrawal]] = {}
    for entry in submissions.entries:
        if own := _withdrawals_of(entry, by_sha):
            named[id(entry)] = own
            copied[_measurement(entry)] += (Taken(entry, each) for each in own if not each.only)
    kept: list[Entry] = []
    taken: list[Taken] = []
    found: set[str] = set()
    for entry in submissions.entries:
        copies = (each.withdrawal for each in copied.get(_measurement(entry), ()) if _may_be_copy(entry, each.entry))
        own = named.get(id(entry)) or [*islice(copies, 1)]
        if not own:
            kept.append(entry)
        taken += (Taken(entry, each) for each in own)
        found |= {each.sha256 for each in own}
    # The file may have gone; that it was withdrawn still stands.
    taken += (Taken(None, each) for each in submissions.withdrawals if each.sha256 not in found)
    return kept, taken


def _withdrawals_of(entry: Entry, by_sha: Mapping[str, Withdrawal]) -> list[Withdrawal]:
    """Return what was said when a result was taken back: by the name of its receipt, by its file, or by both."""
    known = [by_sha[sha256] for sha256 in dict.fromkeys(entry.hashes) if sha256 in by_sha]
    return [each for each in known if each.names(entry.hashes, entry.folder)]


def _may_be_copy(entry: Entry, other: Entry | None) -> bool:
    """Say whether an entry with the measurement of another may be copied from it."""
    return other is not None and other.arrival <= entry.arrival and _is_known_as_well(other, entry)


def taken_back(submissions: Submissions) -> list[Taken]:
    """Return what is taken back of some submissions, copies too."""
    return _withdrawn(submissions)[1]


def _why(entry: Entry, other: Entry) -> str:
    """Return what is to be done about an entry like one that was withdrawn, or why it is no copy of it."""
    if _known(entry) < _known(other):
        return f"more is known of it; {_ASK}"
    return "it was merged first" if entry.arrival < other.arrival else _ASK


def _is_kept_beside(entry: Entry, other: Entry) -> bool:
    """Say whether an entry is the very measurement of another of its folder, which alone was taken back."""
    is_of_one_folder = bool(entry.folder) and entry.folder == other.folder
    return is_of_one_folder and _measurement(entry) == _measurement(other)


def _like_withdrawn(entries: Iterable[Entry], taken: Iterable[Taken]) -> list[LeftOut]:
    """Return which results have the outcomes of one that was withdrawn: copies of it with other seconds, or not."""
    by_outcomes: dict[tuple[object, ...], Entry] = {}
    by_cost: dict[tuple[object, ...], Entry] = {}
    for each in taken:
        if each.entry is not None:
            by_outcomes[each.entry.result.key, *_outcomes(each.entry)] = each.entry
            by_cost[_key_and_cost(each.entry)] = each.entry
    alike = [(entry, "outcomes", by_outcomes.get((entry.result.key, *_outcomes(entry)))) for entry in entries]
    # No two measurements take the same seconds to the last digit, whatever the outcomes.
    alike += [(entry, "seconds", by_cost.get(_key_and_cost(entry))) for entry, _, other in list(alike) if other is None]
    return [
        LeftOut(entry.file, f"has the {what} of {other.file}, which was withdrawn, and counts: {_why(entry, other)}")
        for entry, what, other in alike
        if other is not None and entry.result.status == "done" and not _is_kept_beside(entry, other)
    ]


def _measured_once(entries: Iterable[Entry], remarks: list[LeftOut]) -> list[Entry]:
    """Return entries of which no two people have the same measurement: one of them copied the other's file.

    It is theirs of whose more is known, for a copy without the weights may come first. Of equals it is theirs whose
    file came into the branch first, as a copy can be made to say anything, and weights be copied too. Where git does
    not tell, it is theirs who brought the weights, or the first's by name.
    """
    by_measurement: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_measurement[_measurement(entry)].append(entry)
    kept: list[Entry] = []
    for own in by_measurement.values():
        first = min(own, key=_first)
        for entry in own:
            if person(entry.who) == person(first.who):
                kept.append(entry)
            else:
                why = f"{entry.result.names}: the same measurement as {first.file}, counted once"
                remarks.append(LeftOut(entry.file, why))
    return kept


def _first(entry: Entry) -> tuple[tuple[bool, int], float, bool, str]:
    """Return by what it is decided whose a measurement is."""
    return _known(entry), entry.arrival, not entry.said.weights, entry.file


def _replaced(entries: list[Entry], unreplaced: list[LeftOut]) -> tuple[list[Entry], list[Superseded]]:
    """Return entries without those that another of the same person says it replaces, and that is known as well."""
    replacing: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=order):
        # What a folder wants replaced takes no place itself, or two would strike each other.
        if not {entry.sha256, entry.file_sha256}.intersection(entry.said.replaces):
            for sha256 in entry.said.replaces:
                replacing[sha256].append(entry)
    kept: list[Entry] = []
    superseded: list[Superseded] = []
    keys = Keys()
    for entry in entries:
        claims = list(chain.from_iterable(replacing[sha256] for sha256 in {entry.sha256, entry.file_sha256}))
        theirs = [each for each in claims if person(each.who) == person(entry.who) and each.file != entry.file]
        own = [each for each in theirs if _asks_the_same(each, entry)]
        as_well = [each for each in own if _is_known_as_well(each, entry)]
        if replacing_it := [each for each in as_well if _may_replace(each, entry, keys)]:
            superseded.append(Superseded(entry, min(replacing_it, key=order)))
            continue
        kept.append(entry)
        if theirs and not own:
            folders = ", ".join(sorted({each.folder or each.file for each in theirs}))
            why = f"would replace {entry.file}, and has no result of that attack, access, step and seed on these images"
            unreplaced.append(LeftOut(folders, f"{why}: not done"))
        if own:
            files = ", ".join(sorted({each.file for each in own}))
            why = "of another folder, and is no lower number of the same cell" if as_well else "of which more is known"
            unreplaced.append(LeftOut(files, f"would replace {entry.file}, {why}: not done"))
        if strangers := {each.file for each in claims if person(each.who) != person(entry.who)}:
            files = ", ".join(sorted(strangers))
            unreplaced.append(LeftOut(files, f"would replace {entry.file}, which is {entry.who}'s: not done"))
    # The same measurement in a run file beside the receipt goes with it.
    gone = {(person(each.entry.who), each.entry.folder, _measurement(each.entry)): each.by for each in superseded}
    copies = [
        Superseded(entry, gone[place])
        for entry in kept
        if (place := (person(entry.who), entry.folder, _measurement(entry))) in gone
    ]
    copied = {id(each.entry) for each in copies}
    return [entry for entry in kept if id(entry) not in copied], superseded + copies


def _asks_the_same(entry: Entry, other: Entry) -> bool:
    """Say whether an entry asks of another network, or with other parameters, what another entry asks."""
    asked, other_asked = (
        (
            cell.data.name,
            cell.data.indices_sha,
            cell.access,
            cell.seed,
            cell.step and cell.step.use,
            cell.attack and (cell.attack.attack.use, cell.attack.threat, cell.attack.target),
        )
        for cell in (entry.result.cell, other.result.cell)
    )
    return asked == other_asked


def _is_known_as_well(entry: Entry, other: Entry) -> bool:
    """Say whether of an entry no less is known than of another."""
    return _known(entry) <= _known(other)


def _may_replace(entry: Entry, other: Entry, keys: Keys) -> bool:
    """Say whether an entry may take the place of another under the same name, which anybody may write.

    A change of a folder that is there is warned of. From another folder nobody strikes a row, or raises a number.
    """
    if entry.folder == other.folder:
        return True
    is_same = keys.comparison_key(entry.result.cell) == keys.comparison_key(other.result.cell)
    return is_same and order(entry)[1:3] <= order(other)[1:3]


def _newest(entries: Iterable[Entry], remarks: list[LeftOut]) -> tuple[list[Entry], list[Superseded]]:
    """Return the last result of each folder for each cell, and the earlier ones.

    What is known better stays beside a later one, and so does what is in another folder under the same name: whose a
    file is, and when it was measured, is what the file says. Of two of one moment the one that was merged first counts.
    """
    keys = Keys()
    by_person: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_person[person(entry.who), keys.comparison_key(entry.result.cell)].append(entry)
    by_folder: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for (_, cell), several in by_person.items():
        for entry in _once(several, remarks):
            # Whose receipts alone are nobody knows, so that none takes the place of another for its date.
            by_folder[entry.folder or entry.file, cell].append(entry)
    kept: list[Entry] = []
    older: list[Superseded] = []
    for several in by_folder.values():
        # The last one of each state, from the last on: what is known no better and earlier is superseded.
        last: dict[tuple[bool, int], Entry] = {}
        for entry in sorted(several, key=_moment, reverse=True):
            later = [each for each in last.values() if _is_known_as_well(each, entry)]
            if later:
                older.append(Superseded(entry, max(later, key=_moment)))
            else:
                kept.append(entry)
            last.setdefault(_known(entry), entry)
    return kept, older


def _once(own: Iterable[Entry], remarks: list[LeftOut]) -> list[Entry]:
    """Return entries of one person without a second file of one measurement: what is known best of it counts."""
    by_measurement: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in own:
        by_measurement[_measurement(entry)].append(entry)
    kept: list[Entry] = []
    for same in by_measurement.values():
        best = min(same, key=order)
        kept.append(best)
        why = f"{best.result.names}: the same measurement as {best.file}, by the same name; counted once"
        remarks += (LeftOut(entry.file, why) for entry in same if entry.folder != best.folder)
    return kept


def _moment(entry: Entry) -> tuple[bool, str, float, str]:
    """Return by what the results of a person for a cell are ordered: the last one counts."""
    return entry.result.status == "done", entry.finished, -entry.arrival, entry.file


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
    return said + (", and changed no image" if any(_unchanged(entry)) else "")
