"""How well a result is known, and which of several counts: the best known one, then the less flattering one."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report.leaderboard.flags import IMAGES_NOT_COMPARED, NOT_PLAUSIBLE, NOT_REPEATED
from bench.report.receipts import passes
from bench.report.submissions.read import REPEATED, STATES, Entry, order


def unproven_flags(entry: Entry) -> Iterator[str]:
    """Yield the flags of a result of which little is known."""
    if entry.state not in REPEATED:
        yield NOT_REPEATED
    if not entry.are_images_known:
        yield IMAGES_NOT_COMPARED
    if passes.remark(entry.result) is not None:
        yield NOT_PLAUSIBLE
    yield from entry.doubts


def how_known(entry: Entry) -> tuple[bool, int]:
    """Return how well an entry is known, the best first."""
    return any(unproven_flags(entry)), STATES.index(entry.state)


def is_known_as_well(entry: Entry, other: Entry) -> bool:
    """Say whether of an entry no less is known than of another."""
    return how_known(entry) <= how_known(other)


def rank(entry: Entry, *, is_of_row: bool) -> tuple[object, ...]:
    """Return by what it is decided which entry of a cell counts: the best known one, then the less flattering one.

    Where predictions were repeated first that of those whose row it is: what others broke is not forgotten
    (:mod:`bench.report.submissions.broken_too`), and says nothing else of a row.
    """
    return how_known(entry), entry.state in REPEATED and not is_of_row, order(entry)
