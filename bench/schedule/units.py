"""The cost of one image through a network, a test-time step on it, and a training; measured on grey images.

Measuring goes in short steps, so that a caller can spread it over time.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from bench import registry
from bench.evaluation.cost import DeployedCost, PassFlops, deployed_cost, pass_flops, synchronize
from bench.evaluation.craft import attack_group_size
from bench.evaluation.defense import deploy
from bench.evaluation.precision import gains, may_lead
from bench.evaluation.target import Meter, NetworkTarget, Truth, auto_batch, out_of_memory, set_oracle_labels
from bench.keys import canonical_json, models_of
from bench.models.bf16 import LeadingBf16
from bench.models.build import build
from bench.models.layout import fast_layout
from bench.process.ending import Control, Overtime, Piece
from bench.process.isolation import frozen, isolated
from bench.store import cards
from bench.training.loop import train
from bench.types import (
    AttackRef,
    Cell,
    DataRef,
    MethodError,
    MethodRef,
    ModelRef,
    Passes,
    Threat,
    TrainRef,
    UsageError,
    first_line,
    jsonable,
)

T = TypeVar("T")
Shape = tuple[int, int, int]
# A gradient costs about as much as three forward passes.
_GRADIENT = 3.0
#: Seconds that a step of measuring may take when hurried, and after which it is interrupted.
_HURRIED = 0.6
_BREAK = 0.2
#: Additional seconds for an import, which is not interrupted.
_IMPORT = 30.0


class Unit(NamedTuple):
    """One image through a function: FLOPs by convention, seconds forwards, and seconds of a step along its gradient."""

    flops: PassFlops
    forward_seconds: float
    gradient_seconds: float

    def seconds(self, passes: Passes) -> float:
        """Every backward pass has its own forward."""
        alone = max(0.0, passes.forwards - passes.backwards)
        return alone * self.forward_seconds + passes.backwards * self.gradient_seconds


class StepUnit(NamedTuple):
    """One image through a test-time step on a network."""

    deployed: DeployedCost
    surrogate: Unit
    random: bool


class RecipeUnit(NamedTuple):
    """One image in an epoch of a training: passes and seconds."""

    passes: Passes
    seconds: float


class Problem(NamedTuple):
    """Why a cell fails: ``certain`` if a network cannot be built; else a method raised on grey images.

    ``of_attack`` means that the problem is in the attacked classifier, not in the defended one.
    """

    why: str
    certain: bool
    of_attack: bool = False


class Units:
    """Costs of one image, each measured once, however many cells share it.

    Args:
        device: where to measure.
        batch: images at a time; ``None`` for as many as fit.
        patience: seconds for each batch that is timed.
        hurry: ends a step of measuring that takes long; by default none is ended, and trainings are timed too, of
            which otherwise only the passes are counted.
    """

    def __init__(
        self, device: torch.device, batch: int | None, patience: float = 1.0, hurry: Control | None = None
    ) -> None:
        self._device = device
        self._batch = batch
        self._patience = patience
        self._hurry = hurry
        self._texts = _Texts()
        self._nets: dict[str, tuple[nn.Module, Unit] | None] = {}
        #: Of networks that bfloat16 makes faster.
        self._led: dict[str, Unit] = {}
        self._recipes: dict[str, RecipeUnit | None] = {}
        self._steps: dict[str, StepUnit | None] = {}
        self._problems: dict[str, Problem] = {}
        # By identity. The parts are kept, so that their numbers are not used again.
        self._seen: dict[tuple[int, ...], tuple[object, ...]] = {}

    def net(self, model: ModelRef, cell: Cell) -> Unit | None:
        """Return the cost of a network; ``None`` if it could not be measured."""
        measured = self._nets.get(self._texts.network(model, cell))
        return None if measured is None else measured[1]

    def led(self, attack: AttackRef, cell: Cell) -> Unit | None:
        """Return the cost of the network that an attack sees, in bfloat16 where that leads it."""
        led = self._led and may_lead(attack) and self._led.get(self._texts.network(attack.model, cell))
        return led or self.net(attack.model, cell)

    def step(self, step: MethodRef, model: ModelRef, cell: Cell) -> StepUnit | None:
        """Return the cost of a test-time step on a network; ``None`` if it could not be measured."""
        return self._steps.get(self._texts.step(step, model, cell))

    def recipe(self, model: ModelRef, cell: Cell) -> RecipeUnit | None:
        """Return the cost of a training; ``None`` if it could not be measured."""
        return self._recipes.get(self._texts.training(model, cell))

    def problem(self, cell: Cell) -> Problem | None:
        """Return the problem found while measuring that will or may make a cell fail; none is found when hurried."""
        attack = cell.attack
        if self._hurry is None and attack is not None and (problem := self._too_few_passes(attack, cell)) is not None:
            return problem
        if not self._problems:
            return None
        sides = [(False, cell.model, cell.step)]
        sides += [] if attack is None else [(True, attack.model, attack.step)]
        for of_attack, model, step in sides:
            names = [self._texts.network(model, cell)]
            names += [self._texts.training(model, cell)] if isinstance(model.weights, TrainRef) else []
            names += [] if step is None else [self._texts.step(step, model, cell)]
            if (problem := next((self._problems[name] for name in names if name in self._problems), None)) is not None:
                return problem._replace(of_attack=of_attack)
        return None

    def _too_few_passes(self, attack: AttackRef, cell: Cell) -> Problem | None:
        """Return that a single evaluation of the attacked defense takes more passes than an image may, if so."""
        if attack.max_passes is None or attack.step is None:
            return None
        if (step := self.step(attack.step, attack.model, cell)) is None:
            return None
        averages = step.random and registry.entry_of(attack.attack).meta.get("averages_draws", True)
        least = math.ceil(sum(step.deployed.passes) * (attack.eot if averages else 1))
        if least <= attack.max_passes:
            return None
        why = f"max_passes = {attack.max_passes}: a single evaluation of {attack.step.name} takes {least} passes"
        return Problem(why, certain=False, of_attack=True)

    def measuring(self, cell: Cell) -> Generator[None]:
        """Measure the unknown unit costs of a cell, a little at each step."""
        attack = cell.attack
        parts = (cell.data, cell.model, cell.step, attack and attack.model, attack and attack.step)
        if (seen := tuple(map(id, parts))) in self._seen:
            return
        self._seen[seen] = parts
        for model in models_of(cell):
            yield from self._measuring_net(model, cell)
            if isinstance(model.weights, TrainRef):
                yield from self._measuring_recipe(model, cell)
        if cell.step is not None:
            yield from self._measuring_step(cell.step, cell.model, cell)
        if attack is not None and attack.step is not None:
            yield from self._measuring_step(attack.step, attack.model, cell)

    def _attempt(
        self, do: Callable[[], T], who: str = "a method", name: str | None = None, *, certain: bool = False
    ) -> T | None:
        """Return what a step of measuring returns, or ``None`` if it fails.

        Args:
            do: the step.
            who: the method whose code it runs, as named to its user.
            name: what fails with it, as one of :class:`_Texts` says it; :meth:`problem` knows it then, unless this is
                hurried, for the cells of a run say it themselves.
            certain: a failure here occurs in every cell, even if memory ran out.
        """
        try:
            # Warnings about grey images do not concern the cells.
            with isolated(who), warnings.catch_warnings(record=True):
                if self._hurry is None:
                    return do()
                piece = Piece("estimate", "estimate", _HURRIED, patience=_BREAK, mercy=_IMPORT)
                return self._hurry.within(piece, do)
        except (Exception, Overtime) as error:
            if self._hurry is None and name is not None and (certain or not out_of_memory(error)):
                self._problems.setdefault(name, Problem(_why(error, who), certain))
        return None

    def built(self, model: ModelRef, cell: Cell) -> nn.Module | None:
        """Return a network as it is before any training, in evaluation mode; ``None`` if it cannot be built."""
        who, name = f"network {model.network.name}", self._texts.network(model, cell)
        return self._attempt(lambda: initial(model, cell, self._device), who, name, certain=True)

    def counted(self, model: ModelRef, cell: Cell) -> RecipeUnit | None:
        """Return the passes of a training, and its seconds on two images in a moment; ``None`` if it fails on them."""
        ref = model.weights
        assert isinstance(ref, TrainRef)
        # A recipe of no epochs is never called.
        name = self._texts.training(model, cell) if ref.schedule.epochs else None
        return self._attempt(
            lambda: epoch(ref, model.network, 2, torch.device("cpu")), f"recipe {ref.recipe.name}", name
        )

    def _measuring_net(self, model: ModelRef, cell: Cell) -> Generator[None]:
        if (name := self._texts.network(model, cell)) in self._nets:
            return
        self._nets[name], shape = None, cell.data.image_shape
        who = f"network {model.network.name}"
        net, grey = self.built(model, cell), torch.full((4, *shape), 0.5, device=self._device)
        yield
        if net is None or (flops := self._attempt(lambda: pass_flops(net, shape), who, name, certain=True)) is None:
            return
        yield
        if model.network.kind == "score-network":
            # It has no logits to attack, and computes in the usual layout.
            one = self._attempt(partial(_forward, net, net, shape, self._device))
            self._nets[name] = None if one is None else (net, Unit(flops, one, _GRADIENT * one))
            return
        fast = self._attempt(lambda: fast_layout(net, grey).net) or net
        yield
        if (unit := (yield from self._timing(fast, flops, shape))) is None:
            return
        self._nets[name] = fast, unit
        if self._attempt(lambda: gains(fast, shape, self._device)):
            led = self._attempt(lambda: LeadingBf16(fast, shape).eval())
            yield
            if led is not None and (in_bf16 := (yield from self._timing(led, flops, shape))) is not None:
                self._led[name] = in_bf16

    def _measuring_step(self, step: MethodRef, model: ModelRef, cell: Cell) -> Generator[None]:
        known = self._nets.get(self._texts.network(model, cell))
        if (name := self._texts.step(step, model, cell)) in self._steps or known is None:
            return
        self._steps[name] = None
        (net, unit), shape = known, cell.data.image_shape
        noise = torch.randint(0, 256, (256, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        who = f"test-time step {step.name}"
        score = None if step.score is None else self._nets.get(self._texts.network(step.score, cell))
        if step.score is not None and score is None:
            return
        defense = self._attempt(lambda: deploy(net, step, lambda: noise, score and score[0]), who, name)
        yield
        if defense is None:
            return
        surrogate = yield from self._timing(defense.surrogate, unit.flops, shape, net)
        images = 8 if self._hurry is None else 2
        inside = score and score[0]
        deployed = self._attempt(lambda: deployed_cost(net, defense.deployed, shape, images, inside), who, name)
        yield
        if surrogate is not None and deployed is not None:
            if score is not None:
                surrogate = surrogate._replace(flops=deployed.with_score(unit.flops, score[1].flops))
            self._steps[name] = StepUnit(deployed, surrogate, defense.draws is not None)

    def _measuring_recipe(self, model: ModelRef, cell: Cell) -> Generator[None]:
        ref, unit = model.weights, self.net(model, cell)
        assert isinstance(ref, TrainRef)
        if (name := self._texts.training(model, cell)) in self._recipes or unit is None:
            return
        self._recipes[name] = None
        network, cpu = model.network, torch.device("cpu")
        if self._hurry is not None:
            # Most recipes take the same passes through any network.
            small = {"channels": 4, "hidden": 16}
            counted = self._attempt(lambda: epoch(ref, registry.find("network", "small-cnn").ref(small), 2, cpu))
            yield
            if counted is None:
                counted = self._attempt(lambda: epoch(ref, network, 2, cpu))
                yield
            if counted is not None:
                self._recipes[name] = RecipeUnit(counted.passes, unit.seconds(counted.passes))
            return
        if (counted := self.counted(model, cell)) is None:
            return
        yield
        fit = int(self._patience / max(unit.seconds(counted.passes), 1e-9))
        images = max(2, min(ref.schedule.batch, ref.data.n, fit))
        timed = self._attempt(lambda: epoch(ref, network, images, self._device))
        yield
        if timed is not None:
            self._recipes[name] = RecipeUnit(counted.passes, timed.seconds)

    def _timing(
        self, function: nn.Module, flops: PassFlops, shape: Shape, net: nn.Module | None = None
    ) -> Generator[None, None, Unit | None]:
        """Time a function, and a step of PGD through it, on a batch of grey images, or on fewer if those take long.

        Args:
            function: the function to time.
            flops: of a pass.
            shape: of an image.
            net: the network inside, which is kept frozen; the function itself by default.
        """
        base = function if net is None else net
        one = None
        # The first of each warms up.
        for _ in range(2):
            one = self._attempt(partial(_forward, base, function, shape, self._device))
            yield
            if one is None:
                return None
        assert one is not None
        once = None
        for _ in range(2):
            once = self._attempt(partial(_both, base, function, shape, self._device, 2))
            yield
            if once is None:
                return None if self._hurry is None else Unit(flops, one, _GRADIENT * one)
        assert once is not None
        most = min(self._batch or auto_batch(shape, self._device), attack_group_size(shape, self._device))
        count = self._fitting(once, most)
        measured: list[tuple[float, float]] = []
        for _ in range(5 if self._hurry is None else 3):
            timed = self._attempt(partial(_both, base, function, shape, self._device, count))
            yield
            if timed is None:
                break
            once = timed
            if net is not None and self._fitting(once, most) >= 2 * count:
                # A step of many small operations takes far less time for each image of a larger batch.
                count = self._fitting(once, most)
                measured.clear()
            else:
                measured.append(timed)
        return Unit(flops, *(statistics.median(column) for column in zip(*(measured or [once]), strict=True)))

    def _fitting(self, once: tuple[float, float], most: int) -> int:
        """Return how many images to time at once, from the seconds that one takes."""
        return max(2, min(most, int(self._patience / max(sum(once), 1e-9))))


def _why(error: BaseException, who: str) -> str:
    """Return in one line why measuring failed."""
    message = first_line(error) or "it says no more"
    if isinstance(error, UsageError):
        return message
    kind = "" if isinstance(error, MethodError) else f"{type(error).__name__}: "
    return f"{who} fails on grey images: {kind}{message}"


def initial(model: ModelRef, cell: Cell, device: torch.device) -> nn.Module:
    """Return a network as it is before any training, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        return build(model.network, cell.data.num_classes, cell.data.image_shape).to(device).eval()


def epoch(ref: TrainRef, network: MethodRef, images: int, device: torch.device) -> RecipeUnit:
    """Return what an image costs in the second epoch of one batch; the first warms up."""
    schedule = ref.schedule.model_copy(update={"epochs": 2, "batch": images, "holdout": 0, "compile": False})
    grey = np.full((images, *ref.data.image_shape), 128, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        train(
            ref.model_copy(update={"schedule": schedule, "data": ref.data.model_copy(update={"n": images})}),
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
    return RecipeUnit(Passes(*card["passes_per_example"]), card["log"][1]["seconds"] / images)


class _Texts:
    """What parts of cells say, as one text: written once for each object, of which the cells of a plan share most."""

    def __init__(self) -> None:
        # By identity. The parts are kept, so that their numbers are not used again.
        self._known: dict[tuple[object, ...], tuple[tuple[BaseModel, ...], str]] = {}

    def network(self, model: ModelRef, cell: Cell) -> str:
        return self._written(_network, model.network, cell.data)

    def step(self, step: MethodRef, model: ModelRef, cell: Cell) -> str:
        return self.network(model, cell) + self._written(MethodRef.model_dump_json, step)

    def training(self, model: ModelRef, cell: Cell) -> str:
        return self._written(_training, model, cell.data)

    def _written(self, write: Callable[..., str], *parts: BaseModel) -> str:
        identity = (write, *map(id, parts))
        if identity not in self._known:
            self._known[identity] = parts, write(*parts)
        return self._known[identity][1]


def _network(network: MethodRef, data: DataRef) -> str:
    return f"{network.model_dump_json()}{data.image_shape}{data.num_classes}"


def _training(model: ModelRef, data: DataRef) -> str:
    ref = model.weights
    assert isinstance(ref, TrainRef)
    schedule = ref.schedule.model_dump(exclude={"epochs"})
    return canonical_json([_network(model.network, data), jsonable(ref.recipe), schedule, ref.data.image_shape])


def _forward(base: nn.Module, function: nn.Module, shape: Shape, device: torch.device) -> float:
    """Return the seconds of one image forwards."""
    x = torch.full((1, *shape), 0.5, device=device)
    set_oracle_labels(function, torch.zeros(1, dtype=torch.int64, device=device))
    with frozen(base), torch.no_grad():
        synchronize(device)
        started = time.perf_counter()
        function(x)
        synchronize(device)
        return time.perf_counter() - started


def _both(base: nn.Module, function: nn.Module, shape: Shape, device: torch.device, count: int) -> tuple[float, float]:
    """Return the seconds of an image forwards, and of a step of PGD."""
    pgd, steps = registry.find("attack", "pgd").load(), 2
    x = torch.full((count, *shape), 0.5, device=device)
    y = torch.zeros(count, dtype=torch.int64, device=device)
    set_oracle_labels(function, y)
    with frozen(base):
        synchronize(device)
        started = time.perf_counter()
        with torch.no_grad():
            classes = function(x).shape[1]
        synchronize(device)
        forward = time.perf_counter()
        with frozen(function), Meter(function, count) as meter:
            names = torch.arange(count, device=device)
            leading = function if isinstance(function, LeadingBf16) else None
            given: dict[str, Any] = {"truth": Truth(x, y), "leading": leading, "decides": False}
            target = NetworkTarget(function, meter, names, seed=0, num_classes=classes, batch=count, **given)
            pgd(target, x, y, Threat(), steps=steps, rule="last-iterate")
        synchronize(device)
        return (forward - started) / count, (time.perf_counter() - forward) / steps / count
