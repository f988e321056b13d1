"""Receipts of one list of images that have other images: one of them does not have those of the set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bench.keys import Keys
from bench.report.submissions.read import STATES, Entry, LeftOut


def of_one_set(entries: Iterable[Entry], remarks: list[LeftOut]) -> list[Entry]:
    """Return entries without those whose clean images or labels are not those of another receipt of the same list.

    The one whose images were compared with the set is right, else the one of which more is known, of equals the one
    that was merged first; what is said of it names the other, for whoever knows the set has to tell. ``remarks`` gets a
    line on each that is left out.
    """
    entries, keys = list(entries), Keys()
    by_list: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.clean_images:
            by_list[keys.text(entry.result.cell.data)].append(entry)
    first = {each: min(own, key=_is_right) for each, own in by_list.items()}
    others: dict[str, str] = {}
    kept: list[Entry] = []
    for entry in entries:
        right = first.get(keys.text(entry.result.cell.data))
        if right is None or entry.clean_images in ((), right.clean_images):
            kept.append(entry)
            continue
        by = _why(right, entry)
        why = f"has other clean images or labels than {right.file}, {by}, and says that they are the same rows"
        remarks.append(LeftOut(entry.file, f"{entry.result.names}: {why}"))
        others.setdefault(right.file, entry.file)
    return [_told(entry, others) for entry in kept]


def _why(right: Entry, entry: Entry) -> str:
    if right.are_images_known:
        return "which was compared with its set"
    return "which was merged first" if right.state == entry.state else "of which more is known"


def _is_right(entry: Entry) -> tuple[bool, int, float, str]:
    """Return by what it is decided which of several receipts has the images of the set."""
    return not entry.are_images_known, STATES.index(entry.state), entry.arrival, entry.file


def _told(entry: Entry, others: dict[str, str]) -> Entry:
    if entry.file not in others or entry.are_images_known:
        return entry
    return entry._replace(words=f"{entry.words}; {others[entry.file]} has other images of the same rows")
