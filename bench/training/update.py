"""The optimiser step as a function of tensors that stay where they are, so that a GPU can replay it as one graph.

On every device it is the same function: what a batch needs comes from :class:`bench.training.epoch.EpochTables`, what
it changes are the tensors of :meth:`Updates.state`, and it reads nothing back.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.models.bf16 import Bf16
from bench.process.capture import WARM_UP, Captured, differing
from bench.process.isolation import seed_generators
from bench.training.epoch import EpochTables
from bench.training.precision import Precision, in_precision
from bench.training.step import RecipeStep
from bench.types import MethodError, TrainRef

_log = logging.getLogger("crossfire")
#: Batches run both ways before a captured step is trusted, and the fewest full batches of an epoch that is captured.
CHECKED = 4
FEWEST = WARM_UP + CHECKED
#: By how much the change of the weights over those batches may differ, relative to its norm.
_CHANGE = 2.0**-4
# Less than any number of images; more right answers keep it below zero.
_NOT_COUNTED = -(2**40)


class Passes(NamedTuple):
    """Images that the network sees forwards and backwards."""

    forwards: int
    backwards: int


class Updates:
    """The optimiser steps of one training.

    Args:
        ref: recipe, schedule and seed.
        net: the network, in training mode, with its first weights.
        precision: how its batches compute.
        tables: what batches read.
        labels: int64 (N,) of all images, on the device.
    """

    def __init__(
        self, ref: TrainRef, net: nn.Module, precision: Precision, tables: EpochTables, labels: Tensor
    ) -> None:
        plan, device = ref.schedule, labels.device
        entry = registry.entry_of(ref.recipe)
        self._name, self._recipe = ref.recipe.name, entry.load()
        self._arguments = entry.arguments(ref.recipe.params)
        self._schedule, self._precision = plan, precision
        self._tables, self._labels = tables, labels
        self._device = device
        self.net = net
        self.average = copy.deepcopy(net).requires_grad_(False) if plan.ema else None
        self._run = in_precision(net, precision, ref.data.image_shape, device)
        self.step_of = RecipeStep(self._run, ref.data.num_classes)
        # As a tensor, which a recorded graph reads anew; a CPU's has the precision of a number.
        self._rate = torch.zeros((), dtype=tables.rate().dtype, device=device)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.SGD(
            trained, lr=self._rate, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
        )
        if plan.momentum:
            # Zeros give the first step that they are made in otherwise, and have a place before it.
            for parameter in trained:
                self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.losses = torch.zeros(tables.steps, device=device)
        #: Images answered right in this epoch; below zero if the recipe's logits are not those of the batch alone.
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self._whole = Captured(lambda: self._update(plan.batch), device)
        self._prepared, self._passes = False, Passes(0, 0)
        full = sum(tables.size(i) == plan.batch for i in range(tables.steps))
        if self._whole.why is None and full < FEWEST:
            self._whole.abandon(f"an epoch has fewer than {FEWEST} batches of the same size")

    @property
    def captured(self) -> bool:
        """Whether full batches are replays of a graph."""
        return self._whole.captured

    @property
    def why(self) -> str | None:
        """Why they are not."""
        return self._whole.why

    def momentum(self) -> dict[str, Tensor]:
        """Return the momentum of each trained parameter, by name and by reference."""
        state = self._optimizer.state
        named = self.net.named_parameters()
        return {
            name: state[each]["momentum_buffer"] for name, each in named if "momentum_buffer" in state.get(each, {})
        }

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes and a later one reads, by reference."""
        average = {} if self.average is None else self.average.state_dict()
        groups = {"net": self.net.state_dict(), "average": average, "momentum": self.momentum()}
        named = {"epoch.losses": self.losses, "epoch.right": self.right}
        for group, values in groups.items():
            named |= {f"{group}.{name}": value for name, value in values.items()}
        return named

    def begin(self, epoch: int, step: int) -> None:
        """Make ready for the batches of an epoch from ``step`` on; both count from zero."""
        self._tables.begin(epoch, step)

    def forget(self) -> None:
        """Set what is counted in an epoch to zero."""
        self.losses.zero_()
        self.right.zero_()
        self.step_of.meter.forwards = self.step_of.meter.backwards = 0

    def __call__(self, step: int) -> None:
        """Do the next step, which is number ``step`` of its epoch; a device is not waited for.

        Raises:
            MethodError: the recipe breaks its contract.
        """
        size = self._tables.size(step)
        if size == self._schedule.batch and not self._prepared:
            self._prepare()
        # Networks with dropout, and libraries, draw from the global generators; a resumed run must find them the same.
        seed_generators(self._tables.global_seed(step))
        if size != self._schedule.batch:
            self._update(size)
        elif self.captured:
            self._whole()
            self._count(self._passes)
        else:
            self._whole.eager()

    def _update(self, size: int) -> tuple[Tensor, ...]:
        tables, plan = self._tables, self._schedule
        if isinstance(self._run, Bf16):
            self._run.cast()
        rows, x = tables.batch(size)
        if self._precision.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        y = self._labels[rows]
        self.step_of.begin(rows, tables.seed, tables.progress())
        loss = self._recipe(self.step_of, x, y, **self._arguments)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            raise MethodError(f"recipe {self._name} returned no scalar loss that can be differentiated")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._rate.copy_(tables.rate())
        self._optimizer.step()
        if self.average is not None:
            average_into(self.average, self.net, plan.ema)
        self.losses.index_copy_(0, tables.counter, loss.detach().to(self.losses).view(1))
        if self.step_of.logits is not None and len(self.step_of.logits) == len(y):
            self.right += (self.step_of.logits.argmax(1) == y).sum()
        else:
            self.right.fill_(_NOT_COUNTED)
        tables.counter += 1
        return ()

    def _count(self, passes: Passes) -> None:
        meter = self.step_of.meter
        meter.forwards += passes.forwards
        meter.backwards += passes.backwards

    # Capturing.

    def _prepare(self) -> None:
        """Capture the step, if the device can; nothing that lasts is changed."""
        self._prepared = True
        if self.why is None:
            meter, before = self.step_of.meter, self._snapshot()
            counted = Passes(meter.forwards, meter.backwards)
            # The tables have a column for each draw that the recipe makes, known after one step.
            self._from_first(before, 1, self._whole.eager)
            self._passes = Passes(meter.forwards - counted.forwards, meter.backwards - counted.backwards)
            self._restore(before, counter=0)
            self._whole.prepare()
            if self.captured and (why := self._unlike_eager(before)) is not None:
                self._whole.abandon(why)
            self._restore(before)
            meter.forwards, meter.backwards = counted
        if self.why is not None and self._device.type == "cuda":
            _log.warning("training by %s runs kernel by kernel, which is slower: %s", self._name, self.why)

    def _unlike_eager(self, before: list[Tensor]) -> str | None:
        """Return in words how a few replayed batches differ from the same ones run as they are, if they do."""
        losses, weights = self._after(before, self._whole.eager)
        replayed, replayed_weights = self._after(before, self._whole)
        if differing([losses], [replayed]) is not None:
            return "its losses differ when replayed: a recipe must not keep state or draw numbers in Python"
        start = torch.cat([value.double().flatten() for value in self._parameters_of(before)])
        if not (replayed_weights - weights).norm() <= _CHANGE * (weights - start).norm():
            return "its weights differ when replayed: a recipe must not keep state or draw numbers in Python"
        return None

    def _after(self, before: list[Tensor], run: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """Return the losses of a few batches from a snapshot on, and all weights after them."""
        self._from_first(before, CHECKED, run)
        weights = [value.detach().double().flatten() for value in self.net.parameters()]
        return self.losses[:CHECKED].clone(), torch.cat(weights)

    def _from_first(self, before: list[Tensor], batches: int, run: Callable[[], object]) -> None:
        self._restore(before, counter=0)
        for step in range(batches):
            seed_generators(self._tables.global_seed(step))
            run()

    def _places(self) -> list[Tensor]:
        return [self._tables.counter, *self.net.parameters(), *self.net.buffers(), *self.state().values()]

    def _parameters_of(self, snapshot: list[Tensor]) -> list[Tensor]:
        return snapshot[1 : 1 + sum(1 for _ in self.net.parameters())]

    def _snapshot(self) -> list[Tensor]:
        return [value.detach().clone() for value in self._places()]

    @torch.no_grad()
    def _restore(self, before: list[Tensor], counter: int | None = None) -> None:
        for place, value in zip(self._places(), before, strict=True):
            place.copy_(value)
        if counter is not None:
            self._tables.counter.fill_(counter)


@torch.no_grad()
def average_into(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move a network of averages towards the weights of ``net``, by ``1 - decay`` of the way; counts are copied."""
    for kept, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
