"""Which commit a search measures next: one that halves those left, away from stretches of commits that fail alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby

from bench.store.lineage import History

#: What differs in the same failure at two commits: hashes, and numbers such as those of lines.
_VARYING = re.compile(r"\b[0-9a-f]{7,64}\b|\d+")


@dataclass
class Candidates:
    """The commits that may be measured.

    Of two commits that fail alike, those between are taken to fail too: so a broken stretch costs about twice log2 of
    its length, as its two ends are found by halving. When only such are left, one is tried, and more if it works.

    Args:
        history: of the repository.
        why: for each commit that could not be measured, the reason.
    """

    history: History
    why: dict[str, str] = field(default_factory=dict)
    _doubted: str | None = None
    _between: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def next(self, goods: Sequence[str], bad: str) -> str | None:
        """Return the commit to measure; ``None`` where there is none.

        Args:
            goods: commits before the change.
            bad: one after it.
        """
        commits = self.history.halving(goods, bad)
        untried = self.untried(commits)
        tried = [bad, *(each for each in commits if each in self.why)]
        left = set(commits).difference(tried, untried)
        if left and len(tried) == 1:
            return next(each for each in commits if each in left)
        if left:
            return self._middle(goods[0], bad, left)
        if untried and self._doubted not in self.why:
            self._doubted = self._middle(goods[0], bad, untried)
            return self._doubted
        return None

    def _middle(self, good: str, bad: str, wanted: set[str]) -> str:
        """Return the middle of the longest stretch of commits that are wanted, in the order of ancestry."""
        path = self._path(good, bad)
        stretches = [list(group) for is_wanted, group in groupby(path, wanted.__contains__) if is_wanted]
        longest = max(stretches, key=len)
        return longest[len(longest) // 2]

    def untried(self, commits: Sequence[str]) -> set[str]:
        """Return those of some commits that lie between two of them which fail alike."""
        failed = [each for each in commits if each in self.why]
        between: set[str] = set()
        for one, other in combinations(failed, 2):
            if self._kind(one) == self._kind(other):
                between.update(self._path(one, other), self._path(other, one))
        return between.intersection(commits).difference(self.why)

    def _kind(self, commit: str) -> str:
        return _VARYING.sub("#", self.why[commit])

    def _path(self, old: str, new: str) -> list[str]:
        """Return the commits between two and the second, oldest first; none where that was not built on the first."""
        if (old, new) not in self._between:
            self._between[old, new] = self.history.between(old, new)
        return self._between[old, new]
