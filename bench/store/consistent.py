"""The parts of a result must agree with each other, even if its checksum is right.

Each value may be within its bounds (``bench/types.py``) and the result still impossible: an adaptive attack that never
saw the step, half an image that is right, pixels that moved by more than 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

from bench.types import Cell, CellResult, DataRef, Kind, MethodRef, Metrics, TrainRef

#: Tolerance of accuracies and distances; some are means in single precision.
ROUND_OFF = 1e-6
#: Relative, of a distance: a sum over many pixels in single precision.
_SUM_ROUND_OFF = 1e-4


def contradiction(result: CellResult) -> str | None:
    """Return the first contradiction within a result; ``None`` where there is none."""
    cell, metrics = result.cell, result.metrics
    contradictions = chain(_of_methods(cell), _of_access(cell), _of_images(cell.data))
    if metrics is not None:
        contradictions = chain(
            contradictions, _of_distances(metrics, cell.data), _of_shares(metrics, clean=cell.attack is None)
        )
    contradictions = chain(contradictions, _of_farthest(result))
    # Results of the first versions have the clean outcomes in both fields.
    if cell.attack is None and result.adversarial_bits not in (None, result.clean_bits):
        contradictions = chain(contradictions, ["it is of clean images and has outcomes under attack"])
    return next(contradictions, None)


def _of_methods(cell: Cell) -> Iterator[str]:
    weights, score = cell.model.weights, None if cell.step is None else cell.step.score
    score_weights = None if score is None else score.weights
    placed: tuple[tuple[str, MethodRef | None, Kind], ...] = (
        ("network", cell.model.network, "network"),
        ("recipe", weights.recipe if isinstance(weights, TrainRef) else None, "recipe"),
        ("score", score_weights.recipe if isinstance(score_weights, TrainRef) else None, "score-recipe"),
        ("step", cell.step, "test-time"),
        ("attack", cell.attack.attack if cell.attack is not None else None, "attack"),
    )
    for role, method, kind in placed:
        if method is not None and method.kind != kind:
            yield f"its {role} is of kind {method.kind}, not {kind}"


def _of_access(cell: Cell) -> Iterator[str]:
    attack_ref, step = cell.attack, cell.step
    access = cell.access
    stepped = "a" if step is not None else "no"
    if attack_ref is None:
        if access != (usual := "white-box" if step is None else "static"):
            yield f"it is of clean images with {stepped} test-time step and is called {access}, not {usual}"
        return
    if attack_ref.seed != cell.seed:
        yield f"its attack has seed {attack_ref.seed}, the cell {cell.seed}"
    if access == "transfer":
        return
    if (access == "white-box") != (step is None):
        yield f"it is called {access} and has {stepped} test-time step"
    if attack_ref.step != (step if access == "adaptive" else None):
        yield f"it is called {access}, and its attack saw {'another' if access == 'adaptive' else 'a'} test-time step"
    if attack_ref.model is not cell.model and attack_ref.model != cell.model:
        yield f"it is called {access}, and its attack saw another network"


def _of_images(data: DataRef) -> Iterator[str]:
    if len(data.classes) not in (0, data.num_classes):
        yield f"it names {len(data.classes)} of {data.num_classes} classes"
    if (data.classes_present or 1) > min(data.num_classes, data.n):
        yield f"{data.n} images cannot be of {data.classes_present} of {data.num_classes} classes"


def _of_distances(metrics: Metrics, data: DataRef) -> Iterator[str]:
    pixels = math.prod(data.image_shape)
    if metrics.mean_linf > 1 + ROUND_OFF:
        yield f"mean_linf = {metrics.mean_linf:g}, and pixels are in [0, 1]"
    if metrics.mean_l2 > math.sqrt(pixels) * (1 + ROUND_OFF):
        yield f"mean_l2 = {metrics.mean_l2:g}, and {pixels:,} pixels in [0, 1] are at most {math.sqrt(pixels):g} apart"
    if metrics.mean_linf > metrics.mean_l2 * (1 + ROUND_OFF) + ROUND_OFF:
        yield f"mean_linf = {metrics.mean_linf:g} is above mean_l2 = {metrics.mean_l2:g}"


def _of_farthest(result: CellResult) -> Iterator[str]:
    distances, attack = result.broken_at, result.cell.attack
    if distances is None or attack is None:
        return
    values = math.prod(result.cell.data.image_shape)
    most = {"linf": 1.0, "l2": math.sqrt(values)}.get(attack.threat.norm, float(values))
    if distances.farthest > most * (1 + _SUM_ROUND_OFF):
        yield f"an image is {distances.farthest:g} away in {attack.threat.norm}, and images are at most {most:g} apart"
    if attack.threat.norm == "l0" and any(value != math.inf and value % 1 for value in distances.values):
        yield "an L0 distance is no whole number"


def _of_shares(metrics: Metrics, *, clean: bool) -> Iterator[str]:
    n, attacked = metrics.n, metrics.accuracy_under_attack
    shares = {"clean_accuracy": metrics.clean_accuracy, "robust_accuracy": metrics.robust_accuracy}
    shares |= {"accuracy_under_attack": attacked} if attacked is not None else {}
    for name, share in shares.items():
        if abs(share - round(share * n) / n) > ROUND_OFF:
            yield f"{name} = {share:g} is no share of {n} images"
        if clean and abs(share - metrics.clean_accuracy) > ROUND_OFF:
            yield f"it is of clean images, and {name} = {share:g} is not clean_accuracy = {metrics.clean_accuracy:g}"
    if attacked is not None and metrics.robust_accuracy < metrics.clean_accuracy + attacked - 1 - ROUND_OFF:
        yield "robust_accuracy is below what clean_accuracy and accuracy_under_attack have in common"
