"""Earlier results of the same person, and those that a submission says it replaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

from bench.keys import Keys
from bench.report.submissions.aside import Superseded
from bench.report.submissions.copies import measurement_of, once_by_person
from bench.report.submissions.known import how_known, is_known_as_well
from bench.report.submissions.read import Entry, LeftOut, order, person


def without_replaced(entries: list[Entry], unreplaced: list[LeftOut]) -> tuple[list[Entry], list[Superseded]]:
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
        as_well = [each for each in own if is_known_as_well(each, entry)]
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
    gone = {(person(each.entry.who), each.entry.folder, measurement_of(each.entry)): each.by for each in superseded}
    copies = [
        Superseded(entry, gone[place])
        for entry in kept
        if (place := (person(entry.who), entry.folder, measurement_of(entry))) in gone
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


def _may_replace(entry: Entry, other: Entry, keys: Keys) -> bool:
    """Say whether an entry may take the place of another under the same name, which anybody may write.

    A change of a folder that is there is warned of. From another folder nobody strikes a row, or raises a number.
    """
    if entry.folder == other.folder:
        return True
    is_same = keys.comparison_key(entry.result.cell) == keys.comparison_key(other.result.cell)
    return is_same and order(entry)[1:3] <= order(other)[1:3]


def newest_of_folders(entries: Iterable[Entry], remarks: list[LeftOut]) -> tuple[list[Entry], list[Superseded]]:
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
        for entry in once_by_person(several, remarks):
            # Whose receipts alone are nobody knows, so that none takes the place of another for its date.
            by_folder[entry.folder or entry.file, cell].append(entry)
    kept: list[Entry] = []
    older: list[Superseded] = []
    for several in by_folder.values():
        # The last one of each state, from the last on: what is known no better and earlier is superseded.
        last: dict[tuple[bool, int], Entry] = {}
        for entry in sorted(several, key=_moment, reverse=True):
            later = [each for each in last.values() if is_known_as_well(each, entry)]
            if later:
                older.append(Superseded(entry, max(later, key=_moment)))
            else:
                kept.append(entry)
            last.setdefault(how_known(entry), entry)
    return kept, older


def _moment(entry: Entry) -> tuple[bool, str, float, str]:
    """Return by what the results of a person for a cell are ordered: the last one counts."""
    return entry.result.status == "done", entry.finished, -entry.arrival, entry.file
