"""Which commit changed a cell: commits are halved as by ``git bisect``, and two are told apart by a paired test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import ceil, log2
from typing import Literal, NamedTuple

from bench.differences import changes, differences, methods_by_part
from bench.process.ending import Stop
from bench.schedule.at_commit import NotMeasurable
from bench.schedule.candidates import Candidates
from bench.schedule.measuring import Measured, Measuring, NoSuchCell, Remembered
from bench.stats import ALPHA, is_large, mcnemar, p_text
from bench.store.lineage import History
from bench.types import CellResult, UsageError, listed

#: What happens, in a line, and about how many commits are left to measure.
Said = Callable[[str], None]
#: Files and commits that a line names.
_NAMED = 5
#: Seconds of one run from which on it may hang: the limit that is proposed then.
_LONG_RUN = 600
#: Files of a change that are followed to see whether it was taken back, and commits that are looked at for that.
_FOLLOWED, _TRIED = 20, 5


class Difference(NamedTuple):
    """Two results of one cell, image by image: right in the first alone, in the second alone, of how many images.

    ``p`` is McNemar's exact two-sided value; ``is_real`` says whether by that test accuracy changed, and ``cancels``
    that it did not although enough images have another outcome, as losses and gains balance. ``counts`` says whether
    the second counts as changed in this search, which may be one of images.
    """

    lost: int
    gained: int
    n: int
    p: float
    is_real: bool
    counts: bool
    cancels: bool

    @property
    def counted(self) -> str:
        """What changed, in words, with the test."""
        return f"{self.lost} lost and {self.gained} gained of {self.n:,}, {p_text(self.p)}"

    @classmethod
    def of(cls, old: CellResult, new: CellResult, min_effect: float, *, images: bool = False) -> Difference:
        """Compare two results.

        Args:
            old: the first.
            new: the second.
            min_effect: the smallest change that counts, in percentage points.
            images: a change is one of the images that are right, tested by nothing, and not one of accuracy.

        Raises:
            NotMeasurable: they are of other images, or the outcomes of these were not kept.
        """
        data = old.cell.data, new.cell.data
        if len({(each.n, each.indices_sha, each.data_sha) for each in data}) > 1:
            raise NotMeasurable(
                f"other images: {data[0].n:,} of {data[0].name} against {data[1].n:,} of {data[1].name}"
            )
        before, after = old.outcomes_under_attack, new.outcomes_under_attack
        if before is None or after is None:
            raise NotMeasurable("the outcomes of its images were not kept")
        lost, gained = before.but_not(after).count, after.but_not(before).count
        n = data[0].n
        p = mcnemar(lost, gained)
        # As if all were lost.
        are_many = lost + gained > 0 and is_large(lost + gained, 0, n, min_effect)
        is_real = p < ALPHA and is_large(lost, gained, n, min_effect)
        cancels = are_many and not is_real and mcnemar(lost + gained, 0) < ALPHA
        return cls(lost, gained, n, p, is_real, are_many if images else is_real, cancels)

    @property
    def changed(self) -> int:
        """How many images have another outcome."""
        return self.lost + self.gained


class Skipped(NamedTuple):
    """A commit that could not be measured, and why."""

    commit: str
    why: str


@dataclass(frozen=True)
class Finding:
    """What was found between two commits.

    Attributes:
        verdict: ``found``; ``range``, where commits that cannot be measured leave several; ``not reproducible``.
        good: the first commit.
        bad: the last commit.
        ends: how they differ.
        before: the last commit that was measured before the change; ``None`` where there is none.
        after: the first after it: the commit that made it, if one was found.
        step: how these two differ.
        further: how ``after`` differs from ``bad``, where that is another change.
        possible: the commits one of which made the change, oldest first; one where it was found.
        skipped: the commits that could not be measured.
        untried: those of ``possible`` that were not tried, as they lie between two that fail alike.
        notes: what a reader must know of how it was found.
        in_no_key: what changed between ``before`` and ``after`` that no key holds.
        elsewhere: sources and settings that changed between ``good`` and ``bad`` and that the cell hardly reads.
    """

    verdict: Literal["found", "range", "not reproducible"]
    good: Measured
    bad: Measured
    ends: Difference
    before: Measured | None = None
    after: Measured | None = None
    step: Difference | None = None
    further: Difference | None = None
    possible: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    untried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    in_no_key: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def changed(self) -> list[str]:
        """What the cell differs in before and after the change, in a line each: code, parameters, or else."""
        if self.before is None or self.after is None:
            return []
        old, new = self.before.result, self.after.result
        unseen = [f"{listed(self.in_no_key, _NAMED)}, in no key, changed"] if self.in_no_key else []
        if old.key == new.key:
            return ["no method, parameter, image or weight of the cell changed", *unseen]
        if methods_by_part(old.cell).keys() != methods_by_part(new.cell).keys():
            return [*differences(old.cell, new.cell), *unseen]
        return [*changes(old.cell, new.cell), *unseen] or [
            "nothing that the cell shows changed, but its key is another"
        ]


class Standing(NamedTuple):
    """What a search knows so far: the two ends, those that it has come to between them, and how many may be it."""

    good: Measured | None = None
    bad: Measured | None = None
    before: Measured | None = None
    after: Measured | None = None
    left: int | None = None

    def lines(self) -> list[str]:
        """Return what is known, in words."""
        sides = {"GOOD": self.good, "BAD": self.bad}
        known = [f"{side} {each.commit[:10]}: {_share(each)}" for side, each in sides.items() if each is not None]
        if self.before is not None and self.after is not None and self.left is not None:
            between = f"{self.before.commit[:10]} ({_share(self.before)}) and {self.after.commit[:10]}"
            known.append(f"between {between} ({_share(self.after)}): {self.left:,} commits may be it")
        return known


@dataclass
class Bisection:
    """A search between two commits.

    Args:
        history: of the repository.
        measure: gives the cell at a commit.
        min_effect: the smallest change that counts, in percentage points.
        said: is told in a line what happens.
        images: a change is one of the images that are right, also where accuracy stays.

    Attributes:
        standing: what is known so far.
    """

    history: History
    measure: Measuring
    min_effect: float
    said: Said
    images: bool = False
    standing: Standing = field(default_factory=Standing, init=False)
    _notes: list[str] = field(default_factory=list)
    _candidates: Candidates = field(init=False)

    def __post_init__(self) -> None:
        self._candidates = Candidates(self.history)

    def find(self, good: str, bad: str) -> Finding:
        """Return what changed the cell between two commits, of which the first is an ancestor of the second.

        Results are first looked up by the keys of cells alone. Where commits differ in what no key holds, their own
        harnesses or files that a method may read, results that count and came from another version are measured anew;
        if one differs, or if nothing was found, all is measured with a store for each version.

        Raises:
            UsageError: one of the two cannot be measured, or they cannot be compared.
        """
        finding = self._find(good, bad)
        self.measure.find_in_no_key(finding.good, finding.bad)
        if files := self.measure.in_no_key:
            self._note(
                f"changed as well and in no key: {listed(files, _NAMED)}; if a method reads one, name it in its source"
            )
        elif self.measure.harness(good) is None and self.measure.harness(bad) is None:
            return replace(finding, elsewhere=self.measure.elsewhere)
        if (why := self._contradiction(finding)) is None:
            if finding.before is None or finding.after is None:
                return replace(finding, notes=tuple(self._notes), elsewhere=self.measure.elsewhere)
            unseen = tuple(self.measure.changed_in_no_key(finding.before.commit, finding.after.commit))
            return replace(finding, notes=tuple(self._notes), in_no_key=unseen)
        self._note(why)
        self.measure.apart = True
        self._candidates = Candidates(self.history)
        return self._find(good, bad)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self.said(text)

    def _contradiction(self, finding: Finding) -> str | None:
        """Return why a finding is not kept once each commit is measured by its own version; ``None`` if it is."""
        counted = (finding.good, finding.bad, finding.before, finding.after)
        by_commit = {each.commit: each for each in counted if each is not None}
        doubtful = [each for each in by_commit.values() if not self.measure.is_of_its_version(each)]
        if not doubtful:
            return None
        what = self._what_no_key_holds(finding)
        if finding.verdict == "not reproducible":
            return f"keys do not hold {what}: each of its versions is measured in a store of its own"
        names = listed([each.commit[:10] for each in doubtful], _NAMED)
        self.said(f"measuring again in fresh stores, as a key was measured with another version of {what}: {names}")
        self.measure.apart = True
        try:
            for each in doubtful:
                fresh = self._measured(each.commit)
                if self._difference(each, fresh).changed:
                    return (
                        f"{each.commit[:10]} gives {_share(fresh)}, where its key gave {_share(each)} with another "
                        f"version of {what}: all is measured again with a store for each version"
                    )
        except NotMeasurable as error:
            self._note(f"it could not be checked with each version of {what}: {error}")
            return None
        finally:
            self.measure.apart = False
        self._note(f"checked: measured fresh, each with its own version of {what}, these give the same: {names}")
        return None

    def _what_no_key_holds(self, finding: Finding) -> str:
        """Return in words what no key holds and may differ."""
        ends = (finding.good.commit, finding.bad.commit)
        harness = ["the harness (bench/)"] if any(map(self.measure.harness, ends)) else []
        return listed([*harness, *self.measure.in_no_key], _NAMED)

    def _find(self, good: str, bad: str) -> Finding:
        # The configuration is most likely to fit the code of BAD; what the cell is called there finds it in GOOD.
        last = self._end("BAD", bad, f"GOOD ({good[:10]}) has it: it was removed or renamed between them", good)
        self.standing = Standing(bad=last)
        has = f"BAD ({bad[:10]}) has it: it was added or renamed between them"
        first = self._end("GOOD", good, has, bad, lambda: self.measure.learn_names(good, bad))
        self.standing = Standing(first, last)
        try:
            between = self._difference(first, last)
        except NotMeasurable as error:
            raise UsageError(f"GOOD and BAD cannot be compared: {error}") from None
        if not between.counts:
            return Finding("not reproducible", first, last, between, notes=tuple(self._notes))
        goods, bad_one = self._halved(first, last, [first])
        while (back := self._taken_back(first, last, goods, bad_one)) is not None:
            goods, bad_one = self._halved(first, last, [first, back])
        return self._finding(first, last, between, goods, bad_one)

    def _taken_back(self, first: Measured, last: Measured, goods: Sequence[Measured], bad: Measured) -> Measured | None:
        """Return the next commit known to have taken back a change that was found; ``None`` where there is none.

        It changed a file again that the change was in. With that the cell has a key of before, so it is measured; or
        the lines that the change brought are gone, and for one such commit a run says whether that took it back.
        """
        keys = {each.result.key for each in goods}
        if len(self.history.halving([each.commit for each in goods], bad.commit)) > 1 or bad.commit == last.commit:
            return None
        names = self.measure.held_between(goods[-1].commit, bad.commit)[:_FOLLOWED]
        touching = (self.history.changing(name, bad.commit, last.commit) for name in names)
        again = set(chain.from_iterable(touching)).difference(self._candidates.why)
        later = (each for each in self.history.between(bad.commit, last.commit) if each in again)
        has_run = False
        for commit in islice(later, _TRIED):
            is_known = self.measure.key_at(commit) in keys
            if not is_known and (has_run or not self._is_gone(commit, goods[-1].commit, bad.commit, names)):
                continue
            has_run = has_run or not is_known
            with suppress(NotMeasurable):
                if self._is_good(back := self._measured(commit), first, last):
                    change = f"{self.history.described(bad.commit)}: {_share(goods[-1])}, then {_share(bad)}"
                    self._note(f"a change was taken back at {commit[:10]}, and the search went on from there: {change}")
                    return back
        return None

    def _is_gone(self, commit: str, before: str, after: str, names: Sequence[str]) -> bool:
        """Say whether a commit has no line of those that a change of some files brought; where none, all it removed."""

        def lines(at: str) -> set[tuple[str, bytes]]:
            texts = ((name, self.history.bytes_of(at, name) or b"") for name in names)
            by_file = ([(name, line.strip()) for line in text.splitlines() if line.strip()] for name, text in texts)
            return set(chain.from_iterable(by_file))

        old, new = lines(before), lines(after)
        now = lines(commit)
        return now.isdisjoint(new - old) if new - old else old - new <= now

    def _end(self, side: str, commit: str, has: str, other: str, learn: Callable[[], bool] = lambda: False) -> Measured:
        """Return what the cell gives at GOOD or BAD; where it fails, again after something was learned.

        Args:
            side: which of the two.
            commit: its hash.
            has: what is said where the other one alone has the cell.
            other: the hash of that.
            learn: learns something, and says whether it did.
        """
        self.said(f"{side}: {self.history.described(commit)}")
        try:
            try:
                measured = self._measured(commit, again=True)
            except NotMeasurable:
                if not learn():
                    raise
                measured = self._measured(commit, again=True)
        except NotMeasurable as error:
            is_one_sided = isinstance(error, NoSuchCell) and self.measure.is_planned(other)
            raise UsageError(f"{side}: {error}{f'; {has}' if is_one_sided else ''}") from None
        self.said(_share(measured))
        return measured

    def _measured(self, commit: str, *, again: bool = False) -> Measured:
        began = time.monotonic()
        try:
            return self.measure(commit, again=again)
        except Stop:
            # Any run may be ended early; one that took long by itself may hang.
            hangs = "; a run that hangs is ended and skipped by --set run.timeout=10m"
            self.said(f"{commit[:10]} was not finished{hangs if time.monotonic() - began >= _LONG_RUN else ''}")
            raise

    def _halved(self, first: Measured, last: Measured, known: Sequence[Measured]) -> tuple[list[Measured], Measured]:
        """Return the commits on the side of the first, the latest last, and the earliest known on the other side.

        Args:
            first: GOOD.
            last: BAD.
            known: those that are known to be on the side of the first, this one first.
        """
        goods, bad = list(known), last
        while candidate := self._candidates.next([each.commit for each in goods], bad.commit):
            left = len(self.history.halving([each.commit for each in goods], bad.commit))
            self.standing = Standing(first, last, goods[-1], bad, left)
            steps = f"{left:,} commits may be it, about {ceil(log2(left))} to look at"
            self.said(f"{self.history.described(candidate)} ({steps})")
            try:
                measured = self._measured(candidate)
                is_good = self._is_good(measured, first, last)
            except NotMeasurable as error:
                self._candidates.why[candidate] = str(error)
                before = " without a new try" if isinstance(error, Remembered) else ""
                self.said(f"skipped{before}: {error}")
                continue
            self.said(f"{_share(measured)}: {'as GOOD' if is_good else 'not as GOOD'}")
            if is_good:
                goods.append(measured)
            else:
                bad = measured
        return goods, bad

    def _is_good(self, measured: Measured, first: Measured, last: Measured) -> bool:
        """Say whether a commit comes before the first change.

        It does where it does not differ from GOOD. Where it differs from neither, the side counts from which fewer
        images differ.
        """
        from_good, from_bad = self._difference(first, measured), self._difference(measured, last)
        if from_good.counts or from_bad.counts:
            return not from_good.counts
        return from_good.changed <= from_bad.changed

    def _finding(
        self, first: Measured, last: Measured, ends: Difference, goods: Sequence[Measured], bad: Measured
    ) -> Finding:
        between = [first.commit, *self.history.between(first.commit, last.commit)]
        possible = self.history.halving([each.commit for each in goods], bad.commit)
        before = goods[-1]
        if len(possible) == 1:
            before = self._before(bad.commit, goods, between)
        further = self._difference(bad, last)
        return Finding(
            "found" if len(possible) == 1 else "range",
            first,
            last,
            ends,
            before,
            bad,
            self._difference(before, bad),
            further if further.counts else None,
            tuple(sorted(possible, key=between.index)),
            tuple(Skipped(commit, why) for commit, why in self._candidates.why.items()),
            tuple(sorted(self._candidates.untried(possible), key=between.index)),
            tuple(self._notes),
            tuple(self.measure.changed_in_no_key(before.commit, bad.commit)),
        )

    def _before(self, commit: str, goods: Sequence[Measured], between: Sequence[str]) -> Measured:
        """Return the commit on which another was built, as measured, that comes before the change."""
        parents = self.history.parents(commit)
        if outside := [each[:10] for each in parents if each not in between]:
            self._note(
                f"{commit[:10]} is a merge; commits up to {', '.join(outside)} that were not built on GOOD may have "
                "brought the change in, and are not searched"
            )
        if (known := next((each for each in reversed(goods) if each.commit in parents), None)) is not None:
            return known
        for each in parents:
            with suppress(NotMeasurable):
                if each in between:
                    return self.measure(each)
        return goods[-1]

    def _difference(self, old: Measured, new: Measured) -> Difference:
        return Difference.of(old.result, new.result, self.min_effect, images=self.images)


def _share(measured: Measured) -> str:
    outcomes = measured.result.outcomes_under_attack
    assert outcomes is not None
    return f"{100 * outcomes.share:.2f} % right"
