"""Lists of swept values, and labels that distinguish the resulting methods."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.types import AIMS, eps_text

#: Combinations that an axis of a plan may have; more are refused before one is made.
MOST = 250_000
#: Files of weights that are called alike in every folder: all of a network, a part of it, and the index of its parts.
_OF_FOLDER = re.compile(r"model\.safetensors|.+-[0-9]+-of-[0-9]+\.safetensors|.+\.safetensors\.index\.json")


def combinations(params: Mapping[str, Any]) -> int:
    """Return how many combinations :func:`sweep` yields."""
    return math.prod(len(value) for value in params.values() if isinstance(value, list))


def sweep(params: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Yield every combination of the parameters given as lists, with the names of those."""
    swept = [name for name, value in params.items() if isinstance(value, list)]
    for values in itertools.product(*(params[name] for name in swept)):
        yield {**params, **dict(zip(swept, values, strict=True))}, frozenset(swept)


def labels_of(parts: Sequence[tuple[str, Mapping[str, Any], frozenset[str]]]) -> list[str]:
    """Return each name with, in brackets, the parameters that were swept or distinguish it from its namesakes."""
    params_by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, params, _ in parts:
        params_by_name[name].append(params)
    differing = {name: _differing(namesakes) for name, namesakes in params_by_name.items()}
    labels = []
    for name, params, swept in parts:
        shown = sorted(swept | differing[name])
        inside = ",".join(f"{key}={format_value(params[key])}" for key in shown if params.get(key) is not None)
        labels.append(f"{name}[{inside}]" if inside else name)
    return labels


def _differing(namesakes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the parameters that have more than one value."""
    first = namesakes[0]
    keys = set[str]().union(*namesakes)
    return {key for key in keys if any(params.get(key) != first.get(key) for params in namesakes)}


def format_value(value: object) -> str:
    """Return a value as a label has it: a fraction as the field writes it, anything else as it is."""
    is_fraction = isinstance(value, str) and re.fullmatch(r"\d{1,9}/[1-9]\d{0,8}", value)
    return eps_text(Fraction(str(value))) if is_fraction else str(value)


def base_label(use: str) -> str:
    """Return a recipe's name, that of a file or folder of weights, or the function's for one in a user's own file."""
    if use.startswith("weights:"):
        path = Path(use.removeprefix("weights:"))
        return f"weights:{(path.parent.name if is_of_folder(path.name) else '') or path.name}"
    return use.rpartition(".py:")[2]


def is_of_folder(name: str) -> bool:
    """Say whether files of weights are called so in every folder, so that a label names the folder instead."""
    return _OF_FOLDER.fullmatch(name) is not None


def towards(target: str | int | None) -> str:
    """Return what the name of an attack says of its target, such as `` least-likely`` or `` to class 3``."""
    if target is None or target in AIMS:
        return "" if target is None else f" {target}"
    return f" to class {target}"
