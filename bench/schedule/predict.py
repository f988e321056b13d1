"""What a plan will cost, from passes measured once and the passes that its methods state; nothing is trained."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bench import cards, files, inventory, registry
from bench.cost import DeployedCost, PassFlops, deployed_cost, parameters, pass_flops, synchronize
from bench.evaluate import CHUNK, DRAWS, put_on, together
from bench.isolation import frozen, isolated
from bench.keys import Keys, canonical_json, training_key
from bench.layout import fast_layout
from bench.models.build import build
from bench.overfitting import WATCH
from bench.schedule.formula import passes_of
from bench.schedule.plan import Work
from bench.store import Store
from bench.target import Meter, NetworkTarget, Truth, auto_batch, tell
from bench.train import train, watched_images
from bench.types import AttackRef, Cell, MethodRef, ModelRef, Passes, Threat, TrainRef, jsonable


class Piece(NamedTuple):
    """One node of the graph: what it is, whether it is done, its TFLOP and seconds (``None`` where not known).

    ``between`` has the seconds if all images break early and if none does, of an attack that leaves broken ones alone.
    """

    key: str
    what: str
    done: bool
    tflop: float | None
    seconds: float | None
    between: tuple[float, float] | None = None


class RecipeCost(NamedTuple):
    """One row of the cost table: a recipe on a network, per epoch and per test pass."""

    model: str
    recipe: str
    params: int
    train_tflop_per_epoch: float
    test_tflop: float
    test_images: int


class _Unit(NamedTuple):
    """One image through a function: FLOPs by convention, seconds forwards, and seconds of a step along its gradient."""

    flops: PassFlops
    forward_seconds: float
    gradient_seconds: float

    def seconds(self, passes: Passes) -> float:
        """Every backward pass has its own forward."""
        alone = max(0.0, passes.forwards - passes.backwards)
        return alone * self.forward_seconds + passes.backwards * self.gradient_seconds


class _Step(NamedTuple):
    """A test-time step on a network."""

    deployed: DeployedCost
    surrogate: _Unit
    random: bool


# The share of its passes that an image takes which breaks early, and one whose search stalls.
_BROKEN_TAKE = 0.15
_STALLED_TAKE = 0.5

# The share of images that are right clean, until it is measured.
_RIGHT = 0.9

# The share of right images that survive on a network trained against an adversary, and through a test-time step on one.
_SURVIVE = 0.5
_SURVIVE_ADAPTIVE = 0.3


def costs(work: Work, device: torch.device) -> list[RecipeCost]:
    """Return the cost of every recipe and network in a plan, by the convention of :mod:`bench.cost`."""
    rows: dict[str, RecipeCost] = {}
    for planned in work.plan.cells:
        model, data = planned.cell.model, planned.cell.data
        key = training_key(model)
        if key in rows or not isinstance(model.weights, TrainRef):
            continue
        net = _initial(model, planned.cell, device)
        flops = pass_flops(net, data.image_shape)
        passes, _ = _epoch(model.weights, model.network, 2, torch.device("cpu"))
        rows[key] = RecipeCost(
            planned.names.model,
            model.weights.recipe.name,
            parameters(net),
            flops.of(*passes) * model.weights.data.n / 1e12,
            flops.forward * data.n / 1e12,
            data.n,
        )
    return list(rows.values())


def pieces(
    work: Work, store: Store, device: torch.device, batch: int | None = None, *, patience: float = 1.0
) -> list[Piece]:
    """Return what a run would do, node by node, with its predicted cost; what cannot be measured has none.

    A network, a test-time step and a recipe are each measured once, on grey images, for about ``patience`` seconds. An
    attack that leaves an image alone once it is broken is reckoned to take, of the passes that it states,
    :func:`share_of`, of the images that are right clean: nine in ten until the store knows.
    """
    found: dict[str, Piece] = {}
    measured, keys = _Measured(device, batch, patience), Keys()
    made = set(inventory.keys(store.root / "attack", ""))
    right: dict[tuple[str, str, str], float] = {}
    for planned in work.plan.cells:
        cell, n = planned.cell, planned.cell.data.n
        for model in [cell.model] if cell.attack is None else [cell.model, cell.attack.model]:
            if isinstance(model.weights, TrainRef) and (key := measured.key(model)) not in found:
                done = cards.read(store.training(key), key) is not None
                what = f"train {model.weights.recipe.name} on {planned.names.model}"
                found[key] = Piece(key, what, done, *_or_unknown(measured.training, model, cell))
        result = store.finished(planned)
        finished = result is not None
        defense = planned.names.dataset, planned.names.model, planned.names.defense
        if result is not None and result.metrics is not None:
            right[defense] = result.metrics.clean_accuracy
        if cell.attack is not None and (at := keys.of(cell.attack)) not in found:
            last = f"{(n - 1) // CHUNK * CHUNK:06d}-{n:06d}.safetensors"
            done = finished or (at in made and files.is_regular(store.adversarial(at) / last))
            cost = _or_unknown(measured.attack, cell.attack, cell, right.get(defense, _RIGHT))
            found[at] = Piece(at, f"attack {planned.names}", done, *cost)
        found[planned.key] = Piece(
            planned.key, f"evaluate {planned.names}", finished, *_or_unknown(measured.evaluation, cell)
        )
    return list(found.values())


class Share(NamedTuple):
    """Of the passes that an attack states: what it takes if all images break early, as is reckoned, and if none."""

    least: float
    expected: float
    most: float


def share_of(attack: AttackRef, *, random: bool = False, right: float = 1.0) -> Share:
    """Return the share of its stated passes that an attack is reckoned to take.

    One where it takes every step of every image, as on a ``random`` function. Otherwise images that break spare most of
    theirs, and those that never were ``right`` all. Of the others all are reckoned to break on a plainly trained
    network, half on one trained against an adversary, more through a test-time step on that; as many are reckoned to
    be left for an attack on the survivors of earlier ones. A search that leaves stalled images takes half. What a run
    took is in its log.
    """
    stated = str(registry.entry_of(attack.attack).meta.get("passes"))
    if "stalls" in stated and not attack.after:
        return Share(_STALLED_TAKE, _STALLED_TAKE, _STALLED_TAKE)
    stops = "fewer where images break" in stated or "none once" in stated
    if not attack.after and (random or not stops or attack.attack.params.get("rule") == "last-iterate"):
        return Share(1.0, 1.0, 1.0)
    source = attack.model.weights
    trained = isinstance(source, TrainRef) and "eps" in source.recipe.params
    survive = (_SURVIVE if attack.step is None else _SURVIVE_ADAPTIVE) if trained else 0.0
    return Share(right * _BROKEN_TAKE, right * (survive + (1 - survive) * _BROKEN_TAKE), right)


class _Cost(NamedTuple):
    tflop: float | None
    seconds: float | None
    between: tuple[float, float] | None = None


def _shared(whole: _Cost, share: Share) -> _Cost:
    assert whole.tflop is not None and whole.seconds is not None
    between = (share.least * whole.seconds, share.most * whole.seconds) if share.least < share.most else None
    return _Cost(share.expected * whole.tflop, share.expected * whole.seconds, between)


def _or_unknown(cost: Callable[..., _Cost], *args: object) -> _Cost:
    # A method that fails here will fail in its cell, which says why.
    try:
        with isolated("a method"):
            return cost(*args)
    except Exception:
        return _Cost(None, None)


class _Measured:
    """Costs of one image, measured at the first need: what plans of many cells share is measured once."""

    def __init__(self, device: torch.device, batch: int | None, patience: float) -> None:
        self._patience = patience
        self._device = device
        self._batch = batch
        self._nets: dict[str, tuple[nn.Module, _Unit]] = {}
        self._recipes: dict[str, _Cost] = {}
        self._steps: dict[str, _Step] = {}
        self._keys: dict[int, tuple[ModelRef, str]] = {}

    def key(self, model: ModelRef) -> str:
        if id(model) not in self._keys:
            self._keys[id(model)] = model, training_key(model)
        return self._keys[id(model)][1]

    def training(self, model: ModelRef, cell: Cell) -> _Cost:
        """Return the cost of a training, and of watching it on a few images after each epoch."""
        ref = model.weights
        assert isinstance(ref, TrainRef)
        _, unit = self._net(model, cell)
        schedule = ref.schedule.model_dump(exclude={"epochs"})
        same = canonical_json([self._name(model, cell), jsonable(ref.recipe), schedule, ref.data.image_shape])
        if same not in self._recipes:
            self._recipes[same] = _training(ref, model.network, unit, self._device, self._patience)
        one, rows = self._recipes[same], ref.data.n - ref.schedule.holdout
        watched = 2 * watched_images(rows) + ref.schedule.holdout
        looks = [Passes(2, 0), *(_plus(_entry_passes(name, params), 1) for name, params in WATCH.values())]
        watching = watched * sum(unit.seconds(look) for look in looks)
        assert one.tflop is not None and one.seconds is not None
        epochs = ref.schedule.epochs
        return _Cost(epochs * rows * one.tflop, epochs * (rows * one.seconds + watching))

    def attack(self, attack: AttackRef, cell: Cell, right: float) -> _Cost:
        formula = registry.entry_of(attack.attack).meta.get("passes")
        stated = passes_of(formula, attack.attack.params) if formula else None
        if stated is None:
            return _Cost(None, None)
        _, unit = self._net(attack.model, cell)
        if attack.step is None:
            whole = _Cost(attack.data.n * unit.flops.of(*stated) / 1e12, attack.data.n * unit.seconds(stated))
            return _shared(whole, share_of(attack, right=right))
        step = self._step(attack.step, attack.model, cell)
        averaged = step.random and "one draw" not in str(formula)
        times = attack.data.n * (attack.eot if averaged else 1)
        inside = step.deployed.passes
        passes = Passes(stated.forwards * inside.forwards, stated.forwards * inside.backwards + stated.backwards)
        whole = _Cost(times * unit.flops.of(*passes) / 1e12, times * step.surrogate.seconds(stated))
        return _shared(whole, share_of(attack, random=averaged, right=right))

    def evaluation(self, cell: Cell) -> _Cost:
        _, unit = self._net(cell.model, cell)
        n = cell.data.n
        if cell.step is None:
            return _Cost(n * unit.flops.forward / 1e12, n * unit.forward_seconds)
        step = self._step(cell.step, cell.model, cell)
        times = n * (DRAWS if step.random else 1)
        return _Cost(times * unit.flops.of(*step.deployed.passes) / 1e12, times * step.deployed.seconds)

    def _most(self, shape: tuple[int, int, int]) -> int:
        return min(self._batch or auto_batch(shape, self._device), together(shape, self._device))

    def _name(self, model: ModelRef, cell: Cell) -> str:
        return f"{model.network.model_dump_json()}{cell.data.image_shape}{cell.data.num_classes}"

    def _net(self, model: ModelRef, cell: Cell) -> tuple[nn.Module, _Unit]:
        name = self._name(model, cell)
        if name not in self._nets:
            shape = cell.data.image_shape
            net = _initial(model, cell, self._device)
            flops = pass_flops(net, shape)
            fast = fast_layout(net, torch.full((4, *shape), 0.5, device=self._device)).net
            self._nets[name] = fast, _unit(fast, flops, shape, self._device, self._most(shape), self._patience)
        return self._nets[name]

    def _step(self, step: MethodRef, model: ModelRef, cell: Cell) -> _Step:
        name = self._name(model, cell) + step.model_dump_json()
        if name not in self._steps:
            (net, unit), shape = self._net(model, cell), cell.data.image_shape
            noise = torch.randint(0, 256, (256, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            made = put_on(net, step, lambda: noise)
            with frozen(net):
                surrogate = _unit(made.surrogate, unit.flops, shape, self._device, self._most(shape), self._patience)
            self._steps[name] = _Step(deployed_cost(net, made.deployed, shape, 8), surrogate, made.draws is not None)
        return self._steps[name]


def _training(ref: TrainRef, network: MethodRef, unit: _Unit, device: torch.device, patience: float) -> _Cost:
    """Measure what training costs for an image in an epoch, on as many grey images as a second or two allow."""
    passes, _ = _epoch(ref, network, 2, torch.device("cpu"))
    fit = int(patience / max(unit.seconds(passes), 1e-9))
    _, seconds = _epoch(ref, network, max(2, min(ref.schedule.batch, ref.data.n, fit)), device)
    return _Cost(unit.flops.of(*passes) / 1e12, seconds)


def _epoch(ref: TrainRef, network: MethodRef, images: int, device: torch.device) -> tuple[Passes, float]:
    """Return passes and seconds for an image of the second epoch of one batch; the first warms up."""
    schedule = ref.schedule.model_copy(update={"epochs": 2, "batch": images, "holdout": 0, "compile": False})
    grey = np.full((images, *ref.data.image_shape), 128, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        train(
            ref.model_copy(update={"schedule": schedule}),
            network,
            grey,
            np.arange(images, dtype=np.int64) % ref.data.num_classes,
            Path(folder),
            device=device,
            check=lambda: None,
            on_progress=lambda _: None,
        )
        card = cards.read(Path(folder))
    assert card is not None
    return Passes(*card["passes_per_example"]), card["log"][1]["seconds"] / images


def _plus(passes: Passes, forwards: float) -> Passes:
    return Passes(passes.forwards + forwards, passes.backwards)


def _entry_passes(name: str, params: Mapping[str, Any]) -> Passes:
    entry = registry.find("attack", name)
    found = passes_of(str(entry.meta.get("passes")), entry.arguments(params))
    return found or Passes(0, 0)


def _initial(model: ModelRef, cell: Cell, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build(model.network, cell.data.num_classes, cell.data.image_shape).to(device).eval()


def _unit(
    net: nn.Module, flops: PassFlops, shape: tuple[int, int, int], device: torch.device, images: int, patience: float
) -> _Unit:
    """Time a function, and a step of PGD through it, on a batch of grey images, or on fewer where those take long."""
    pgd, steps = registry.find("attack", "pgd").load(), 2

    def times(count: int) -> tuple[float, float]:
        x = torch.full((count, *shape), 0.5, device=device)
        y = torch.zeros(count, dtype=torch.int64, device=device)
        tell(net, y)
        synchronize(device)
        started = time.perf_counter()
        with torch.no_grad():
            classes = net(x).shape[1]
        synchronize(device)
        forward = time.perf_counter()
        with frozen(net), Meter(net, count) as meter:
            names = torch.arange(count, device=device)
            target = NetworkTarget(net, meter, names, seed=0, num_classes=classes, batch=count, truth=Truth(x, y))
            pgd(target, x, y, Threat(), steps=steps, rule="last-iterate")
        synchronize(device)
        return (forward - started) / count, (time.perf_counter() - forward) / steps / count

    times(2)
    once = times(2)
    count = max(2, min(images, int(patience / max(sum(once), 1e-9))))
    found = [times(count) for _ in range(5)]
    return _Unit(flops, *(statistics.median(column) for column in zip(*found, strict=True)))
