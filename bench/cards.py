"""The card of a training: written last, so that weights with a card are finished ones, and sealed.

It says what was trained, how (passes, seconds, FLOPs, the log of the epochs), how it ended, and the hash of its weights
file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from bench import files
from bench.files import Unreadable, write_atomically
from bench.keys import canonical_json, training_key
from bench.seals import sealed, unsealed
from bench.types import Count, ModelRef, Share, ShownWord

_log = logging.getLogger("crossfire")
#: Bytes of the largest card, which has a row of some 600 bytes for each epoch, and of the word of why one failed.
LARGEST, _LARGEST_FAILURE = 64 * 2**20, 2**20


Epoch = Annotated[int, Field(ge=0, le=1_000_000)]


class Row(BaseModel):
    """An epoch: its number, mean loss, accuracy on its batches, learning rate, seconds, FLOPs and passes, and the
    accuracies of :func:`bench.overfitting.measure` on training, test and held-out images. Those of older versions lack
    some.
    """

    epoch: Epoch = 0
    loss: float | None = None
    train_accuracy: Share | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    flops: float | None = None
    forwards: float | None = None
    backwards: float | None = None
    train: dict[ShownWord, Share] = {}
    test: dict[ShownWord, Share] = {}
    holdout: dict[ShownWord, Share] = {}


class _Card(BaseModel):
    """What readers of a card rely on, where it is there: cards of older versions lack some of it."""

    weights_sha256: str = ""
    weights_bytes: Count = 0
    params: Count = 0
    training: dict[str, Any] = {}
    network: dict[str, Any] = {}
    images_per_epoch: Count = 0
    passes_per_example: tuple[float, float] | None = None
    seconds_per_epoch: float | None = None
    flops_per_epoch: float | None = None
    overfitting: dict[str, str | bool | float] | None = None
    log: list[Row] = []


def write(folder: Path, body: Mapping[str, Any]) -> None:
    """Write the card of the training in ``folder``."""
    write_atomically(folder / "card.json", sealed(body))


def read(folder: Path, key: str | None = None) -> dict[str, Any] | None:
    """Return the card of a training; ``None`` where there is none or, with a warning, where it is not whole.

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
        ValueError: it is not whole, says what no card says, or is of another training than that of the ``key``.
    """
    card = unsealed(data)
    try:
        # What was read is returned, not what validation makes of it, which lacks the words that nobody relies on.
        _Card.model_validate_json(data, strict=True)
        of = _key_of(card)
    except ValidationError as error:
        raise ValueError(f"{'.'.join(map(str, error.errors()[0]['loc']))} is not what a card says") from None
    if key is not None and of not in (None, key):
        raise ValueError("it is of another training")
    return card


def _key_of(card: Mapping[str, Any]) -> str | None:
    """Return the key of what a card says was trained; ``None`` where it does not say."""
    if "training" not in card or "network" not in card:
        return None
    return training_key(ModelRef.model_validate({"network": card["network"], "weights": card["training"]}))


def is_trained(folder: Path, key: str | None = None) -> bool:
    """Say whether a training is finished and its card and weights are those that it wrote.

    With a ``key`` they count only if they are of the training of that key.
    """
    card = read(folder, key)
    return card is not None and _has_weights(folder, card)


def _has_weights(folder: Path, card: Mapping[str, Any]) -> bool:
    path = folder / "weights.safetensors"
    try:
        whole = files.file_sha256(path, largest_weights(card)) == card.get("weights_sha256")
    except FileNotFoundError:
        return False
    except Unreadable as error:
        _log.warning("%s does not count and is trained again: %s", path, error)
        return False
    if not whole:
        _log.warning("%s does not count and is trained again: cut short or altered since it was written", folder)
    return whole


def largest_weights(card: Mapping[str, Any]) -> int:
    """Return how many bytes the weights file of a training has at most."""
    # Cards of older versions do not say it: each parameter has some bytes, and there may be other tensors.
    return int(card.get("weights_bytes", 2**30 + 2**6 * card.get("params", 0)))


def is_there(folder: Path) -> bool:
    """Say whether a training has a card, whole or not, or something in its place."""
    return os.path.lexists(folder / "card.json")


def mend_log(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the log of a training from its card again, with a warning, where it is there and says something else."""
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
    """Return why the training in ``folder`` failed, if that is kept and whole."""
    try:
        why = unsealed(files.read(folder / "failed.json", _LARGEST_FAILURE)).get("message")
    except (FileNotFoundError, ValueError):
        return None
    return why if isinstance(why, str) else None
