"""What a store keeps that no plan needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import planned
from bench.keys import Keys, training_key
from bench.schedule.plan import Work, clean_cell
from bench.store import Store
from bench.types import UsageError


class Unneeded(NamedTuple):
    """A file or folder of a store, what it is, and its size in bytes."""

    path: Path
    what: str
    size: int


def unneeded(works: Iterable[Work], store: Store) -> list[Unneeded]:
    """Return what no plan needs.

    That is: results, records, adversarial sets, trainings, what runs were asked for beyond the plans, and what dead
    processes left behind.

    Raises:
        UsageError: a run is at work on the store.
    """
    if (name := store.leases.at_work()) is not None:
        raise UsageError(f"a run is at work on {store.root} ({name}); wait until it has ended")
    needed = {path for work in works for path in _needed(work, store)}
    found = [
        Unneeded(path, what, _size(path))
        for what, pattern in (
            ("result", "cells/*.json"),
            ("records", "records/*.parquet"),
            ("adversarial set", "attack/*"),
            ("training", "train/*"),
        )
        for path in sorted(store.root.glob(pattern))
        if path not in needed
    ]
    # What asks for a cell that goes would have its table lack it for ever.
    asking = ((path, planned.read_file(path)) for path in planned.paths(store))
    goes = [path for path, asked in asking if asked is None or not {store.cell_file(k) for k in asked.keys} <= needed]
    found += [Unneeded(path, "plan", _size(path)) for path in goes]
    dropped = {each.path for each in found}
    left = [path for path in sorted(store.root.rglob(".*.part")) if not dropped & {path, *path.parents}]
    left += sorted((store.root / "leases").glob("*"))
    left += [path for path in sorted(store.root.glob("train/*/state.safetensors")) if _is_over(path, dropped)]
    return found + [Unneeded(path, "left behind", _size(path)) for path in left]


def _needed(work: Work, store: Store) -> Iterator[Path]:
    keys, models = Keys(), {}
    for each in work.plan.cells:
        cell = each.cell
        for key in (each.key, keys.of(clean_cell(cell))):
            yield store.cell_file(key)
            yield store.records(key)
        models[id(cell.model)] = cell.model
        made = cell.attack
        while made is not None:
            yield store.adversarial(keys.of(made))
            made = made.previous
        if cell.attack is not None:
            models[id(cell.attack.model)] = cell.attack.model
    for model in models.values():
        yield store.training(training_key(model))


def _is_over(state: Path, dropped: set[Path]) -> bool:
    return state.parent not in dropped and (state.parent / "card.json").is_file()


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
