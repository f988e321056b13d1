"""Is an evaluation sound? What would make a robustness figure an upper bound only becomes a flag in its cell.

After Carlini et al. (2019), Tramer et al. (2020), Pintor et al. (2022) and AutoAttack's flags (Croce and Hein, 2020).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import accumulate, chain
from typing import NamedTuple

from bench import registry
from bench.keys import Keys, Once
from bench.outcomes import Outcomes, right_in_all
from bench.stats import mcnemar, wilson
from bench.types import CellResult, CraftPrecision, Measured, MethodRef, Threat, UsageError

#: Flags that say that gradients or answers of a function mislead: no attack on it is to be trusted.
MISLEADING = frozenset(
    {
        "autoattack-probabilities",
        "autoattack-randomised",
        "autoattack-square-beats-gradient",
        "autoattack-zero-gradient",
        "batch-dependent",
        "black-box-beats-gradient",
        "not-deterministic",
        "probabilities",
        "steps-not-converged",
        "survives-any-eps",
        "transfer-beats-adaptive",
        "zero-gradient",
    }
)

#: The flag of an attack whose passes ended before it had run whole on images that stood.
RAN_OUT = "ran-out-of-passes"

#: Flags that say that one attack failed, or was ended. They matter where no other attack does better.
FAILING = frozenset({"loss-not-rising", "no-op", RAN_OUT, "weaker-than-noise"})

#: AutoAttack's threshold: a black-box attack that breaks more than this beyond the gradient attacks shows masking.
_BLACK_BOX_EXTRA = 0.002
_CONVERGED_WITHIN = 0.01
_SIGNIFICANT = 0.05

#: Parameters that say how long an attack runs.
_EFFORTS = ("steps", "restarts", "queries")


def unsound(attacks: Iterable[tuple[float, Collection[str]]]) -> tuple[str, ...]:
    """Return the flags that make the worst case over attacks, given by accuracy and flags, an upper bound only.

    A flag of an attack that failed counts only if no attack does better: that FGSM
    does not move an image says nothing about a PGD that does.
    """
    attacks = list(attacks)
    strongest = min((accuracy for accuracy, _ in attacks), default=0.0)
    misleading = set(chain.from_iterable(flags for _, flags in attacks)).intersection(MISLEADING)
    # Where one of several equally strong attacks is sound, the figure is.
    failing = [FAILING & set(flags) for accuracy, flags in attacks if accuracy == strongest]
    return tuple(sorted(misleading | (set().union(*failing) if failing and all(failing) else set())))


class _Cell(NamedTuple):
    """A result, the images that survive it, and what its attack needs."""

    result: CellResult
    robust: Outcomes
    needs: str

    @property
    def is_seen(self) -> bool:
        """Whether its attacker saw the entire defense."""
        return self.result.cell.access in ("white-box", "adaptive")

    @property
    def has_budget(self) -> bool:
        """Whether its images were to lie in a ball; those of common corruptions are no floor for each other."""
        return self.result.cell.attack is not None and self.result.cell.attack.threat.eps is not None

    @property
    def position(self) -> int:
        """How many attacks went before this one in its suite."""
        return len(self.result.cell.attack.after) if self.result.cell.attack else 0


def across(results: Iterable[CellResult]) -> dict[str, tuple[str, ...]]:
    """Return flags that only several cells of one defense together can show, by the key of the cell.

    ``black-box-beats-gradient``: an attack without gradients breaks images that no gradient attack breaks.
    ``transfer-beats-adaptive``: images made on another function break more than the best gradient attack on this one.
    ``weaker-than-noise``: the attack does worse than random noise of the same budget.
    ``steps-not-converged``: of one attack, the run of most steps breaks over a point more than the longest of at most
    half as many or, in a suite, than all attacks before it together.
    ``survives-any-eps``: accuracy does not fall to chance at a budget of half the pixel range or more.
    """
    flags: dict[str, set[str]] = defaultdict(set)
    threats = Once(Threat.model_dump_json)
    for cells in _by(results).values():
        survivors = [cell.robust for cell in cells if _is_huge(cell.result) and cell.result.cell.access != "static"]
        chance = 1 / cells[0].result.cell.data.num_classes
        if survivors and right_in_all(survivors).count > chance * cells[0].robust.n:
            for cell in cells:
                flags[cell.result.key].add("survives-any-eps")
        groups: dict[str, list[_Cell]] = defaultdict(list)
        for cell in cells:
            if (attack := cell.result.cell.attack) is not None:
                groups[threats(attack.threat)].append(cell)
        for group in groups.values():
            for key, flag in _among(group):
                flags[key].add(flag)
    return {key: tuple(sorted(raised)) for key, raised in flags.items()}


def _among(cells: Sequence[_Cell]) -> Iterable[tuple[str, str]]:
    seen = [cell for cell in cells if cell.is_seen]
    gradient = [cell for cell in seen if cell.needs == "gradient"]
    if gradient:
        survivors = right_in_all(cell.robust for cell in gradient)
        best = min(gradient, key=lambda cell: cell.robust.count)
        for cell in cells:
            if cell.is_seen and cell.needs in ("scores", "labels"):
                extra = survivors.but_not(cell.robust).count
                if wilson(extra, cell.robust.n).low > _BLACK_BOX_EXTRA:
                    yield from ((other.result.key, "black-box-beats-gradient") for other in (cell, *gradient))
            if not cell.is_seen and _significant(best.robust, cell.robust):
                yield from ((other.result.key, "transfer-beats-adaptive") for other in (cell, *gradient))
    for noise in (each for each in seen if each.needs == "nothing" and each.has_budget):
        yield from ((c.result.key, "weaker-than-noise") for c in seen if _significant(c.robust, noise.robust))
    of = {cell.result.key: cell for cell in seen}
    fewest = _fewest_before(seen)
    for effort, family in families(cell.result for cell in seen):
        runs = [of[result.key] for result in family]
        most, at = runs[-1], _clearly_shorter(runs, effort)
        shorter = runs[at]
        # A suite's columns are running worst cases: what ran before is no merit of more steps. Runs of the same attack
        # that are hardly shorter do not count as before, or one more of them would hide what the longest gained.
        before = fewest[min(run.position for run in runs[at + 1 :])]
        left = shorter.robust.count if before is None else before
        if left - most.robust.count > _CONVERGED_WITHIN * most.robust.n:
            yield from ((cell.result.key, "steps-not-converged") for cell in (most, shorter))


def _fewest_before(cells: Iterable[_Cell]) -> dict[int, int | None]:
    """Return, for each position in a suite, the fewest images that survive an attack of an earlier one, if there is."""
    fewest: dict[int, int] = {}
    for cell in cells:
        fewest[cell.position] = min(fewest.get(cell.position, cell.robust.n), cell.robust.count)
    positions = sorted(fewest)
    earlier = accumulate((fewest[position] for position in positions), min)
    return dict(zip(positions, [None, *earlier], strict=False))


def _clearly_shorter(runs: Sequence[_Cell], effort: str) -> int:
    """Return which is the longest run of at most half the length of the last one; where none is, the one before it."""

    def length(run: _Cell) -> float:
        assert run.result.cell.attack is not None
        return float(run.result.cell.attack.attack.params[effort] or 0)

    half = [at for at, run in enumerate(runs[:-1]) if 2 * length(run) <= length(runs[-1])]
    return half[-1] if half else len(runs) - 2


def _significant(weaker: Outcomes, stronger: Outcomes) -> bool:
    """Say whether ``stronger`` breaks more images than ``weaker``, beyond chance (one side of McNemar's test)."""
    more, fewer = weaker.but_not(stronger).count, stronger.but_not(weaker).count
    return more > fewer and mcnemar(more, fewer) < _SIGNIFICANT


def families(results: Iterable[CellResult]) -> Iterator[tuple[str, list[CellResult]]]:
    """Yield runs of one attack that differ in one measure of effort only: that measure, and they, the longest last."""
    namesakes: dict[tuple[str, int, int | None, CraftPrecision, str], list[tuple[MethodRef, CellResult]]] = defaultdict(
        list
    )
    for result in results:
        if (attack_ref := result.cell.attack) is not None:
            method = attack_ref.attack
            used = attack_ref.eot, attack_ref.max_passes, attack_ref.craft_precision
            namesakes[result.cell.access, *used, method.name].append((method, result))
    # Most attacks are alone, and to write out all of them would take the most of the time.
    for group in (group for group in namesakes.values() if len(group) > 1):
        by_effort: dict[tuple[str, str], dict[float, CellResult]] = defaultdict(dict)
        for attack, result in group:
            for effort in _EFFORTS:
                if isinstance(length := attack.params.get(effort), int | float):
                    by_effort[effort, attack.model_dump_json(exclude={"params": {effort}})][float(length)] = result
        for (effort, _), runs in by_effort.items():
            if len(runs) > 1:
                yield effort, [runs[length] for length in sorted(runs)]


def _is_huge(result: CellResult) -> bool:
    threat = result.cell.attack.threat if result.cell.attack else None
    return threat is not None and threat.norm == "linf" and threat.eps is not None and threat.eps >= Fraction(1, 2)


def _by(results: Iterable[CellResult]) -> dict[str, list[_Cell]]:
    """Return the attacked results by the deployed function and the images that they were measured on."""
    cells: dict[str, list[_Cell]] = defaultdict(list)
    keys = Keys()
    for result in results:
        cell, robust = result.cell, result.robust_outcomes
        # What an attack does towards one class says nothing about what others do towards any.
        if cell.attack is None or robust is None or cell.attack.target is not None:
            continue
        function = " ".join(keys.text(part) for part in (cell.data, cell.model, cell.step, cell.seed))
        cells[function].append(_Cell(result, robust, needs(result)))
    return cells


def needs(result: Measured) -> str:
    """Return what the attack of a result needs: ``gradient``, ``scores``, ``labels`` or ``nothing``.

    ``unknown`` is said of what another library looks at, and of an attack whose file is no longer there.
    """
    assert result.cell.attack is not None
    return _needed_by(result.cell.attack.attack.name)


@cache
def _needed_by(attack: str) -> str:
    try:
        return str(registry.find("attack", attack).meta.get("needs", "gradient"))
    except UsageError:
        return "unknown"
