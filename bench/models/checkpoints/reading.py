"""What a checkpoint holds, read without running code: tensors, numbers, texts, lists and dictionaries."""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from bench.data.room import available_memory, gib
from bench.models.checkpoints import files, formats, hashes
from bench.types import UsageError, shown

if TYPE_CHECKING:
    from torch import Tensor

#: Functions by which a pickle can do anything.
_SUSPECT = re.compile(
    r"(builtins\.|__builtin__\.)?(eval|exec|compile|getattr|setattr|open|__import__)$"
    r"|(os|posix|nt|sys|subprocess|shutil|socket|runpy|importlib|webbrowser|ctypes|pty)\b"
)
#: Of single numbers and texts of NumPy: a best accuracy beside the weights, say.
_SCALAR_CODES = "?bhilqBHILQefdgUS"


def require_whole(path: Path) -> None:
    """Raises UsageError: weights are empty, truncated or recognizably something else. torch is not imported."""
    from safetensors import SafetensorError, safe_open

    if files.is_index(path):
        files.require_shards_whole(path)
        return
    if (fault := formats.fault_of(path)) is not None:
        raise UsageError(f"{path} is no readable weights file: {fault}")
    if path.suffix.lower() == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                return
        except (SafetensorError, OSError, ValueError) as error:
            raise UsageError(f"{path} is no readable weights file: {files.first_line(error)}") from None


def read(path: Path) -> Any:
    """Return what a weights file holds; of sharded weights all tensors together.

    Raises:
        UsageError: it is damaged, does not fit into memory, or asks for more than tensors and plain values.
    """
    require_whole(path)
    if (needed := files.size(path)) > (available := available_memory()):
        raise UsageError(f"{path} takes {gib(needed)} of memory to read, and {gib(available)} are available")
    stated = files.stated_hashes(path)
    if files.is_index(path):
        tensors: dict[str, Tensor] = {}
        for shard in files.shards(path):
            tensors |= _read_safetensors(shard, stated)
        return tensors
    return _read_safetensors(path, stated) if path.suffix.lower() == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path, stated: Mapping[str, str]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        if stated:
            hashes.require(path, hashlib.sha256(data).hexdigest(), stated)
        tensors: dict[str, Tensor] = load(data)
    except KeyError as error:
        raise UsageError(f"{path} holds tensors of type {error}, which torch does not have here") from None
    except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no readable weights file: {files.first_line(error)}") from None
    return tensors


def _read_torch(path: Path) -> Any:
    import torch

    if (entry := formats.changed_entry(path)) is not None:
        raise UsageError(f"{path} is damaged: the bytes of its entry {shown(entry)} are not those that were written")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain_values()):
            # torch warns of checks that are slow and of types that will go; both are judged here.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        if (unsafe := _unsafe(path, error)) is None:
            raise UsageError(f"{path} is no readable weights file: {files.first_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors if a file requests code
        if (unsafe := _unsafe(path, error)) is None:
            raise UsageError(f"{path} is damaged, or holds what is no tensor and no plain value") from None
    raise UsageError(f"{path} holds more than tensors, and is not loaded: it asks for {unsafe}")


def _unsafe(path: Path, error: Exception) -> str | None:
    """Return what code a file asks for, and how to do without; ``None`` where it asks for none."""
    match = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", str(error))
    if match is None:
        return None
    name = match[1] or match[2]
    if _SUSPECT.match(name):
        return f"{shown(name)[1:-1]}, which no network needs: this file may be an attack; do not unpickle it"
    is_network = any(each.startswith(("torch.nn.modules.", "torch.nn.parallel.")) for each in (name, *_globals(path)))
    what, state = ("a whole network", "net.state_dict()") if is_network else ("it", "checkpoint['state_dict']")
    return (
        f"{shown(name)[1:-1]}, and to unpickle {what} would run code; if you trust the file, read it with "
        f"torch.load({shown(path.name)}, weights_only=False), and save a plain state dict: "
        f"torch.save({state}, 'plain.pt')"
    )


def _globals(path: Path) -> list[str]:
    """Return everything that a file asks for beyond tensors; empty where that cannot be seen."""
    import torch

    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # It raises whatever a damaged file, or one of the older format, makes pickle raise.
    except Exception:
        return []


def _plain_values() -> list[Any]:
    """Return what pickle needs for arguments of a script, and single numbers of NumPy by their older and newer names.

    None of it does more than hold what it is given.
    """
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    numbers = [np.dtype, *{type(np.dtype(code)) for code in _SCALAR_CODES}]
    return [*((scalar, name) for name in names), *numbers, argparse.Namespace, PosixPath]
