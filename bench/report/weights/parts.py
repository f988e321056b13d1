"""Tensors as files of safetensors of at most so many bytes, with an index of Hugging Face's layout; also as float16."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.store.files import write_beside
from bench.types import UsageError, shown

if TYPE_CHECKING:
    from torch import Tensor

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: Bytes of the head of a file: of itself, and of each tensor beside its name.
_HEAD = 64
_HEAD_OF_TENSOR, _HEAD_OF_AXIS = 96, 24
#: The largest relative error of a number that float16 holds with all of its digits.
ROUND_OFF = 2.0**-11
_METADATA = {"format": "pt"}


class Halved(NamedTuple):
    """Tensors, those of floating point as float16.

    Attributes:
        tensors: by name.
        kept: why a tensor stays as it was, by name.
        error: the largest relative error of those that changed: of an output channel (the length of the difference
            over its own), and in a vector of a number.
    """

    tensors: dict[str, Tensor]
    kept: dict[str, str]
    error: float


class Written(NamedTuple):
    """What was written: the file to read, and the SHA-256 of each file of tensors by name."""

    entry: str
    files: dict[str, str]
    size: int


def halved(tensors: Mapping[str, Tensor]) -> Halved:
    """Return tensors as float16, but those of which it cannot hold the numbers, or not as well as others.

    A number above 65,504 is too large, and near zero float16 has fewer digits. That matters where an output channel,
    or a single number of a vector such as a running variance, changes by more than the round-off of 2^-11.
    """
    import torch

    changed, kept = dict(tensors), dict[str, str]()
    largest = 0.0
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64):
            continue
        half = tensor.to(torch.float16)
        if not bool(half.isfinite().all()):
            kept[name] = "a number is above 65,504"
            continue
        error = _relative_error(tensor, half)
        # With a little more for the round-off of the lengths themselves.
        if error > ROUND_OFF * (1 + 1e-6):
            kept[name] = f"near zero float16 is off by {error:.1e}"
            continue
        changed[name], largest = half, max(largest, error)
    return Halved(changed, kept, largest)


def _relative_error(tensor: Tensor, half: Tensor) -> float:
    import torch

    if not tensor.numel():
        return 0.0
    rows = tensor.double().reshape(tensor.shape[0] if tensor.dim() else 1, -1)
    # Scaled, so that no square of a small number is zero.
    scale = rows.abs().amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    difference = (half.double().reshape(rows.shape) - rows) / scale
    length = (rows / scale).norm(dim=1)
    return float((difference.norm(dim=1) / torch.where(length > 0, length, torch.ones_like(length))).max())


def write(tensors: Mapping[str, Tensor], folder: Path, most: int | None) -> Written:
    """Write tensors into a folder, in as many files of at most ``most`` bytes as that takes.

    Raises:
        UsageError: a tensor is larger than a file may be.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    if most is not None:
        _require_fitting(tensors, most)
    groups = list(_groups(tensors, most))
    names = [WHOLE] if len(groups) == 1 else _numbered(len(groups))
    hashes: dict[str, str] = {}
    places: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        data = save({each: tensors[each].detach().cpu().clone().contiguous() for each in group}, _METADATA)
        assert most is None or len(data) <= most
        write_beside(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
        places |= dict.fromkeys(group, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if len(groups) == 1:
        return Written(WHOLE, hashes, size)
    body = {
        "metadata": {"total_size": size, "sha256": hashes},
        "weight_map": places,
    }
    write_beside(folder / INDEX, json.dumps(body, indent=2, ensure_ascii=True).encode() + b"\n")
    return Written(INDEX, hashes, size)


def _numbered(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _require_fitting(tensors: Mapping[str, Tensor], most: int) -> None:
    """Raises UsageError: the largest tensor does not go into a file of at most ``most`` bytes."""
    name = max(tensors, key=lambda name: _bytes_of(name, tensors[name]), default=None)
    if name is not None and (needed := _HEAD + _bytes_of(name, tensors[name])) > most:
        raise UsageError(
            f"--part-size: {shown(name)} alone, the largest tensor, takes {needed:,} bytes, and a part may have "
            f"{most:,}; a tensor is not divided, so give at least that"
        )


def _bytes_of(name: str, tensor: Tensor) -> int:
    """Return at most how many bytes of a file a tensor takes."""
    return tensor.nbytes + _HEAD_OF_TENSOR + _HEAD_OF_AXIS * tensor.dim() + len(json.dumps(name))


def _groups(tensors: Mapping[str, Tensor], most: int | None) -> Iterator[list[str]]:
    """Yield the names of the tensors of each file, in the order of the network."""
    group, size = list[str](), _HEAD
    for name, tensor in tensors.items():
        needed = _bytes_of(name, tensor)
        if most is not None and group and size + needed > most:
            yield group
            group, size = [], _HEAD
        group.append(name)
        size += needed
    yield group
