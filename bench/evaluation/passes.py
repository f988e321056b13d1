"""The passes that a method states, computed from its parameters; no torch, so that plans start at once."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bench.types import AttackRef, Passes, Scalar

_FORMULA = re.compile(
    r"(?:at most )?(?P<forwards>[^,]*?) forwards?(?: \+ (?P<backwards>[^,]*?) backwards?)?(?: \(|,|$)"
)
_LONGEST = 1000
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def passes_of(formula: str, params: Mapping[str, Scalar]) -> Passes | None:
    """Return the passes per image that a formula such as ``"steps forwards + 2 x steps backwards"`` states.

    Text after a comma or in brackets at the end is commentary. ``None`` if the formula cannot be computed
    from the parameters.
    """
    return _passes_of(formula, tuple(params.items()))


@lru_cache(maxsize=4096)
def _passes_of(formula: str, params: tuple[tuple[str, Scalar], ...]) -> Passes | None:
    # A method's author writes it: it may be invalid, nested without limit, or exceed the range of a float.
    try:
        counts = [_evaluate(part, dict(params)) for part in _parsed(formula)]
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return Passes(*counts) if all(map(math.isfinite, counts)) else None


def counted_params(attack: AttackRef) -> dict[str, Scalar]:
    """Return the parameters as they come to count: no more targets than wrong classes, and one start that is fixed."""
    params = dict(attack.attack.params)
    if params.get("start") == "clean" and "restarts" in params:
        params["restarts"] = 1
    if isinstance(targets := params.get("targets"), int):
        params["targets"] = min(targets, attack.data.num_classes - 1)
    return params


def with_smallest_numbers(params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the parameters with every number that is above 1 as 1: of a formula, the least that any run takes."""
    return {name: 1 if isinstance(value, int) and value > 1 else value for name, value in params.items()}


def counted_and_most(attack: AttackRef, meta: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the forwards and backwards together that an image is counted with, and that it takes at most.

    Both are those of the attacked function, as the attack states them for its parameters. ``None`` where it states
    none that can be computed; the second one also where it states no other than the first. With ``max_passes`` both are
    ``None``: a budget is kept whatever the attack would take.

    Args:
        attack: the attack.
        meta: the keywords of its decorator.
    """
    if attack.max_passes is not None:
        return None, None
    # The class to reach is asked for first.
    more = 1 if attack.target in ("least-likely", "second") else 0
    formulas = (meta.get("passes"), meta.get("most"))
    counted, most = (passes_of(each, attack.attack.params) if isinstance(each, str) else None for each in formulas)
    return (None if counted is None else sum(counted) + more), (None if most is None else sum(most) + more)


@lru_cache(maxsize=1024)
def _parsed(formula: str) -> tuple[ast.expr, ast.expr]:
    """Return the expressions of forwards and of backwards.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: the text is no formula.
    """
    match = _FORMULA.match(formula) if len(formula) <= _LONGEST else None
    if match is None:
        raise ValueError("no formula")
    forwards, backwards = (text.replace(" x ", " * ") for text in match.groups("0"))
    return ast.parse(forwards, mode="eval").body, ast.parse(backwards, mode="eval").body


def _evaluate(node: ast.expr, params: Mapping[str, Scalar]) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return float(_OPERATIONS[type(node.op)](_evaluate(node.left, params), _evaluate(node.right, params)))
    value: object = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.Name):
        value = params.get(node.id)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)} is no number")
    return float(value)
