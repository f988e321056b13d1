"""What adaptive evaluation makes of a test-time step, and whether the attacks on it could have said otherwise.

An attack that fails proves nothing by itself: it may have been too short, or misled by the defense. So a step is only
said to hold where what attacked it could have shown that it does not (:func:`lacking`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from bench.report.leaderboard.soundness import RAN_OUT, families, needs
from bench.stats import Interval
from bench.types import CellResult, Measured

RobustnessVerdict = Literal["holds", "weaker than its base", "broken under adaptive attack", "upper bound only"]

#: Of the p-value adjusted for all verdicts of a table.
SIGNIFICANT = 0.05

#: The longest run of an attack at two lengths is at least so many times as long as the shortest.
LONGER = 2

#: Nothing shorter can deny anything, however little it gains from more: PGD-20 is the least that the field calls an
#: evaluation, and with fewer queries than these no black-box attack has looked at more than its first few guesses.
FEWEST_STEPS = 20
FEWEST_QUERIES = 100

_SHORTENED = "autoattack-reduced"


class _Reasons(NamedTuple):
    """What is said of the attacks of one kind where they lack something."""

    none: str
    not_averaged: str
    failed: str
    ended: str
    one_length: str
    short: str


_LACKING = {
    "gradient": _Reasons(
        none="no adaptive gradient attack",
        not_averaged="the gradients of a random defense were not averaged (eot = 1)",
        failed="its gradient attacks failed",
        ended="its gradient attacks ran out of passes",
        one_length="gradient attacks at one length only",
        short=f"no gradient attack of {FEWEST_STEPS} steps or more",
    ),
    "black box": _Reasons(
        none="no black-box attack at two lengths",
        not_averaged="the answers of a random defense were not averaged in black-box attacks (eot = 1)",
        failed="its black-box attacks failed",
        ended="its black-box attacks ran out of passes",
        one_length="no black-box attack at two lengths",
        short=f"no black-box attack of {FEWEST_QUERIES} queries or more",
    ),
}


def verdict(advantage: Interval, p_value: float, reasons: Collection[str]) -> RobustnessVerdict:
    """Return what adaptive evaluation makes of a test-time step.

    Args:
        advantage: worst-case accuracy of the defense minus that of its base classifier, on the same
            images, with its interval.
        p_value: that the two are equal, adjusted for all verdicts of the table.
        reasons: why the defense's own figure is an upper bound only.
    """
    if p_value >= SIGNIFICANT or advantage.low <= 0 <= advantage.high:
        return "broken under adaptive attack"
    if advantage.value < 0:
        return "weaker than its base"
    return "upper bound only" if reasons else "holds"


def lacking(results: Iterable[CellResult]) -> tuple[str, ...]:
    """Return why the attacks on a defense under one threat could not have denied that it holds; nothing if they could.

    Required, in every seed, from attackers with full knowledge of the defense:

    - an iterative gradient attack at two lengths (steps or restarts), the longest of 20 steps or more and at least
      twice as long as the shortest;
    - an attack that needs scores or labels only at two lengths (queries or restarts), the longest of 100 queries or
      more and at least twice as long as the shortest;
    - where the defense draws, both over more than one draw (``eot``);
    - no AutoAttack that was shortened.

    Whether the longest run of each has converged is a separate flag, ``steps-not-converged``. An attack that did worse
    than noise, changed nothing or never lowered a margin does not count; neither does one that ``max_passes`` ended on
    images that stood, a targeted one, or one that reads something unknown
    (:func:`bench.report.leaderboard.soundness.needs`). AutoAttack is one attack of one length.

    Args:
        results: all cells of the defense under the threat, with the flags of
            :func:`bench.report.leaderboard.soundness.across`.
    """
    done = [r for r in results if r.status == "done" and r.cell.attack is not None and r.cell.attack.target is None]
    lacks: dict[str, None] = {}
    for seed in sorted({r.cell.seed for r in done}):
        seen = [r for r in done if r.cell.seed == seed and r.cell.access in ("white-box", "adaptive")]
        lacks |= dict.fromkeys(_gradients(seen))
        lacks |= dict.fromkeys(_short_of("black box", [r for r in seen if needs(r) in ("scores", "labels")]))
    if any(_SHORTENED in r.flags for r in done):
        lacks["AutoAttack was shortened"] = None
    return tuple(lacks)


def only_noise(measured: Iterable[Measured]) -> bool:
    """Say whether only attacks that read nothing of the target have outcomes, which is not enough for a verdict."""
    return all(needs(each) == "nothing" for each in measured if each.cell.attack is not None)


def _gradients(seen: Sequence[CellResult]) -> list[str]:
    attacked = [r for r in seen if needs(r) == "gradient" and _SHORTENED not in r.flags]
    iterative = [r for r in attacked if _length(r, "steps") > 1]
    return ["only one-step attacks"] if attacked and not iterative else _short_of("gradient", iterative)


def _short_of(kind: Literal["gradient", "black box"], attacked: Sequence[CellResult]) -> list[str]:
    """Return the first thing that attacks of a kind lack, if any."""
    reasons = _LACKING[kind]
    effort, least = ("steps", FEWEST_STEPS) if kind == "gradient" else ("queries", FEWEST_QUERIES)
    averaged = [r for r in attacked if not _is_random(r) or _eot(r) > 1]
    working = [r for r in averaged if not _has_failed(r)]
    whole = [r for r in working if RAN_OUT not in r.flags]
    pairs = [runs for by, runs in families(whole) if _length(runs[-1], by) >= LONGER * _length(runs[0], by)]
    if not attacked:
        return [reasons.none]
    if not averaged:
        return [reasons.not_averaged]
    if not working:
        return [reasons.failed]
    if not whole:
        return [reasons.ended]
    if not pairs:
        return [reasons.one_length]
    return [] if any(_length(runs[-1], effort) >= least for runs in pairs) else [reasons.short]


def _length(result: CellResult, effort: str) -> float:
    assert result.cell.attack is not None
    length = result.cell.attack.attack.params.get(effort)
    return float(length) if isinstance(length, int | float) else 0.0


def _eot(result: CellResult) -> int:
    assert result.cell.attack is not None
    return result.cell.attack.eot


def _is_random(result: CellResult) -> bool:
    return "randomised" in result.flags


def _has_failed(result: CellResult) -> bool:
    assert result.cell.attack is not None
    # After others of its suite an attack may well find nothing left to break; on all images it may not.
    alone = {"no-op", "loss-not-rising"} if not result.cell.attack.after else set()
    return bool({"weaker-than-noise", *alone} & set(result.flags))
