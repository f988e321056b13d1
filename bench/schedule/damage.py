"""Damage to what the finished cells of a plan depend on: no missing cell would detect it, so it is searched for.

Deleted files are not damage: results stay valid without the weights and adversarial images they were made with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.data import ImageSet, open_ref, rows_of
from bench.data.rows import Numbers
from bench.keys import Keys, models_of, training_key
from bench.schedule.plan import Work
from bench.store import cards, chunk_file, inventory
from bench.store.working_store import Store
from bench.types import AttackRef, DataRef, ModelRef, PlannedCell, Threat, TrainRef

_log = logging.getLogger("crossfire")


class Damage(NamedTuple):
    """Damaged trainings, each with a cell that needs it, and damaged chunks of adversarial sets likewise."""

    trainings: list[tuple[ModelRef, PlannedCell]]
    chunks: list[tuple[AttackRef, PlannedCell, Path]]

    def __bool__(self) -> bool:
        return bool(self.trainings or self.chunks)


def damage(work: Work, store: Store) -> Damage:
    """Return the damaged files of a plan, each reported in one line.

    A file whose size and times are unchanged since it was found intact is not read again. A damaged log of a training
    is rewritten at once.
    """
    return Damage(list(_trainings(work, store)), list(_chunks(work, store)))


def _trainings(work: Work, store: Store) -> Iterator[tuple[ModelRef, PlannedCell]]:
    seen: set[int] = set()
    for planned in work.plan.cells:
        for model in models_of(planned.cell):
            if id(model) in seen or not isinstance(model.weights, TrainRef):
                continue
            seen.add(id(model))
            key = training_key(model)
            folder = store.training(key)
            if not cards.is_there(folder):
                continue
            card = cards.read(folder, key)
            if card is None or not store.has_weights(folder, card):
                yield model, planned
            else:
                cards.mend_log(folder, card)


def _chunks(work: Work, store: Store) -> Iterator[tuple[AttackRef, PlannedCell, Path]]:
    crafted = set(inventory.keys(store.root / "attack", ""))
    keys, seen = Keys(), set()
    opened = cache(partial(_opened, work))
    for planned in work.plan.cells if crafted else ():
        attack = planned.cell.attack
        if attack is None or (key := keys.of(attack)) not in crafted or key in seen:
            continue
        seen.add(key)
        for path in inventory.chunks(store.adversarial(key)):
            first, last = (int(number) for number in path.stem.split("-"))
            if first < last <= attack.data.n:
                clean = partial(opened, attack.data)
                if not _is_whole(store, path, clean, slice(first, last), attack.threat):
                    yield attack, planned, path


def _opened(work: Work, data: DataRef) -> tuple[ImageSet, Numbers]:
    images = open_ref(data, folder=work.data_folder)
    return images, rows_of(images, data)


def _is_whole(
    store: Store, path: Path, clean: Callable[[], tuple[ImageSet, Numbers]], part: slice, threat: Threat
) -> bool:
    def check() -> bool:
        images, rows = clean()
        chunk_file.read(path, images.at(rows[part])[0].astype(np.float32) / 255, threat)
        return True

    try:
        return store.known.holds(store.name(path), path, chunk_file.SEALED, check)
    except FileNotFoundError:
        return True
    except ValueError as error:
        _log.warning("%s does not count and is made again: %s", path, error)
        return False
