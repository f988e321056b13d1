"""Helpers of the figures about TPAP: its settings in the store, and how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bench.report.figures import Source
from bench.report.figures._plot import unbroken
from bench.report.leaderboard.summaries import ThreatSummary
from bench.types import CellResult, TrainRef

STEP = "tpap"


class Setting(NamedTuple):
    """A purified network, or a bare one (no step), with its summary under its first threat."""

    table: int
    #: Title of the table.
    title: str
    step: Mapping[str, Any] | None
    recipe: str
    training: Mapping[str, Any]
    summary: ThreatSummary


def settings(source: Source) -> list[Setting]:
    """Return every network with TPAP, and every bare network of the same table with the same weights."""
    chosen: list[Setting] = []
    for number, table in enumerate(source.board.tables):
        summaries = {s.defense: s for s in reversed(table.threats) if s.threat and s.clean.keys}
        results = {name: source.board.results[summary.clean.keys[0]] for name, summary in summaries.items()}
        purified = {_weights(r) for r in results.values() if r.cell.step and r.cell.step.name == STEP}
        for name, r in results.items():
            if _weights(r) in purified and (r.cell.step is None or r.cell.step.name == STEP):
                recipe, training = _recipe(r)
                params = r.cell.step.params if r.cell.step else None
                chosen.append(Setting(number, table.title, params, recipe, training, summaries[name]))
    return chosen


def threats_remark(shown: Iterable[Setting]) -> str:
    """Say under which threat robust accuracies are."""
    groups = dict.fromkeys(unbroken(s.summary.group) for s in shown)
    return f"under the first threat of each table: {', '.join(groups)}"


def _recipe(r: CellResult) -> tuple[str, Mapping[str, Any]]:
    weights = r.cell.model.weights
    return (weights.recipe.name, weights.recipe.params) if isinstance(weights, TrainRef) else (weights.name, {})


def reference(settings: list[Setting]) -> Setting:
    """Return the purified setting that most others differ from in one parameter, of several the shortest name."""

    def neighbours(setting: Setting) -> int:
        return sum(len(differences(setting, other)) == 1 for other in settings if other.step is not None)

    return max(
        (s for s in settings if s.step is not None),
        key=lambda s: (neighbours(s), -len(s.summary.defense), s.summary.defense),
    )


def differences(one: Setting, other: Setting) -> set[tuple[str, str]]:
    """Return where two settings differ: the parameters of the step, of the training, or the recipe itself."""
    parts = {
        "step": (one.step or {}, other.step or {}),
        "training": (one.training, other.training),
        "": ({"recipe": one.recipe}, {"recipe": other.recipe}),
    }
    different: set[tuple[str, str]] = set()
    for part, (a, b) in parts.items():
        different |= {(part, name) for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    return different


def _weights(r: CellResult) -> str:
    return r.cell.model.model_dump_json(exclude={"weights": {"seed"}})
