"""Names of tensors in a checkpoint, matched to those of a network; what does not match, with its likely cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from bench.models.checkpoints.contents import StateDict, is_auxiliary
from bench.types import UsageError, listed, shown

if TYPE_CHECKING:
    from torch import Tensor

#: Names that wrappers put in front of the names of what they wrap, or between them.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Parts of a larger module that hold the classifier: what lies beside them is no layer of it.
HOLDERS = (*_WRAPPERS, "model", "net", "network", "classifier", "backbone", "student")
#: Batches that batch norm has seen. It never uses the number to predict, and files of before torch 0.4.1 lack it.
_COUNTER = "num_batches_tracked"
#: A part that the WideResNet of TRADES has, and never calls.
_UNUSED = "sub_block1"
#: One of the files of sharded weights.
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_OF_SHARD = "it is one of several shards: name their index, or their folder"
#: Names that a line repeats of many.
_NAMED = 3


class Match(NamedTuple):
    """How a state dict meets a network.

    Attributes:
        names: the name in the file of each tensor of the network that it has.
        missing: tensors of the network that it lacks, in its order, except counters of batch norm.
        surplus: tensors of the file that the network lacks.
        own_prefix: what is put in front of the file's names.
        file_prefix: what is taken from their front.
        renaming: what was done to names besides, in words.
    """

    names: Mapping[str, str]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    own_prefix: str = ""
    file_prefix: str = ""
    renaming: str = ""

    @property
    def remarks(self) -> list[str]:
        """What was done to names, in words."""
        words = [self.renaming] if self.renaming else []
        if self.file_prefix and self.file_prefix != self.own_prefix:
            words.append(f"prefix {shown(self.file_prefix)} taken off")
        if self.own_prefix and self.file_prefix != self.own_prefix:
            words.append(f"prefix {shown(self.own_prefix)} put in front")
        return words


def match(where: str, own: Mapping[str, Tensor], state: StateDict) -> Match:
    """Return the one way in which the names of a state dict give every tensor of a network, or the nearest to one.

    Args:
        where: the file, for what is said.
        own: the network's state dict.
        state: that of the file.

    Raises:
        UsageError: there are several ways, and their tensors differ.
    """
    for rename, words in _RENAMINGS:
        candidates = [each._replace(renaming=words) for each in _candidates(own, state.tensors, rename)]
        complete = [each for each in candidates if not each.missing]
        if complete:
            return _only(where, complete, state)
    return _nearest(own, state)


def _only(where: str, complete: list[Match], state: StateDict) -> Match:
    first, *others = complete
    for other in others:
        if not all(_same(state.tensors[name], state.tensors[other.names[own]]) for own, name in first.names.items()):
            prefixes = [each.file_prefix for each in (first, other)]
            keys = " or ".join(f'key = "{shown(prefix.rstrip("."))[1:-1]}"' for prefix in prefixes if prefix)
            raise UsageError(
                f"{where} holds the network twice, with different weights, under "
                f"{' and '.join(shown(prefix) if prefix else 'no prefix' for prefix in prefixes)}: {keys} chooses"
            )
    # Of equal ones the copies are no surplus.
    copies = set(chain.from_iterable(other.names.values() for other in others))
    return first._replace(surplus=tuple(name for name in first.surplus if name not in copies))


def _same(one: Tensor, other: Tensor) -> bool:
    import torch

    try:
        return one is other or torch.equal(one, other)
    # Tensors of a kind that cannot be compared.
    except (RuntimeError, NotImplementedError):
        return False


def _candidates(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rename: Callable[[str], str]
) -> Iterator[Match]:
    """Yield every pair of prefixes under which a name of the network is one of the file; each mapping once."""
    by_name = {rename(name): name for name in tensors}
    if len(by_name) < len(tensors):
        return
    seen = []
    # The longest first, so that what lies in a file beside a prefix that both share is seen to lie beside it.
    for own_prefix in reversed(_common_prefixes(own)):
        core = [name.removeprefix(own_prefix) for name in own]
        for file_prefix in _file_prefixes(core, by_name):
            names = {own_prefix + name: by_name[file_prefix + name] for name in core if file_prefix + name in by_name}
            if names in seen:
                continue
            seen.append(names)
            yield _matched(own, tensors, names)._replace(own_prefix=own_prefix, file_prefix=file_prefix)


def _matched(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Match:
    used = set(names.values())
    missing = tuple(name for name in own if name not in names and not name.endswith(_COUNTER))
    return Match(names, missing, tuple(name for name in tensors if name not in used))


def _as_it_is(name: str) -> str:
    return name


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _of_wide_resnet(name: str) -> str:
    """Return a name of the WideResNet of TRADES, MART and RobustBench as Crossfire's has it."""
    name = re.sub(r"(block\d\.)layer\.", r"\1", _without_wrappers(name))
    return re.sub(r"(^|\.)fc\.", r"\1linear.", name.replace(".convShortcut.", ".shortcut."))


#: What is tried with names, in this order, and what it is called.
_RENAMINGS = (
    (_as_it_is, ""),
    (_without_wrappers, "names of wrappers (module, _orig_mod) taken out"),
    (
        _of_wide_resnet,
        "layers of WideResNet called as here: block1.layer.0 is block1.0, convShortcut shortcut, fc linear",
    ),
)


def _common_prefixes(own: Mapping[str, Tensor]) -> list[str]:
    """Return every prefix of entire parts that all names share, from none to the longest."""
    prefixes = [""]
    if own:
        parts = next(iter(own)).split(".")[:-1]
        for part in parts:
            longer = f"{prefixes[-1]}{part}."
            if not all(name.startswith(longer) for name in own):
                break
            prefixes.append(longer)
    return prefixes


def _file_prefixes(core: list[str], by_name: Mapping[str, str]) -> list[str]:
    """Return what stands in the file before the longest name of the network, shortest first."""
    anchors = [name for name in core if not name.endswith(_COUNTER)]
    if not anchors:
        return [""]
    anchor = max(anchors, key=lambda name: (name.count("."), len(name)))
    ends = (name for name in by_name if name == anchor or name.endswith(f".{anchor}"))
    return sorted((name.removesuffix(anchor) for name in ends), key=len)


def _nearest(own: Mapping[str, Tensor], state: StateDict) -> Match:
    """Return the way of meeting in which most names are found."""
    shared = _shared_prefix(state.tensors)
    matches = []
    for own_prefix in _common_prefixes(own):
        for file_prefix in dict.fromkeys(("", shared)):
            by_name = {file_prefix + name.removeprefix(own_prefix): name for name in own}
            names = {by_name[name]: name for name in state.tensors if name in by_name}
            matches.append(_matched(own, state.tensors, names)._replace(own_prefix=own_prefix, file_prefix=file_prefix))
    return max(matches, key=lambda each: len(each.names))


def _shared_prefix(tensors: Mapping[str, Tensor]) -> str:
    """Return the longest prefix of entire parts that all names of a file share."""
    return _common_prefixes(tensors)[-1]


def require_complete(where: str, own: Mapping[str, Tensor], state: StateDict, found: Match) -> None:
    """Raises UsageError: tensors are missing or of another shape; the line says which, and the likely cause."""
    differing = [name for name, file_name in found.names.items() if own[name].shape != state.tensors[file_name].shape]
    if not found.missing and not differing:
        return
    parts = []
    if found.missing:
        parts.append(f"{_keys(found.missing)} missing ({_few(found.missing)})")
    if found.missing and found.surplus:
        parts.append(f"{len(found.surplus)} too many ({_few(found.surplus)})")
    if differing:
        shapes = [_shapes(name, own[name], state.tensors[found.names[name]]) for name in differing[:_NAMED]]
        parts.append(f"{len(differing)} of another shape ({', '.join(shapes)})")
    cause = _OF_SHARD if _SHARD.search(where) else _cause(own, state, found, differing)
    raise UsageError(f"{where} does not fit the network: {cause}; {', '.join(parts)}")


def require_nothing_before(where: str, found: Match) -> None:
    """Raises UsageError: in what was saved something came before the network that the file does not hold.

    The parts of ``nn.Sequential`` are numbered. A part without weights, such as a normalisation, leaves no other trace.
    """
    own_parts = found.own_prefix.split(".")
    if any(part.isdecimal() and int(part) > 0 and part not in own_parts for part in found.file_prefix.split(".")):
        raise UsageError(
            f"{where}: its names begin with {shown(found.file_prefix)}, so something came before the network that has "
            "no weights, such as a normalisation: give its mean and std in [[models]], or mean = 0 and std = 1 if it "
            "changed nothing"
        )


def _shapes(name: str, own: Tensor, tensor: Tensor) -> str:
    return f"{shown(name)[1:-1]} is {_size(tensor)}, the network's {_size(own)}"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _few(names: tuple[str, ...]) -> str:
    return listed((shown(name)[1:-1] for name in names), _NAMED)


def _cause(own: Mapping[str, Tensor], state: StateDict, found: Match, differing: list[str]) -> str:
    if found.missing:
        return _cause_of_missing(own, found)
    pairs = [(own[name].shape, state.tensors[found.names[name]].shape) for name in differing]
    outputs = {(mine[:1], other[:1]) for mine, other in pairs if mine[1:] == other[1:] and mine and other}
    if len(outputs) == 1 and all(mine[1:] == other[1:] for mine, other in pairs) and len(pairs) <= _NAMED + 1:
        ((mine, other),) = outputs
        return f"it tells {other[0]} classes apart, the images have {mine[0]}"
    if len(pairs) == 1 and pairs[0][0][:1] == pairs[0][1][:1] and len(pairs[0][0]) == len(pairs[0][1]) == 4:
        mine, other = pairs[0]
        if mine[2:] == other[2:]:
            return f"it takes images of {other[1]} channels, these have {mine[1]}"
        return "its first convolution is another, as for images of another size"
    if all(len(mine) == len(other) == 2 and mine[0] == other[0] for mine, other in pairs):
        return "it was trained on images of another size"
    return (
        "it belongs to another architecture, or one of another width or for images of another size (doctor FILE says "
        "which one fits)"
    )


def _cause_of_missing(own: Mapping[str, Tensor], found: Match) -> str:
    if not found.names:
        return "it belongs to another architecture (doctor FILE says which one fits)"
    layers = {name.rpartition(".")[0] for name in found.missing}
    if not found.surplus and len(layers) == 1 and not any(name.rpartition(".")[0] in layers for name in found.names):
        return f"it lacks the layer {shown(layers.pop())[1:-1]}, as features without a classifier do"
    if not found.surplus and all(name.rpartition(".")[2].startswith("running_") for name in found.missing):
        return "it lacks the running statistics of batch norm, as a list of parameters does; save net.state_dict()"
    if not found.surplus and all(any(name.rpartition(".")[0] == layer for name in found.names) for layer in layers):
        return "it lacks tensors of layers of which it has others"
    if all(re.search(r"lora|adapter", name, re.IGNORECASE) for name in found.surplus) and found.surplus:
        return "it holds an adapter alone, not the network"
    return "it belongs to another architecture, or one of another depth (doctor FILE says which one fits)"


def require_no_surplus(where: str, found: Match, surplus: tuple[str, ...]) -> str | None:
    """Return what is said of tensors that are left out because they lie beside the network, if there are any.

    Args:
        where: the file, for what is said.
        found: how it meets the network.
        surplus: what the network lacks.

    Raises:
        UsageError: they may belong to the network.
    """
    if not surplus:
        return None
    unused = tuple(name for name in surplus if found.renaming and _UNUSED in name.split("."))
    if unused:
        rest = require_no_surplus(where, found, tuple(name for name in surplus if name not in unused))
        said = f"{len(unused)} tensors of {_UNUSED}, which predicts nothing, left out"
        return f"{said}; {rest}" if rest else said
    holder = found.file_prefix.rstrip(".").rpartition(".")[2]
    outside = bool(found.file_prefix) and not any(name.startswith(found.file_prefix) for name in surplus)
    if outside and all(map(is_auxiliary, surplus)):
        return f"{_keys(surplus)} beside {shown(found.file_prefix)} left out ({_few(surplus)})"
    if outside and holder in HOLDERS:
        part = shown(found.file_prefix.rstrip("."))[1:-1]
        raise UsageError(
            f"{where}: beside {shown(found.file_prefix)} it holds {_keys(surplus)} ({_few(surplus)}); if they change "
            f'no prediction, as a normalisation would, key = "{part}" takes the network alone'
        )
    raise UsageError(f"{where} does not fit the network: {_cause_of_surplus(surplus)}; {_too_many(surplus)}")


def _too_many(surplus: tuple[str, ...]) -> str:
    return f"{_keys(surplus)} too many ({_few(surplus)})"


def _keys(names: tuple[str, ...]) -> str:
    return f"{len(names)} key{'s' * (len(names) != 1)}"


def _cause_of_surplus(surplus: tuple[str, ...]) -> str:
    if all(name.rpartition(".")[2] in ("total_ops", "total_params") for name in surplus):
        return "a profiler (thop) has left its counters in it; delete them and save it again"
    if all(map(is_auxiliary, surplus)):
        return "it also holds what training used, under no prefix of its own; save the state dict of the network alone"
    if any(re.search(r"(^|[._])ema([._]|$)", name) for name in surplus):
        return "it also holds an average of weights (EMA), under no prefix of its own; key chooses one"
    if all(re.search(r"(scale|zero_point|SCB|absmax|quant\w*)$", name) for name in surplus):
        return "it is quantised"
    return "it belongs to a larger or deeper network (doctor FILE says which one fits)"
