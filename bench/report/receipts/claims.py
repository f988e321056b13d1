"""Where the claims of a receipt and its arrays say different things: everything is computed again from the arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from math import inf
from typing import Literal, NamedTuple

import numpy as np

from bench.data.rows import sha_of_rows
from bench.keys import DRAWS, Keys, models_of, training_key
from bench.report.receipts import form
from bench.report.receipts.datasets import images_of, wrong_images
from bench.report.receipts.form import Claims
from bench.report.receipts.methods import impossible
from bench.report.receipts.names import misnamed
from bench.report.sets.kept import Array
from bench.stats import wilson
from bench.store.audit import broken_rule
from bench.store.consistent import contradiction
from bench.types import Cell, CellResult, Metrics, TrainRef

#: Of accuracies and means, which may have been computed in single precision; of distances relative.
ROUND_OFF, DISTANCE_ROUND_OFF = 1e-6, 1e-4
#: Images that are looked at together.
_TOGETHER = 256


class Wrong(NamedTuple):
    """What is wrong with a receipt, in one line, and which check of it that is a matter of."""

    line: str
    check: Literal["claims", "budget"] = "claims"


def contradictions(claims: Claims, arrays: Mapping[str, Array]) -> Iterator[Wrong]:
    """Yield each contradiction within what is claimed, and between that and what follows from the arrays.

    The arrays have the shapes and types that they should; their values may be anything.
    """
    result = claims.result
    within = [*(() if result.metrics is None else result.metrics.contradictions()), *result.contradictions()]
    values = list(_of_values(claims.result.cell, arrays))
    yield from map(Wrong, chain(within, _of_names(claims), values))
    if within or values:
        # What follows would be computed from nonsense.
        return
    cell = claims.result.cell
    yield from map(Wrong, chain(_of_targets(cell, arrays), _of_images(cell, arrays)))
    if (why := _outside(cell, arrays)) is not None:
        yield Wrong(why, "budget")
    yield from map(Wrong, chain(_of_outcomes(claims.result, arrays), _of_distances(claims.result, arrays)))


def _of_names(claims: Claims) -> Iterator[str]:
    """Yield what is wrong with the claims whatever the arrays are."""
    result = claims.result
    if (wrong := contradiction(result)) is not None:
        yield wrong
    if (key := Keys().of(result.cell)) != result.key:
        yield (
            f"its key is {result.key[:12]}..., and that of its cell is {key[:12]}...: another attack, defense, budget "
            "or image list is named than was measured"
        )
    yield from misnamed(result)
    yield from wrong_images(result.cell)
    # Whether its images keep to their budget is seen in the images.
    yield from impossible(result, has_images=True)
    yield from _of_weights(claims)


def outcomes(answers: Array, labels: Array, targets: Array | None) -> Array:
    """Return on which images (n,) an attack has failed: those that are right or, where there is a target, not that."""
    right: Array = answers == labels
    if targets is None:
        return right
    return np.where(targets < 0, right, (answers != targets) | (targets == labels))


def _of_weights(claims: Claims) -> Iterator[str]:
    """Yield where hashes of trained weights are stated for other networks than were trained."""
    models = models_of(claims.result.cell)
    trained = {training_key(model) for model in models if isinstance(model.weights, TrainRef)}
    if trained != set(claims.trained) or not trained >= set(claims.halved):
        yield "it does not state a hash of the weights of each network that was trained for it, and of no other"


def _of_values(cell: Cell, arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield what is wrong with single values."""
    classes = cell.data.num_classes
    lowest = {form.ROWS: 0, form.LABELS: 0, form.CLEAN_ANSWERS: 0, form.ADVERSARIAL_ANSWERS: 0, form.TARGETS: -1}
    for name, low in lowest.items():
        if name in arrays and (arrays[name].min() < low or (name != form.ROWS and arrays[name].max() >= classes)):
            yield f"its {name} are not all among {classes:,} classes" if name != form.ROWS else "a row is below zero"
    for name in (form.CLEAN_SHARES, form.ADVERSARIAL_SHARES):
        # NaN satisfies neither comparison.
        if name in arrays and not ((arrays[name] >= 0) & (arrays[name] <= 1)).all():
            yield f"its {name} are not all between 0 and 1"


def _of_targets(cell: Cell, arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield targets that the attack was not to reach: an image whose target is its own class counts as unbroken."""
    aimed_at = (
        set[object]() if cell.attack is None else {cell.attack.target, *(each.target for each in cell.attack.after)}
    )
    if (targets := arrays.get(form.TARGETS)) is None:
        return
    given = targets[targets >= 0]
    if None not in aimed_at and len(given) < len(targets):
        yield "it has images without a target, and its attack is targeted"
    classes = {aim for aim in aimed_at if isinstance(aim, int)}
    others = np.isin(targets, list(classes), invert=True) & (targets >= 0)
    if others.any() and not aimed_at - classes - {None}:
        yield f"it has targets other than {', '.join(map(str, sorted(classes)))}"
    if (others & (targets == arrays[form.LABELS])).any():
        yield "it has images whose target is their own class, which no attack would choose"


def _of_images(cell: Cell, arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield what is wrong with the list of images."""
    rows, data = arrays[form.ROWS], cell.data
    if len(np.unique(rows)) < len(rows):
        yield f"it counts rows twice: its {len(rows):,} images are {len(np.unique(rows)):,} rows of the set"
    if sha_of_rows(rows) != data.indices_sha:
        yield "its rows are not those that its cell names by their hash"
    if (total := images_of(data)) is not None and rows.max() >= total:
        yield f"it has row {rows.max()}, and {data.name} has {total:,} {data.split} images"
    if data.subset == "first" and (other := np.flatnonzero(rows != np.arange(data.n))).size:
        yield (
            f"it says that its images are the first {data.n:,} of the set, and its image {other[0]:,} is row "
            f"{rows[other[0]]:,}: images were chosen"
        )
    if (present := len(np.unique(arrays[form.LABELS]))) != (data.classes_present or data.num_classes):
        yield f"its labels are of {present:,} classes, and its cell says {data.classes_present or data.num_classes:,}"


def _outside(cell: Cell, arrays: Mapping[str, Array]) -> str | None:
    """Return how the first image that does not keep to its threat does not; ``None`` where all do."""
    attack, n = cell.attack, cell.data.n
    assert attack is not None

    def wrong(first: int, count: int) -> str | None:
        part = slice(first, first + count)
        x = arrays[form.CLEAN][part].astype(np.float32) / 255
        return broken_rule(arrays[form.ADVERSARIAL][part], x, attack.threat)

    start = next((first for first in range(0, n, _TOGETHER) if wrong(first, _TOGETHER) is not None), n)
    for image in range(start, n):
        if (why := wrong(image, 1)) is not None:
            return f"its image {image:,} {why.removesuffix(', at image 0')}"
    return wrong(start, _TOGETHER) if start < n else None


def _of_outcomes(result: CellResult, arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield the outcomes and accuracies that do not follow from labels, predictions and shares."""
    metrics, labels = result.metrics, arrays[form.LABELS]
    assert metrics is not None
    clean = arrays[form.CLEAN_ANSWERS] == labels
    attacked = outcomes(arrays[form.ADVERSARIAL_ANSWERS], labels, arrays.get(form.TARGETS))
    for name, bits, known in (
        ("clean", result.clean_outcomes, clean),
        ("adversarial", result.outcomes_under_attack, attacked),
    ):
        stated = np.array(list(bits or ()), dtype=bool)
        if (differing := np.flatnonzero(stated != known)).size:
            yield (
                f"its {name} outcomes are not those of its predictions and labels, at {differing.size:,} of "
                f"{len(known):,} images, first at {differing[0]:,}"
            )
    accuracy = wilson(int(attacked.sum()), len(labels))
    computed: dict[str, float] = {
        "clean_accuracy": float(clean.mean()),
        "accuracy_under_attack": accuracy.value,
        "robust_accuracy": float((clean & attacked).mean()),
        "ci_low": accuracy.low,
        "ci_high": accuracy.high,
    }
    yield from _differing(metrics, computed | dict(_of_draws(arrays, clean)), ROUND_OFF)
    if form.CLEAN_SHARES in arrays:
        for name, right in ((form.CLEAN_SHARES, clean), (form.ADVERSARIAL_SHARES, attacked)):
            if ((arrays[name] > 0.5) != right).any():
                yield f"its {name} are not those of its predictions"
            if not np.isin(arrays[name], np.arange(DRAWS + 1, dtype=np.float32) / np.float32(DRAWS)).all():
                yield f"its {name} are not all shares of {DRAWS} draws"


def _of_draws(arrays: Mapping[str, Array], clean: Array) -> Iterator[tuple[str, float]]:
    """Yield the robust accuracies over the draws of a random defense."""
    if form.ADVERSARIAL_SHARES in arrays:
        shares = arrays[form.ADVERSARIAL_SHARES]
        yield "robust_mean", float((clean * shares).mean())
        yield "robust_worst", float((clean & (shares == 1)).mean())


def distances_of(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return by norm how far each adversarial image is from its clean one, float64 (n,) each."""
    known: dict[str, list[Array]] = {"linf": [], "l2": [], "l1": [], "l0": []}
    for first in range(0, len(arrays[form.CLEAN]), _TOGETHER):
        part = slice(first, first + _TOGETHER)
        clean = arrays[form.CLEAN][part].astype(np.float32) / 255
        moved = np.abs(arrays[form.ADVERSARIAL][part] - clean).reshape(len(clean), -1).astype(np.float64)
        known["linf"].append(moved.max(1))
        known["l2"].append(np.sqrt((moved * moved).sum(1)))
        known["l1"].append(moved.sum(1))
        known["l0"].append((moved != 0).sum(1).astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in known.items()}


def _of_distances(result: CellResult, arrays: Mapping[str, Array]) -> Iterator[str]:
    metrics, attack = result.metrics, result.cell.attack
    assert metrics is not None and attack is not None
    distances = distances_of(arrays)
    means = {f"mean_{name}": float(distances[name].mean()) for name in ("linf", "l2")}
    yield from _differing(metrics, means, DISTANCE_ROUND_OFF)
    if (stated := result.broken_at) is not None:
        unbroken = np.array(list(stated.unbroken), dtype=bool)
        expected = np.where(unbroken, inf, distances[attack.threat.norm])
        if not np.allclose(np.array(stated.values), expected, rtol=DISTANCE_ROUND_OFF, atol=ROUND_OFF):
            yield "its distances are not those between its clean and its adversarial images"


def _differing(metrics: Metrics, computed: Mapping[str, float], round_off: float) -> Iterator[str]:
    for name, value in computed.items():
        stated = getattr(metrics, name)
        if stated is None or not math.isclose(stated, value, rel_tol=round_off, abs_tol=ROUND_OFF):
            yield f"it says {name} = {stated}, and its arrays give {value:.6g}"
