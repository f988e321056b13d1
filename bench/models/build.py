"""From the name of a network to the network: registered ones, a user's own file, and adapters to three libraries."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bench.data.memo import cache_folder
from bench.data.room import available_memory, gib
from bench.keys import sha256_hex
from bench.methods.sources import release
from bench.registry import entry_of, explain, find, unknown
from bench.types import MethodRef, Scalar, UsageError, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Of each weight while it is trained: itself, its gradient and its momentum.
_COPIES = 3
_LIBRARIES = ("torchvision", "timm", "robustbench")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def network_ref(arch: str, params: Mapping[str, Scalar]) -> MethodRef:
    """Return the reference of a network with every parameter spelled out; torch is not imported.

    Args:
        arch: a registered name, ``path/to/file.py:factory``, or ``torchvision:``, ``timm:`` or ``robustbench:`` with
            the name that the library gives it.
        params: keyword arguments. ``pretrained = true`` takes the weights that torchvision or timm offers;
            robustbench always does, and takes ``dataset`` and ``threat_model``. Such weights stay as they are under
            the recipe ``standard`` with ``epochs = 0``.

    Raises:
        UsageError: an unknown network or parameter, a value out of range, or a package that is not installed.
    """
    library, colon, name = arch.partition(":")
    if not colon or ".py:" in arch:
        return find("network", arch).ref(params, name=arch)
    if library not in _LIBRARIES:
        raise UsageError(unknown("network library", library, _LIBRARIES))
    if not name:
        raise UsageError(f"network '{arch}' lacks the name of a model, as in '{library}:resnet50'")
    try:
        code = sha256_hex(library, release(library))
    # Other packages bundle a robustbench that can load nothing: only a pip-installed one counts.
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"network '{arch}' needs a package: pip install {library}") from None
    try:
        return MethodRef(kind="network", name=arch, params=dict(params), code_sha=code)
    except ValidationError as error:
        raise UsageError(explain(error, where=f"network '{arch}'", known=())) from None


def build(network: MethodRef, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network with its initial (or, if requested, its library's) weights, in training mode.

    The initial weights are drawn from torch's global generator: seed it before. The call leaves it as it was.

    Args:
        network: what :func:`network_ref` returned.
        num_classes: length of a row of logits.
        image_shape: channels, height and width of the images.

    Raises:
        UsageError: the library does not know the model or the parameter, a factory cannot be called or makes no new
            network, or the network cannot take these images or does not give a logit for each class.
        MethodError: a factory or its network tried to end the process.
    """
    from bench.process.isolation import isolated

    # Of what does not work out the error says more, and in one line.
    with isolated(f"network {network.name}"), warnings.catch_warnings(record=True):
        return _checked(network, num_classes, image_shape)


def _checked(network: MethodRef, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    import torch

    net = _build(network, num_classes, image_shape).eval()
    device = next((parameter.device for parameter in net.parameters()), None)
    try:
        # One image: the parameters of lazy modules are made by it, and a mismatch is reported before any work.
        with torch.no_grad():
            logits = net(torch.zeros(1, *image_shape, device=device))
    except Exception as error:
        message = (text_of(error).strip().splitlines() or [type(error).__name__])[0]
        shape = "x".join(map(str, image_shape))
        other = sorted({str(p.dtype) for p in net.parameters()} - {"torch.float32"})
        if other:
            message += (
                f"; images are float32, weights {', '.join(other)}: convert images in its forward, or its weights"
            )
        raise UsageError(f"network '{network.name}' cannot take images of {shape}: {message}") from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 1:
        raise UsageError(f"network '{network.name}' returns no logits of shape (images, classes)")
    if logits.shape[1] != num_classes:
        raise UsageError(
            f"network '{network.name}' tells {logits.shape[1]} classes apart, the images have {num_classes}"
        )
    return net.train()


def _build(network: MethodRef, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    library, colon, name = network.name.partition(":")
    if colon and ".py:" not in network.name:
        return _OPENED[library](name, dict(network.params), num_classes, image_shape)
    from bench.models.factory import make

    entry = entry_of(network)
    factory, params = entry.load(), entry.arguments(network.params)
    # A user's own factory may do more than make a network, and is called once.
    if entry.use is None:
        _require_room(network.name, lambda: make(network.name, factory, num_classes, image_shape, params))
    return make(network.name, factory, num_classes, image_shape, params)


def _require_room(name: str, make: Callable[[], nn.Module]) -> None:
    """Raises UsageError: the weights of a network, with their gradients and momenta, do not fit into memory."""
    import torch

    # On this device parameters have shapes and nothing else.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        weights = sum(each.numel() * each.element_size() for each in make().parameters())
    if (needed := _COPIES * weights) > (available := available_memory()):
        raise UsageError(
            f"network '{name}' has weights of {gib(weights)}; to train it takes {gib(needed)} of memory, and "
            f"{gib(available)} are available"
        )


def _torchvision(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise UsageError(unknown("torchvision classifier", name, known))
    if image_shape[0] != 3:
        raise UsageError(f"torchvision:{name} takes images of 3 channels, these have {image_shape[0]}")
    chosen = models.get_model_weights(name).DEFAULT if params.pop("pretrained", False) else None
    if chosen is None:
        net = _call(f"torchvision:{name}", models.get_model, name, weights=None, num_classes=num_classes, **params)
        return _normalised(net, _IMAGENET_MEAN, _IMAGENET_STD)
    if (offered := len(chosen.meta["categories"])) != num_classes:
        raise UsageError(f"torchvision:{name} is pretrained for {offered} classes, the images have {num_classes}")
    net = _call(f"torchvision:{name}", models.get_model, name, weights=chosen, **params)
    shown = chosen.transforms()
    return _normalised(net, shown.mean, shown.std)


def _timm(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UsageError(unknown("timm model", name, timm.list_models()))
    channels = image_shape[0]
    net = _call(f"timm:{name}", timm.create_model, name, num_classes=num_classes, in_chans=channels, **params)
    shown = net.default_cfg
    if len(shown["mean"]) != channels:
        middle = (0.5,) * channels
        return _normalised(net, middle, middle)
    return _normalised(net, shown["mean"], shown["std"])


def _robustbench(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    arch = f"network 'robustbench:{name}'"
    try:
        from robustbench.model_zoo import model_dicts
        from robustbench.utils import load_model
    except ImportError as error:
        raise UsageError(f"{arch}: the installed robustbench cannot be imported: {error}") from error
    by_threat = chain.from_iterable(by.values() for by in model_dicts.values())
    if name not in (known := set(chain.from_iterable(by_threat))):
        raise UsageError(unknown("RobustBench model", name, known))
    try:
        # RobustBench's models take pixels in [0, 1] and normalise inside.
        net: nn.Module = load_model(model_name=name, **{"model_dir": cache_folder() / "robustbench", **params})
    # Besides wrong parameters: a model of another set, a refused download.
    except Exception as error:
        message = (text_of(error).strip().splitlines() or [""])[0]
        raise UsageError(f"{arch} cannot be had: {type(error).__name__}: {message}") from error
    return net


_OPENED = {"torchvision": _torchvision, "timm": _timm, "robustbench": _robustbench}


def _call(arch: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return make(*args, **kwargs)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"network '{arch}' cannot be built: {str(error).splitlines()[0]}") from error


def _normalised(net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    from torch import nn, tensor

    class Normalised(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            # Constants of the network, not weights: they are rebuilt with it and stay out of its checkpoints.
            self.register_buffer("mean", tensor(mean).view(-1, 1, 1), persistent=False)
            self.register_buffer("std", tensor(std).view(-1, 1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net((x - self.mean) / self.std)
            return logits

    return Normalised()
