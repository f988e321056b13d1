"""What the figures about purification have in common: worst cases by the parameters of the step and its network."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.report.figures import Source
from bench.report.rows import Standing
from bench.types import CellResult, TrainRef

STEP = "tpap"


class Setting(NamedTuple):
    """A purified network, or a bare one (no step), and how it stands under the first threat of its table."""

    dataset: str
    model: str
    step: Mapping[str, Any] | None
    recipe: str
    #: The recipe's parameters that are written in the label of the recipe's figure.
    training: Mapping[str, Any]
    standing: Standing


def settings(source: Source) -> list[Setting]:
    """Return every purified network and every bare one that carries the same weights as one of them."""
    cells: dict[tuple[str, str, str], CellResult] = {}
    for r in source.results:
        if r.cell.step is None or r.cell.step.name == STEP:
            cells.setdefault((r.names.dataset, r.names.model, source.board.labels[r.key][0]), r)
    purified = {_weights(r) for r in cells.values() if r.cell.step}
    found = []
    for table in source.board.tables:
        for s in table.standings[:: 1]:
            r = cells.get((table.dataset, table.model, s.defense))
            if r is None or s.threat is None or _weights(r) not in purified or any(f.standing.defense == s.defense and f.dataset == table.dataset and f.model == table.model for f in found):
                continue
            weights = r.cell.model.weights
            recipe = weights.recipe.name if isinstance(weights, TrainRef) else weights.name
            training = weights.recipe.params if isinstance(weights, TrainRef) else {}
            found.append(Setting(table.dataset, table.model, r.cell.step.params if r.cell.step else None, recipe, training, s))
    return found


def usual(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return for each parameter the value that most settings have."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for params in found:
        for name, value in params.items():
            counts[name][json.dumps(value)] += 1
    return {name: json.loads(counter.most_common(1)[0][0]) for name, counter in counts.items()}


def _weights(r: CellResult) -> str:
    return r.cell.model.model_dump_json(exclude={"weights": {"seed"}})  # type: ignore[arg-type]
