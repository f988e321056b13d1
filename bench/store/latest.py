"""Which of several results counts where they measure the same: the last one, by the protocol that measured it."""

from __future__ import annotations

from collections.abc import Iterable

from bench.keys import EVALUATION_VERSION, Keys, comparison_key, models_of, version_of
from bench.store.working_store import Store
from bench.types import Cell, CellResult, MethodRef, ModelRef, PlannedCell, WeightsRef


def protocol(result: CellResult, keys: Keys) -> str:
    """Return the version of the evaluation protocol that a result's key was made with."""
    return str(version_of(result.key, result.cell, keys) or "unknown")


def outdated(store: Store, plan: Iterable[PlannedCell]) -> int:
    """Return how many results in a store, besides those of a plan, were made with an older evaluation protocol."""
    planned = {store.cell_file(cell.key) for cell in plan}
    others = (store.get(key) for key in store.all_keys() if store.cell_file(key) not in planned)
    keys = Keys()
    versions = (version_of(r.key, r.cell, keys) for r in others if r is not None)
    return sum(version is not None and version < EVALUATION_VERSION for version in versions)


def newest(results: Iterable[CellResult]) -> dict[str, CellResult]:
    """Return the last result of each comparison key, whatever the code that measured it.

    A failure gives way to a later result on other weights from the file of the same name: the file was replaced.
    """
    latest: dict[str, CellResult] = {}
    keys = Keys()
    # Files of several machines may hold a cell twice, and a forged file another cell under its key.
    for result in {each.key: each for each in results}.values():
        known = latest.setdefault(key := keys.comparison_key(result.cell), result)
        if (known.provenance.finished, known.key) < (result.provenance.finished, result.key):
            latest[key] = result
    broken = {key for key, result in latest.items() if result.status == "failed" and _weights_files(result.cell)}
    if not broken:
        return latest
    by_name = {key: _by_name(result.cell) for key, result in latest.items() if _weights_files(result.cell)}
    # In the order in which they were finished, to the second.
    when = {key: (latest[key].provenance.finished, key not in broken, key) for key in by_name}
    last = {by_name[key]: key for key in sorted(by_name, key=when.__getitem__)}
    replaced = {key for key in broken if last[by_name[key]] != key}
    return {key: result for key, result in latest.items() if key not in replaced}


def _weights_files(cell: Cell) -> list[str]:
    return [model.weights.name for model in models_of(cell) if isinstance(model.weights, WeightsRef)]


def _by_name(cell: Cell) -> str:
    """Return what a cell asks, on whatever weights lie in the files that it names."""

    def unread(model: ModelRef) -> ModelRef:
        if not isinstance(model.weights, WeightsRef):
            return model
        return model.model_copy(update={"weights": model.weights.model_copy(update={"sha256": ""})})

    def unread_score(step: MethodRef | None) -> MethodRef | None:
        if step is None or step.score is None:
            return step
        return step.model_copy(update={"score": unread(step.score)})

    attack = cell.attack and cell.attack.model_copy(
        update={"model": unread(cell.attack.model), "step": unread_score(cell.attack.step)}
    )
    changes = {"model": unread(cell.model), "step": unread_score(cell.step), "attack": attack}
    return comparison_key(cell.model_copy(update=changes)) + str(_weights_files(cell))
