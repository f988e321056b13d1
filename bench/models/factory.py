"""Calls of network factories: each gets what its signature says, and what cannot be called is one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from torch import nn

from bench.methods.factories import is_own_too, lacks
from bench.registry import unknown
from bench.types import Scalar, UsageError, first_line

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Parameters of networks that were made before and still live, by their identity.
_MADE: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()


class _Signature(NamedTuple):
    named: dict[str, inspect.Parameter]
    #: Whether any further name may be given.
    is_open: bool
    #: Whether only Python can report missing arguments: a decorator may fill them in.
    is_wrapped: bool


def make(
    name: str,
    factory: Any,
    num_classes: int,
    image_shape: tuple[int, int, int],
    params: Mapping[str, Scalar],
    around: Iterable[str] = (),
) -> nn.Module:
    """Return the network that a factory makes.

    It is given ``num_classes``, ``in_channels`` and ``image_size`` by keyword where its signature names them,
    positionally only where it allows nothing else. ``image_size`` is height and width, or one number where its
    annotation or, lacking that, its default is an ``int``. A factory that takes any name (``**kwargs``) is given
    ``num_classes`` of these and no other; one that names none is called without them.

    Args:
        name: of the network, for what is said.
        factory: a function, a class, or any callable.
        num_classes: length of a row of logits.
        image_shape: channels, height and width of the images.
        params: what the configuration gives.
        around: keys of the configuration that surround the network, which no parameter may be called.

    Raises:
        UsageError: it cannot be called so, fails, returns no network, or returns one with the weights of another.
    """
    signature = _signature(name, factory)
    if clash := sorted(signature.named.keys() & set(around)):
        raise UsageError(f"network '{name}': {is_own_too(clash[0])}")
    offered = _offered(name, signature, num_classes, image_shape)
    if clash := sorted(offered.keys() & params.keys()):
        raise UsageError(f"network '{name}': {clash[0]} is what the images have; leave it out of the configuration")
    arguments = {**offered, **params}
    if not signature.is_open and (surplus := sorted(arguments.keys() - signature.named.keys())):
        raise UsageError(f"network '{name}': {unknown('parameter', surplus[0], signature.named)}")
    required = [key for key, each in signature.named.items() if each.default is inspect.Parameter.empty]
    if not signature.is_wrapped and (missing := [key for key in required if key not in arguments]):
        raise UsageError(f"network '{name}': {lacks(missing)}")
    first = _positional(signature.named.values(), arguments)
    try:
        net = factory(*first, **arguments)
    except (Exception, SystemExit) as error:
        message = first_line(error) or "no message"
        raise UsageError(f"network '{name}' cannot be built: {type(error).__name__}: {message}") from error
    if inspect.iscoroutine(net):
        net.close()
    if not isinstance(net, nn.Module):
        kind = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise UsageError(f"network '{name}' returned {kind}, not a torch.nn.Module")
    _check_new(name, net)
    return net


def _signature(name: str, factory: Any) -> _Signature:
    if isinstance(factory, nn.Module):
        raise UsageError(f"network '{name}' is a network already; name a function or class that makes a new one")
    if not callable(factory):
        raise UsageError(f"network '{name}' is a {type(factory).__name__}, not a function that makes a network")
    # What nn.Module itself takes is nothing, although it says *args, **kwargs.
    if isinstance(factory, type) and factory.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return _Signature({}, is_open=False, is_wrapped=False)
    signature, wrapped = _own(name, factory), False
    while _is_variable(signature) and hasattr(factory, "__wrapped__"):
        factory, wrapped = factory.__wrapped__, True
        signature = _own(name, factory)
    known = signature.parameters.values() if signature is not None else ()
    named = {each.name: each for each in known if each.kind not in _VARIABLE}
    is_open = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known)
    return _Signature(named, is_open, wrapped)


def _own(name: str, factory: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(factory, follow_wrapped=False)
    except (TypeError, ValueError):
        if hasattr(factory, "__wrapped__"):
            return None
        raise UsageError(f"network '{name}': the signature of its factory cannot be read") from None


def _is_variable(signature: inspect.Signature | None) -> bool:
    return signature is None or any(each.kind in _VARIABLE for each in signature.parameters.values())


def _offered(name: str, signature: _Signature, num_classes: int, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    channels, *size = image_shape
    values: dict[str, Any] = {"num_classes": num_classes, "in_channels": channels, "image_size": tuple(size)}
    side = signature.named.get("image_size")
    if side is not None and _is_number(side):
        if size[0] != size[1]:
            raise UsageError(f"network '{name}' takes square images, these are {size[0]}x{size[1]}")
        values["image_size"] = size[0]
    return {
        key: value
        for key, value in values.items()
        if key in signature.named or (key == "num_classes" and signature.is_open)
    }


def _is_number(side: inspect.Parameter) -> bool:
    if side.annotation is inspect.Parameter.empty:
        return type(side.default) is int
    return side.annotation in (int, "int")


def _positional(known: Iterable[inspect.Parameter], arguments: dict[str, Any]) -> list[Any]:
    """Take what can only be passed by its place out of ``arguments``, up to the last that is given."""
    only = [each for each in known if each.kind is inspect.Parameter.POSITIONAL_ONLY]
    last = max((i + 1 for i, each in enumerate(only) if each.name in arguments), default=0)
    return [arguments.pop(each.name, each.default) for each in only[:last]]


def _check_new(name: str, net: nn.Module) -> None:
    # Its weights would be those that another training, or another seed, has left.
    if any(_MADE.get(id(each)) is each for each in net.parameters()):
        raise UsageError(f"network '{name}': its factory returned weights that it has returned before; make new ones")
    _MADE.update((id(each), each) for each in net.parameters())
