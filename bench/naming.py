"""How a cell may be called: each name in a table is that of what the cell refers to, with parameters as they were."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath

from pydantic import TypeAdapter, ValidationError

from bench.types import AttackRef, Cell, MethodRef, ModelRef, Names, TrainRef, eps_text, exact, shown
from bench.visible import visible

#: The column of what is right without an attack; no attack is called so.
CLEAN = "clean"

#: A name of about this length may have been cut in its middle.
_LONG = 4_000
#: It stands among the parameters in brackets, and is none.
_PRESET = "preset"
_TRUTH = TypeAdapter(bool)


def misnomer(names: Names, cell: Cell) -> str | None:
    """Return which name of a cell no plan could have given it; ``None`` where there is none."""
    return next(_misnomers(names, cell), None)


def value_text(value: object) -> str:
    """Return a parameter as names have it, budgets as the field writes them."""
    is_fraction = isinstance(value, str) and re.fullmatch(r"\d{1,9}/[1-9]\d{0,8}", value)
    return eps_text(Fraction(str(value))) if is_fraction else str(value)


def dashed(symbol: str) -> str:
    """Return what a method is called whose function or class has this name."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", symbol).lower().replace("_", "-")


def base_label(use: str) -> str:
    """Return a recipe's name, a file's name for weights, and the function's for a recipe in a user's own file."""
    if use.startswith("weights:"):
        return f"weights:{PurePath(use.removeprefix('weights:')).name}"
    return use.rpartition(".py:")[2]


def _misnomers(names: Names, cell: Cell) -> Iterator[str]:
    if names.dataset != visible(cell.data.name):
        yield f"its data set is called {shown(names.dataset)}, and is {shown(cell.data.name)}"
    network, step = cell.model.network, cell.step
    if not _fits(names.model, [network.name], network.params):
        yield _line("network", names.model, network.name)
    base = _base_of(cell.model)
    called = [base] if step is None else [_method_name(step), f"{_method_name(step)}@{base}"]
    if not _fits(names.defense, called, step.params if step is not None else {}, _trained(cell.model)):
        yield _line("defense", names.defense, called[-1])
    if cell.attack is None:
        if names.attack != CLEAN:
            yield f"it is of clean images and its attack is called {shown(names.attack)}"
    elif names.attack == CLEAN:
        yield f"it is of attacked images and its attack is called {CLEAN}"
    elif not _is_attack(names.attack, cell.attack, from_another=cell.access == "transfer"):
        yield _line("attack", names.attack, _method_name(cell.attack.attack))


def _line(what: str, called: str, name: str) -> str:
    return f"its {what} is called {shown(called)}, and is {shown(name)}, or that with its parameters in brackets"


def _is_attack(label: str, made: AttackRef, *, from_another: bool) -> bool:
    name = _method_name(made.attack)
    if from_another:
        start = visible(f"{name} from {_base_of(made.model)}")
        if not label.startswith(start):
            return len(label) > _LONG
        # What else tells the training of the source apart stands between, and may have brackets of its own.
        rest = label[len(start) :]
        for key, value in _trained(made.model).items():
            if "[" in (seen := visible(value_text(value))):
                rest = rest.replace(f" {key} {seen}", " ", 1)
        between, bracket, inside = rest.partition("[")
        if between and not between.startswith(" "):
            return False
        label = f"{visible(name)}{bracket}{inside}"
    params = {**made.attack.params, "norm": made.threat.norm, "eps": str(made.threat.eps)}
    # A set for others than the attacker sees takes every step, whatever the rule of the column.
    other = {"rule": "any-iterate"} if params.get("rule") == "last-iterate" else {}
    return _fits(label, [name], params, other)


def _method_name(method: MethodRef) -> str:
    """Return what a method is called that may be one in a user's own file."""
    return dashed(method.name.rpartition(".py:")[2]) if ".py:" in method.name else method.name


def _base_of(model: ModelRef) -> str:
    weights = model.weights
    return base_label(weights.recipe.name if isinstance(weights, TrainRef) else weights.name)


def _trained(model: ModelRef) -> Mapping[str, object]:
    """Return what a configuration may say of how a base is trained."""
    weights = model.weights
    if not isinstance(weights, TrainRef):
        return {}
    schedule = {name: getattr(weights.schedule, name) for name in type(weights.schedule).model_fields}
    return {**schedule, "drops": list(weights.schedule.drops), **weights.recipe.params}


def _fits(label: str, called: Collection[str], *params: Mapping[str, object]) -> bool:
    """Say whether a label is one of the names, with some of the parameters in brackets, each with its value."""
    for name in called:
        seen = visible(name)
        if label == seen:
            return True
        if label.startswith(f"{seen}[") and label.endswith("]") and _are(label[len(seen) + 1 : -1], params):
            return True
    return len(label) > _LONG


def _are(text: str, params: Sequence[Mapping[str, object]]) -> bool:
    """Say whether a text is ``key=value,key=value`` of these parameters, in the order of their names."""
    last = None
    while True:
        key, equals, rest = text.partition("=")
        values = [each[key] for each in params if key in each and key != _PRESET]
        if not equals or (last is not None and key <= last) or not (values or key == _PRESET):
            return False
        taken = _first_value(rest, values, params)
        if values and not any(_same(taken, value) for value in values):
            return False
        if len(taken) == len(rest):
            return True
        last, text = key, rest[len(taken) + 1 :]


def _first_value(rest: str, values: Sequence[object], params: Sequence[Mapping[str, object]]) -> str:
    """Return the value that a text begins with, which may hold commas itself."""
    for seen in (visible(value_text(value)) for value in values):
        if rest == seen or rest.startswith(f"{seen},"):
            return seen
    if values:
        return rest.partition(",")[0]
    # Of a preset only the name is known here: it ends where the next parameter begins.
    ends = (match.start() for match in re.finditer(",", rest))
    return rest[: next((end for end in ends if any(_key_at(rest, end) in each for each in params)), len(rest))]


def _key_at(text: str, comma: int) -> str:
    return text[comma + 1 : text.find("=", comma) if "=" in text[comma:] else len(text)]


def _same(text: str, value: object) -> bool:
    """Say whether a value is what a text means: that of a recipe is written as it was given."""
    if text == visible(value_text(value)):
        return True
    try:
        if isinstance(value, bool):
            return _TRUTH.validate_python(text) == value
        return float(exact(text)) == float(exact(value))
    except (ValidationError, ValueError):
        return False
