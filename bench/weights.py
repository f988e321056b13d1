"""Weights trained elsewhere: found by name, known by hash, loaded without running anyone's code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from bench.types import UsageError

if TYPE_CHECKING:
    from torch import nn

# Networks that come inside packages, by the name of the package.
_INSIDE = {"pyautoattack": "examples/model_test.pt"}


def find(name: str) -> Path:
    """Return the file of ``weights:<file>`` or ``weights:<package>``.

    Raises:
        UsageError: no such file, or not one that can be read safely.
    """
    what = name.removeprefix("weights:")
    if what in _INSIDE:
        spec = importlib.util.find_spec(what)
        if spec is None or spec.origin is None:
            raise UsageError(f"{name} needs a package: pip install {what}")
        path = Path(spec.origin).parent / _INSIDE[what]
        if not path.is_file():
            raise UsageError(f"{name}: the installed {what} comes without its example network {_INSIDE[what]}")
        return path
    path = Path(what)
    if not path.is_file():
        raise UsageError(f"{name}: no file {path.resolve()}")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{name}: weights are .safetensors, .pt or .pth files, not '{path.suffix}'")
    return path


def load(path: Path, net: nn.Module) -> None:
    """Load a state dict into ``net``; every key must match.

    Raises:
        UsageError: the file is corrupt, holds more than tensors, or belongs to another architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UsageError(f"{path} is no readable weights file: {_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors where a file asks for code
        raise UsageError(f"{path} holds more than tensors and is not loaded: {_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{path} is not a state dict (names to tensors)")
    own = net.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or surplus:
        raise UsageError(
            f"{path} belongs to another architecture: "
            + "; ".join(
                f"{len(names)} keys {word}, such as {names[0]}"
                for word, names in (("missing", missing), ("too many", surplus))
                if names
            )
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise UsageError(
                f"{path} belongs to another architecture: {name} is {tuple(state[name].shape)}, "
                f"the network's {tuple(value.shape)}"
            )
    net.load_state_dict(state)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
