"""What a result says twice must agree, whatever its checksum: what it is called, what it was made of, what it measured.

Each value may be within its bounds (``bench/types.py``) and the whole still a claim that no measurement makes: an
adaptive attack that never saw the step, half an image that is right, pixels moved by more than there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain

from bench.audit import L2_SLACK, LINF_SLACK
from bench.naming import misnomer
from bench.types import Cell, CellResult, DataRef, Kind, MethodRef, Metrics, Threat, TrainRef, eps_text, shown

#: Of accuracies and distances, some of which are means in single precision.
ROUND_OFF = 1e-6


def contradiction(result: CellResult) -> str | None:
    """Return in which point a result contradicts itself; ``None`` where it does not."""
    cell, metrics = result.cell, result.metrics
    found = chain(_of_methods(cell), _of_access(cell), _of_images(cell.data))
    if metrics is not None:
        found = chain(
            found,
            _of_distances(metrics, cell.data),
            _of_budget(metrics, cell.attack.threat if cell.attack is not None else None),
            _of_shares(metrics, clean=cell.attack is None),
            _of_draws(metrics),
        )
    # Results of the first versions had the clean outcomes in both places.
    if cell.attack is None and result.adversarial_bits not in (None, result.clean_bits):
        found = chain(found, ["it is of clean images and has outcomes under attack"])
    if (called := misnomer(result.names, cell)) is not None:
        found = chain(found, [called])
    if result.status == "done" and "failed" in result.flags:
        found = chain(found, ["it is done and has the flag failed"])
    return next(found, None)


def _of_methods(cell: Cell) -> Iterator[str]:
    weights = cell.model.weights
    placed: tuple[tuple[str, MethodRef | None, Kind], ...] = (
        ("network", cell.model.network, "network"),
        ("recipe", weights.recipe if isinstance(weights, TrainRef) else None, "recipe"),
        ("step", cell.step, "test-time"),
        ("attack", cell.attack.attack if cell.attack is not None else None, "attack"),
    )
    for what, method, kind in placed:
        if method is not None and method.kind != kind:
            yield f"its {what} is of kind {method.kind}, not {kind}"


def _of_access(cell: Cell) -> Iterator[str]:
    made, step, access = cell.attack, cell.step, cell.access
    stepped = "a" if step is not None else "no"
    if made is None:
        if access != (usual := "white-box" if step is None else "static"):
            yield f"it is of clean images with {stepped} test-time step and is called {access}, not {usual}"
        return
    if made.seed != cell.seed:
        yield f"its attack has seed {made.seed}, the cell {cell.seed}"
    if access == "transfer":
        return
    if (access == "white-box") != (step is None):
        yield f"it is called {access} and has {stepped} test-time step"
    if made.step != (step if access == "adaptive" else None):
        yield f"it is called {access}, and its attack saw {'another' if access == 'adaptive' else 'a'} test-time step"
    if made.model is not cell.model and made.model != cell.model:
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
    if metrics.mean_l2 > math.sqrt(pixels) * metrics.mean_linf * (1 + L2_SLACK) + ROUND_OFF:
        yield f"mean_l2 = {metrics.mean_l2:g} is above what {pixels:,} pixels of mean_linf = {metrics.mean_linf:g} make"


def _of_budget(metrics: Metrics, threat: Threat | None) -> Iterator[str]:
    if threat is None:
        if metrics.mean_linf or metrics.mean_l2:
            yield f"it is of clean images, and mean_linf = {metrics.mean_linf:g}, mean_l2 = {metrics.mean_l2:g}"
        return
    # What the other norms bound is not seen in the images.
    if threat.eps is None or threat.norm not in ("linf", "l2"):
        return
    slack = L2_SLACK if threat.norm == "l2" else 0.0
    distance = metrics.mean_l2 if threat.norm == "l2" else metrics.mean_linf
    if distance > float(threat.eps) * (1 + slack) + LINF_SLACK + ROUND_OFF:
        yield f"mean_{threat.norm} = {distance:g} is above the budget of its attack, eps = {eps_text(threat.eps)}"


def _of_draws(metrics: Metrics) -> Iterator[str]:
    """A majority is of draws, and there are a mean and a worst case of them where there are draws."""
    mean, worst = metrics.robust_mean, metrics.robust_worst
    if not re.fullmatch(r"deterministic|majority-of-[1-9][0-9]{0,5}", metrics.protocol):
        yield f"its protocol is {shown(metrics.protocol)}, neither deterministic nor majority-of-k"
    elif metrics.protocol == "deterministic":
        if mean is not None or worst is not None:
            yield "its protocol is deterministic, and it has robust_mean or robust_worst"
    elif mean is None or worst is None:
        yield f"its protocol is {metrics.protocol}, and robust_mean or robust_worst is missing"
    # An image that survives is right in over half of its draws, and one that does not in at most half.
    elif not -ROUND_OFF <= mean - metrics.robust_accuracy / 2 <= metrics.clean_accuracy / 2 + ROUND_OFF:
        yield f"robust_mean = {mean:g} is no mean over draws whose majorities give robust_accuracy and clean_accuracy"


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
