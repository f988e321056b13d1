"""What a run reports while it works: how far the current work is and, after a while, when all will be done."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol

from bench.schedule.estimate import Node
from bench.store.account import spending
from bench.store.run_log import RunLog

#: The share of the time so far that the estimate of the time left may take.
SHARE = 0.02
# Seconds that a step of it is thought to take before one was seen.
_STEP = 0.1
# Seconds between two entries of the time left in the log.
_LOG_EVERY = 5.0
# Seconds of prediction that weigh as much as a measurement, for a kind of work and for one method of it.
_DOUBT = 30.0


class Reporter(Protocol):
    """Where a run reports its progress."""

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        """Say how many cells are done, and how many of these failed."""

    def work(
        self,
        what: str,
        done: float,
        total: float | None,
        note: str = "",
        left: float | None = None,
        most: float | None = None,
    ) -> None:
        """Say how far the current work is, if that is known, in how many seconds all will be done, and at most."""


class Remaining:
    """The seconds that a run still takes, corrected by what its finished work took.

    Predictions are off by similar factors for similar work: all trainings, all attacks, and more so one attack on
    several networks; but a training says nothing about attacks. So the ratio of seconds taken to seconds predicted is
    kept for each method. While little is known about a method, its ratio is close to that of its kind.

    Args:
        nodes: of the plan, with their predicted seconds. A node without is assumed to take as long as the others for
            its FLOPs, or, where those are not known either, as the mean of the others.
        clock: seconds, rising.
        began: when the run began, on that clock; now by default.
    """

    def __init__(
        self, nodes: Iterable[Node], clock: Callable[[], float] = time.monotonic, began: float | None = None
    ) -> None:
        todo = [node for node in nodes if not node.done]
        self._seconds = dict(zip((node.key for node in todo), _predicted(todo), strict=True))
        self._kinds = {node.key: (node.kind, f"{node.kind} {node.method}") for node in todo}
        self._shares: dict[str, float] = {}
        self._most = {node.key: times for node in todo if (times := _most_times(node)) > 1}
        self._left: defaultdict[tuple[str, str], float] = defaultdict(float)
        for key, seconds in self._seconds.items():
            self._left[self._kinds[key]] += seconds
        self._took: defaultdict[str, float] = defaultdict(float)
        self._predicted: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._last = clock() if began is None else began

    def at(self, key: str, share: float, now: float | None = None) -> None:
        """Note that a share of a node, in [0, 1], is done; the time since the last note is counted for it.

        ``now`` is when that was so, where it is noted later.
        """
        now = self._clock() if now is None else now
        took, self._last = now - self._last, now
        # A set that another cell needed before is gone through from its beginning again.
        if key not in self._seconds or share <= self._shares.get(key, -1.0):
            return
        # What was done before the first note says nothing about speed.
        first = key not in self._shares
        done = (share - self._shares.get(key, 0.0)) * self._seconds[key]
        self._shares[key] = share
        self._left[self._kinds[key]] -= done
        if first and share > 0:
            return
        for kind in self._kinds[key]:
            self._took[kind] += took
            self._predicted[kind] += done

    def seconds(self) -> float:
        """Return how many seconds are left."""
        return sum(max(0.0, left) * self._ratio(kinds) for kinds, left in self._left.items())

    def most(self) -> float:
        """Return how many seconds are left if attacks take all passes that they state, beyond those counted with."""
        more = 0.0
        for key, times in self._most.items():
            left = (1 - self._shares.get(key, 0.0)) * self._seconds[key]
            # What such attacks took so far may already be as much.
            more += left * max(0.0, times - self._ratio(self._kinds[key]))
        return self.seconds() + more

    def _ratio(self, kinds: tuple[str, str]) -> float:
        ratio = 1.0
        for kind in kinds:
            ratio = (self._took[kind] + _DOUBT * ratio) / (self._predicted[kind] + _DOUBT)
        return ratio


class TimeLeft:
    """Estimates what is left in short steps that take at most a fiftieth of the time that the run has taken.

    Args:
        steps: return the nodes of the plan at their end; each takes a fraction of a second.
        clock: seconds, rising.
    """

    def __init__(self, steps: Generator[None, None, Sequence[Node]], clock: Callable[[], float] = time.monotonic):
        self._steps = steps
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._longest = _STEP
        self._notes: list[tuple[str, float, float]] = []
        self._remaining: Remaining | None = None
        self._over = False

    def at(self, key: str, share: float) -> float | None:
        """Note that a share of a node, in [0, 1], is done; return the seconds that are left, if that is known yet."""
        if self._remaining is not None:
            self._remaining.at(key, share)
            return self._remaining.seconds()
        self._note(key, share)
        while not self._over:
            now = self._clock()
            if self._spent + self._longest > SHARE * (now - self._began):
                return None
            try:
                next(self._steps)
            except StopIteration as end:
                self._over = True
                self._remaining = self._follow(end.value)
            except BaseException:
                # What ends a run or a cell has ended this too.
                self._over = True
                raise
            took = self._clock() - now
            self._spent += took
            self._longest = max(self._longest, took)
        return None if self._remaining is None else self._remaining.seconds()

    def most(self) -> float | None:
        """Return the seconds that are left at most, if that is known yet."""
        return None if self._remaining is None else self._remaining.most()

    def _note(self, key: str, share: float) -> None:
        # Notes between the first and the last one of a node are dropped: its time is the same without them.
        if [each[0] for each in self._notes[-2:]] == [key, key] and self._notes[-2][1] < self._notes[-1][1] < share:
            self._notes.pop()
        self._notes.append((key, share, self._clock()))

    def _follow(self, nodes: Sequence[Node]) -> Remaining | None:
        if all(node.seconds is None for node in nodes if not node.done):
            return None
        # Work done before the prediction was ready counts too, also where it was finished by then.
        noted = {key for key, _, _ in self._notes}
        own = [node._replace(done=False) if node.key in noted else node for node in nodes]
        remaining = Remaining(own, self._clock, self._notes[0][2])
        for key, share, now in self._notes:
            remaining.at(key, share, now)
        return remaining


class ProgressTracker:
    """Passes progress on to a reporter and to the run log.

    Args:
        reporter: where the run reports its progress.
        log: of the run.
        estimate: of the remaining time; ``None`` for a worker, which does single nodes of another process's plan.
    """

    def __init__(self, reporter: Reporter, log: RunLog, estimate: TimeLeft | None) -> None:
        self._reporter = reporter
        self._log = log
        self._estimate = estimate
        self._began = self._logged = time.monotonic()

    def __call__(self, what: str, key: str, done: float, total: float, note: str = "") -> None:
        with spending("estimating"):
            left = None if self._estimate is None else self._estimate.at(key, done / total)
            most = None if self._estimate is None else self._estimate.most()
        if left is not None:
            now = time.monotonic()
            if now - self._logged > _LOG_EVERY:
                self._logged = now
                self._log.write("remaining", elapsed=round(now - self._began, 3), seconds=round(left, 3))
        self._reporter.work(what, done, total, note, left, most)


def _most_times(node: Node) -> float:
    """Return how many times its predicted seconds a node takes at most; 0 where the prediction is no lower bound."""
    counted, most = node.passes
    if counted is None or most is None or node.seconds is None or not counted * node.seconds:
        return 0.0
    unbroken = node.seconds if node.between is None else node.between[1]
    return unbroken / node.seconds * most / counted


def _predicted(nodes: Sequence[Node]) -> list[float]:
    """Return the seconds of each node, known or guessed."""
    known = [node.seconds for node in nodes if node.seconds is not None]
    mean = sum(known) / len(known) if known else 0.0
    both = [(node.seconds, node.tflop) for node in nodes if node.seconds is not None and node.tflop]
    rate = sum(seconds for seconds, _ in both) / sum(tflop for _, tflop in both) if both else None
    guesses = (mean if rate is None or node.tflop is None else rate * node.tflop for node in nodes)
    return [guess if node.seconds is None else node.seconds for node, guess in zip(nodes, guesses, strict=True)]
