"""Where results stand on the axis of commits: by ancestry, and by time where this repository does not know a commit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from bench.store.ancestry import KnownCommits
from bench.store.runs import COMMIT
from bench.types import Provenance, shown

#: Digits of a commit that are shown.
_DIGITS = 10


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
    #: The day of the commit, or that of its first result where the repository does not know it.
    day: str
    #: The page of the commit.
    url: str | None

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
    def remark(self) -> str:
        """How it came to its place, where that was not by ancestry; else an empty text."""
        if self.known:
            return ""
        what = "this repository does not know the commit"
        if self.origin.commit is None:
            what = "measured outside a repository"
        return f"{self.origin.what_is_wrong or what}: placed by the time of its results"


def places(finished: Mapping[Origin, str], known: KnownCommits, pages: str | None) -> list[Place]:
    """Return the places of origins, the earliest first.

    Args:
        finished: when the first result of each was finished.
        known: the commits that the repository has, in their order.
        pages: what the addresses of commits begin with.
    """
    of_commit: dict[str | None, list[Origin]] = {}
    for origin in sorted(finished, key=lambda origin: (origin.dirty, origin.source)):
        of_commit.setdefault(origin.commit, []).append(origin)
    in_order: list[Origin] = []
    for commit in known.order:
        in_order += of_commit.get(commit, [])
    unknown = [origin for origin in finished if origin.commit not in known.ancestors]
    by_time = sorted(unknown, key=lambda origin: (finished[origin], origin.dirty, str(origin)))
    ranks = {commit: rank for rank, commit in enumerate(known.order)}
    return [_place(origin, finished[origin], known, ranks, pages) for origin in _merged(in_order, by_time, finished)]


def _merged(known: list[Origin], unknown: Iterable[Origin], finished: Mapping[Origin, str]) -> list[Origin]:
    """Return all origins: each unknown one behind the last known one that was finished before it."""
    # The latest time up to each known one from behind: the last that is early enough has it as the smallest.
    earliest = list(accumulate((finished[origin] for origin in reversed(known)), min))[::-1]
    behind: dict[int, list[Origin]] = {}
    for origin in unknown:
        behind.setdefault(bisect_right(earliest, finished[origin]), []).append(origin)
    merged = list(behind.get(0, []))
    for number, origin in enumerate(known, start=1):
        merged += [origin, *behind.get(number, [])]
    return merged


def _place(origin: Origin, finished: str, known: KnownCommits, ranks: Mapping[str, int], pages: str | None) -> Place:
    commit = origin.commit or ""
    rank, about = ranks.get(commit), known.about.get(commit)
    own = 0 if rank is None or origin.dirty else 1 << rank
    return Place(
        origin=origin,
        rank=None if origin.dirty else rank,
        ancestors=known.ancestors.get(commit, 0) & ~own,
        mainline=known.mainline.get(commit, 0) & ~own,
        known=rank is not None,
        subject=about.subject if about and not origin.dirty else "",
        day=(about.date if about else finished)[:10],
        url=f"{pages}{commit}" if pages and rank is not None and not origin.dirty else None,
    )
