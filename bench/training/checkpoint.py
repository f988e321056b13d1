"""The sealed state from which a training continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.keys import canonical_json, sha256_hex
from bench.store import files
from bench.store.files import write_atomically
from bench.store.reading import document
from bench.store.seals import read_metadata
from bench.types import UsageError

#: Bytes of the largest state that is read where the size of its network is not known.
_LARGEST = 2**36


class DamagedState(UsageError):
    """The state to resume from was cut short or altered."""


class State(NamedTuple):
    """What was written: tensors by name, and words that JSON can hold."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


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
