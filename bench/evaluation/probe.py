"""Is a deployed function one? Asked again, by fresh instances and in other company, it must answer as it did."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.evaluation.defense import DeployedDefense
from bench.evaluation.predict import ask
from bench.evaluation.target import set_oracle_labels
from bench.keys import derive_seed
from bench.models.layout import ROUND_OFF
from bench.models.logits import precise
from bench.process.isolation import frozen, isolated

#: Images that are queried several times.
FEW = 32

# The least share of the images that must show a property for it to be flagged.
_TENTH = 0.1


class ProbeImages:
    """A few images, and what instances of one deployed function answer to them.

    Args:
        base: the classifier, on the device.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        seed: words that name the draws of a random function, which are the same at every call.
    """

    def __init__(self, base: nn.Module, x: Tensor, y: Tensor, *seed: str | int) -> None:
        self._base, self._seed = base, seed
        self._x, self._y = x, y
        self.few = torch.arange(min(FEW, len(x)))

    def answers(self, step: DeployedDefense, rows: Tensor, why: str) -> Tensor:
        """Return the logits (len(rows), classes) of the images in these rows, in one batch.

        Args:
            step: the instance.
            rows: int64 positions, on the CPU.
            why: names the state of the global generators, from which no step may draw.
        """
        there = rows.to(self._x.device)
        return ask(step, step.deployed, self._base, self._x[there], self._y[there], rows, self._seed, why)

    def gradients(self, step: DeployedDefense) -> Tensor | None:
        """Return the gradient of the cross-entropy of what an adaptive attacker sees at all images, if there is any."""
        run = isolated(step.name, seed=derive_seed(*self._seed, "gradient"))
        with run, frozen(self._base, strict=True), torch.enable_grad():
            step.seed(*self._seed, images=torch.arange(len(self._x)))
            set_oracle_labels(step.surrogate, self._y)
            leaf = self._x.clone().requires_grad_()
            loss = F.cross_entropy(precise(step.surrogate(leaf), leaf), self._y, reduction="sum")
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
    one, rows = fresh(), probe.few
    first, again = probe.answers(one, rows, "first"), probe.answers(one, rows, "again")
    other = probe.answers(fresh(), rows, "other")
    if not (torch.equal(first, again) and torch.equal(first, other)):
        flags.add("not-deterministic")
    elif _depends_on_batch(probe, fresh):
        flags.add("batch-dependent")
    if bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-3).all()):
        flags.add("probabilities")
    grad = probe.gradients(fresh())
    if grad is None or float((grad.flatten(1) == 0).all(1).float().mean()) >= _TENTH:
        flags.add("zero-gradient")
    return flags, first


def _depends_on_batch(probe: ProbeImages, fresh: Callable[[], DeployedDefense]) -> bool:
    """Say whether answers depend on the other images of the batch: two cuts of the same length, other neighbours."""
    rows = probe.few[: len(probe.few) // 2 * 2]
    if len(rows) < 4:
        return False
    answers = []
    for cut in (rows.view(2, -1), rows.view(-1, 2).T):
        step = fresh()
        logits = torch.cat([probe.answers(step, half.contiguous(), "company") for half in cut])
        answers.append(logits[cut.reshape(-1).argsort()])
    differ = (answers[0] - answers[1]).abs().amax(1) > ROUND_OFF * answers[0].abs().amax().clamp_min(1e-30)
    return float(differ.float().mean()) >= _TENTH
