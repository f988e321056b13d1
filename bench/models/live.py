"""Networks that were handed over as Python objects, with the weights that they have: found by name while they live."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from bench.keys import sha256_hex
from bench.methods.identity import code_of, identity_of
from bench.registry import LIVE, ended
from bench.types import MethodRef, UsageError, first_line, shown

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS = f"weights:{LIVE}"


class _Network(NamedTuple):
    net: nn.Module
    ref: MethodRef
    weights_sha: str


_networks: dict[str, _Network] = {}


@contextmanager
def offered(net: nn.Module, name: str) -> Iterator[str]:
    """Let a network be found by its name for the time of a block; what a configuration calls it is yielded.

    Its key holds a hash of its parameters and buffers (names, types, shapes, bytes), and one of its code: the sources
    of its classes, the tree of its modules and their other attributes.

    Raises:
        UsageError: a part of it cannot be hashed, it uses modules that are no part of it, it holds TorchScript, or
            parameters that do not exist yet.
    """
    arch = f"{LIVE}{name}"
    _require_usable(net, name)
    tensors = chain(net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False))
    weights = [(key, tensor.detach()) for key, tensor in tensors]
    code = sha256_hex(repr(net), code_of(net, f"network '{name}'"))
    ref = MethodRef(kind="network", name=arch, params={}, code_sha=code)
    _networks[arch] = _Network(net, ref, identity_of(weights, f"network '{name}'"))
    try:
        yield arch
    finally:
        del _networks[arch]


def _require_usable(net: nn.Module, name: str) -> None:
    import torch
    from torch.nn.parameter import is_lazy

    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise UsageError(f"network '{name}' holds TorchScript; hand over the torch.nn.Module that it was made of")
    if any(map(is_lazy, chain(net.parameters(), net.buffers()))):
        raise UsageError(f"network '{name}' has lazy parameters that do not exist yet; call it once with images before")


def is_live(name: str) -> bool:
    """Say whether a name of weights means those that a network was handed over with."""
    return name.startswith(_WEIGHTS)


def network_ref(arch: str) -> MethodRef:
    """Return the reference of a network that was handed over.

    Raises:
        UsageError: it was in another process, or an earlier call.
    """
    return _known(arch).ref


def weights_sha(name: str) -> str:
    """Return the hash of the weights of a network that was handed over.

    Raises:
        UsageError: as :func:`network_ref`.
    """
    return _known(name.removeprefix("weights:")).weights_sha


def copy_of(arch: str) -> nn.Module:
    """Return a copy of a network that was handed over, with its weights.

    Raises:
        UsageError: as :func:`network_ref`, or it cannot be copied.
    """
    try:
        return copy.deepcopy(_known(arch).net)
    except UsageError:
        raise
    except Exception as error:
        why = first_line(error) or type(error).__name__
        pruned = "; of a pruned network, call torch.nn.utils.prune.remove first" if "graph leaves" in why else ""
        raise UsageError(f"network '{arch}' cannot be copied (copy.deepcopy){pruned}: {shown(why, 200)}") from None


def _known(arch: str) -> _Network:
    if arch not in _networks:
        raise ended("network", arch)
    return _networks[arch]
