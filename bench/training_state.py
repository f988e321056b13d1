"""What is in the folder of a training: the state to go on from, sealed, or weights and the card that ends it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench import weights
from bench.keys import canonical_json, sha256_hex
from bench.store import write_atomically
from bench.types import UsageError

_log = logging.getLogger("crossfire")


class DamagedState(UsageError):
    """The state to resume from was cut short or altered."""


class State(NamedTuple):
    """What was written: tensors by name, and words that JSON can hold."""

    tensors: dict[str, Tensor]
    words: dict[str, Any]


def write(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
    """Write a state with the hash of all that is in it."""
    whole = {name: _whole(value) for name, value in tensors.items()}
    sealed = {**words, "sha256": _digest(words, whole)}
    write_atomically(path, save(whole, {"state": canonical_json(sealed)}))


def read(path: Path) -> State:
    """Return what :func:`write` wrote.

    Raises:
        DamagedState: the file is not whole.
    """
    try:
        data = path.read_bytes()
        kept = load(data)
        length = int.from_bytes(data[:8], "little")
        words = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
        if words.pop("sha256") != _digest(words, kept):
            raise ValueError("altered since it was written")
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedState(f"{path} is damaged ({error}); delete it to train from the start") from None
    return State(kept, words)


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file."""
    return save({name: _whole(value) for name, value in tensors.items()})


def _whole(tensor: Tensor) -> Tensor:
    # A copy, for the format refuses tensors that share memory or are not contiguous.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    parts = ((name, tensors[name].flatten().view(torch.uint8).numpy().tobytes()) for name in sorted(tensors))
    return sha256_hex(canonical_json(words), *(part for pair in parts for part in pair))


def is_trained(folder: Path) -> bool:
    """Say whether a training is finished and its weights are those that it wrote; if altered, with a warning."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        whole = weights.sha256(folder / "weights.safetensors") == card["weights_sha256"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        _log.warning("%s does not count and is trained again: cut short or altered since it was written", folder)
    return bool(whole)
