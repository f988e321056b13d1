"""From a configuration to its cells: every key is known before anything is trained."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench import config as configuration
from bench import registry, weights
from bench.config import Attack, Base, Config, Defense, labels_of, sweep
from bench.data import data_ref, open_set
from bench.keys import EVALUATION_VERSION, TRAINING_VERSION, key_of
from bench.models.build import network_ref
from bench.types import (
    Access,
    AttackRef,
    Cell,
    DataRef,
    MethodRef,
    ModelRef,
    Names,
    PlannedCell,
    RunPlan,
    TrainRef,
    UsageError,
    WeightsRef,
    jsonable,
)


@dataclass(frozen=True)
class Work:
    """A plan, and where this machine keeps what it names."""

    plan: RunPlan
    data_folder: Path | None
    weights_files: Mapping[str, Path]


def cell_key(cell: Cell) -> str:
    return key_of(jsonable(cell), version=EVALUATION_VERSION)


def attack_key(attack: AttackRef) -> str:
    return key_of(jsonable(attack), version=EVALUATION_VERSION)


def training_key(model: ModelRef) -> str:
    return key_of(jsonable(model), version=TRAINING_VERSION)


def clean_cell(cell: Cell) -> Cell:
    """Return the clean evaluation of a cell's defense on its images."""
    return cell.model_copy(update={"attack": None, "access": "white-box" if cell.step is None else "static"})


def make(
    config: Config,
    *,
    data_folder: Path | None = None,
    n: int | None = None,
    seed: int | None = None,
    only: str | None = None,
) -> Work:
    """Return every cell of a configuration, grouped by base classifier, clean first.

    Args:
        config: the checked configuration.
        data_folder: where to look for image sets first.
        n: test images, instead of the configuration's.
        seed: the one seed, instead of the configuration's.
        only: a pattern; only cells whose ``dataset/model/defense/attack/access`` holds it, or matches it with
            wildcards, are kept.

    Raises:
        UsageError: a method, value, image set or weights file that does not hold.
    """
    if n is not None and n <= 0:
        raise UsageError(f"--n {n}: the number of test images must be at least 1")
    defenses, attacks = configuration.defenses(config), configuration.attacks(config)
    networks = [
        (each.arch, network_ref(each.arch, params), swept)
        for each in config.models
        for params, swept in sweep(each.params)
    ]
    labels = labels_of([(arch, ref.params, swept) for arch, ref, swept in networks])
    test = _data(config, "test", data_folder, n if n is not None else config.dataset.n)
    bases = [defense.base for defense in defenses] + [attack.source for attack in attacks if attack.source]
    needs_training = any(base.recipe for base in bases)
    train = _data(config, "train", data_folder, config.dataset.train_n) if needs_training else None
    files = {base.weights: weights.find(base.weights) for base in bases if base.weights}
    hashes = {name: weights.sha256(path) for name, path in files.items()}
    cells = [
        planned
        for label, (_, network, _) in zip(labels, networks, strict=True)
        for s in (config.seeds if seed is None else [seed])
        for defense in _by_base(defenses)
        for planned in _cells(label, _Models(network, train, hashes), test, defense, attacks, s)
    ]
    if only is not None:
        pattern = only if any(mark in only for mark in "*?[") else f"*{only}*"
        kept = [cell for cell in cells if fnmatch.fnmatchcase(str(cell.names), pattern)]
        if not kept:
            raise UsageError(f"--only {only}: no cell matches; cells are named like {cells[0].names}")
        cells = kept
    plan = RunPlan(name=config.name, cells=tuple({cell.key: cell for cell in cells}.values()))
    return Work(plan, data_folder, {hashes[name]: path for name, path in files.items()})


def _data(config: Config, split: Literal["train", "test"], folder: Path | None, n: int | None) -> DataRef:
    wanted = config.dataset
    images = open_set(wanted.name, split, folder=folder, image_size=wanted.size, interpolation=wanted.interpolation)
    return data_ref(images, n, wanted.subset)


class _Models(NamedTuple):
    """The base classifiers of one network."""

    network: MethodRef
    train: DataRef | None
    hashes: Mapping[str, str]

    def of(self, base: Base, seed: int) -> ModelRef:
        if base.weights is not None:
            weights = WeightsRef(name=base.weights, sha256=self.hashes[base.weights])
            return ModelRef(network=self.network, weights=weights)
        assert base.recipe is not None and base.schedule is not None and self.train is not None
        trained = TrainRef(recipe=base.recipe, schedule=base.schedule, data=self.train, seed=seed)
        return ModelRef(network=self.network, weights=trained)


def _by_base(defenses: list[Defense]) -> list[Defense]:
    order = list({id(d.base): d.base for d in defenses}.values())
    bases = [base for index, base in enumerate(order) if base not in order[:index]]
    return sorted(defenses, key=lambda defense: bases.index(defense.base))


def _cells(
    label: str, models: _Models, data: DataRef, defense: Defense, attacks: list[Attack], seed: int
) -> Iterator[PlannedCell]:
    model = models.of(defense.base, seed)
    purifies = defense.step is not None and bool(registry.find("test-time", defense.step.name).meta.get("purifier"))

    def planned(attack: AttackRef | None, name: str, access: Access) -> PlannedCell:
        cell = Cell(data=data, model=model, step=defense.step, access=access, attack=attack, seed=seed)
        names = Names(dataset=data.name, model=label, defense=defense.label, attack=name, access=access)
        return PlannedCell(key=cell_key(cell), names=names, cell=cell)

    yield planned(None, "clean", "white-box" if defense.step is None else "static")
    for attack in attacks:
        attacked = model
        if attack.source is not None:
            attacked = models.of(attack.source, seed if attack.source_seed is None else attack.source_seed)
            if attacked == model:
                continue
        access = "white-box" if defense.step is None and attack.access != "transfer" else attack.access
        if attack.purifiers_only and not (purifies and access == "adaptive"):
            continue
        stops_early = access in ("white-box", "adaptive") or attack.rule_given
        ref = AttackRef(
            model=attacked,
            step=defense.step if access == "adaptive" else None,
            attack=attack.method if stops_early else _full_strength(attack.method),
            threat=attack.threat,
            data=data,
            seed=seed,
            eot=attack.eot if access == "adaptive" else 1,
        )
        yield planned(ref, attack.label, access)


def _full_strength(method: MethodRef) -> MethodRef:
    # An image that stops at the bare network's boundary flatters whatever moves it afterwards: a set made for a
    # test-time step, or another network, that the attacker does not see takes every step, as the paper's does.
    if method.params.get("rule") == "any-iterate":
        return method.model_copy(update={"params": {**method.params, "rule": "last-iterate"}})
    return method
