"""Networks of other libraries, with the normalisation that each library's card of the model gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from torch import nn

from bench.data.memo import cache_folder
from bench.models import huggingface
from bench.models.adapted import Normalisation
from bench.registry import unknown
from bench.types import UsageError, first_line

_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Opened(NamedTuple):
    """A network of a library, and the normalised images that it expects; ``None`` where it normalises itself.

    ``output`` is the one of several that holds its logits, and ``problem`` why its normalisation is not known.
    """

    net: nn.Module
    normalisation: Normalisation | None
    output: str | None = None
    problem: str | None = None


def open_network(
    library: str, name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]
) -> Opened:
    """Return a network of a library.

    Args:
        library: one of ``bench.models.build.LIBRARIES``.
        name: the library's name of the model.
        params: keyword arguments for the library.
        num_classes: length of a row of logits.
        image_shape: channels, height and width of the images.

    Raises:
        UsageError: the library does not know the model or a parameter, or does not have its weights.
    """
    return _OPENERS[library](name, params, num_classes, image_shape)


def _torchvision(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> Opened:
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise UsageError(unknown("torchvision classifier", name, known))
    if image_shape[0] != 3:
        raise UsageError(f"torchvision:{name} takes images of 3 channels, these have {image_shape[0]}")
    chosen = models.get_model_weights(name).DEFAULT if params.pop("pretrained", False) else None
    if chosen is None:
        net = _call(f"torchvision:{name}", models.get_model, name, weights=None, num_classes=num_classes, **params)
        return Opened(net, _IMAGENET)
    if (offered := len(chosen.meta["categories"])) != num_classes:
        raise UsageError(f"torchvision:{name} is pretrained for {offered} classes, the images have {num_classes}")
    net = _call(f"torchvision:{name}", models.get_model, name, weights=chosen, **params)
    shown = chosen.transforms()
    return Opened(net, Normalisation(tuple(shown.mean), tuple(shown.std)))


def _timm(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> Opened:
    import timm

    where, colon, _ = name.partition(":")
    # The contents of a folder would be in no key.
    if colon and where not in ("hf-hub", "hf_hub"):
        raise UsageError(f"timm:{name} is no name of timm or its hub (hf-hub:...); weights of a file: initial_weights")
    if not colon and not timm.is_model(name.partition(".")[0]):
        raise UsageError(unknown("timm model", name, timm.list_models()))
    channels = image_shape[0]
    net = _call(f"timm:{name}", timm.create_model, name, num_classes=num_classes, in_chans=channels, **params)
    shown = net.default_cfg
    if params.get("pretrained") and shown.get("num_classes", num_classes) != num_classes:
        _warn(
            f"timm:{name} is pretrained for {shown['num_classes']} classes, the images have {num_classes}: its last "
            "layer is new and must be trained"
        )
    if len(shown["mean"]) != channels:
        return Opened(net, Normalisation((0.5,) * channels, (0.5,) * channels))
    return Opened(net, Normalisation(tuple(shown["mean"]), tuple(shown["std"])))


def _robustbench(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> Opened:
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
        message = first_line(error)
        raise UsageError(f"{arch} cannot be had: {type(error).__name__}: {message}") from error
    return Opened(net, None)


@cache
def _warn(line: str) -> None:
    """Warn once: a network is built several times."""
    logging.getLogger("crossfire").warning("%s", line)


_OPENERS: dict[str, Callable[..., Opened]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "robustbench": _robustbench,
    "huggingface": huggingface.open_network,
}


def _call(arch: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return make(*args, **kwargs)
    # Besides wrong parameters: a refused download.
    except Exception as error:
        message = first_line(error) or type(error).__name__
        raise UsageError(f"network '{arch}' cannot be built: {message}") from error
