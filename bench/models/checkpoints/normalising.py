"""The normalisation of images that some checkpoints hold as two tensors, such as RobustBench's ``mu`` and ``sigma``."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.adapted import Adapted, Normalisation
from bench.models.checkpoints.contents import StateDict
from bench.types import UsageError, shown

#: Names of means, and the last words of the names of the standard deviations that belong to them.
_MEAN = re.compile(r"(?:^|.*\.)(?:new_|image_|pixel_|norm_)?(mean|mu|means)$")
_STD = {"mean": ("std", "sigma"), "mu": ("sigma", "std"), "means": ("stds", "sds")}
#: That which changes nothing.
IDENTITY = Normalisation((0.0,), (1.0,))
#: Of two normalisations that count as the same: some are written with these digits.
_TOLERANCE = 1e-6
#: Means of pixels from 0 to 255 are above this, unless all images are black.
_BRIGHTEST = 1.5


def pair(names: Sequence[str], tensors: Mapping[str, Tensor], channels: int | None) -> tuple[str, str] | None:
    """Return the names of the means and standard deviations among tensors that are no weights, if they are there.

    Args:
        names: of the tensors that a network lacks.
        tensors: of the file.
        channels: of the images, if that is known; each is one number for a channel, or one for all.
    """
    for name in names:
        for other in _partners(name):
            if other in names and all(_is_per_channel(tensors[each], channels) for each in (name, other)):
                return name, other
    return None


def _partners(name: str) -> list[str]:
    """Return what the standard deviations may be called that belong to means; nothing if the name is not of means."""
    match = _MEAN.match(name)
    return [] if match is None else [name.removesuffix(match[1]) + std for std in _STD[match[1]]]


def stated(content: Any, state: StateDict) -> str | None:
    """Return where a file states means and standard deviations beside a state dict; ``None`` if it does not."""
    if not isinstance(content, Mapping):
        return None
    for place, value in {None: content, **content}.items():
        body = vars(value) if isinstance(value, Namespace) else value
        if not isinstance(body, Mapping):
            continue
        for mean in (name for name in body if isinstance(name, str) and name not in state.tensors):
            if not isinstance(body[mean], Mapping) and (std := next(filter(body.__contains__, _partners(mean)), None)):
                return f"{shown(mean)} and {shown(std)}" + ("" if place is None else f" in {shown(place)}")
    return None


def _is_per_channel(tensor: Tensor, channels: int | None) -> bool:
    sizes = [size for size in tensor.shape if size != 1]
    return tensor.is_floating_point() and sizes in ([], [channels or 3]) and tensor.dim() <= 4


def read(where: str, mean: Tensor, std: Tensor) -> Normalisation:
    """Return the normalisation in a file, for pixels in [0, 1].

    Raises:
        UsageError: its numbers cannot be divided by, or are for pixels from 0 to 255.
    """
    found = Normalisation(*(tuple(each.float().flatten().tolist()) for each in (mean, std)))
    if not all(map(torch.isfinite, (mean.sum(), std.sum()))) or min(found.std) <= 0:
        raise UsageError(f"{where}: its normalisation, {described(found)}, is none that can be divided by")
    if max(found.mean) > _BRIGHTEST:
        raise UsageError(
            f"{where}: its normalisation, {described(found)}, is for pixels from 0 to 255; images are in [0, 1] here: "
            "save the file without it, and give mean and std, divided by 255, in [[models]]"
        )
    return found


def is_normalised(net: nn.Module) -> bool:
    """Say whether a network is given normalised images by what a configuration or a card says."""
    return isinstance(net, Adapted) and net.mean is not None


def of(net: nn.Module) -> Normalisation:
    """Return the normalisation of a network that has one."""
    assert isinstance(net, Adapted) and net.mean is not None and net.std is not None
    return Normalisation(*(tuple(each.flatten().tolist()) for each in (net.mean, net.std)))


def described(normalisation: Normalisation) -> str:
    """Return a normalisation as ``[[models]]`` takes it."""
    mean, std = ([_shortest(number) for number in numbers] for numbers in normalisation)
    return f"mean = [{', '.join(mean)}] and std = [{', '.join(std)}]"


def _shortest(number: float) -> str:
    """Return the shortest decimal text that is the same number in single precision."""
    single = torch.tensor(number, dtype=torch.float32)
    texts = (f"{number:.{digits}g}" for digits in range(1, 10))
    return next((text for text in texts if torch.tensor(float(text), dtype=torch.float32) == single), repr(number))


def normalised(where: str, net: nn.Module, arch: str, normalisation: Normalisation, *, is_own: bool) -> nn.Module:
    """Return a network that is given the images that its checkpoint was trained on.

    Args:
        where: the file, for what is said.
        net: the network with its weights.
        arch: what it is called, for what is said.
        normalisation: that of the file.
        is_own: it comes with Crossfire, so that it takes images in [0, 1] unless a configuration says otherwise.

    Raises:
        UsageError: the network has another normalisation, or it is not known whether it has one.
    """
    if isinstance(net, Adapted) and net.mean is not None:
        present = of(net)
        # Said of a network that normalises images itself.
        if not is_own and _are_same(present, IDENTITY):
            return net
        if not _are_same(present, normalisation):
            raise UsageError(
                f"{where} normalises images by {described(normalisation)}, {arch} by "
                f"{described(present)}; give that of the file in [[models]]"
            )
        return net
    if not is_own:
        raise UsageError(
            f"{where} normalises images, and whether {arch} does so too is not known; if it does not, give "
            f"{described(normalisation)} in [[models]], and if it does, mean = 0 and std = 1"
        )
    return Adapted(net, normalisation)


def _are_same(one: Normalisation, other: Normalisation) -> bool:
    differences = (torch.tensor(mine) - torch.tensor(its) for mine, its in zip(one, other, strict=True))
    return all(bool((each.abs() <= _TOLERANCE).all()) for each in differences)
