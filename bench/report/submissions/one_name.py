"""One name for each file of weights and each attack, whatever each person called it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.report.submissions.known import how_known
from bench.report.submissions.seeds import Counting
from bench.types import CellResult, ModelRef, WeightsRef


def with_one_name(counting: Iterable[Counting]) -> list[CellResult]:
    """Return results in which a file of weights and an attack have one name, whatever each person called it.

    So they are one row and one column. A file is called as by the one of whom most is known, or who was first. Tables
    name the parameters of an attack where several have its name.
    """
    counting = list(counting)
    results = [each.result for each in counting]
    names: dict[str, str] = {}
    for each in sorted(counting, key=lambda each: (how_known(each.first), each.first.arrival, each.first.file)):
        if isinstance(weights_of := each.result.cell.model.weights, WeightsRef):
            names.setdefault(weights_of.sha256, weights_of.name)

    def renamed(model: ModelRef) -> ModelRef:
        if not isinstance(model.weights, WeightsRef) or model.weights.sha256 not in names:
            return model
        return model.model_copy(
            update={"weights": model.weights.model_copy(update={"name": names[model.weights.sha256]})}
        )

    def whole(result: CellResult) -> CellResult:
        cell, attack = result.cell, result.cell.attack
        changes: dict[str, object] = {"model": renamed(cell.model)}
        names = result.names
        if attack is not None:
            changes["attack"] = attack.model_copy(update={"model": renamed(attack.model)})
            names = names.model_copy(update={"attack": _without_parameters(names.attack, attack.attack.name)})
        return result.model_copy(update={"cell": cell.model_copy(update=changes), "names": names})

    return [whole(result) for result in results]


def _without_parameters(label: str, name: str) -> str:
    """Return the label of an attack without the parameters in brackets behind its name, which anybody may write."""
    begins = label.startswith(f"{name}[")
    return name + re.sub(r"^\[[^\]]*\]?", "", label.removeprefix(name)) if begins else label
