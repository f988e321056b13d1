"""What the batches of an epoch read: their images, crops, seeds and learning rates, drawn once and kept on the device.

A batch finds its own by a counter on the device, so that one recorded graph serves all batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.keys import derive_seed
from bench.training.augment import Batches
from bench.types import Schedule, exact


def batches_per_epoch(rows: int, batch: int) -> int:
    """Return how many batches an epoch of ``rows`` images has.

    A last batch of a single image, of which batch norm has no variance, is part of the one before.
    """
    return max(1, -(-rows // batch) - (rows % batch == 1))


def learning_rate(schedule: Schedule, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of one batch, of ``steps`` in each epoch; both count from zero."""
    if schedule.schedule == "one-cycle":
        batch, batches = epoch * steps + step, schedule.epochs * steps
        cycle = batch * schedule.cycles // batches
        first, next_first = (-(-each * batches // schedule.cycles) for each in (cycle, cycle + 1))
        done = (batch - first + 1) / (next_first - first + 1)
        return schedule.lr * min(2 * done, 2 - 2 * done) * 0.5**cycle
    passed = sum(epoch >= exact(drop) * schedule.epochs for drop in schedule.drops)
    return schedule.lr * schedule.drop_factor**passed


class EpochTables:
    """The tables of one epoch after another, in tensors that stay where they are.

    Every value is what the batch would draw by itself, derived from seed, epoch and batch.

    Args:
        schedule: of the training.
        seed: of the training.
        rows: the positions of the images to train on, int64, on the CPU, in order.
        batches: makes the images.
        device: of the tables.
    """

    def __init__(self, schedule: Schedule, seed: int, rows: Tensor, batches: Batches, device: torch.device) -> None:
        self.steps = batches_per_epoch(len(rows), schedule.batch)
        #: The batch that comes next, (1,); batches advance it themselves.
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._schedule, self._seed = schedule, seed
        self._rows, self._batches = rows, batches
        self._epoch, self._device = 0, device
        #: Batches of earlier epochs, (1,).
        self._before = torch.zeros_like(self.counter)
        # A GPU's optimiser reads its rate in float32, a CPU's as Python has it.
        precision = torch.float32 if device.type == "cuda" else torch.float64
        self._rates = torch.zeros(self.steps, dtype=precision, device=device)
        self._order = torch.zeros(len(rows), dtype=torch.int64, device=device)
        self._crops = torch.zeros(len(batches.crops(0, 0)), len(rows), dtype=torch.int64, device=device)
        self._positions = torch.arange(max(map(self.size, range(self.steps))), device=device)
        #: For each draw of a batch, the seeds of that draw in all batches.
        self._seeds: list[Tensor] = []

    def size(self, step: int) -> int:
        """Return how many images a batch has; all but the last have the same."""
        batch = self._schedule.batch
        return len(self._rows) - batch * (self.steps - 1) if step == self.steps - 1 else batch

    def begin(self, epoch: int, step: int) -> None:
        """Fill the tables for an epoch, of which ``step`` batches are done; both count from zero."""
        self._epoch = epoch
        generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch, "order"))
        self._order.copy_(self._rows[torch.randperm(len(self._rows), generator=generator)])
        if len(self._crops):
            crops = (self._batches.crops(self.size(i), self._seed_of(i, "augment")) for i in range(self.steps))
            self._crops.copy_(torch.cat(list(crops), 1))
        rates = [learning_rate(self._schedule, epoch, i, self.steps) for i in range(self.steps)]
        self._rates.copy_(torch.tensor(rates, dtype=torch.float64))
        for call, seeds in enumerate(self._seeds, 1):
            seeds.copy_(self._seeds_of(call))
        self._before.fill_(epoch * self.steps)
        self.counter.fill_(step)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return positions (size,) and images (size, C, H, W) of the batch that the counter names."""
        at = self.counter * self._schedule.batch + self._positions[:size]
        rows = self._order[at]
        return rows, self._batches(rows, self._crops[:, at])

    def rate(self) -> Tensor:
        """Return the learning rate of the batch that the counter names, a scalar."""
        return self._rates[self.counter][0]

    def progress(self) -> Tensor:
        """Return the share of all batches that come before the one that the counter names, a float64 scalar."""
        return ((self._before + self.counter).double() / (self._schedule.epochs * self.steps))[0]

    def seed(self, call: int) -> Tensor:
        """Return the seed of a draw of the batch that the counter names, an int64 scalar; draws count from one."""
        while len(self._seeds) < call:
            self._seeds.append(self._seeds_of(len(self._seeds) + 1).to(self._device))
        return self._seeds[call - 1][self.counter][0]

    def global_seed(self, step: int) -> int:
        """Return the seed of the global generators for a batch of this epoch."""
        return self._seed_of(step, "global")

    def _seed_of(self, step: int, *purpose: str | int) -> int:
        return derive_seed(self._seed, self._epoch, step, *purpose)

    def _seeds_of(self, call: int) -> Tensor:
        return torch.tensor([self._seed_of(i, "draws", call) for i in range(self.steps)])
