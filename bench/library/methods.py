"""What a caller hands over, by name or as objects, as entries of a configuration: test-time steps and attacks.

An object is registered for the time of the call (:func:`bench.registry.offered`). One that is an instance of the
harness's own class, or its own function, has the name and the parameters that the command line gives it.
"""

from __future__ import annotations

import copy
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, create_model
from torch import nn

from bench import registry
from bench.methods import signature
from bench.methods.declarations import dashed
from bench.methods.identity import identity_of
from bench.methods.tree import parsed, registration
from bench.registry import LiveEntry
from bench.types import ExactFraction, Norm, UsageError, shown

#: An entry of a list of a configuration, such as ``[[attacks]]``.
Entry = dict[str, Any]

_NAME = re.compile(r"[\w.()-][\w .()-]{0,99}")
_NORMS: tuple[str, ...] = get_args(Norm)


def checked_name(name: str | None, default: str) -> str:
    """Return the name of something that was handed over.

    Raises:
        UsageError: it is no short text of letters, digits, blanks and ``_.()-``.
    """
    if name is None:
        return default
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"name {shown(name)}: a short text of letters, digits, blanks and _.()- is needed")
    return name


def is_step(value: object) -> bool:
    """Say whether an object is a test-time step: it has ``wrap`` and ``surrogate``."""
    return not isinstance(value, type) and hasattr(value, "wrap") and hasattr(value, "surrogate")


def is_step_name(value: object) -> bool:
    """Say whether a text, a pair or a table names a test-time step.

    Raises:
        UsageError: it names a file without such a method.
    """
    use = _named(value)[0] if isinstance(value, str | tuple | dict) else None
    if not isinstance(use, str):
        return use is not None and is_step(use)
    if use in registry.entries("network"):
        return False
    if ".py:" not in use:
        return use in registry.entries("test-time") or ":" not in use
    try:
        registry.find("test-time", use)
    except UsageError:
        # Any function in a file may be the factory of a network.
        registry.find("network", use)
        return False
    return True


def step_entry(value: object, name: str | None, stack: ExitStack) -> Entry:
    """Return the ``[[defenses]]`` entry of a test-time step, without its base.

    Args:
        value: an instance; a name; or a name or instance with parameters, as a pair or a table with ``use``.
        name: of an instance; by default that of its class.
        stack: keeps an instance registered until it is closed.

    Raises:
        UsageError: it is no test-time step, or one that cannot have a key.
    """
    use, params = _named(value) if isinstance(value, str | tuple | dict) else (value, {})
    if isinstance(use, str):
        return {"use": use, **params}
    if isinstance(use, type):
        raise UsageError(f"{use.__name__} is a class: give an instance of it, {use.__name__}()")
    if not is_step(use):
        raise UsageError(f"a {type(use).__name__} is no test-time step: it needs wrap(base) and surrogate(base)")
    if params:
        raise UsageError(f"an instance of {type(use).__name__} has its parameters already, so it takes no {[*params]}")
    if (own := _registered("test-time", type(use))) is not None and (known := _parameters_of(use, own)) is not None:
        return {"use": own.name, **known}
    return {"use": stack.enter_context(registry.offered(_live_step(use, checked_name(name, _dashed(type(use))))))}


def attack_entry(value: object, stack: ExitStack, known: dict[int, str]) -> Entry:
    """Return the ``[[attacks]]`` entry of an attack.

    Args:
        value: a name, a function, a pair of either with parameters, or a table with ``use``.
        stack: keeps a function registered until it is closed.
        known: the names of functions that are registered already, by their identity; one that is not is added.

    Raises:
        UsageError: it is no attack, or one that cannot have a key.
    """
    use, params = _named(value) if isinstance(value, str | tuple | dict) else (value, {})
    if isinstance(use, str):
        return {"use": use, **params}
    if not callable(use):
        raise UsageError(
            f"an attack is a name such as 'pgd', a function, a pair ('pgd', {{'steps': 50}}) or a table "
            f"{{'use': 'pgd', 'steps': 50}}, not {shown(value)}"
        )
    if inspect.isfunction(use) and (own := _registered("attack", use)) is not None:
        return {"use": own.name, **params}
    if id(use) not in known:
        known[id(use)] = stack.enter_context(registry.offered(_live_attack(use)))
    return {"use": known[id(use)], **params}


def own_norm(use: str) -> str | None:
    """Return the norm that an attack keeps to by default; nothing of one that minimises its norm without a budget.

    Args:
        use: what a configuration calls the attack.

    Raises:
        UsageError: there is none.
    """
    prefix, _, inside = use.partition(":")
    is_library = use != prefix and prefix in registry.entries("library")
    meta = (registry.find("library", prefix) if is_library else registry.find("attack", use)).meta
    if not meta.get("bounded", True) or inside in (meta.get("minimises") or {}):
        return None
    return str((meta.get("norms") or _NORMS)[0])


def _named(value: str | tuple[Any, ...] | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what is named, and its parameters."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping):
        if "use" not in value:
            raise UsageError(f"{shown(dict(value))} names nothing: it needs 'use', as in {{'use': 'pgd', 'steps': 50}}")
        return value["use"], {str(key): item for key, item in value.items() if key != "use"}
    if len(value) != 2 or not isinstance(value[1], Mapping):
        raise UsageError(f"{shown(value)} is no pair of a name and its parameters, as in ('pgd', {{'steps': 50}})")
    return value[0], {str(key): item for key, item in value[1].items()}


def _registered(kind: str, value: type | Callable[..., Any]) -> registry.Entry | None:
    """Return the registered method that a class or function is, if it is one of the harness's own."""
    module = getattr(value, "__module__", "") or ""
    if module.partition(".")[0] not in ("attacks", "defenses"):
        return None
    for entry in registry.entries(kind).values():
        if entry.symbol == value.__name__ and entry.path.stem == module.rpartition(".")[2]:
            return entry
    return None


def _parameters_of(step: object, entry: registry.Entry) -> dict[str, Any] | None:
    """Return the parameters with which a registered class makes an instance that does the same; ``None`` if none do."""
    params = {name: getattr(step, name) for name in entry.parameters.model_fields if hasattr(step, name)}
    plain = {name: str(value) if isinstance(value, Fraction) else value for name, value in params.items()}
    try:
        again = type(step)(**entry.arguments(plain))
    except (UsageError, TypeError, ValueError):
        return None
    what = f"test-time step {entry.name}"
    return plain if identity_of(again, what) == identity_of(step, what) else None


def _live_step(step: Any, name: str) -> LiveEntry:
    """Return an instance as a method whose every deployment is a copy of it."""
    sha = identity_of(step, f"test-time step '{name}'")
    pristine = _copied(step, f"test-time step '{name}'")
    meta = {"randomised": hasattr(step, "draws"), "purifier": hasattr(step, "smooth")}
    plain = {key: value for key, value in getattr(step, "__dict__", {}).items() if _is_parameter(key, value)}
    parameters = _model(name, {key: (Any, value) for key, value in plain.items()})
    return LiveEntry(
        *("test-time", name, inspect.getdoc(step) or "", Path(), type(step).__name__),
        MappingProxyType(meta),
        parameters,
        value=lambda **_: copy.deepcopy(pristine),
        sha=sha,
    )


def _copied(value: Any, what: str) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise UsageError(f"{what} cannot be copied (copy.deepcopy): {shown(str(error), 200)}") from None


def _live_attack(function: Callable[..., Any]) -> LiveEntry:
    name = dashed(getattr(function, "__name__", type(function).__name__)).strip("<>")
    what = f"attack '{name}'"
    try:
        known = inspect.signature(function)
        known.bind(*"txyh", **{key: None for key, each in known.parameters.items() if _is_required(each)})
    except (TypeError, ValueError):
        raise UsageError(f"{what} is no attack: it is called with (target, x, y, threat) and its parameters") from None
    keywords = [each for each in known.parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    fields = {each.name: _field(each, what) for each in keywords}
    is_open = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.parameters.values())
    return LiveEntry(
        *("attack", name, inspect.getdoc(function) or "", Path(), name),
        MappingProxyType({"norms": _NORMS, **_decorated(function)}),
        _model(name, fields, extra="allow" if is_open else "forbid"),
        value=function,
        sha=identity_of(function, what),
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty


def _field(parameter: inspect.Parameter, what: str) -> tuple[Any, Any]:
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    if isinstance(default, Fraction):
        return ExactFraction, default
    if default is not ... and not isinstance(default, str | int | float | None):
        raise UsageError(f"{what}: the default of {parameter.name} is {shown(default)}, no number, text, bool or None")
    return Any, default


def _decorated(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keywords of the decorator ``attack`` of a function, if its source has one."""
    try:
        node = parsed(textwrap.dedent(inspect.getsource(function)).encode()).body[0]
        call = registration(node)
        return {} if call is None else signature.keywords("attack", call.keywords)
    # There is no source, or it is a part of a statement.
    except (OSError, TypeError, ValueError, IndexError):
        return {}


def _is_parameter(key: str, value: object) -> bool:
    return not key.startswith("_") and not hasattr(BaseModel, key) and isinstance(value, str | int | float | None)


def _model(name: str, fields: Mapping[str, Any], extra: Any = "forbid") -> type[BaseModel]:
    config = ConfigDict(extra=extra, frozen=True, protected_namespaces=())
    model: type[BaseModel] = create_model(name, __config__=config, **fields)
    return model


def _dashed(kind: type) -> str:
    return dashed(kind.__name__)


def network_name(net: nn.Module, name: str | None) -> str:
    """Return what a network is called: as its caller says, or as its class."""
    return checked_name(name, type(net).__name__)


def listed(value: object) -> Sequence[Any]:
    """Return one thing, or a list of several, as a list; a pair with parameters is one thing."""
    return value if isinstance(value, list) else [value]
