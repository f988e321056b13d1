"""The predictions of a receipt repeated and its costs counted again: neither code nor weights come from the receipt."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.keys import training_key
from bench.registry import entry_of
from bench.report.receipts import form, verdict
from bench.report.receipts.methods import require_own, wrong_parameters
from bench.report.receipts.read import Arrays, Receipt
from bench.report.receipts.verdict import Finding
from bench.report.receipts.weights import Hashes
from bench.report.render.outside import require_images
from bench.report.sets.kept import Array
from bench.types import Cell, MethodError, MethodRef, ModelRef, TrainRef, UsageError, WeightsRef

if TYPE_CHECKING:
    import torch

    from bench.evaluation.again import Again, Judged


#: The share of the values of an image that other hardware may round otherwise, and how far: one photon of the fewest.
_MOST_ROUNDED = 0.01
_FARTHEST_ROUNDED = 11 / 255
_HALF_A_LEVEL = 0.5 / 255
_SAME = "the same code here"


class Own(NamedTuple):
    """The files of the weights that a receipt needs, by the key of their network, and what was found of them."""

    paths: dict[str, Path]
    finding: Finding


def needed(cell: Cell) -> list[ModelRef]:
    """Return the networks that answer in a cell: its classifier, and the one that its step predicts noise with."""
    score = None if cell.step is None else cell.step.score
    return [cell.model, *([] if score is None else [score])]


def own_weights(
    receipt: Receipt, given: Sequence[str], *, are_shared: bool = False, hashes: Hashes | None = None
) -> Own:
    """Return which of the given weights each network of a receipt has, by their hashes.

    Args:
        receipt: that names the networks.
        given: files, folders of exported weights, or names such as ``pyautoattack``.
        are_shared: whether they are given for several receipts: those of others are passed over.
        hashes: of files, where some are known already.

    Raises:
        UsageError: a file cannot be read, a network has none, or one is not what the receipt was measured with.
    """
    from bench.models.checkpoints import files as checkpoints

    hashes = hashes or Hashes()
    models = {training_key(model): model for model in needed(receipt.result.cell)}
    stated = {key: _stated(receipt, key, model) for key, model in models.items()}
    paths: dict[str, Path] = {}
    halved = set[str]()
    for name in given:
        path = checkpoints.find(f"weights:{name.removeprefix('weights:')}")
        whole = [key for key, model in models.items() if hashes.of(path, model) == stated[key]]
        rounded = [key for key, model in models.items() if key not in whole and _is_half(receipt, key, path, hashes)]
        if not whole and not rounded and not are_shared:
            key = next((key for key in models if key not in paths), next(iter(models)))
            raise UsageError(
                f"{path} is not what {receipt.path} was measured with: {_why_not(receipt, path, models[key], hashes)}"
            )
        # Whole ones come before those in half precision, in whichever order they are given.
        rounded = [key for key in rounded if key not in paths or key in halved]
        paths |= dict.fromkeys((*whole, *rounded), path)
        halved = halved.difference(whole) | set(rounded)
    if lacking := [model.network.name for key, model in models.items() if key not in paths]:
        raise UsageError(
            f"the weights of {lacking[0]}, which {receipt.path} needs too, are not given: --weights FILE once for each "
            "network"
        )
    return Own(paths, _of_own(receipt, models, paths, halved, hashes))


def _why_not(receipt: Receipt, path: Path, model: ModelRef, hashes: Hashes) -> str:
    here, key = hashes.of(path, model), training_key(model)
    if here is not None and here == receipt.claims.halved.get(key):
        return "it is stated as its weights in half precision, and its numbers were not rounded to float16"
    words = here or "none, for it is no file of safetensors"
    return f"its SHA-256 is {words}, and that of {model.network.name} is {_stated(receipt, key, model)}"


def _of_own(
    receipt: Receipt, models: Mapping[str, ModelRef], paths: Mapping[str, Path], halved: Set[str], hashes: Hashes
) -> Finding:
    """Return what was found of the weights of a receipt: those at ``halved`` are in half precision."""
    for key in sorted(receipt.claims.halved.keys() & models.keys() - halved):
        if hashes.halved(paths[key]) != receipt.claims.halved[key]:
            line = (
                f"it states a hash of {models[key].network.name} in half precision that its weights do not have there"
            )
            return Finding("weights", "refuted", f"{line}: {hashes.halved(paths[key])}")
    known = {key: receipt.claims.halved[key] if key in halved else hashes.of(paths[key], models[key]) for key in models}
    line = ", ".join(f"{model.network.name} {str(known[key])[:12]}..." for key, model in models.items())
    if halved:
        names = " and ".join(models[key].network.name for key in models if key in halved)
        line += f"; {names} in half precision, in which answers near a boundary may be others"
    return Finding("weights", "said" if halved else "holds", f"those that it was measured with: {line}")


def own_of(receipt: Receipt, given: Sequence[Path], hashes: Hashes) -> list[Path]:
    """Return those of some files that are weights of a receipt, the first of each network, whole ones before others.

    None unless every network that it needs has its own.

    Raises:
        UsageError: the receipt states no hash.
    """
    own: list[Path] = []
    for model in needed(receipt.result.cell):
        key = training_key(model)
        stated = _stated(receipt, key, model)
        whole = (path for path in given if _readable(hashes, path, model) == stated)
        path = next(whole, None) or next((path for path in given if _is_half(receipt, key, path, hashes)), None)
        if path is None:
            return []
        own.append(path)
    return list(dict.fromkeys(own))


def _readable(hashes: Hashes, path: Path, model: ModelRef) -> str | None:
    """Return the hash of a file of weights; ``None`` where it cannot be read, for it may be somebody else's."""
    try:
        return hashes.of(path, model)
    except (UsageError, OSError):
        return None


def _is_half(receipt: Receipt, key: str, path: Path, hashes: Hashes) -> bool:
    """Say whether a file has the weights that a receipt states in half precision, and is in half precision.

    Anybody may state the hash of any file, so one whose numbers were not rounded is no such file.
    """
    stated = receipt.claims.halved.get(key)
    try:
        return stated is not None and hashes.tensors(path) == stated == hashes.halved(path)
    except (UsageError, OSError):
        return False


def _stated(receipt: Receipt, key: str, model: ModelRef) -> str:
    if isinstance(model.weights, WeightsRef):
        return model.weights.sha256
    try:
        return receipt.claims.trained[key]
    except KeyError:
        raise UsageError(f"{receipt.path} states no hash of the weights of {model.network.name}") from None


def code(cell: Cell, *, trusted: bool) -> Finding:
    """Return whether the code of each method here is that which was measured; another is said, and refutes nothing."""
    names: dict[str, list[str]] = {what: [] for what in ("other code here", "not compared", _SAME)}
    # Code of another version may have other parameters; a name that is misused has as well.
    strange: list[str] = []
    for ref in form.methods_of(cell):
        here, wrong = _code_here(ref, trusted=trusted), wrong_parameters(ref, same_code=False)
        strange += [] if wrong is None else [wrong]
        what = "not compared" if here is None and wrong is None else "other code here"
        names[_SAME if here == ref.code_sha else what].append(ref.name)
    words = [f"{what}: {', '.join(dict.fromkeys(each))}" for what, each in names.items() if each]
    words += dict.fromkeys(strange)
    return Finding("code", "holds" if [what for what in names if names[what]] == [_SAME] else "said", "; ".join(words))


def _code_here(ref: MethodRef, *, trusted: bool) -> str | None:
    """Return the hash of the code that a method has here; ``None`` where it is not here, or may not be read."""
    from bench.models.build import code_of

    try:
        require_own(ref, trusted=trusted)
        return code_of(ref) if ref.kind == "network" else entry_of(ref).ref(ref.params, name=ref.name).code_sha
    except UsageError:
        return None


class Asked(NamedTuple):
    """What repeated predictions showed, the accuracy under attack if all were repeated, and of how many images."""

    findings: list[Finding]
    accuracy: float | None
    predicted: int


def repeated(
    receipt: Receipt,
    arrays: Arrays,
    paths: dict[str, Path],
    device: torch.device,
    data_folder: Path | None,
    *,
    sample: int | None,
    trusted: bool,
    check: Callable[[], None],
) -> Asked:
    """Return what the defense answers now to the images of a receipt, and what it costs.

    Args:
        receipt: whose claims do not contradict its arrays.
        arrays: of the receipt.
        paths: what :func:`own_weights` found.
        device: to predict on.
        data_folder: where training images lie, for a step that is fitted on some.
        sample: how many images are predicted at least, in whole chunks by chance; ``None`` for all.
        trusted: whether files of Python code that the receipt names may be run.
        check: called between batches.

    Raises:
        UsageError: a network or a step is not here, is not trusted, does not fit, or breaks its contract.
    """
    from bench.evaluation.again import Judged, chunks

    cell = receipt.result.cell
    for ref in (*(model.network for model in needed(cell)), *([] if cell.step is None else [cell.step])):
        require_own(ref, trusted=trusted)
    labels, parts = arrays[form.LABELS], _by_chance(chunks(cell.data.n), sample)
    clean = Judged(arrays[form.CLEAN], labels, arrays[form.CLEAN_ANSWERS], arrays.get(form.CLEAN_SHARES))
    attacked = Judged(
        arrays[form.ADVERSARIAL],
        labels,
        arrays[form.ADVERSARIAL_ANSWERS],
        arrays.get(form.ADVERSARIAL_SHARES),
        arrays.get(form.TARGETS),
    )
    try:
        again = _defense(cell, arrays, paths, device, data_folder, check, trusted=trusted)
        costs = verdict.of_costs(receipt, again.counted(clean))
        remade = _corrupted(cell, again, clean, attacked, arrays[form.ROWS], parts, trusted=trusted)
        first, second = again.repeated("clean", clean, parts), again.repeated("attacked", attacked, parts)
    except MethodError as error:
        raise UsageError(f"the predictions cannot be repeated: {error}") from None
    findings = [
        costs,
        *remade,
        *verdict.of_draws(receipt, first.draws),
        verdict.of_answers("clean answers", len(first.positions), first.differing, first.gaps, first.margin),
        # Attacked images are near the boundary by design: the scale of the logits is that of clean ones.
        verdict.of_answers("adversarial answers", len(second.positions), second.differing, second.gaps, first.margin),
    ]
    if len(second.positions) < cell.data.n:
        line = f"of {cell.data.n:,} images {len(second.positions):,} were predicted again, by chance"
        return Asked([*findings, Finding("accuracy", "not checked", line)], None, len(second.positions))
    accuracy = verdict.of_accuracy(receipt, second.unbroken)
    return Asked([*findings, accuracy], float(second.unbroken.mean()), cell.data.n)


def _corrupted(
    cell: Cell, again: Again, clean: Judged, attacked: Judged, rows: Array, parts: Sequence[slice], *, trusted: bool
) -> list[Finding]:
    """Return whether a common corruption makes these images of the clean ones; nothing where it is not the same here.

    It has no budget that images could keep to, and does not look at the network.
    """
    attack = cell.attack
    if attack is None or attack.threat.norm != "corruption" or attack.after or ":" in attack.attack.name:
        return []
    if _code_here(attack.attack, trusted=trusted) != attack.attack.code_sha:
        return []
    other: list[int] = []
    for images, part in again.crafted(clean, rows, parts):
        moved = np.abs(images - attacked.images[part]).reshape(len(images), -1)
        is_other = ((moved > _HALF_A_LEVEL).mean(1) > _MOST_ROUNDED) | (moved.max(1) > _FARTHEST_ROUNDED)
        other += (part.start + np.flatnonzero(is_other)).tolist()
    return [verdict.of_corruption(attack.attack.name, sum(part.stop - part.start for part in parts), other)]


def _by_chance(parts: Sequence[slice], sample: int | None) -> list[slice]:
    """Return chunks of at least so many images, in their order; the forger of a receipt cannot know which."""
    if sample is None:
        return list(parts)
    left = random.SystemRandom().sample(parts, len(parts))
    chosen: list[slice] = []
    while left and sum(part.stop - part.start for part in chosen) < sample:
        chosen.append(left.pop())
    return sorted(chosen, key=lambda part: part.start)


def _defense(
    cell: Cell,
    arrays: Arrays,
    paths: dict[str, Path],
    device: torch.device,
    data_folder: Path | None,
    check: Callable[[], None],
    *,
    trusted: bool,
) -> Again:
    from bench.evaluation.again import Again
    from bench.evaluation.device_cache import DeviceCache

    cache = DeviceCache(device, data_folder)
    cache.hold(cell.data, arrays[form.CLEAN], arrays[form.LABELS], arrays[form.ROWS])
    score = None if cell.step is None else cell.step.score
    weights, read = cell.model.weights, cache.training_images(cell.model)

    def training() -> torch.Tensor:
        assert read is not None and isinstance(weights, TrainRef)
        require_images(weights.data, data_folder, trusted=trusted)
        return read()

    return Again(
        cell,
        cache.classifier(cell.model, cell.data, lambda: paths[training_key(cell.model)]),
        None if score is None else cache.score(score, cell.data, lambda: paths[training_key(score)]),
        None if read is None else training,
        device,
        check,
    )
