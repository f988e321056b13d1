"""The flags of a result that counts: what its file states and may, and where others measured otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.report.leaderboard.flags import CLEAN_DIFFERS, DIFFERS, NO_OP, OF_TABLES, of_run
from bench.report.submissions import weights
from bench.report.submissions.known import is_known_as_well
from bench.report.submissions.read import REPEATED, Entry

#: An attack whose changes are smaller, in the mean over images of the largest one, did nothing.
_UNCHANGED = 1e-5


def stated_flags(entry: Entry, groups: weights.Groups) -> frozenset[str]:
    """Return the flags that a file states and that count.

    None of those that tables give. What an attack met on a network, such as gradients that mislead it, nobody can
    check, so only those whose row it is may say so.
    """
    is_own = groups.is_of_row([entry])
    return frozenset(flag for flag in entry.result.flags if is_own or of_run(flag)) - OF_TABLES


def differing_flags(first: Entry, others: Iterable[Entry]) -> set[str]:
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


def may_mark(entry: Entry, first: Entry, groups: weights.Groups) -> bool:
    """Say whether an entry with other outcomes marks one: it is of the same weights, known as well, and attacked.

    Where predictions were repeated neither is in doubt: the other is of weaker images.
    """
    if first.state in REPEATED:
        return False
    return is_known_as_well(entry, first) and groups.may_be_one(entry, first) and not any(no_op_flags(entry))


def no_op_flags(entry: Entry) -> Iterator[str]:
    """Yield the flag of an attack that changed no image at all, though some were right: its file may leave it out."""
    metrics, attack = entry.result.metrics, entry.result.cell.attack
    if metrics is None or attack is None or attack.threat.eps == 0:
        return
    if metrics.mean_linf < _UNCHANGED and metrics.clean_accuracy > 0:
        yield NO_OP
