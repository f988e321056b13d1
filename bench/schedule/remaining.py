"""How long a run still takes: what was predicted, corrected by what work of the same kind has taken so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from bench.schedule.predict import Piece

# Seconds of prediction that weigh as much as experience does, for a kind of work and for one method of it.
_DOUBT = 30.0


class Remaining:
    """Follows a run piece by piece.

    Predictions err alike for like work: all trainings, all attacks, and more so one attack on several networks; but a
    training says nothing of attacks. So the ratio of what was taken to what was predicted is kept for each method,
    leaning on that of its kind while it has seen little.

    Args:
        pieces: of the plan, with their predicted seconds. One without is taken to be as dear as the others for its
            FLOPs, or, where those are not known either, as the mean of the others.
        clock: seconds, rising.
        began: when the run did, on that clock; now by default.
    """

    def __init__(
        self, pieces: Iterable[Piece], clock: Callable[[], float] = time.monotonic, began: float | None = None
    ) -> None:
        todo = [piece for piece in pieces if not piece.done]
        self._seconds = dict(zip((piece.key for piece in todo), _predicted(todo), strict=True))
        self._kinds = {piece.key: _kinds(piece.what) for piece in todo}
        self._shares: dict[str, float] = {}
        self._left: defaultdict[tuple[str, str], float] = defaultdict(float)
        for key, seconds in self._seconds.items():
            self._left[self._kinds[key]] += seconds
        self._took: defaultdict[str, float] = defaultdict(float)
        self._predicted: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._last = clock() if began is None else began

    def at(self, key: str, share: float, now: float | None = None) -> None:
        """Note that so much of a piece, in [0, 1], is done; the time since the last note went into it.

        ``now`` is when that was so, where it is noted later.
        """
        now = self._clock() if now is None else now
        took, self._last = now - self._last, now
        # A set that another cell has asked for before is looked through from its beginning again.
        if key not in self._seconds or share <= self._shares.get(key, -1.0):
            return
        # What was done of it before anybody looked is no experience.
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

    def _ratio(self, kinds: tuple[str, str]) -> float:
        ratio = 1.0
        for kind in kinds:
            ratio = (self._took[kind] + _DOUBT * ratio) / (self._predicted[kind] + _DOUBT)
        return ratio


def _predicted(pieces: Sequence[Piece]) -> list[float]:
    """Return the seconds of each piece, known or guessed."""
    known = [piece.seconds for piece in pieces if piece.seconds is not None]
    mean = sum(known) / len(known) if known else 0.0
    both = [(piece.seconds, piece.tflop) for piece in pieces if piece.seconds is not None and piece.tflop]
    rate = sum(seconds for seconds, _ in both) / sum(tflop for _, tflop in both) if both else None
    guesses = (mean if rate is None or piece.tflop is None else rate * piece.tflop for piece in pieces)
    return [guess if piece.seconds is None else piece.seconds for piece, guess in zip(pieces, guesses, strict=True)]


def _kinds(what: str) -> tuple[str, str]:
    """Return what sort of work a piece is, and by which method: ``attack`` and ``attack pgd``."""
    kind, _, rest = what.partition(" ")
    method = rest.split("/")[-2] if "/" in rest and kind != "train" else rest.partition(" on ")[0]
    return kind, f"{kind} {method}"
