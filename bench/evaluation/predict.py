"""Predictions of a deployed defense: logits, labels and margins, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.evaluation.defense import DeployedDefense
from bench.evaluation.goals import unbroken
from bench.evaluation.target import Meter, parts, set_oracle_labels
from bench.keys import DRAWS, derive_seed
from bench.models.logits import judged, precise
from bench.process.isolation import frozen, isolated
from bench.types import MethodError


class Answer(NamedTuple):
    """What a deployed function answers, in D draws of N images: labels (D, N), and margins (D, N).

    A margin is the true logit minus the largest other, and the label the true one only where that is above zero; where
    an image has a goal, it is the largest logit but that of the goal minus that one. ``unbroken`` (D, N) says where an
    attack has not succeeded: the answer is right or, where there is a goal, not the goal.
    Passes of the base classifier are per image and draw.
    """

    labels: Tensor
    margins: Tensor
    unbroken: Tensor
    forwards: float
    backwards: float


def ask(
    step: DeployedDefense,
    function: nn.Module,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    seed: tuple[str | int, ...],
    why: str,
    around: AbstractContextManager[object] | None = None,
) -> Tensor:
    """Return the logits of a batch: of ``step.deployed`` or ``step.surrogate``, without gradients.

    Args:
        step: the instance.
        function: the one of the two to call.
        base: the classifier inside.
        x: images (N, C, H, W) in [0, 1], on the device.
        y: labels (N,).
        images: identities (N,).
        seed: the parts of the seed of a random function.
        why: names, with ``seed``, the state of the global generators, from which no step may draw.
        around: entered for the call itself, to measure it.
    """
    run, copy = isolated(step.name, seed=derive_seed(*seed, why)), x.clone()
    with run, frozen(base, strict=True), torch.no_grad():
        step.seed(*seed, images=images)
        set_oracle_labels(function, y)
        with around or nullcontext():
            logits = function(copy)
        return precise(logits, x, "the deployed function")


def predict(
    step: DeployedDefense,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int,
    *,
    seed: tuple[str | int, ...],
    check: Callable[[], None] | None = None,
    goals: Tensor | None = None,
) -> Answer:
    """Return what the deployed function answers to images (N, C, H, W) with labels (N,), on its device.

    A random one is called :data:`bench.keys.DRAWS` times, each time with its own seed derived from ``seed``. ``goals``
    (N,) are the classes that an attack was to reach (:func:`bench.evaluation.goals.goals_of`).

    Raises:
        MethodError: a logit that is not finite, or not one row for each image; or the function changed the network.
    """
    draws = 1 if step.draws is None else DRAWS
    labels: list[Tensor] = []
    margins: list[Tensor] = []
    run = isolated(step.name, seed=derive_seed(*seed, "libraries"))
    with run, frozen(base, strict=True), Meter(base, 0, check) as meter, torch.no_grad():
        for draw in range(draws):
            for s in parts(len(x), batch):
                step.seed(*seed, draw, images=torch.arange(s.start, s.stop))
                set_oracle_labels(step.deployed, y[s])
                # A copy: what a step does to the images that it is given is not done to those it is given next.
                logits = precise(step.deployed(x[s].clone()), x, "the deployed function")
                if logits.dim() != 2 or len(logits) != len(x[s]):
                    raise MethodError(f"the deployed function returned {tuple(logits.shape)} for {len(x[s])} images")
                if not bool(torch.isfinite(logits).all()):
                    raise MethodError("the deployed function returned a logit that is not finite")
                batch_labels, batch_margins = judged(logits, y[s], None if goals is None else goals[s])
                labels.append(batch_labels)
                margins.append(batch_margins)
        if check is not None:
            check()
    shape = (draws, len(x))
    passes = (meter.forwards / len(x) / draws, meter.backwards / len(x) / draws)
    answered = torch.cat(labels).view(shape)
    return Answer(answered, torch.cat(margins).view(shape), unbroken(answered, y, goals), *passes)
