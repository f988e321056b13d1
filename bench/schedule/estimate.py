"""What a plan will cost, from passes measured once and the passes that its methods state; nothing is trained."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Literal, NamedTuple

import torch

from bench import registry
from bench.evaluation.cost import parameters, pass_flops
from bench.evaluation.craft import CHUNK
from bench.evaluation.passes import counted_and_most, passes_of
from bench.keys import DRAWS, Keys, Once, models_of, training_key
from bench.schedule.plan import Work
from bench.schedule.units import Problem, Units
from bench.store import cards, files, inventory
from bench.store.working_store import Store
from bench.training import overfitting
from bench.types import AttackRef, Cell, ModelRef, Passes, PlannedCell, TrainRef


class Node(NamedTuple):
    """One node of the graph with its predicted cost.

    Attributes:
        key: that of the weights, the adversarial set or the cell.
        kind: what is done there.
        method: the recipe that trains, or the attack, by the name that the table gives it.
        subject: the network that is trained, or the cell.
        done: whether it is.
        tflop: ``None`` where it is not known.
        seconds: ``None`` where it is not known.
        between: the seconds if all images break early and if none does, of an attack that stops early.
        passes: of an attack, the passes that an image is counted with, and those that it takes at most, as
            :func:`bench.evaluation.passes.counted_and_most` returns them.
    """

    key: str
    kind: Literal["train", "attack", "evaluate"]
    method: str
    subject: str
    done: bool
    tflop: float | None
    seconds: float | None
    between: tuple[float, float] | None = None
    passes: tuple[float | None, float | None] = (None, None)

    @property
    def what(self) -> str:
        """What it is, for people."""
        return f"train {self.method} on {self.subject}" if self.kind == "train" else f"{self.kind} {self.subject}"


class RecipeCost(NamedTuple):
    """One row of the cost table: a recipe on a network, per epoch and per test pass."""

    model: str
    recipe: str
    params: int
    train_tflop_per_epoch: float
    test_tflop: float
    test_images: int


# The share of its passes that an image takes that breaks early, and one whose search stalls.
_BROKEN_TAKE = 0.15
# The same of a suite of attacks, of which the first breaks most images that break.
_BROKEN_TAKE_OF_SUITE = 0.05
_STALLED_TAKE = 0.5

# The share of images that are right clean, until it is measured.
_RIGHT = 0.9

# The share of right images that survive on a network trained against an adversary, and through a test-time step on one.
_SURVIVE = 0.5
_SURVIVE_ADAPTIVE = 0.3


class Forecast(NamedTuple):
    """What a run would do, and which of its cells will or may fail."""

    nodes: list[Node]
    failing: list[tuple[PlannedCell, Problem]]


def costs(work: Work, device: torch.device) -> tuple[list[RecipeCost], list[tuple[PlannedCell, Problem]]]:
    """Return the cost of every recipe and network in a plan, and what fails.

    FLOPs are counted as in :mod:`bench.evaluation.cost`.
    """
    rows: dict[str, RecipeCost | None] = {}
    units = Units(device, None)
    for planned in work.plan.cells:
        model, data = planned.cell.model, planned.cell.data
        key = training_key(model)
        if key in rows or not isinstance(model.weights, TrainRef):
            continue
        rows[key] = None
        if (net := units.built(model, planned.cell)) is None or (one := units.counted(model, planned.cell)) is None:
            continue
        flops = pass_flops(net, data.image_shape)
        rows[key] = RecipeCost(
            planned.names.model,
            model.weights.recipe.name,
            parameters(net),
            flops.of(*one.passes) * model.weights.data.n / 1e12,
            flops.forward * data.n / 1e12,
            data.n,
        )
    return [row for row in rows.values() if row is not None], _failing(work, units)


def _failing(work: Work, units: Units, done: Collection[str] = ()) -> list[tuple[PlannedCell, Problem]]:
    cells = (planned for planned in work.plan.cells if planned.key not in done)
    return [(planned, problem) for planned in cells if (problem := units.problem(planned.cell)) is not None]


def forecast(work: Work, store: Store, device: torch.device) -> Forecast:
    """Return what a run would do, node by node, with its predicted cost; what cannot be measured has none.

    A network, a test-time step and a recipe are each measured once, on grey images. An attack that leaves an image
    alone once it is broken is assumed to take, of the passes that it states, :func:`share_of`, of the images that are
    right clean: nine in ten until the store knows.
    """
    units = Units(device, None)
    steps = predicting(work, store, units)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            nodes: list[Node] = end.value
            return Forecast(nodes, _failing(work, units, {node.key for node in nodes if node.done}))


def predicting(work: Work, store: Store, units: Units) -> Generator[None, None, list[Node]]:
    """Compute what :func:`forecast` returns in short steps, and return it at the end."""
    nodes: dict[str, Node] = {}
    # Static sets are those of many cells.
    costs, key_of = _Costs(units), Once(Keys().of)
    crafted = set(inventory.keys(store.root / "attack", ""))
    finished_keys = set(inventory.keys(store.root / "cells", ".json"))
    right: dict[tuple[str, str, str], float] = {}
    trainings, needed = set[str](), set[str]()
    for planned in work.plan.cells:
        cell, n = planned.cell, planned.cell.data.n
        yield from units.measuring(cell)
        result = store.finished(planned) if planned.key in finished_keys else None
        finished = result is not None
        for model in models_of(cell):
            if not isinstance(model.weights, TrainRef):
                continue
            if (key := costs.key(model)) not in nodes:
                done = cards.has_weights(store.training(key), key)
                recipe, network = model.weights.recipe.name, planned.names.model
                network = model.network.name if model.network.kind == "score-network" else network
                nodes[key] = Node(key, "train", recipe, network, done, *costs.training(model, cell))
                trainings.add(key)
            if not finished:
                needed.add(key)
        defense = planned.names.dataset, planned.names.model, planned.names.defense
        if result is not None and result.metrics is not None:
            right[defense] = result.metrics.clean_accuracy
        if cell.attack is not None and (at := key_of(cell.attack)) not in nodes:
            last = f"{(n - 1) // CHUNK * CHUNK:06d}-{n:06d}.safetensors"
            done = finished or (at in crafted and files.is_regular(store.adversarial(at) / last))
            cost = costs.attack(cell.attack, cell, right.get(defense, _RIGHT))
            passes = counted_and_most(cell.attack, registry.entry_of(cell.attack.attack).meta)
            nodes[at] = Node(at, "attack", planned.names.attack, str(planned.names), done, *cost, passes)
        cost = costs.evaluation(cell)
        nodes[planned.key] = Node(planned.key, "evaluate", planned.names.attack, str(planned.names), finished, *cost)
        yield
    # The result of a finished cell holds without the weights it was measured on.
    nodes |= {key: nodes[key]._replace(done=True) for key in trainings - needed}
    return list(nodes.values())


class Share(NamedTuple):
    """Shares of an attack's stated passes: taken if all images break early, expected, and taken if none does."""

    least: float
    expected: float
    most: float


def share_of(attack: AttackRef, *, random: bool = False, right: float = 1.0) -> Share:
    """Return the share of its stated passes that an attack is expected to take.

    1 if it takes every step of every image, as on a ``random`` function. Otherwise images that break save most of
    theirs, and images that were never ``right`` save all. Of the others all are assumed to break on a plainly trained
    network, half on one trained against an adversary, more through a test-time step on that; as many are assumed to
    be left for an attack on the survivors of earlier ones. A search that leaves stalled images takes half. What a run
    took is in its log.
    """
    early_exit = registry.entry_of(attack.attack).meta.get("early_exit")
    if early_exit == "stalled" and not attack.after:
        return Share(_STALLED_TAKE, _STALLED_TAKE, _STALLED_TAKE)
    takes_all_steps = random or early_exit is None or attack.attack.params.get("rule") == "last-iterate"
    if takes_all_steps and not attack.after:
        return Share(1.0, 1.0, 1.0)
    source = attack.model.weights
    trained = isinstance(source, TrainRef) and "eps" in source.recipe.params
    survive = 0.0
    if trained:
        survive = _SURVIVE if attack.step is None else _SURVIVE_ADAPTIVE
    broken = _BROKEN_TAKE_OF_SUITE if early_exit == "suite" else _BROKEN_TAKE
    return Share(right * broken, right * (survive + (1 - survive) * broken), right)


class _Cost(NamedTuple):
    tflop: float | None
    seconds: float | None
    between: tuple[float, float] | None = None


_UNKNOWN = _Cost(None, None)


def _shared(full: _Cost, share: Share) -> _Cost:
    assert full.tflop is not None and full.seconds is not None
    between = (share.least * full.seconds, share.most * full.seconds) if share.least < share.most else None
    return _Cost(share.expected * full.tflop, share.expected * full.seconds, between)


def _within(most: int | None, passes: Passes, taken: Passes) -> Passes:
    """Return as many of ``passes`` as a budget leaves, if together with what they entail they are ``taken``."""
    if most is None or sum(taken) <= most:
        return passes
    return Passes(*(each * most / sum(taken) for each in passes))


class _Costs:
    """Costs of the nodes of a plan, from those of one image."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._keys: dict[int, tuple[ModelRef, str]] = {}

    def key(self, model: ModelRef) -> str:
        if id(model) not in self._keys:
            self._keys[id(model)] = model, training_key(model)
        return self._keys[id(model)][1]

    def training(self, model: ModelRef, cell: Cell) -> _Cost:
        """Return the cost of a training, and of measuring it on a few images after some of its epochs."""
        ref = model.weights
        assert isinstance(ref, TrainRef)
        unit, one = self._units.net(model, cell), self._units.recipe(model, cell)
        if unit is None or one is None:
            return _UNKNOWN
        rows, epochs = ref.data.n - ref.schedule.holdout, ref.schedule.epochs
        every = overfitting.measuring_interval(ref.schedule, rows, rows * sum(one.passes))
        watched = 2 * overfitting.watched_images(rows) * overfitting.measurements(epochs, every)
        watched += ref.schedule.holdout * epochs
        if model.network.kind == "score-network":
            watched = 0
        watching = watched * unit.seconds(overfitting.passes_per_image())
        tflop = unit.flops.of(*one.passes) / 1e12
        return _Cost(epochs * rows * tflop, epochs * rows * one.seconds + watching)

    def attack(self, attack: AttackRef, cell: Cell, right: float) -> _Cost:
        meta = registry.entry_of(attack.attack).meta
        stated = passes_of(meta["passes"], attack.attack.params) if meta.get("passes") else None
        if stated is not None and attack.target in ("least-likely", "second"):
            # That class is asked for first.
            stated = stated._replace(forwards=stated.forwards + 1)
        unit = self._units.led(attack, cell)
        if stated is None and attack.max_passes is not None:
            # All that is known of it: it takes no more, and steps along a gradient are how most attacks spend them.
            stated = Passes(attack.max_passes / 2, attack.max_passes / 2)
        if stated is None or unit is None:
            return _UNKNOWN
        if attack.step is None:
            stated = _within(attack.max_passes, stated, stated)
            full = _Cost(attack.data.n * unit.flops.of(*stated) / 1e12, attack.data.n * unit.seconds(stated))
            return _shared(full, share_of(attack, right=right))
        if (step := self._units.step(attack.step, attack.model, cell)) is None:
            return _UNKNOWN
        averaged = step.random and meta.get("averages_draws", True)
        times = attack.eot if averaged else 1
        stated = Passes(times * stated.forwards, times * stated.backwards)
        inside = step.deployed.passes
        passes = Passes(stated.forwards * inside.forwards, stated.forwards * inside.backwards + stated.backwards)
        stated, passes = _within(attack.max_passes, stated, passes), _within(attack.max_passes, passes, passes)
        n = attack.data.n
        full = _Cost(n * step.surrogate.flops.of(*passes) / 1e12, n * step.surrogate.seconds(stated))
        return _shared(full, share_of(attack, random=averaged, right=right))

    def evaluation(self, cell: Cell) -> _Cost:
        unit, n = self._units.net(cell.model, cell), cell.data.n
        if unit is None:
            return _UNKNOWN
        if cell.step is None:
            return _Cost(n * unit.flops.forward / 1e12, n * unit.forward_seconds)
        if (step := self._units.step(cell.step, cell.model, cell)) is None:
            return _UNKNOWN
        times = n * (DRAWS if step.random else 1)
        return _Cost(times * step.surrogate.flops.of(*step.deployed.passes) / 1e12, times * step.deployed.seconds)
