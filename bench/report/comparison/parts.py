"""What a cell is made of, method by method, and in what two cells differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.types import AttackRef, Cell, CellResult, MethodRef, ModelRef, TrainRef

#: Old names by the part that the method fills, and the new ones: ``{("attack", "pgd"): "pgd-linf"}``.
Renames = Mapping[tuple[str, str], str]

#: Before the parts of the model that a transferred attack was made on.
SOURCE = "source "

_AFTER = "after"


class Part(NamedTuple):
    """A method in a cell: its name, what it is set to, and the hash of its code."""

    name: str
    settings: Mapping[str, Any]
    code: str


class Changed(NamedTuple):
    """A parameter that has another value in the head; ``None`` where a side has no such parameter."""

    part: str
    method: str
    parameter: str
    base: Any
    head: Any

    def __str__(self) -> str:
        values = ["none" if value is None else str(value) for value in (self.base, self.head)]
        return f"{self.method}: {self.parameter} {' -> '.join(values)}"


def parts(cell: Cell, renames: Renames | None = None) -> dict[str, Part]:
    """Return the methods of a cell by what they are for, renamed ones under their new names.

    The parts are network, recipe or weights, step and attack; where an attack is transferred also source network and
    source recipe or source weights.
    """
    found = _of_model(cell.model)
    if cell.step is not None:
        found["step"] = _part(cell.step)
    if (made := cell.attack) is not None:
        settings = {**made.attack.params, "eot": made.eot, **_suite(made, renames or {})}
        found["attack"] = Part(made.attack.name, settings, made.attack.code_sha)
        if made.model != cell.model:
            found |= {f"{SOURCE}{what}": part for what, part in _of_model(made.model).items()}
    if not renames:
        return found
    return {
        what: part._replace(name=renames.get((what.removeprefix(SOURCE), part.name), part.name))
        for what, part in found.items()
    }


def _of_model(model: ModelRef) -> dict[str, Part]:
    weights = model.weights
    if not isinstance(weights, TrainRef):
        found = Part(weights.name, {"file": f"#{weights.sha256[:16]}"}, weights.sha256)
        return {"network": _part(model.network), "weights": found}
    schedule = {f"schedule.{key}": value for key, value in weights.schedule.model_dump(mode="json").items()}
    data = weights.data
    images = f"{data.subset} {data.n} (#{data.indices_sha[:8]} of #{data.data_sha[:8]})"
    settings = {**weights.recipe.params, **schedule, "training images": images}
    return {"network": _part(model.network), "recipe": Part(weights.recipe.name, settings, weights.recipe.code_sha)}


def _part(method: MethodRef) -> Part:
    return Part(method.name, method.params, method.code_sha)


def _suite(made: AttackRef, renames: Renames) -> dict[str, Any]:
    """Return which attacks of a suite went before, and how they were set."""
    met: Counter[str] = Counter()
    settings: dict[str, Any] = {}
    for each in made.after:
        name = renames.get(("attack", each.attack.name), each.attack.name)
        met[name] += 1
        place = f"{_AFTER} {name}" if met[name] == 1 else f"{_AFTER} {name} ({met[name]})"
        settings |= {f"{place}: {key}": value for key, value in {**each.attack.params, "eot": each.eot}.items()}
    return {_AFTER: ", ".join(met.elements()) or None, **settings}


def methods(cell: Cell) -> Iterator[tuple[str, Part]]:
    """Yield every method of a cell with its part, those of a transfer's source and of a suite's earlier attacks too."""
    for what, part in parts(cell).items():
        own = {key: value for key, value in part.settings.items() if not key.startswith(_AFTER)}
        yield what.removeprefix(SOURCE), part._replace(settings=own)
    for each in cell.attack.after if cell.attack else ():
        yield "attack", Part(each.attack.name, {**each.attack.params, "eot": each.eot}, each.attack.code_sha)


def changed(old: Cell, new: Cell, renames: Renames | None = None) -> tuple[Changed, ...]:
    """Return the parameters in which the methods of two cells differ that have the same parts."""
    first, second = parts(old, renames), parts(new)
    changes: list[Changed] = []
    for what, before in first.items():
        after = second[what]
        for key in dict.fromkeys((*before.settings, *after.settings)):
            # An attack of one suite alone shows in the list of its attacks.
            in_one_suite = key.startswith(f"{_AFTER} ") and not (key in before.settings and key in after.settings)
            if before.settings.get(key) != after.settings.get(key) and not in_one_suite:
                changes.append(Changed(what, after.name, key, before.settings.get(key), after.settings.get(key)))
    return tuple(changes)


def code_changes(old: CellResult, new: CellResult) -> Iterator[str]:
    """Yield the methods of a pair whose code is not what it was."""
    second = parts(new.cell)
    for what, before in parts(old.cell).items():
        after = second[what]
        if what.removeprefix(SOURCE) != "weights" and before.code != after.code:
            yield f"code of {after.name} changed"


def differences(old: Cell, new: Cell) -> Iterator[str]:
    """Yield in what any two cells differ, but for their code."""
    if (old.data.indices_sha, old.data.n) != (new.data.indices_sha, new.data.n):
        lists = [f"{data.subset} {data.n} (#{data.indices_sha[:4]})" for data in (old.data, new.data)]
        yield f"other example lists: {' against '.join(lists)}"
    elif old.data.data_sha != new.data.data_sha:
        yield f"other images: data #{old.data.data_sha[:4]} against #{new.data.data_sha[:4]}"
    seen = {"data.indices_sha", "data.n", "data.subset", "data.data_sha"}
    first, second = (dict(_flat(cell.model_dump(mode="json"))) for cell in (old, new))
    for field in sorted(first.keys() | second.keys()):
        repeated = field.startswith(("attack.model.", "attack.data.", "attack.step."))
        if (
            field not in seen
            and not field.endswith("code_sha")
            and not repeated
            and first.get(field) != second.get(field)
        ):
            yield f"{field}: {_short(first.get(field))} against {_short(second.get(field))}"


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return f"#{text[:8]}" if len(text) == 64 else text


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
