"""Where results stand on the axis of commits: by ancestry, and by time where this repository does not know a commit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from bench.store.ancestry import KnownCommits
from bench.store.runs import COMMIT
from bench.types import Provenance, shown

#: Digits of a commit that are shown.
_DIGITS = 10
#: After every time.
_NEVER = "~"


class Measured(NamedTuple):
    """When results of one place were finished."""

    #: The first that was measured there; ``None`` where all of them were taken over from other commits.
    first: str | None
    #: The last of all.
    last: str

    def with_own(self, finished: str) -> Measured:
        """Return this with a result that was measured at the place."""
        first = finished if self.first is None else min(self.first, finished)
        return Measured(first, max(self.last, finished))

    def with_carried(self, finished: str) -> Measured:
        """Return this with a result that an earlier commit measured: it is older than its place here."""
        return Measured(self.first, max(self.last, finished))


class Origin(NamedTuple):
    """What the results of one place have in common."""

    commit: str | None
    dirty: bool
    #: The file or store, of results without a commit.
    source: str = ""

    @classmethod
    def of(cls, provenance: Provenance, source: str) -> Origin:
        return cls(provenance.commit, provenance.dirty, "" if provenance.commit else source)

    @property
    def what_is_wrong(self) -> str:
        """What stands where the full hash of a commit should stand; empty of a hash, and where no commit is said."""
        if self.commit is None or COMMIT.fullmatch(self.commit):
            return ""
        return "the commit is empty" if not self.commit else f"{shown(self.commit)} is no full hash of a commit"


@dataclass(frozen=True)
class Place:
    """One place of the axis."""

    origin: Origin
    #: Of the commit among those that the repository knows; ``None`` for results that are not a known commit's own.
    rank: int | None
    #: The ranks of its ancestors as the bits of an integer; uncommitted changes stand on their commit.
    ancestors: int
    #: The same, of those alone that are reached through first parents.
    mainline: int
    #: Whether the repository knows the commit; else the place is by time.
    known: bool
    #: Empty with uncommitted changes, which are not what the commit says.
    subject: str
    #: The day of the commit, or where the repository does not know it that of its first own result, or else its last.
    day: str
    #: The page of the commit.
    url: str | None
    #: When the first result that was measured at it was finished; ``None`` where there is none.
    measured: str | None = None

    @property
    def label(self) -> str:
        """The commit in short, and what keeps the results from being those of the commit."""
        short = (self.origin.commit or "no commit")[:_DIGITS]
        return f"{short} + uncommitted changes" if self.origin.dirty else short

    @property
    def is_unknown_commit(self) -> bool:
        """Say whether its commit is one, as far as its name tells, that the repository does not know."""
        return not self.known and self.origin.commit is not None and not self.origin.what_is_wrong

    @property
    def only_repeats(self) -> bool:
        """Say whether nothing tells when it was: no ancestry, and no result of its own."""
        return not self.known and self.measured is None

    @property
    def remark(self) -> str:
        """How it came to its place, where that was not by ancestry; else an empty text."""
        if self.known:
            return ""
        what = "this repository does not know the commit"
        if self.origin.commit is None:
            what = "measured outside a repository"
        if self.only_repeats:
            return f"{what}, and nothing was measured at it: it is compared only with where its results are from"
        return f"{self.origin.what_is_wrong or what}: placed by the time of its results"


def places(measured: Mapping[Origin, Measured], known: KnownCommits, pages: str | None) -> list[Place]:
    """Return the places of origins, the earliest first.

    Only what was measured at a commit tells when it was. One that the repository does not know, and that has only what
    others measured, stands behind the last of these.

    Args:
        measured: when the results of each were finished.
        known: the commits that the repository has, in their order.
        pages: what the addresses of commits begin with.
    """
    of_commit: dict[str | None, list[Origin]] = {}
    for origin in sorted(measured, key=lambda origin: (origin.dirty, origin.source)):
        of_commit.setdefault(origin.commit, []).append(origin)
    in_order: list[Origin] = []
    for commit in known.order:
        in_order += of_commit.get(commit, [])
    unknown = [origin for origin in measured if origin.commit not in known.ancestors]
    times = {origin: measured[origin].first or measured[origin].last for origin in unknown}
    # The names only make the order of those of one time the same always.
    by_time = sorted(
        unknown, key=lambda origin: (times[origin], measured[origin].first is None, origin.dirty, str(origin))
    )
    merged = _merged([(origin, measured[origin].first) for origin in in_order], by_time, times)
    ranks = {commit: rank for rank, commit in enumerate(known.order)}
    # A commit of which there are only results with uncommitted changes does not stand on the axis itself.
    clean = {ranks[origin.commit] for origin in in_order if origin.commit and not origin.dirty}
    on_axis = sum(1 << rank for rank in clean)
    return [_place(origin, measured[origin], known, ranks, on_axis, pages) for origin in merged]


def _merged(
    known: Sequence[tuple[Origin, str | None]], unknown: Iterable[Origin], times: Mapping[Origin, str]
) -> list[Origin]:
    """Return all origins: each unknown one behind the last known one that was measured before it.

    Args:
        known: the known ones in their order, each with the time of its first own result.
        unknown: the others in their order.
        times: of the unknown ones.
    """
    # The latest time up to each known one from behind: the last that is early enough has it as the smallest.
    # What has no time takes that of the next that has one, and so is never the last.
    earliest = list(accumulate((first or _NEVER for _, first in reversed(known)), min))[::-1]
    behind: dict[int, list[Origin]] = {}
    for origin in unknown:
        behind.setdefault(bisect_right(earliest, times[origin]), []).append(origin)
    merged = list(behind.get(0, []))
    for number, (origin, _) in enumerate(known, start=1):
        merged += [origin, *behind.get(number, [])]
    return merged


def _place(
    origin: Origin, measured: Measured, known: KnownCommits, ranks: Mapping[str, int], on_axis: int, pages: str | None
) -> Place:
    commit = origin.commit or ""
    rank, about = ranks.get(commit), known.about.get(commit)
    own = 0 if rank is None or origin.dirty else 1 << rank
    return Place(
        origin=origin,
        rank=None if origin.dirty else rank,
        ancestors=known.ancestors.get(commit, 0) & on_axis & ~own,
        mainline=known.mainline.get(commit, 0) & on_axis & ~own,
        known=rank is not None,
        subject=about.subject if about and not origin.dirty else "",
        day=(about.date if about else measured.first or measured.last)[:10],
        url=f"{pages}{commit}" if pages and rank is not None and not origin.dirty else None,
        measured=measured.first,
    )
