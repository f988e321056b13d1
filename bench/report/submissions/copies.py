"""One measurement in several files: which of them is the original."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bench.report.submissions.known import how_known
from bench.report.submissions.read import Entry, LeftOut, order, person


def outcomes_of(entry: Entry) -> tuple[str | None, str | None, str]:
    """Return the outcomes on clean and on adversarial images, as text, and whether it is done."""
    return entry.result.clean_bits, entry.result.adversarial_bits, entry.result.status


def measurement_of(entry: Entry) -> tuple[object, ...]:
    """Return what no two measurements have in common: seconds are never the same to the last digit.

    Where no seconds are stated, it is the moment. A copy whose seconds were altered cannot be told from a second
    measurement, which has the same answers on hardware of one kind.
    """
    return *key_and_cost(entry), *outcomes_of(entry)


def key_and_cost(entry: Entry) -> tuple[str, str]:
    cost = entry.result.cost
    return entry.result.key, entry.finished if cost is None else cost.model_dump_json()


def measured_once(entries: Iterable[Entry], remarks: list[LeftOut]) -> list[Entry]:
    """Return entries of which no two people have the same measurement: one of them copied the other's file.

    It is theirs of whose more is known, for a copy without the weights may come first. Of equals it is theirs whose
    file came into the branch first, as a copy can be made to say anything, and weights be copied too. Where git does
    not tell, it is theirs who brought the weights, or the first's by name.
    """
    by_measurement: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_measurement[measurement_of(entry)].append(entry)
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
    return how_known(entry), entry.arrival, not entry.said.weights, entry.file


def once_by_person(own: Iterable[Entry], remarks: list[LeftOut]) -> list[Entry]:
    """Return entries of one person without a second file of one measurement: what is known best of it counts."""
    by_measurement: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in own:
        by_measurement[measurement_of(entry)].append(entry)
    kept: list[Entry] = []
    for same in by_measurement.values():
        best = min(same, key=order)
        kept.append(best)
        why = f"{best.result.names}: the same measurement as {best.file}, by the same name; counted once"
        remarks += (LeftOut(entry.file, why) for entry in same if entry.folder != best.folder)
    return kept
