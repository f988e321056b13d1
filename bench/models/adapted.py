"""A network between images in [0, 1] and logits: its input is made of the images, the logits of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from bench.types import UsageError, listed, shown

#: Names of outputs that a line shows.
_NAMED = 8


class Normalisation(NamedTuple):
    """Means and standard deviations of images in [0, 1]: one for each channel, or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Adapted(nn.Module):
    """A network that is given normalised images, and of whose outputs the logits are taken.

    Args:
        net: the network; its weights keep their names behind ``net.``.
        normalisation: of the images, if it expects any.
        output: the name of the field, or the place in a tuple, that holds the logits, if it returns several things.
        one_logit: it returns one number for each image, the logit of the second of two classes. The logits are then 0
            and that number, whose softmax is its sigmoid.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, net: nn.Module, normalisation: Normalisation | None, *, output: str | None = None, one_logit: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.output = output
        self.one_logit = one_logit
        # A factory may have put it on a GPU.
        device = next((parameter.device for parameter in net.parameters()), None)
        # Constants of the network, not weights: they are rebuilt with it and stay out of its checkpoints.
        for name in Normalisation._fields:
            numbers = None if normalisation is None else getattr(normalisation, name)
            constant = None if numbers is None else torch.tensor(numbers, device=device).view(-1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, C, H, W) in [0, 1].

        Raises:
            UsageError: the network returns no output of that name, or in training mode one tensor alone.
        """
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        logits = self.net(x)
        # Some networks return several outputs only while they are trained.
        if self.output is not None and (self.training or not isinstance(logits, Tensor)):
            logits = selected(logits, self.output)
        return two_logits(logits) if self.one_logit else logits


def selected(outputs: Any, name: str) -> Any:
    """Return the output of a name, or of a place in a tuple.

    Raises:
        UsageError: there is none, or the outputs are one tensor.
        TypeError: the outputs are a symbol of a trace.
    """
    if isinstance(outputs, Tensor):
        raise UsageError(f"the network returns one tensor; leave out output = {shown(name)}")
    if isinstance(outputs, fx.Proxy):
        raise TypeError("a trace does not know what kind of outputs this is")
    try:
        if isinstance(outputs, Mapping) and name in outputs:
            return outputs[name]
        return outputs[int(name)] if name.removeprefix("-").isdecimal() else getattr(outputs, name)
    except (AttributeError, LookupError, TypeError):
        raise UsageError(f"it returns {described(outputs)}, and output = {shown(name)} is none of them") from None


def two_logits(logit: Tensor) -> Tensor:
    """Return logits (N, 2) of a logit (N,) or (N, 1) of the second class: 0 and the logit."""
    flat = logit.flatten()
    return torch.stack([torch.zeros_like(flat), flat], 1)


def described(outputs: Any) -> str:
    """Return what a network returned as a line may say it: its shape, or the names of its parts."""
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    kind = type(outputs).__name__
    if isinstance(outputs, Mapping):
        return f"a {kind} with {_names(outputs)}"
    if hasattr(outputs, "_fields"):
        return f"a {kind} with {_names(outputs._fields)}"
    if is_dataclass(outputs):
        return f"a {kind} with {_names(field.name for field in fields(outputs))}"
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        return f"a {kind} of {len(outputs)}, counted from 0"
    return f"a {kind}"


def _names(known: Iterable[object]) -> str:
    return listed(map(shown, known), _NAMED)


def plain(net: nn.Module) -> nn.Module:
    """Return the network inside ``DataParallel`` or ``torch.compile``: the harness chooses devices and layouts."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        # The class of what torch.compile returns would take a second to import.
        elif isinstance(inside := getattr(net, "_orig_mod", None), nn.Module):
            net = inside
        else:
            return net


def problem_of(logits: Any, num_classes: int, *, one_logit: bool) -> str | None:
    """Return why what a network returned for one image is no logits (1, classes), and what to do; ``None`` if it is.

    Args:
        logits: what it returned, of several outputs the chosen one.
        num_classes: how many classes the images have.
        one_logit: whether two logits were made of one.
    """
    if not isinstance(logits, Tensor):
        return f"returns no logits of shape (images, classes) but {described(logits)}{_advice(logits)}"
    if one_logit and (len(logits) != 1 or num_classes != 2):
        return f"has one_logit = true and returns {len(logits)} for an image; the images have {num_classes} classes"
    if logits.numel() == 1 and num_classes == 2:
        return (
            "returns one number for an image; if it is the logit of the second class, write one_logit = true in its "
            "[[models]] entry"
        )
    if logits.dim() != 2 or len(logits) != 1:
        return f"returns no logits of shape (images, classes) but, for one image, {described(logits)}"
    if (count := logits.shape[1]) != num_classes:
        return (
            f"tells {count} classes apart, the images have {num_classes}; if these are features, add a classifier such "
            f"as nn.Linear({count}, {num_classes}) in its file"
        )
    if not logits.is_floating_point():
        return f"returns numbers of type {logits.dtype}, not logits"
    return None


def _advice(outputs: Any) -> str:
    if not isinstance(outputs, Mapping | Sequence) and not is_dataclass(outputs):
        return ""
    is_numbered = isinstance(outputs, Sequence) and not hasattr(outputs, "_fields")
    example = "0" if is_numbered else "'logits'"
    return f"; say which are the logits in its [[models]] entry, as in output = {example}"
