"""What a state dict says about the network that it belongs to, read from names and shapes alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from bench.models.checkpoints import matching, normalising
from bench.models.checkpoints.contents import StateDict
from bench.models.checkpoints.matching import HOLDERS
from bench.types import UsageError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.adapted import Normalisation

#: Names of the layer that gives logits.
_LAST = re.compile(r"(^|\.)(fc|linear|head|heads?\.\w+|classifier(\.\d+)?|last_linear|logits|output|out)\.weight$")


class Layer(NamedTuple):
    """A tensor that says something about the network, and what: a number of classes, or of channels."""

    name: str
    shape: tuple[int, ...]
    number: int


class Summary(NamedTuple):
    """A state dict in numbers.

    Attributes:
        tensors: how many there are.
        parameters: how many numbers they hold, statistics of batch norm and counters apart.
        dtypes: their types, the most frequent first.
        prefix: what wrappers have put in front of every name of the network.
        classes: the layer that likely gives the logits.
        channels: the first convolution.
        normalisation: of images, if it is inside.
    """

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    prefix: str
    classes: Layer | None
    channels: Layer | None
    normalisation: Normalisation | None


def of(state: StateDict) -> Summary:
    """Return the summary of a state dict."""
    tensors = state.tensors
    weights = [tensor for name, tensor in tensors.items() if not re.search(r"running_(mean|var)$|tracked$", name)]
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights)
    channels = _first_convolution(tensors)
    return Summary(
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in weights),
        dtypes=tuple(name for name, _ in dtypes.most_common()),
        prefix=_prefix(tensors),
        classes=_last_layer(tensors),
        channels=channels,
        normalisation=_normalisation(tensors, 3 if channels is None else channels.number),
    )


def problem(state: StateDict) -> str | None:
    """Return why a state dict can be used for no network: its tensors lack numbers, or hold NaN; ``None`` if it can."""
    from bench.models.checkpoints import fitting

    try:
        fitting.require_dense("tensor", state.tensors)
    except UsageError as error:
        return str(error)
    floats = {name: tensor for name, tensor in state.tensors.items() if tensor.is_floating_point()}
    bad = next((name for name, tensor in floats.items() if not bool(tensor.float().isfinite().all())), None)
    return None if bad is None else f"{shown(bad)} holds NaN or infinite numbers"


def natural(names: Iterable[str]) -> list[str]:
    """Return names in the order of the numbers in them: ``features.2`` before ``features.10``."""
    return sorted(names, key=lambda name: [_ordinal(part) for part in re.split(r"([0-9]{1,9})", name)])


def _ordinal(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isascii() and part.isdecimal() else (-1, part)


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    """Return the longest prefix of names of wrappers and holders under which most tensors lie."""
    prefixes = Counter[str]()
    for name in tensors:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in HOLDERS:
                break
            prefix += f"{part}."
            prefixes[prefix] += 1
    most = [prefix for prefix, count in prefixes.items() if 2 * count > len(tensors)]
    return max(most, key=len, default="")


def _last_layer(tensors: Mapping[str, Tensor]) -> Layer | None:
    # Some last layers are convolutions of one pixel.
    flat = [name for name in tensors if name.endswith("weight") and _is_linear(tensors[name])]
    named = [name for name in flat if _LAST.search(name)]
    ordered = natural(named) or flat
    return _layer(tensors, ordered[-1], 0) if ordered else None


def _is_linear(tensor: Tensor) -> bool:
    return tensor.dim() == 2 or (tensor.dim() == 4 and tuple(tensor.shape[2:]) == (1, 1))


def _first_convolution(tensors: Mapping[str, Tensor]) -> Layer | None:
    kernels = natural(name for name in tensors if tensors[name].dim() == 4 and tensors[name].shape[-1] > 1)
    # Of one channel are also the kernels of depthwise convolutions.
    colour = [name for name in kernels if tensors[name].shape[1] == 3]
    grey = [name for name in kernels if tensors[name].shape[1] == 1]
    first = next(iter(colour or grey or kernels), None)
    return None if first is None else _layer(tensors, first, 1)


def _layer(tensors: Mapping[str, Tensor], name: str, dimension: int) -> Layer:
    shape = tuple(tensors[name].shape)
    return Layer(name, shape, shape[dimension])


def _normalisation(tensors: Mapping[str, Tensor], channels: int) -> Normalisation | None:
    names = [name for name in tensors if not name.rpartition(".")[2].startswith("running")]
    pair = normalising.pair(names, tensors, channels)
    try:
        return None if pair is None else normalising.read("", *(tensors[name] for name in pair))
    # Numbers that no image can be normalised by, or tensors without numbers.
    except (UsageError, RuntimeError, NotImplementedError):
        return None


def fits(own: Mapping[str, Tensor], buffers: Iterable[str], state: StateDict, channels: int) -> bool:
    """Say whether a state dict would load into a network, by names and shapes.

    Args:
        own: the network's state dict; its tensors need no numbers.
        buffers: the names of all buffers of the network, which it may make itself.
        state: that of the file.
        channels: of the images.
    """
    try:
        match = matching.match("", own, state)
        matching.require_complete("", own, state, match)
        made = set(buffers)
        surplus = tuple(
            name for name in match.surplus if match.own_prefix + name.removeprefix(match.file_prefix) not in made
        )
        pair = normalising.pair(surplus, state.tensors, channels) or ()
        matching.require_no_surplus("", match, tuple(name for name in surplus if name not in pair))
    except UsageError:
        return False
    return True
