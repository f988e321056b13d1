"""The card of a training: sealed, and written last, so weights with a card are finished.

It says what was trained, how (passes, seconds, FLOPs, the log of the epochs), how it ended, and the hash of its weights
file.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.keys import canonical_json, training_key
from bench.store import files
from bench.store.files import Unreadable, write_atomically
from bench.store.seals import sealed, unsealed
from bench.types import (
    Count,
    Flops,
    Images,
    Key,
    ModelRef,
    PassCount,
    Rate,
    Seconds,
    Share,
    ShownName,
    ShownWord,
    TrainRef,
)

_log = logging.getLogger("crossfire")
#: What the card of weights that were exported says that it is, and its version.
EXPORTED, EXPORTED_SCHEMA = "crossfire-weights", 1
#: Bytes of the largest card, which has a row of some 600 bytes for each epoch, and of the word of why one failed.
LARGEST, _LARGEST_FAILURE = 64 * 2**20, 2**20


Epoch = Annotated[int, Field(ge=0, le=1_000_000)]
#: Totals over all images of an epoch, or over its passes.
_Total = Annotated[float, Field(ge=0, le=1e18)]
#: What an older version measured.
_Difference = Annotated[float, Field(ge=-1, le=1)]
#: Tolerance of means that are computed again.
_ROUND_OFF = 1e-9


class _Read(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class EpochLog(_Read):
    """An epoch: its number, mean loss, accuracy on its batches, learning rate, seconds, FLOPs and passes, and the
    accuracies of :func:`bench.training.overfitting.measure` on training, test and held-out images. Those of older
    versions lack some.
    """

    epoch: Epoch = 0
    loss: float | None = None
    train_accuracy: Share | None = None
    learning_rate: Annotated[Rate, Field(ge=0)] | None = None
    seconds: Seconds | None = None
    flops: Flops | None = None
    forwards: _Total | None = None
    backwards: _Total | None = None
    train: dict[ShownWord, Share] = {}
    test: dict[ShownWord, Share] = {}
    holdout: dict[ShownWord, Share] = {}


class _Overfitting(_Read):
    """What :func:`bench.training.overfitting.verdict` says."""

    regime: Literal["catastrophic-overfitting", "robust-overfitting", "none"] = "none"
    catastrophic: bool = False
    robust: bool = False
    last_fgsm: Share = 0
    last_several_steps: Share = 0
    best_pgd20: Share = 0
    best_epoch: Epoch = 0
    last_pgd20: Share = 0
    train_minus_test_pgd20: _Difference = 0
    fgsm_minus_pgd20: _Difference = 0


class _Card(_Read):
    """The fields of a card that are read; cards of older versions lack some."""

    version: Literal[1, 2] = Field(2, alias="schema")
    weights_sha256: Key = ""
    weights_bytes: Annotated[Count, Field(ge=1)] = 1
    params: Annotated[Count, Field(ge=1)] = 1
    training: dict[str, Any] = {}
    network: dict[str, Any] = {}
    epochs: Epoch | None = None
    epoch_kept: Epoch | None = None
    images_per_epoch: Images | None = None
    passes_per_example: tuple[PassCount, PassCount] | None = None
    seconds_per_epoch: Seconds | None = None
    flops_per_epoch: Flops | None = None
    device: ShownName = ""
    torch: ShownWord = ""
    overfitting: _Overfitting | None = None
    log: list[EpochLog] | None = None

    def contradiction(self, ref: TrainRef) -> str | None:
        """Return what in the card contradicts this training; ``None`` if nothing does."""
        epochs, images = ref.schedule.epochs, ref.data.n - ref.schedule.holdout
        least = min(1, epochs) if ref.schedule.holdout else epochs
        if self.epochs != epochs or self.images_per_epoch != images:
            return f"{epochs:,} epochs of {images:,} images are not what it says"
        if self.epoch_kept is None or not least <= self.epoch_kept <= epochs:
            return "epoch_kept is none that is kept"
        if self.version == 2 and self.log is None:
            return "it lacks its log"
        # Cards of the first version have no log.
        return None if self.log is None else self._contradicted_by(self.log, epochs, images)

    def _contradicted_by(self, log: Sequence[EpochLog], epochs: int, images: int) -> str | None:
        if [row.epoch for row in log] != list(range(1, epochs + 1)):
            return f"its log is not that of {epochs:,} epochs"
        forwards, backwards = self.passes_per_example or (None, None)
        for name, mean, values in (
            ("passes_per_example", forwards, [row.forwards for row in log]),
            ("passes_per_example", backwards, [row.backwards for row in log]),
            ("seconds_per_epoch", self.seconds_per_epoch, [row.seconds for row in log]),
            ("flops_per_epoch", self.flops_per_epoch, [row.flops for row in log]),
        ):
            known = [value for value in values if value is not None]
            if len(known) < len(values) or (mean is None) != (not values):
                return f"{name}, or the log, does not say all epochs"
            each = images if name.startswith("passes") else 1
            if mean is not None and not math.isclose(mean, sum(known) / epochs / each, rel_tol=_ROUND_OFF):
                return f"{name} is not the mean of its log"
        return None


def write(folder: Path, body: Mapping[str, Any]) -> None:
    """Write the card of the training in ``folder``."""
    write_atomically(folder / "card.json", sealed(body))


def read(folder: Path, key: str | None = None) -> dict[str, Any] | None:
    """Return the card of a training; ``None`` where there is none or, with a warning, where it is damaged.

    With a ``key`` it counts only if it is of the training of that key.
    """
    path = folder / "card.json"
    try:
        return parse(files.read(path, LARGEST), key)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s does not count and is trained again where needed: %s", path, error)
        return None


def parse(data: bytes, key: str | None = None) -> dict[str, Any]:
    """Return what the file of a card says.

    Raises:
        ValueError: it is damaged, has an invalid value or one that contradicts the training that it names, or is of
            another training than that of the ``key``.
    """
    card = unsealed(data)
    try:
        # The card as it was read is returned, not its model, which drops the unused fields.
        read = _Card.model_validate_json(data, strict=True)
        model = _trained(card)
    except ValidationError as error:
        raise ValueError(f"{'.'.join(map(str, error.errors()[0]['loc']))} is not what a card says") from None
    if key is not None and (model is None or training_key(model) != key):
        raise ValueError("it is of another training")
    if read.weights_bytes > largest_weights({"params": read.params}):
        raise ValueError("weights_bytes is more than its parameters take")
    if model is not None:
        if not isinstance(model.weights, TrainRef):
            raise ValueError("training is not what a card says")
        if (why := read.contradiction(model.weights)) is not None:
            raise ValueError(why)
    return card


def _trained(card: Mapping[str, Any]) -> ModelRef | None:
    """Return what a card says was trained; ``None`` where it does not say."""
    if "training" not in card or "network" not in card:
        return None
    return ModelRef.model_validate({"network": card["network"], "weights": card["training"]})


def is_trained(folder: Path, key: str | None = None) -> bool:
    """Say whether a training is finished and its card and weights are those that it wrote.

    With a ``key`` they count only if they are of the training of that key.
    """
    card = read(folder, key)
    return card is not None and _has_weights(folder, card)


def has_weights(folder: Path, key: str) -> bool:
    """Say whether a training has a card of this key and weights, which are not read."""
    return read(folder, key) is not None and files.is_regular(folder / "weights.safetensors")


def _has_weights(folder: Path, card: Mapping[str, Any]) -> bool:
    path = folder / "weights.safetensors"
    try:
        is_intact = files.file_sha256(path, largest_weights(card)) == card.get("weights_sha256")
    except FileNotFoundError:
        return False
    except Unreadable as error:
        _log.warning("%s does not count and is trained again: %s", path, error)
        return False
    if not is_intact:
        _log.warning("%s does not count and is trained again: cut short or altered since it was written", folder)
    return is_intact


def largest_weights(card: Mapping[str, Any]) -> int:
    """Return how many bytes the weights file of a training has at most."""
    # Cards of older versions do not say it: each parameter has some bytes, and there may be other tensors.
    return int(card.get("weights_bytes", 2**30 + 2**6 * card.get("params", 0)))


def is_there(folder: Path) -> bool:
    """Say whether a training has a card, damaged or not, or something else under its name."""
    return os.path.lexists(folder / "card.json")


def mend_log(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the log of a training again from its card, with a warning, where there is one that differs."""
    path = folder / "log.jsonl"
    lines = "".join(canonical_json(row) + "\n" for row in card.get("log", ())).encode()
    try:
        if "log" not in card or files.read(path, len(lines)) == lines:
            return
        why = "altered since it was written"
    except FileNotFoundError:
        return
    except Unreadable as error:
        why = str(error)
    _log.warning("%s does not count and is written again from the card: %s", path, why)
    with suppress(OSError):
        write_atomically(path, lines)


def write_failure(folder: Path, why: str) -> None:
    """Keep why the training in ``folder`` failed."""
    write_atomically(folder / "failed.json", sealed({"message": why}))


def failure(folder: Path) -> str | None:
    """Return why the training in ``folder`` failed, if that is kept and not damaged."""
    try:
        why = unsealed(files.read(folder / "failed.json", _LARGEST_FAILURE)).get("message")
    except (FileNotFoundError, ValueError):
        return None
    return why if isinstance(why, str) else None
