"""What the adapters to other libraries share: finding an attack, checking its parameters, enforcing the budget."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import logging
import random
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from attacks._balls import distance
from attacks._steps import per_image
from bench.api import MethodError, Target, Threat

#: The norms that have a ball.
_NORMS = ("linf", "l2", "l1", "l0")


def find_class(prefix: str, module: ModuleType | SimpleNamespace, base: type, name: str) -> type:
    """Return the attack class ``name`` of a library.

    Raises:
        MethodError: there is none; the message names the nearest.
    """
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    if name not in classes:
        raise MethodError(_unknown_name(f"{prefix} has no attack", name, classes))
    return classes[name]


def find_function(prefix: str, module: ModuleType, name: str) -> Callable[..., Any]:
    """Return the attack ``name`` of a library whose attacks are functions.

    Raises:
        MethodError: there is none; the message names the nearest.
    """
    functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if name not in functions:
        raise MethodError(_unknown_name(f"{prefix} has no attack", name, functions))
    return functions[name]


def constructor_arguments(
    attack_class: type, parameters: Mapping[str, Any], fixed: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments to construct ``attack_class`` with, as :func:`checked_arguments` does."""
    known = set(inspect.signature(attack_class).parameters)
    return checked_arguments(attack_class.__name__, known, parameters, fixed, default)


def checked_arguments(
    attack: str,
    known: Collection[str],
    parameters: Mapping[str, Any],
    fixed: Mapping[str, Any],
    default: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments to call an attack of a library with.

    Args:
        attack: its name.
        known: its parameters.
        parameters: from the configuration.
        fixed: arguments that follow from the threat, used where the attack has a parameter for them.
        default: the same, unless the configuration sets them.

    Raises:
        MethodError: a parameter that the attack does not have, or one that the threat decides.
    """
    for key in parameters:
        if key not in known:
            raise MethodError(_unknown_name(f"{attack} has no parameter", key, known))
        if key in fixed:
            raise MethodError(f"{key} of {attack} follows from the threat: set eps and norm of the attack")
    return {
        **{key: value for key, value in default.items() if key in known},
        **parameters,
        **{key: value for key, value in fixed.items() if key in known},
    }


def keep_in_ball(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv``, and the input where it is out of the ball: for attacks that know no budget."""
    if threat.eps is None or threat.norm not in _NORMS:
        return x_adv
    return torch.where(per_image(distance(x_adv - x, threat.norm) <= float(threat.eps), x), x_adv, x)


def require_norm(attack: str, norms: Collection[str], threat: Threat) -> None:
    """Raises MethodError: the threat's norm is none of ``norms``, those that an attack has a meaning in."""
    if threat.norm not in norms:
        raise MethodError(
            f"{attack} keeps to {' or '.join(norms)}, the threat is {threat.norm}: set norm of the attack"
        )


def require_meaning(
    attack: str, attack_class: type, threat: Threat, *, budgets: Collection[str], norms: Collection[str]
) -> None:
    """Check that a class does not fall back on a budget or a norm of its own, which the threat would not name.

    Args:
        attack: its name, with the library's.
        attack_class: of a library.
        threat: norm and budget.
        budgets: what classes of the library call their budget.
        norms: of the threat, which classes with a parameter ``norm`` can have.

    Raises:
        MethodError: it has a budget and the threat none, or it has a norm and not the threat's.
    """
    known = inspect.signature(attack_class).parameters
    if threat.eps is None and any(name in known for name in budgets):
        raise MethodError(f"{attack} needs a bounded threat: set eps")
    if "norm" in known:
        require_norm(attack, norms, threat)


def batches(target: Target, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield copies of images and labels in batches that the device holds, for libraries that make none."""
    # Not pieces of one copy: views cannot be detached in place, which some libraries do.
    for images, labels in zip(x.split(target.batch), y.split(target.batch), strict=True):
        yield images.clone(), labels.clone()


@contextlib.contextmanager
def contained(device: torch.device, logger: str) -> Iterator[io.StringIO]:
    """Undo what a library does to the process: tracer, random states, logger, standard output, warnings.

    Yields its output, complete once the block is left.
    """
    output = io.StringIO()
    log = logging.getLogger(logger)
    handler = logging.StreamHandler(output)
    propagate, level = log.propagate, log.level
    tracer, random_state = sys.gettrace(), random.getstate()
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.WARNING)
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=devices),
            contextlib.redirect_stdout(output),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield output
            output.write("\n".join(str(warning.message) for warning in caught))
    finally:
        sys.settrace(tracer)
        random.setstate(random_state)
        log.removeHandler(handler)
        log.propagate = propagate
        log.setLevel(level)


def _unknown_name(problem: str, name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"it has: {', '.join(sorted(known))}"
    return f"{problem} '{name}'; {hint}"
