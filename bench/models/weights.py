"""Weights trained elsewhere: found by name, known by hash, loaded without running anyone's code."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import registry
from bench.keys import sha256_hex
from bench.models import live
from bench.models.checkpoints import files, reading
from bench.models.checkpoints.files import find, sha256
from bench.store.files import Unreadable
from bench.types import NETWORK_KEYS, DataRef, MethodRef, ModelRef, TrainRef, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Loaded", "WeightsFile", "card_remarks", "check_finite", "classifier", "find", "inspect", "load", "sha256"]


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
    if live.is_live(name):
        return WeightsFile(None, live.weights_sha(name))
    try:
        path = find(name)
        sha = sha256(path)
        reading.require_whole(path)
    except UsageError as error:
        problem = str(error)
    except (OSError, Unreadable) as error:
        where = files.absolute(Path(name.removeprefix("weights:")))
        problem = f"{name}: {where} cannot be read: {files.reason(error)}"
    else:
        return WeightsFile(path, sha)
    return WeightsFile(None, sha256_hex("unusable weights", name), problem)


def load(path: Path, net: nn.Module, key: str | None = None) -> tuple[str, ...]:
    """Load a checkpoint into a network: every tensor of the network must be in it, and nothing else of a network.

    Args:
        path: a weights file, or an index of shards.
        net: it gets the weights; where they cannot be used it is left as it was.
        key: which of several state dicts is meant.

    Returns:
        Lines that say what was done to the file to make it fit: what was unwrapped, renamed, converted, left out.

    Raises:
        UsageError: the file is corrupt, holds more than tensors and plain values, belongs to another network, or
            normalises images otherwise than the network.
    """
    return _loaded(path, net, key, "the network", None, is_own=False).remarks


class Loaded(NamedTuple):
    """A network with its weights, and lines that say what was done to their file to make it fit."""

    net: nn.Module
    remarks: tuple[str, ...]


def classifier(model: ModelRef, data: DataRef, path: Path | None) -> Loaded:
    """Return the network of a base classifier with its weights, in training mode.

    Where the file holds a normalisation of images, it is put in front of a network that comes with Crossfire, and must
    be that of any other network.

    Args:
        model: the classifier.
        data: the images that it takes.
        path: the file of its weights; ``None`` for a network that was handed over with them.

    Raises:
        UsageError: the network cannot be built, or the file cannot be used for it.
        MethodError: the network's factory breaks its contract.
    """
    from bench.models.build import build

    net = build(model.network, data.num_classes, data.image_shape, is_trained=True)
    if path is None:
        return Loaded(net, ())
    if isinstance(model.weights, TrainRef):
        return Loaded(net, load(path, net))
    name = model.network.name
    is_own = name in registry.entries("network") and not model.network.members
    loaded = _loaded(path, net, model.weights.key, f"network '{name}'", data.image_shape[0], is_own=is_own)
    return loaded._replace(remarks=(*loaded.remarks, *card_remarks(path, model.network, net)))


def card_remarks(path: Path, network: MethodRef, net: nn.Module) -> list[str]:
    """Return what is said of weights in a network that normalises images by its card, which may not be theirs."""
    from bench.models.checkpoints import normalising

    if not normalising.is_normalised(net) or NETWORK_KEYS["mean"] in network.params:
        return []
    used = normalising.described(normalising.of(net))
    return [
        f"{path}: images are normalised as the card of network '{network.name}' says, {used}; if these weights were "
        "trained otherwise, give mean and std in [[models]]"
    ]


def _loaded(path: Path, net: nn.Module, key: str | None, name: str, channels: int | None, *, is_own: bool) -> Loaded:
    from bench.models.checkpoints import contents, fitting, normalising

    content = reading.read(path)
    state = contents.choose(path, content, key)
    remarks, normalisation = fitting.fit(str(path), state, net, channels)
    if normalisation is not None:
        net = normalising.normalised(str(path), net, name, normalisation, is_own=is_own)
        remarks.append(f"images are normalised as the file says: {normalising.described(normalisation)}")
    elif not normalising.is_normalised(net) and (where := normalising.stated(content, state)) is not None:
        remarks.append(
            f"{where} state a normalisation, which is not used; if the network needs it, give it in [[models]]"
        )
    return Loaded(net, tuple(f"{path}: {remark}" for remark in remarks))


def check_finite(where: Path | str, net: nn.Module) -> None:
    """Raises UsageError: the weights of a network, which are from ``where``, are no numbers that it can compute with.

    That are parameters with NaN or infinities, buffers with NaN, and running statistics of batch norm that are infinite
    or variances below zero. Other buffers may hold infinities for a reason, as a mask of attention does.
    """
    parameters = ((name, ~value.isfinite()) for name, value in net.named_parameters())
    for name, mask in chain(parameters, _faults_of_buffers(net)):
        if count := int(mask.sum()):
            what = "no variances" if name.endswith("running_var") else "NaN or infinite"
            raise UsageError(f"{where}: {count} of the {mask.numel()} numbers of {name} are {what}")


def _faults_of_buffers(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in net.named_buffers():
        if name.endswith("running_var"):
            yield name, ~(value.isfinite() & (value >= 0))
        elif name.endswith("running_mean"):
            yield name, ~value.isfinite()
        else:
            yield name, value.isnan()
