"""What the adapters to other libraries share: finding a class, checking its parameters, enforcing the budget."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import logging
import random
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attacks._steps import l2_norm, per_image
from bench.api import MethodError, Target, Threat


def find_class(prefix: str, module: ModuleType, base: type, name: str) -> type:
    """Return the attack class ``name`` of a library.

    Raises:
        MethodError: there is none; the message names the nearest.
    """
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    if name not in classes:
        raise MethodError(_unknown_name(f"{prefix} has no attack", name, classes))
    return classes[name]


def constructor_arguments(
    attack_class: type, parameters: Mapping[str, Any], fixed: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments to construct ``attack_class`` with.

    Args:
        attack_class: of a library.
        parameters: from the configuration.
        fixed: arguments that follow from the threat, used where the constructor has a parameter for them.
        default: the same, unless the configuration sets them.

    Raises:
        MethodError: a parameter that the class does not have, or one that the threat decides.
    """
    known = set(inspect.signature(attack_class).parameters)
    for key in parameters:
        if key not in known:
            raise MethodError(_unknown_name(f"{attack_class.__name__} has no parameter", key, known))
        if key in fixed:
            raise MethodError(
                f"{key} of {attack_class.__name__} follows from the threat: set eps and norm of the attack"
            )
    return {
        **{key: value for key, value in default.items() if key in known},
        **parameters,
        **{key: value for key, value in fixed.items() if key in known},
    }


def keep_in_ball(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv``, and the input where it is out of the ball: for attacks that know no budget."""
    if threat.eps is None or threat.norm not in ("linf", "l2"):
        return x_adv
    delta = x_adv - x
    distance = delta.abs().flatten(1).amax(1) if threat.norm == "linf" else l2_norm(delta)
    return torch.where(per_image(distance <= float(threat.eps), x), x_adv, x)


def batches(target: Target, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield copies of images and labels in batches that the device holds, for libraries that make none."""
    return zip(x.clone().split(target.batch), y.clone().split(target.batch), strict=True)


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
