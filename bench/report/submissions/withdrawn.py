"""What was taken back: the results that are named, and their copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice

from bench.report.submissions.aside import Taken
from bench.report.submissions.copies import key_and_cost, measurement_of, outcomes_of
from bench.report.submissions.form import Withdrawal
from bench.report.submissions.known import how_known, is_known_as_well
from bench.report.submissions.read import Entry, LeftOut, Submissions

#: What is to be done about a result that is like one that was withdrawn.
_ASK = "if it is a copy, withdraw it too"


def without_withdrawn(submissions: Submissions) -> tuple[list[Entry], list[Taken]]:
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
            copied[measurement_of(entry)] += (Taken(entry, each) for each in own if not each.only)
    kept: list[Entry] = []
    taken: list[Taken] = []
    found: set[str] = set()
    for entry in submissions.entries:
        copies = (each.withdrawal for each in copied.get(measurement_of(entry), ()) if _may_be_copy(entry, each.entry))
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
    return other is not None and other.arrival <= entry.arrival and is_known_as_well(other, entry)


def taken_back(submissions: Submissions) -> list[Taken]:
    """Return what is taken back of some submissions, copies too."""
    return without_withdrawn(submissions)[1]


def resembling_withdrawn(entries: Iterable[Entry], taken: Iterable[Taken]) -> list[LeftOut]:
    """Return which results have the outcomes of one that was withdrawn: copies of it with other seconds, or not."""
    by_outcomes: dict[tuple[object, ...], Entry] = {}
    by_cost: dict[tuple[object, ...], Entry] = {}
    for each in taken:
        if each.entry is not None:
            by_outcomes[each.entry.result.key, *outcomes_of(each.entry)] = each.entry
            by_cost[key_and_cost(each.entry)] = each.entry
    alike = [(entry, "outcomes", by_outcomes.get((entry.result.key, *outcomes_of(entry)))) for entry in entries]
    # No two measurements take the same seconds to the last digit, whatever the outcomes.
    alike += [(entry, "seconds", by_cost.get(key_and_cost(entry))) for entry, _, other in list(alike) if other is None]
    return [
        LeftOut(entry.file, f"has the {what} of {other.file}, which was withdrawn, and counts: {_why(entry, other)}")
        for entry, what, other in alike
        if other is not None and entry.result.status == "done" and not _is_kept_beside(entry, other)
    ]


def _why(entry: Entry, other: Entry) -> str:
    """Return what is to be done about an entry like one that was withdrawn, or why it is no copy of it."""
    if how_known(entry) < how_known(other):
        return f"more is known of it; {_ASK}"
    return "it was merged first" if entry.arrival < other.arrival else _ASK


def _is_kept_beside(entry: Entry, other: Entry) -> bool:
    """Say whether an entry is the very measurement of another of its folder, which alone was taken back."""
    is_of_one_folder = bool(entry.folder) and entry.folder == other.folder
    return is_of_one_folder and measurement_of(entry) == measurement_of(other)
