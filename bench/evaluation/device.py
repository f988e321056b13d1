"""The device that a name means on this machine."""

from __future__ import annotations

import torch

from bench.types import UsageError


def device_named(name: str, said: str) -> torch.device:
    """Return the device of a name; ``auto`` takes a GPU where there is one.

    Args:
        name: ``cpu``, ``cuda`` or ``auto``.
        said: how it was asked for, for the message.

    Raises:
        UsageError: there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{said}: torch sees no CUDA device here; use --device cpu or auto")
    return torch.device(name)
