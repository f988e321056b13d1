"""The sealed state from which a training continues."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.keys import canonical_json, sha256_hex
from bench.store import files, inventory
from bench.store.account import spending
from bench.store.files import write_atomically
from bench.store.reading import document
from bench.store.seals import read_metadata
from bench.types import UsageError

STATE, EPOCH = inventory.STATE, inventory.EPOCH
#: What a state may hold of a network, the one to keep first: of the best epoch, averaged, as trained.
_GROUPS = ("best", "average", "net")
#: Bytes of the largest state that is read where the size of its network is not known.
_LARGEST = 2**36


class DamagedState(UsageError):
    """The state to resume from was cut short or altered."""


class State(NamedTuple):
    """What was written: tensors by name, and words that JSON can hold."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class _Epoch(BaseModel):
    """What the end of a training reads of the log of its epochs."""

    epoch: int
    seconds: float
    flops: float
    forwards: float
    backwards: float
    test: dict[str, float] = {}
    train: dict[str, float] = {}


class _Metadata(BaseModel):
    """What a state says beside its tensors."""

    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    forwards: int = Field(ge=0)
    backwards: int = Field(ge=0)
    best_score: float
    best_epoch: int = Field(ge=0)
    log: list[_Epoch]
    measured: dict[str, dict[str, int]] = {}


def mismatch(
    kept: Mapping[str, Tensor], metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], epochs: int, steps: int
) -> str | None:
    """Return what of a state is not as its training would have written it; ``None`` if all is.

    Args:
        kept: the tensors that were read.
        metadata: what was read beside them.
        tensors: those of the training, by name; momentum may be missing, and a best epoch may be there besides.
        epochs: of its schedule.
        steps: batches of an epoch.
    """
    try:
        at = _Metadata.model_validate(metadata)
    except ValidationError as error:
        return f"{'.'.join(map(str, error.errors()[0]['loc']))} is not what a state says"
    if not (at.epoch == len(at.log) <= epochs and at.step <= steps):
        return "its epochs and batches are not those of the schedule"
    best = {name.replace("net.", "best.", 1): value for name, value in tensors.items() if name.startswith("net.")}
    for name, value in (best | dict(tensors)).items():
        stored = kept.get(name)
        if stored is None and name.startswith(("best.", "momentum.")):
            continue
        if stored is None or stored.shape != value.shape or stored.dtype != value.dtype:
            return f"{name} is not what the network has"
    kept_best = {name for name in kept if name.startswith("best.")}
    return "its best epoch is not whole" if kept_best and kept_best != best.keys() else None


@spending("saving")
def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a state with the hash of all that is in it."""
    contiguous = {name: _contiguous(value) for name, value in tensors.items()}
    sealed = {**metadata, "sha256": _digest(metadata, contiguous)}
    write_atomically(path, save(contiguous, {"state": canonical_json(sealed)}))


def read(path: Path, limit: int = _LARGEST) -> State:
    """Return what :func:`write` wrote, in at most ``limit`` bytes.

    Raises:
        FileNotFoundError: nothing.
        DamagedState: the file is damaged.
    """
    try:
        data = files.read(path, limit)
        kept, metadata = load(data), document(read_metadata(data)["state"].encode())
        if not isinstance(metadata, dict) or metadata.pop("sha256", None) != _digest(metadata, kept):
            raise ValueError("altered since it was written")
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedState(f"{path} is damaged ({error}); delete it to train from the start") from None
    return State(kept, metadata)


def keep_epoch(folder: Path) -> None:
    """Keep the state in ``folder``, that at the end of an epoch, beside the one that is about to replace it.

    Raises:
        OSError: it cannot be kept.
    """
    with suppress(FileNotFoundError):
        files.link(folder / STATE, folder / EPOCH)


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state that are the weights to keep, by their names in the network."""
    chosen = next((group for group in _GROUPS if any(name.startswith(f"{group}.") for name in tensors)), "net")
    named = {name: value for name, value in tensors.items() if name.startswith(f"{chosen}.")}
    return {name.removeprefix(f"{chosen}."): value for name, value in named.items()}


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file."""
    return save({name: _contiguous(value) for name, value in tensors.items()})


def _contiguous(tensor: Tensor) -> Tensor:
    # A copy, for the format refuses tensors that share memory or are not contiguous.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    parts: list[str | bytes] = [canonical_json(metadata)]
    for name, value in sorted(tensors.items()):
        parts.append(canonical_json([name, str(value.dtype), list(value.shape)]))
        parts.append(value.flatten().view(torch.uint8).numpy().tobytes())
    return sha256_hex(*parts)
