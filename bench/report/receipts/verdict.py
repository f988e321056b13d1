"""What a check of a receipt has shown: a finding for each thing that was looked at, and the verdict of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bench.outcomes import Outcomes
from bench.report.receipts import claims, passes
from bench.report.receipts.claims import Wrong, distances_of
from bench.report.receipts.methods import unknown_threat, wrong_threat
from bench.report.receipts.names import beside_presets
from bench.report.receipts.read import Arrays, Receipt
from bench.report.sets.kept import Array
from bench.stats import wilson
from bench.types import AttackRef, Threat, eps_text, jsonable, listed

if TYPE_CHECKING:
    from bench.evaluation.counted import Counted

#: ``said``: something that a reader must know, and that refutes nothing.
State = Literal["holds", "round-off", "refuted", "not checked", "said"]
Check = Literal[
    "claims",
    "budget",
    "names",
    "date",
    "passes",
    "images",
    "training",
    "code",
    "weights",
    "costs",
    "corruption",
    "draws",
    "clean answers",
    "adversarial answers",
    "accuracy",
]
Verdict = Literal["holds", "holds within round-off", "does not hold", "holds as far as it was checked"]

#: What a report in JSON says that it is.
REPORT_FORMAT = "crossfire-verification"
#: How far below the highest the logit of the stated class may be where the answer is now another, in mean margins.
ROUND_OFF = 1e-3
#: Of all answers, the share that may differ so; one always may.
MOST_DIFFERING = 0.01
#: Relative. Costs are means over images; summing them in another order may change them by a billionth.
_COST_ROUND_OFF = 1e-9
#: Positions that a line names.
_NAMED = 10
#: How far the clock of a machine may be ahead.
AHEAD = timedelta(days=1)


#: Checks of which what is said belongs to the verdict, and in which words.
_REMARKS: dict[Check, str] = {
    "date": "its date lies ahead",
    "passes": "its passes are not plausible",
    "weights": "predicted with weights in half precision",
}


class Finding(NamedTuple):
    """What was looked at, what it showed, in one line, and the positions of the images that it is about."""

    check: Check
    state: State
    line: str
    images: tuple[int, ...] = ()


class Report(NamedTuple):
    """All that a check has shown of a receipt.

    ``accuracy`` is that under attack of the answers of now; ``None`` where none were asked for, or not all.
    ``predicted`` is of how many images they were asked for.
    """

    receipt: Receipt
    findings: tuple[Finding, ...]
    accuracy: float | None = None
    predicted: int = 0

    @property
    def verdict(self) -> Verdict:
        states = {finding.state for finding in self.findings}
        if "refuted" in states:
            return "does not hold"
        if "not checked" in states:
            return "holds as far as it was checked"
        return "holds within round-off" if "round-off" in states else "holds"

    @property
    def remarks(self) -> list[str]:
        """What refutes nothing, and belongs to the verdict: a date ahead, implausible passes, weights as float16."""
        return [each.line for each in self.findings if each.check in _REMARKS and each.state == "said"]

    @property
    def words(self) -> str:
        """The verdict for a reader, with what must be said of it."""
        said = [each.check for each in self.findings if each.state == "said"]
        return "; ".join([self.verdict, *(words for check, words in _REMARKS.items() if check in said)])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it; it names no path."""
        result = self.receipt.result
        return {
            "format": REPORT_FORMAT,
            "schema": 1,
            "receipt": self.receipt.sha256,
            "key": result.key,
            "names": jsonable(result.names),
            "by": self.receipt.by,
            "verdict": self.verdict,
            "remarks": self.remarks,
            "accuracy_under_attack": result.metrics and result.metrics.accuracy_under_attack,
            "accuracy_repeated": self.accuracy,
            "images_predicted": self.predicted,
            "findings": [each._asdict() | {"images": list(each.images)} for each in self.findings],
        }


def named(positions: Iterable[int]) -> str:
    """Return positions for a line: the first few, and how many more there are."""
    return listed((f"{each:,}" for each in positions), _NAMED)


def of_claims(contradictions: Iterable[Wrong]) -> list[Finding]:
    """Return what follows from the arrays."""
    found = [Finding(wrong.check, "refuted", wrong.line) for wrong in contradictions]
    if any(each.check == "claims" for each in found):
        return found
    line = "outcomes, accuracies, intervals and distances follow from the arrays, and the key is that of the cell"
    return [Finding("claims", "holds", line), *found]


def of_budget(receipt: Receipt, arrays: Arrays) -> list[Finding]:
    """Return what the audit of images showed that found nothing wrong, and what is not known of such a budget."""
    attack, n = receipt.result.cell.attack, receipt.result.cell.data.n
    assert attack is not None
    return [_of_ball(attack.threat, n, arrays), *_of_threat(attack)]


def _of_ball(threat: Threat, n: int, arrays: Arrays) -> Finding:
    norm, eps = threat.norm, threat.eps
    if norm == "corruption":
        return Finding("budget", "not checked", f"{n:,} images in the box; a corruption has no budget")
    if norm in ("flow", "wasserstein"):
        return Finding("budget", "not checked", f"{n:,} images in the box; a {norm} budget cannot be read off images")
    if eps is None:
        return Finding("budget", "said", f"{n:,} images in the box; the attack has no budget, and minimises {norm}")
    # Images of a smaller budget than the one that is named flatter a defense.
    largest = f"the largest distance is {distances_of(arrays)[norm].max():.4g}"
    return Finding("budget", "holds", f"{n:,} images in the box and within {norm} {eps_text(eps)}; {largest}")


def _of_threat(attack: AttackRef) -> Iterator[Finding]:
    """Yield what is not known of the norm of an attack; one that its code here cannot have is refused before."""
    if (name := unknown_threat(attack)) is not None:
        line = f"{name} is not Crossfire's own, so nothing here says whether it keeps to {attack.threat.norm}"
        yield Finding("budget", "not checked", line)
    if (wrong := wrong_threat(attack)) is not None:
        yield Finding("budget", "not checked", f"its attack has other code here, and here {wrong.line}")


def of_names(receipt: Receipt) -> list[Finding]:
    """Return what a reader of the names must know, which hold: that a preset in one was changed."""
    return [Finding("names", "said", f"the preset {line}") for line in beside_presets(receipt.result)]


def of_date(receipt: Receipt) -> list[Finding]:
    """Return a remark where a receipt says that it was measured in the future; nothing else is known of its date."""
    finished, now = receipt.result.provenance.finished, datetime.now(UTC)
    if datetime.fromisoformat(finished) <= now + AHEAD:
        return []
    return [Finding("date", "said", f"it says that it was measured on {finished[:10]}, and today is {now.date()}")]


def of_passes(receipt: Receipt) -> list[Finding]:
    """Return a remark where the passes that are stated are not those of the attack, or nothing says what it takes.

    Nothing where they can be.
    """
    result = receipt.result
    if (why := passes.remark(result)) is not None:
        return [Finding("passes", "said", f"not plausible: {why}")]
    unknown = passes.undecided(result)
    return [] if unknown is None else [Finding("passes", "not checked", unknown)]


def of_costs(receipt: Receipt, found: Counted) -> Finding:
    """Return whether the parameters and FLOPs that are claimed are those that were counted now.

    The passes of the attack are taken as they are stated, and so are those of the training and all seconds.
    """
    result = receipt.result
    claimed, attack = result.defense_cost, result.cost
    assert attack is not None
    pairs: list[tuple[str, float | None, float]] = []
    if claimed is not None:
        pairs += [
            ("parameters", claimed.params, found.params),
            ("FLOPs of an image through the defense", claimed.test_flops, found.test_flops),
            ("forwards of an image through the defense", claimed.test_forwards, found.test_passes.forwards),
            ("backwards of an image through the defense", claimed.test_backwards, found.test_passes.backwards),
        ]
    expected = found.attacked.of(attack.forwards_per_example, attack.backwards_per_example)
    pairs.append(("FLOPs of the attack on an image", attack.flops_per_example, expected))
    stated = [pair for pair in pairs if pair[1] is not None]
    wrong = [
        f"it says {_number(value)} {what}, and {_number(now)} are counted"
        for what, value, now in stated
        if value is not None and not math.isclose(value, now, rel_tol=_COST_ROUND_OFF)
    ]
    if wrong:
        return Finding("costs", "refuted", "; ".join(wrong))
    counted = f"{_number(found.params)} parameters and {_number(found.test_flops)} FLOPs of an image, counted again"
    if claimed is None:
        counted = "FLOPs of the attack are those of the passes that are stated"
    return Finding("costs", "holds", f"{counted}; passes and seconds are what the receipt says")


def of_corruption(name: str, asked: int, other: Sequence[int]) -> Finding:
    """Return whether images are those that a corruption gives here; others refute nothing, as hardware rounds.

    Args:
        name: of the corruption.
        asked: images that were made again.
        other: the positions of those that are others.
    """
    line = f"{asked - len(other):,} of {asked:,} images are those that {name} makes of the clean ones here"
    if not other:
        return Finding("corruption", "holds", line)
    return Finding("corruption", "said", f"{line}; others at image {named(other)}", tuple(other))


def of_draws(receipt: Receipt, draws: int) -> list[Finding]:
    """Return what refutes how often a defense was asked, given how often it is asked here; nothing where that agrees.

    A random one, stated as if it were none, would lose what is left of it when it is asked again.
    """
    metrics, step = receipt.result.metrics, receipt.result.cell.step
    assert metrics is not None
    if (metrics.robust_mean is not None) == (draws > 1):
        return []
    name = "the network" if step is None else step.name
    line = f"{name} draws at random and is asked {draws} times, and shares of its draws are not stated"
    if draws == 1:
        line = f"{name} does not draw, and shares of draws are stated"
    return [Finding("draws", "refuted", line)]


def _number(value: float) -> str:
    """Return all digits of a count, and of a mean as many as tell it from its neighbours."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,}"


def of_answers(check: Check, asked: int, differing: Array, gaps: Array, margin: float) -> Finding:
    """Return what repeated predictions showed.

    Args:
        check: which answers.
        asked: images.
        differing: the positions of those with another answer (k,).
        gaps: of each from the stated answer (k,).
        margin: the mean one.
    """
    line = f"{asked - len(differing):,} of {asked:,} repeated"
    if not len(differing):
        return Finding(check, "holds", line)
    bound, farthest = ROUND_OFF * margin, float(gaps.max())
    line += f"; other at image {named(differing.tolist())}, up to {farthest:.2g} of a logit apart"
    is_small = farthest <= bound and len(differing) <= max(1, MOST_DIFFERING * asked)
    explained = f"{'' if is_small else 'only '}{bound:.2g} at up to {max(1, int(MOST_DIFFERING * asked)):,} of them"
    images = tuple(differing.tolist())
    return Finding(check, "round-off" if is_small else "refuted", f"{line}; round-off explains {explained}", images)


def of_accuracy(receipt: Receipt, unbroken: Array) -> Finding:
    """Return whether the accuracy of all answers of now (n,) is within the interval that is claimed."""
    metrics, now = receipt.result.metrics, wilson(int(unbroken.sum()), len(unbroken)).value
    assert metrics is not None and metrics.ci_low is not None and metrics.ci_high is not None
    stated = receipt.result.outcomes_under_attack
    interval = f"[{100 * metrics.ci_low:.1f}, {100 * metrics.ci_high:.1f}]"
    within = metrics.ci_low - claims.ROUND_OFF <= now <= metrics.ci_high + claims.ROUND_OFF
    line = f"{100 * now:.2f} % under attack now, {'within' if within else 'not within'} the claimed {interval}"
    changed = np.flatnonzero(np.array(list(stated or Outcomes.of(unbroken.tolist()))) != unbroken)
    return Finding("accuracy", "holds" if within else "refuted", line, tuple(changed.tolist()))
