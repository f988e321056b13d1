"""What the doors to other libraries share: finding a class, checking its parameters, keeping what lies in the ball."""

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


def find(prefix: str, module: ModuleType, base: type, name: str) -> type:
    """Return the attack class ``name`` of a library.

    Raises:
        MethodError: there is none; the line names the nearest.
    """
    known = {key: value for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    if name not in known:
        raise MethodError(_unknown(f"{prefix} has no attack", name, known))
    return known[name]


def arguments(maker: type, given: Mapping[str, Any], fixed: Mapping[str, Any], default: Mapping[str, Any]) -> dict:
    """Return what to construct ``maker`` with: ``given``, and of ``fixed`` and ``default`` what it has a parameter for.

    Raises:
        MethodError: a parameter that the class does not have, or one that the threat decides.
    """
    known = set(inspect.signature(maker).parameters)
    for key in given:
        if key not in known:
            raise MethodError(_unknown(f"{maker.__name__} has no parameter", key, known))
        if key in fixed:
            raise MethodError(f"{key} of {maker.__name__} follows from the threat: set eps and norm of the attack")
    return {
        **{key: value for key, value in default.items() if key in known},
        **given,
        **{key: value for key, value in fixed.items() if key in known},
    }


def in_ball(found: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return ``found``, and the input where it is out of the ball: for attacks that know no budget."""
    if threat.eps is None or threat.norm not in ("linf", "l2"):
        return found
    distance = (found - x).abs().flatten(1).amax(1) if threat.norm == "linf" else l2_norm(found - x)
    return torch.where(per_image(distance <= float(threat.eps), x), found, x)


def batches(target: Target, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield copies of images and labels as many at a time as the device holds, for libraries that cut none."""
    return zip(x.clone().split(target.batch), y.clone().split(target.batch), strict=True)


@contextlib.contextmanager
def contained(device: torch.device, logger: str) -> Iterator[io.StringIO]:
    """Keep inside what a library does to the process: tracer, random states, logger, standard output, warnings.

    Yields what it said, complete once the block is left.
    """
    said = io.StringIO()
    log, handler = logging.getLogger(logger), logging.StreamHandler(said)
    propagate, level, tracer, state = log.propagate, log.level, sys.gettrace(), random.getstate()
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.WARNING)
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=devices),
            contextlib.redirect_stdout(said),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield said
            said.write("\n".join(str(warning.message) for warning in caught))
    finally:
        sys.settrace(tracer)
        random.setstate(state)
        log.removeHandler(handler)
        log.propagate = propagate
        log.setLevel(level)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(sorted(known))}"
    return f"{what} '{name}'; {hint}"
