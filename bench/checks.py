"""Is an evaluation sound? What would make a robustness figure an upper bound only becomes a flag in its cell.

After Carlini et al. (2019), Tramer et al. (2020), Pintor et al. (2022) and the flags of AutoAttack (Croce and Hein, 2020).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from bench import registry
from bench.keys import canonical_json, unpack_bits
from bench.stats import mcnemar
from bench.types import CellResult, jsonable

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Flags under which a worst-case figure is an upper bound only.
UNSOUND = frozenset(
    {
        "zero-gradient",
        "loss-not-rising",
        "no-op",
        "weaker-than-noise",
        "black-box-beats-gradient",
        "transfer-beats-adaptive",
        "steps-not-converged",
        "survives-any-eps",
        "not-deterministic",
        "probabilities",
    }
)

#: AutoAttack's threshold: a black-box attack that breaks more than this beyond the gradient attacks shows masking.
_BLACK_BOX_EXTRA = 0.002
_CONVERGED_WITHIN = 0.01
_SIGNIFICANT = 0.05


def of_function(deployed: nn.Module, surrogate: nn.Module, x: Tensor, y: Tensor, *, random: bool) -> set[str]:
    """Return the flags of a deployed function itself, from some of its images.

    ``zero-gradient``: at a tenth of the images or more the cross-entropy has no gradient at all, so gradient attacks
    stand still there. ``not-deterministic``: it answers differently when asked again, and does not say so.
    ``probabilities``: it returns a distribution instead of logits, which flattens the losses that attacks climb.

    Args:
        deployed: images to logits; frozen.
        surrogate: what an adaptive attacker differentiates.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        random: the defense says that it draws.
    """
    import torch
    from torch.nn import functional as F

    flags = set()
    with torch.no_grad():
        first, again = deployed(x), deployed(x)
    if not random and not torch.equal(first, again):
        flags.add("not-deterministic")
    if bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-3).all()):
        flags.add("probabilities")
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(surrogate(leaf), y, reduction="sum")
        grad = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
    if grad is None or float((grad.flatten(1) == 0).all(1).float().mean()) >= 0.1:
        flags.add("zero-gradient")
    return flags


class _Cell(NamedTuple):
    result: CellResult
    robust: tuple[bool, ...]
    kind: str

    @property
    def accuracy(self) -> float:
        return sum(self.robust) / len(self.robust)


def across(results: Iterable[CellResult]) -> dict[str, tuple[str, ...]]:
    """Return flags that only several cells of one defense together can show, by the key of the cell.

    ``black-box-beats-gradient``: an attack without gradients breaks images that no gradient attack breaks.
    ``transfer-beats-adaptive``: images made on another network break more than any adaptive attack.
    ``weaker-than-noise``: the attack does worse than random noise of the same budget.
    ``steps-not-converged``: the same attack with more steps or restarts breaks over one point more.
    ``survives-any-eps``: accuracy does not fall to chance at a budget of half the pixel range or more.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for cells in _by(results, _function).values():
        for cell in cells:
            attack, chance = cell.result.cell.attack, 1 / cell.result.cell.data.num_classes
            assert attack is not None
            huge = attack.threat.norm == "linf" and attack.threat.eps is not None and attack.threat.eps >= Fraction(1, 2)
            if huge and cell.kind == "gradient" and cell.result.cell.access != "static" and cell.accuracy > chance:
                for other in cells:
                    found[other.result.key].add("survives-any-eps")
    for cells in _by(results, _function_and_threat).values():
        for key, flag in _among(cells):
            found[key].add(flag)
    return {key: tuple(sorted(flags)) for key, flags in found.items()}


def _among(cells: Sequence[_Cell]) -> Iterable[tuple[str, str]]:
    seen = [cell for cell in cells if cell.result.cell.access in ("white-box", "adaptive")]
    gradient = [cell for cell in seen if cell.kind == "gradient"]
    strongest = [all(rows) for rows in zip(*(cell.robust for cell in gradient), strict=True)]
    for cell in seen:
        if gradient and cell.kind in ("scores", "labels"):
            extra = sum(left and not own for left, own in zip(strongest, cell.robust, strict=True))
            if extra > _BLACK_BOX_EXTRA * len(strongest) and _significant(strongest, cell.robust):
                yield from ((other.result.key, "black-box-beats-gradient") for other in (cell, *gradient))
    for cell in cells:
        best = min(gradient, key=lambda each: each.accuracy, default=None)
        if cell.result.cell.access == "transfer" and best is not None and _significant(best.robust, cell.robust):
            yield from ((other.result.key, "transfer-beats-adaptive") for other in (cell, *gradient))
    for cell in seen:
        for noise in (each for each in seen if each.kind == "nothing"):
            if cell is not noise and _significant(cell.robust, noise.robust):
                yield cell.result.key, "weaker-than-noise"
        for stronger in seen:
            if _same_but_longer(cell.result, stronger.result) and cell.accuracy - stronger.accuracy > _CONVERGED_WITHIN:
                yield cell.result.key, "steps-not-converged"


def _significant(weaker: Sequence[bool], stronger: Sequence[bool]) -> bool:
    """Say whether ``stronger`` breaks more images than ``weaker``, beyond chance (one-sided reading of McNemar's test)."""
    more = sum(a and not b for a, b in zip(weaker, stronger, strict=True))
    fewer = sum(b and not a for a, b in zip(weaker, stronger, strict=True))
    return more > fewer and mcnemar(more, fewer) < _SIGNIFICANT


def _same_but_longer(result: CellResult, other: CellResult) -> bool:
    one, two = result.cell.attack, other.cell.attack
    assert one is not None and two is not None
    if one.attack.name != two.attack.name or one.attack.params.keys() != two.attack.params.keys():
        return False
    differing = {key for key, value in one.attack.params.items() if two.attack.params[key] != value}
    if not differing or not differing <= {"steps", "restarts", "queries"}:
        return False
    return all(float(two.attack.params[key] or 0) > float(one.attack.params[key] or 0) for key in differing)


def _by(results: Iterable[CellResult], group: Callable[[CellResult], str]) -> dict[str, list[_Cell]]:
    cells: dict[str, list[_Cell]] = defaultdict(list)
    for result in results:
        if result.cell.attack is None or result.metrics is None or not (result.clean_bits and result.adversarial_bits):
            continue
        n = result.metrics.n
        bits = (unpack_bits(text, n) for text in (result.clean_bits, result.adversarial_bits))
        robust = tuple(a and b for a, b in zip(*bits, strict=True))
        cells[group(result)].append(_Cell(result, robust, _kind(result)))
    return cells


def _function(result: CellResult) -> str:
    cell = result.cell
    return canonical_json([jsonable(cell.data), jsonable(cell.model), cell.step and jsonable(cell.step), cell.seed])


def _function_and_threat(result: CellResult) -> str:
    assert result.cell.attack is not None
    return _function(result) + canonical_json(jsonable(result.cell.attack.threat))


def _kind(result: CellResult) -> str:
    assert result.cell.attack is not None
    entry = registry.entries("attack").get(result.cell.attack.attack.name)
    return str(entry.meta.get("needs", "gradient")) if entry else "library"
