"""A state dict put into a network: only what matches to the last tensor, and what is done to it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.models.adapted import Normalisation
from bench.models.checkpoints import matching, normalising
from bench.models.checkpoints.contents import StateDict
from bench.models.checkpoints.files import first_line
from bench.models.checkpoints.matching import Match
from bench.types import UsageError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What numbers of a network are saved in; others of fewer bits hold them scaled.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Fit(NamedTuple):
    """What was done to a state dict, in a line each, and the normalisation of images that it holds, if any.

    The normalisation is left to the caller.
    """

    remarks: list[str]
    normalisation: Normalisation | None


def fit(where: str, state: StateDict, net: nn.Module, channels: int | None = None) -> Fit:
    """Load a state dict into a network.

    Args:
        where: the file, for what is said.
        state: that of the file.
        net: it gets the tensors; where they do not fit it is left as it was.
        channels: of the images, if that is known.

    Raises:
        UsageError: they do not fit, or there are several ways in which they would.
    """
    own = net.state_dict()
    require_dense(where, state.tensors)
    match = matching.match(where, own, state)
    converted = _conversions(where, own, state, match)
    matching.require_complete(where, own, state, match)
    surplus = tuple(name for name in match.surplus if not _is_made(net, match, state, name))
    scale = normalising.pair(surplus, state.tensors, channels)
    normalisation = scale and normalising.read(where, *(state.tensors[name] for name in scale))
    surplus = tuple(name for name in surplus if name not in (scale or ()))
    left_out = matching.require_no_surplus(where, match, surplus)
    if normalisation is None and not normalising.is_normalised(net):
        matching.require_nothing_before(where, match)
    remarks = [
        *([f"the state dict {shown(state.name)} is used"] if state.name is not None else []),
        *([f"{', '.join(map(shown, state.beside[:3]))} beside its tensors left out"] if state.beside else []),
        *match.remarks,
        *converted,
        *([left_out] if left_out else []),
    ]
    tensors = {name: state.tensors[file_name] for name, file_name in match.names.items()}
    try:
        # Counters of batch norm alone may be missing.
        net.load_state_dict(tensors, strict=False)
    except Exception as error:  # A network may load its state in a way of its own.
        raise UsageError(f"{where} cannot be loaded into the network: {first_line(error)}") from None
    return Fit(remarks, normalisation)


def require_dense(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises UsageError: a tensor has no numbers of its own for each of its places."""
    for name, tensor in tensors.items():
        if (kind := _kind(tensor)) is not None:
            raise UsageError(f"{where}: {shown(name)} is {kind}; save the network in float32, dense and on the CPU")


def _kind(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "a meta tensor, a shape without numbers"
    if tensor.is_quantized:
        return f"quantised ({_dtype(tensor)})"
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"
    # Expanded from fewer numbers, a small file would take any amount of memory.
    if tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), 1):
        return "an expanded tensor, of fewer numbers than places"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _conversions(where: str, own: Mapping[str, Tensor], state: StateDict, match: Match) -> list[str]:
    """Return what is converted to the types of the network.

    Raises:
        UsageError: a tensor is of a type that means something else than the network's numbers.
    """
    converted: dict[str, str] = {}
    for name, file_name in match.names.items():
        tensor, mine = state.tensors[file_name], own[name]
        if tensor.dtype == mine.dtype or name.endswith("num_batches_tracked"):
            continue
        if mine.is_floating_point() and tensor.dtype in _FLOATS:
            converted[_dtype(tensor)] = _dtype(mine)
        elif tensor.is_complex():
            raise UsageError(f"{where}: {shown(file_name)} is complex ({_dtype(tensor)}), the network's {_dtype(mine)}")
        elif mine.is_floating_point():
            raise UsageError(
                f"{where}: {shown(file_name)} is {_dtype(tensor)}, as quantised weights are, and not in floating point"
            )
        elif tensor.is_floating_point():
            raise UsageError(f"{where}: {shown(file_name)} is {_dtype(tensor)}, the network's {_dtype(mine)}")
    return [f"{kind} read as {mine}" for kind, mine in converted.items()]


def _is_made(net: nn.Module, match: Match, state: StateDict, name: str) -> bool:
    """Say whether a surplus tensor is one that the network makes itself, with the same values: a mask or an index."""
    own_name = match.own_prefix + name.removeprefix(match.file_prefix)
    buffer = dict(net.named_buffers()).get(own_name)
    tensor = state.tensors[name]
    if buffer is None or buffer.shape != tensor.shape:
        return False
    return torch.equal(buffer.cpu(), tensor.to(buffer.dtype))
