"""What the figures about purification have in common: worst cases by the parameters of the step and its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.report.figures import Source
from bench.report.leaderboard.summaries import ThreatSummary
from bench.types import CellResult, TrainRef

STEP = "tpap"


class Setting(NamedTuple):
    """A purified network, or a bare one (no step), and how it stands under the first threat of its table."""

    table: int
    #: Of the table: data set, network and images.
    title: str
    step: Mapping[str, Any] | None
    recipe: str
    training: Mapping[str, Any]
    standing: ThreatSummary


def settings(source: Source) -> list[Setting]:
    """Return every purified network and every bare one in its table that carries the same weights."""
    found = []
    for number, table in enumerate(source.board.tables):
        first = {s.defense: s for s in reversed(table.threats) if s.threat and s.clean.keys}
        cells = {name: source.board.results[standing.clean.keys[0]] for name, standing in first.items()}
        purified = {_weights(r) for r in cells.values() if r.cell.step and r.cell.step.name == STEP}
        for name, r in cells.items():
            if _weights(r) not in purified or (r.cell.step and r.cell.step.name != STEP):
                continue
            weights, step = r.cell.model.weights, r.cell.step.params if r.cell.step else None
            recipe, training = (
                (weights.recipe.name, weights.recipe.params) if isinstance(weights, TrainRef) else (weights.name, {})
            )
            found.append(Setting(number, table.title, step, recipe, training, first[name]))
    return found


def reference(found: list[Setting]) -> Setting:
    """Return the purified setting that most others differ from in one parameter, of several the shortest name."""

    def neighbours(setting: Setting) -> int:
        return sum(len(differences(setting, other)) == 1 for other in found if other.step is not None)

    return max(
        (s for s in found if s.step is not None),
        key=lambda s: (neighbours(s), -len(s.standing.defense), s.standing.defense),
    )


def differences(one: Setting, other: Setting) -> set[tuple[str, str]]:
    """Return where two settings differ: the parameters of the step, of the training, or the recipe itself."""
    parts = {
        "step": (one.step or {}, other.step or {}),
        "training": (one.training, other.training),
        "": ({"recipe": one.recipe}, {"recipe": other.recipe}),
    }
    return {
        (where, name) for where, (a, b) in parts.items() for name in a.keys() | b.keys() if a.get(name) != b.get(name)
    }


def _weights(r: CellResult) -> str:
    return r.cell.model.model_dump_json(exclude={"weights": {"seed"}})
