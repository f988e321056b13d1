"""Is a deployed function one? Asked again, by fresh instances and in other company, it must answer as it did.

The same calls show what it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.evaluation.cost import DeployedCost, synchronize
from bench.evaluation.defense import DeployedDefense
from bench.evaluation.predict import ask
from bench.evaluation.target import Meter, set_oracle_labels
from bench.keys import derive_seed
from bench.models.layout import ROUND_OFF
from bench.models.logits import precise
from bench.process.isolation import frozen, isolated
from bench.types import Passes

#: Images that are queried several times; as many more are their company.
FEW = 32

# The least share of the images that must show a property for it to be flagged.
_TENTH = 0.1


class ProbeImages:
    """A few images, what instances of one deployed function answer to them, and what a call costs.

    Args:
        base: the classifier, on the device.
        x: images (N, C, H, W) in [0, 1]; at most half of them are in one batch.
        y: labels (N,).
        seed: words that name the draws of a random function, which are the same at every call.
        score: the network that predicts noise inside, if there is one.
    """

    def __init__(self, base: nn.Module, x: Tensor, y: Tensor, *seed: str | int, score: nn.Module | None = None) -> None:
        self._base, self._seed = base, seed
        self._x, self._y = x, y
        self._score = score
        self._calls: list[DeployedCost] = []
        self.few = torch.arange(max(1, min(FEW, len(x) // 2)))

    def answers(self, step: DeployedDefense, rows: Tensor, why: str) -> Tensor:
        """Return the logits (len(rows), classes) of the images in these rows, in one batch.

        Args:
            step: the instance.
            rows: int64 positions, on the CPU.
            why: names the state of the global generators, from which no step may draw.
        """
        there = rows.to(self._x.device)
        asked = (self._x[there], self._y[there], rows, self._seed, why)
        return ask(step, step.deployed, self._base, *asked, around=self._measured(len(rows)))

    @contextmanager
    def _measured(self, images: int) -> Iterator[None]:
        with Meter(self._base) as meter, nullcontext() if self._score is None else Meter(self._score) as of_score:
            synchronize(self._x.device)
            started = time.perf_counter()
            yield
            synchronize(self._x.device)
            seconds = time.perf_counter() - started
        passes = Passes(meter.forwards / images, meter.backwards / images)
        score_forwards = 0.0 if of_score is None else of_score.forwards / images
        self._calls.append(DeployedCost(passes, seconds / images, score_forwards))

    def cost(self) -> DeployedCost:
        """Return what an image cost: passes in the first call, and the seconds in the fastest of all.

        Raises:
            ValueError: nothing was asked yet.
        """
        return self._calls[0]._replace(seconds=min(call.seconds for call in self._calls))

    def share_without_gradient(self, step: DeployedDefense) -> float:
        """Return at what share of the images the cross-entropy of what an adaptive attacker sees has no gradient.

        Where it has one at all of the few, the others are not asked.
        """
        lacking: list[Tensor] = []
        for rows in torch.split(torch.arange(len(self._x)), len(self.few)):
            grad = self._gradient(step, rows)
            lacking.append(torch.ones(len(rows)) if grad is None else (grad.flatten(1) == 0).all(1).float().cpu())
            if not lacking[0].any():
                break
        return float(torch.cat(lacking).mean())

    def _gradient(self, step: DeployedDefense, rows: Tensor) -> Tensor | None:
        x, y = (each[rows.to(each.device)] for each in (self._x, self._y))
        run = isolated(step.name, seed=derive_seed(*self._seed, "gradient"))
        with run, frozen(self._base, strict=True), torch.enable_grad():
            step.seed(*self._seed, images=rows)
            set_oracle_labels(step.surrogate, y)
            leaf = x.requires_grad_()
            loss = F.cross_entropy(precise(step.surrogate(leaf), leaf), y, reduction="sum")
            return torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None


def function_flags(probe: ProbeImages, fresh: Callable[[], DeployedDefense]) -> tuple[set[str], Tensor]:
    """Return the flags of a deployed function itself, and what a fresh instance answers to the few images.

    ``not-deterministic``: the same instance, or another, gives another answer the second time, with the same draws
    where it is random. ``batch-dependent``: at a tenth of the images or more the answer depends on the other images in
    a batch of the same size. ``probabilities``: it returns a distribution instead of logits, which flattens the losses
    that attacks maximise. ``zero-gradient``: at a tenth of the images or more the cross-entropy has no gradient at all,
    so gradient attacks do not move them.

    Args:
        probe: the images.
        fresh: makes an instance that has seen no image.
    """
    flags = set()
    one, other = fresh(), fresh()
    rows = probe.few
    first, again = probe.answers(one, rows, "first"), probe.answers(one, rows, "again")
    same = torch.equal(first, again)
    # A network alone is the same object each time.
    if same and other.deployed is not one.deployed:
        same = torch.equal(first, probe.answers(other, rows, "other"))
    if not same:
        flags.add("not-deterministic")
    elif _depends_on_batch(probe, first, fresh()):
        flags.add("batch-dependent")
    if bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-3).all()):
        flags.add("probabilities")
    if probe.share_without_gradient(fresh()) >= _TENTH:
        flags.add("zero-gradient")
    return flags, first


def _depends_on_batch(probe: ProbeImages, first: Tensor, step: DeployedDefense) -> bool:
    """Say whether answers depend on the other images: two batches as long as the first, with other neighbours."""
    if len(first) < 2:
        return False
    cut = torch.arange(2 * len(first)).view(-1, 2).T
    logits = torch.cat([probe.answers(step, half.contiguous(), "company") for half in cut])
    answers = logits[cut.reshape(-1).argsort()][: len(first)]
    differ = (answers - first).abs().amax(1) > ROUND_OFF * first.abs().amax().clamp_min(1e-30)
    return float(differ.float().mean()) >= _TENTH
