"""Networks that a state dict may belong to: built without numbers, and compared by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from bench import registry
from bench.methods.sources import find_top
from bench.models.checkpoints import matching, summary
from bench.models.checkpoints.contents import StateDict
from bench.models.factory import make
from bench.registry import Entry
from bench.types import UsageError

#: Sizes of images that a network for images of one size is tried with.
_SIZES = (32, 28, 16, 8, 64, 96, 224)
#: Which networks of torchvision, and of timm, have tensors of such names.
_FAMILIES = (
    (r"layer1\.0\.conv1\.", ("resnet*", "resnext*", "wide_resnet*"), ("resnet*", "seresnet*", "resnext*", "wide_*")),
    (r"features\.denseblock1\.", ("densenet*",), ("densenet*",)),
    (r"features\.0\.0\.", ("mobilenet*", "efficientnet*", "convnext*", "swin*"), ()),
    (r"features\.\d+\.(weight|squeeze)", ("alexnet", "vgg*", "squeezenet*"), ("vgg*",)),
    (r"encoder\.layers\.encoder_layer_0\.", ("vit_*",), ()),
    (r"trunk_output\.", ("regnet*",), ()),
    (r"stage2\.0\.branch", ("shufflenet*",), ()),
    (r"layers\.8\.0\.layers\.", ("mnasnet*",), ()),
    (r"inception3a\.", ("googlenet",), ()),
    (r"Conv2d_1a_3x3\.", ("inception_v3",), ("inception_v3",)),
    (r"blocks\.0\.attn\.qkv\.", (), ("vit_*_patch*_224", "deit*_patch16_224")),
    (r"layers\.0\.blocks\.0\.attn\.", (), ("swin_*_window7_224",)),
    (r"stages\.0\.blocks\.0\.conv_dw\.", (), ("convnext_*",)),
    (r"conv_stem\.", (), ("efficientnet_b*", "mobilenetv2*", "mobilenetv3*", "tf_efficientnet_b?")),
    (r"s1\.b1\.", (), ("regnet*",)),
)
#: Networks of a library that are built at most.
_MOST = 40


class Candidate(NamedTuple):
    """A network as ``[[models]]`` names it; ``image_size`` is the only one that it takes, if it matters."""

    arch: str
    params: Mapping[str, int]
    image_size: int | None = None


def of_crossfire(state: StateDict, shape: summary.Summary) -> Iterator[Candidate | None]:
    """Try each network that comes with Crossfire, and yield it if the state dict fits it, else nothing."""
    for entry in registry.entries("network").values():
        yield _sized(entry, state, shape)


def _sized(entry: Entry, state: StateDict, shape: summary.Summary) -> Candidate | None:
    """Return a network in the sizes that a state dict has, if there are such."""
    if (net := _of_entry(entry, {}, shape, _SIZES[0])) is not None and _pairs(net, state) is None:
        return None
    fitting = [size for size in _SIZES if _params_of(entry, state, shape, size) is not None]
    if not fitting:
        return None
    params = _params_of(entry, state, shape, fitting[0])
    return Candidate(entry.name, params or {}, fitting[0] if len(fitting) < len(_SIZES) else None)


def _params_of(entry: Entry, state: StateDict, shape: summary.Summary, size: int) -> dict[str, int] | None:
    """Return the numbers with which a network of Crossfire fits; ``None`` if there are none."""
    defaults = {name: value for name, value in entry.defaults().items() if type(value) is int}
    params: dict[str, int] = {}
    for _ in range(len(defaults) + 1):
        net = _of_entry(entry, params, shape, size)
        if net is None or (ratios := _ratios(net, state)) is None:
            return None
        if not ratios:
            return params if _fits(net, state, shape) else None
        better = _improved(entry, {**defaults, **params}, ratios, state, shape, size)
        if better is None:
            return None
        params |= better
    return None


def _improved(
    entry: Entry, params: Mapping[str, int], ratios: set[float], state: StateDict, shape: summary.Summary, size: int
) -> dict[str, int] | None:
    """Return the one parameter whose change leaves the fewest shapes that differ, if it leaves fewer."""
    counts = {}
    for name, value in params.items():
        for ratio in ratios:
            if (value * ratio).is_integer() and value * ratio >= 1:
                changed = {**params, name: int(value * ratio)}
                net = _of_entry(entry, changed, shape, size)
                differing = None if net is None else _differing(net, state)
                if differing is not None:
                    counts[name, int(value * ratio)] = differing
    if not counts:
        return None
    name, value = min(counts, key=counts.__getitem__)
    return {name: value}


def _of_entry(entry: Entry, params: Mapping[str, int], shape: summary.Summary, size: int) -> nn.Module | None:
    images = (_channels(shape), size, size)
    try:
        with torch.device("meta"):
            return make(entry.name, entry.load(), _classes(shape), images, params)
    # A width that is no multiple of what it must be, or images that are too small.
    except (UsageError, RuntimeError):
        return None


def _pairs(net: nn.Module, state: StateDict) -> list[tuple[torch.Size, torch.Size]] | None:
    """Return the shapes of each tensor in the network and in the file; ``None`` if names differ."""
    own = net.state_dict()
    try:
        match = matching.match("", own, state)
    except UsageError:
        return None
    if match.missing:
        return None
    return [(own[name].shape, state.tensors[file_name].shape) for name, file_name in match.names.items()]


def _differing(net: nn.Module, state: StateDict) -> int | None:
    pairs = _pairs(net, state)
    return None if pairs is None else sum(mine != other for mine, other in pairs)


def _ratios(net: nn.Module, state: StateDict) -> set[float] | None:
    """Return by how much sizes in the file are larger than in the network; ``None`` if they are no multiples."""
    pairs = _pairs(net, state)
    if pairs is None or any(len(mine) != len(other) for mine, other in pairs):
        return None
    sizes = set(chain.from_iterable(zip(mine, other, strict=True) for mine, other in pairs))
    return {other / mine for mine, other in sizes if mine != other}


def of_libraries(state: StateDict, shape: summary.Summary, stated: str | None) -> list[str]:
    """Return the networks of torchvision and timm that are worth to be built, by names such as ``timm:resnet18``.

    Args:
        state: the state dict.
        shape: its summary.
        stated: the name of the network that the file itself gives, if it does.
    """
    core = [name.removeprefix(shape.prefix) for name in state.tensors]
    families = [each for each in _FAMILIES if any(re.match(each[0], name) for name in core)]
    names = []
    for library, column in (("torchvision", 1), ("timm", 2)):
        patterns = list(chain.from_iterable(each[column] for each in families))
        if (not patterns and stated is None) or find_top(library) is None:
            continue
        known = _known(library)
        chosen = [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
        first = [stated] if stated in known else []
        names += [f"{library}:{name}" for name in dict.fromkeys([*first, *sorted(chosen, key=len)[:_MOST]])]
    return names


def _known(library: str) -> list[str]:
    if library == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return list(models.list_models(module=models))


def fits_library(arch: str, state: StateDict, shape: summary.Summary) -> bool:
    """Say whether a state dict fits a network of torchvision or timm, such as ``timm:resnet18``."""
    library, _, name = arch.partition(":")
    try:
        with torch.device("meta"):
            net = _of_library(library, name, _classes(shape), _channels(shape))
    # What a library's own code raises where it needs numbers, or cannot take so many channels.
    except Exception:
        return False
    return _fits(net, state, shape)


def _of_library(library: str, name: str, classes: int, channels: int) -> nn.Module:
    net: nn.Module
    if library == "timm":
        import timm

        net = timm.create_model(name, num_classes=classes, in_chans=channels)
    else:
        from torchvision import models

        slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = models.get_model(name, weights=None, num_classes=classes, **slow)
    return net


def _fits(net: nn.Module, state: StateDict, shape: summary.Summary) -> bool:
    buffers = (name for name, _ in net.named_buffers())
    return summary.fits(net.state_dict(), buffers, state, _channels(shape))


def _classes(shape: summary.Summary) -> int:
    return 10 if shape.classes is None else shape.classes.number


def _channels(shape: summary.Summary) -> int:
    return 3 if shape.channels is None else shape.channels.number


def stated_name(content: Any) -> str | None:
    """Return the name of the network that a checkpoint gives beside its weights, if it does."""
    values = (
        (content.get(key) for key in ("arch", "architecture", "model_name")) if isinstance(content, Mapping) else ()
    )
    return next((value for value in values if isinstance(value, str) and re.fullmatch(r"[\w.-]{1,100}", value)), None)
