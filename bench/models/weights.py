"""Weights trained elsewhere: found by name, known by hash, loaded without running anyone's code."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import warnings
import zipfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.keys import sha256_hex
from bench.store.files import Unreadable, file_sha256
from bench.types import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Networks that come inside packages, by the name of the package.
_INSIDE = {"pyautoattack": "examples/model_test.pt"}


def find(name: str) -> Path:
    """Return the file of ``weights:<file>`` or ``weights:<package>``.

    Raises:
        UsageError: no such file, or not one that can be read safely.
    """
    source = name.removeprefix("weights:")
    if source in _INSIDE:
        spec = importlib.util.find_spec(source)
        if spec is None or spec.origin is None:
            raise UsageError(f"{name} needs a package: pip install {source}")
        path = Path(spec.origin).parent / _INSIDE[source]
        if not path.is_file():
            raise UsageError(f"{name}: the installed {source} comes without its example network {_INSIDE[source]}")
        return path
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{name}: no file {_absolute(path)}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {_absolute(path)} cannot be read: {_reason(error)}") from None
    if not stat.S_ISREG(mode):
        kind = "is a folder" if stat.S_ISDIR(mode) else "is no plain file"
        raise UsageError(f"{name}: {_absolute(path)} {kind}; weights are .safetensors, .pt or .pth files")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{name}: weights are .safetensors, .pt or .pth files, not '{path.suffix}'")
    return path


class WeightsFile(NamedTuple):
    """A weights file as a plan knows it.

    Where it cannot be used, ``problem`` says why in one line, ``path`` is ``None``, and ``sha256`` is a hash of the
    name instead of the contents, so that the cells that need it still have keys, and fail under them.
    """

    path: Path | None
    sha256: str
    problem: str | None = None


def inspect(name: str) -> WeightsFile:
    """Find a weights file and check without torch that it is readable and complete."""
    try:
        path = find(name)
        sha = file_sha256(path)
        _check_whole(path)
    except UsageError as error:
        problem = str(error)
    except (OSError, Unreadable) as error:
        problem = f"{name}: {_absolute(Path(name.removeprefix('weights:')))} cannot be read: {_reason(error)}"
    else:
        return WeightsFile(path, sha)
    return WeightsFile(None, sha256_hex("unusable weights", name), problem)


def _check_whole(path: Path) -> None:
    """Raises UsageError: the file is empty, truncated or recognizably something else."""
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size == 0:
        raise UsageError(f"{path} is no readable weights file: it is empty")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                return
        except (SafetensorError, OSError, ValueError) as error:
            raise UsageError(f"{path} is no readable weights file: {_line(error)}") from None
    with path.open("rb") as file:
        if file.read(2) == b"PK" and not zipfile.is_zipfile(path):
            raise UsageError(f"{path} is no readable weights file: it was cut short")


def load(path: Path, net: nn.Module) -> None:
    """Load a state dict into ``net``; every key must match.

    Raises:
        UsageError: the file is corrupt, holds more than tensors, or belongs to another architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as load_safetensors

    try:
        with warnings.catch_warnings():
            # torch warns that checking sparse tensors is slow; no network here uses them.
            warnings.simplefilter("ignore")
            state = (
                load_safetensors(path.read_bytes())
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UsageError(f"{path} is no readable weights file: {_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors if a file requests code
        match = re.search(r"GLOBAL (\S+)", str(error))
        reason = f": it asks for {match[1]}" if match else ""
        raise UsageError(f"{path} is damaged or holds more than tensors, and is not loaded{reason}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UsageError(f"{path} is not a state dict (names to tensors)")
    _check_fits(path, state, net)
    try:
        net.load_state_dict(state)
    except Exception as error:  # a tensor of a kind that cannot be copied, such as a quantized one
        reason = str(error).strip().rpartition("\n")[2].strip()[:200]
        raise UsageError(f"{path} cannot be loaded into the network: {reason}") from None


def _check_fits(path: Path, state: dict[str, Tensor], net: nn.Module) -> None:
    """Raises UsageError: names or shapes are not those of the network."""
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


def check_finite(path: Path, net: nn.Module) -> None:
    """Raises UsageError: a parameter loaded from ``path`` holds NaN or infinities, or a buffer NaN."""
    # A buffer may hold infinities for a reason, as a mask of attention does.
    parameters = ((name, ~value.isfinite()) for name, value in net.named_parameters())
    buffers = ((name, value.isnan()) for name, value in net.named_buffers())
    for name, mask in chain(parameters, buffers):
        if count := int(mask.sum()):
            raise UsageError(f"{path}: {count} of the {mask.numel()} numbers of {name} are NaN or infinite")


def _absolute(path: Path) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the current folder is gone
        return str(path)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or _line(error)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
