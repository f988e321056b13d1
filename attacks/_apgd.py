"""The climb of Auto-PGD (Croce and Hein, 2020, algorithm 1), and the losses that share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._steps import budget, l2_norm, margin, per_image, project, steepest
from bench.api import Gradient, Target, Threat

RHO = 0.75
MOMENTUM = 0.75

Objective = Callable[[Tensor, Tensor], Tensor]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio of each row, -(z_y - max z_i) / (z_(1) - z_(3)), z_(i) the i-th largest.

    Scaling the logits does not change it. It takes three classes or more.
    """
    ordered = logits.topk(3).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, classes: Tensor) -> Tensor:
    """Return -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) of each row; ``classes`` (N, 2) are y and t."""
    ordered = logits.topk(4).values
    true, aim = logits.gather(1, classes).unbind(1)
    return (aim - true) / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)


class Goal(NamedTuple):
    """What to climb: ``objective(logits, args)``, ``args`` with a row for each image.

    With ``on_base`` it is the sum of that and ``on_base(logits of the base classifier, args)``. With ``tau`` the
    gradient is the second-order one of a purification, its sign smoothed over tau.
    """

    objective: Objective
    args: Tensor
    on_base: Objective | None = None
    tau: float | None = None


def strongest(
    target: Target, x: Tensor, y: Tensor, threat: Threat, goals: Iterable[Goal], steps: int, rows: Tensor | None = None
) -> Tensor:
    """Climb one goal after the other; an image keeps its first success, else the candidate of highest loss.

    Where the function is random one success proves nothing: every image climbs every goal, and keeps the candidate
    with the largest margin over the draws of one more evaluation.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf or L2 with its budget.
        goals: each climbed from a start of its own.
        steps: moves for each goal.
        rows: which images are worth attacking; all by default.
    """
    result, best = x.clone(), x.new_full((len(x),), -torch.inf)
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    for goal in goals:
        if len(rows) == 0:
            break
        view, labels = target.rows(rows), y[rows]
        found, height, fooled = climb(view, x[rows], labels, threat, goal._replace(args=goal.args[rows]), steps)
        if target.stochastic:
            height, fooled = margin(view(found), labels), torch.zeros_like(fooled)
        better = fooled | (height > best[rows])
        result[rows[better]], best[rows[better]] = found[better], height[better]
        rows = rows[~fooled]
    return result


@dataclass
class Climbers:
    """The images still climbing, one row each in every tensor."""

    rows: Tensor
    origin: Tensor
    args: Tensor
    current: Tensor
    previous: Tensor
    grad: Tensor
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    last_loss: Tensor
    checked_loss: Tensor
    halved: Tensor
    rises: Tensor
    size: Tensor

    def drop(self, mask: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[~mask])


def climb(
    target: Target, x: Tensor, y: Tensor, threat: Threat, goal: Goal, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb a goal from a random start with steps that halve where progress stalls.

    Returns:
        Per image: its first misclassified iterate, else the one of highest loss; that loss; whether it is broken.
        It takes ``steps + 1`` forwards and ``steps`` backwards, none after an image is broken. Images of a random
        function are never dropped.
    """
    eps, n = budget(threat), len(x)
    result, loss, fooled = x.clone(), x.new_full((n,), -torch.inf), torch.zeros(n, dtype=torch.bool, device=x.device)
    start, zeros, low = _start(target, x, threat), x.new_zeros(n), x.new_full((n,), -torch.inf)
    rows = torch.arange(n, device=x.device)
    # As in the authors' code: the first loss is compared with zero, and at the first check every image was just halved.
    c = Climbers(rows, x, goal.args, start, start, x, x, x, low, zeros, low, zeros == 0, zeros, zeros + 2 * eps)
    gap, since = max(int(0.22 * steps), 1), 0
    for step in range(steps + 1):
        if len(c.rows) == 0:
            break
        c.grad, logits, value = _look(target.rows(c.rows), c.current, goal, c.args, step < steps)
        better = value > c.best_loss
        c.best, c.best_grad = _where(better, c.current, c.best), _where(better, c.grad, c.best_grad)
        c.best_loss = torch.maximum(value, c.best_loss)
        if step == 0:
            c.checked_loss = value
        else:
            c.rises = c.rises + (value > c.last_loss)
            c.last_loss, since = value, since + 1
        broken = logits.argmax(1) != y[c.rows]
        fooled[c.rows] = broken
        if not target.stochastic and bool(broken.any()):
            result[c.rows[broken]], loss[c.rows[broken]] = c.current[broken], value[broken]
            c.drop(broken)
        if since == gap:
            stalled = (c.rises <= RHO * gap) | (~c.halved & (c.checked_loss >= c.best_loss))
            c.halved, c.checked_loss, c.rises = stalled, c.best_loss, torch.zeros_like(c.rises)
            c.size = torch.where(stalled, c.size / 2, c.size)
            c.current, c.grad = _where(stalled, c.best, c.current), _where(stalled, c.best_grad, c.grad)
            gap, since = max(gap - max(int(0.03 * steps), 1), int(0.06 * steps), 1), 0
        if step < steps:
            c.previous, c.current = c.current, _move(c, threat, MOMENTUM if step else 1.0)
    result[c.rows], loss[c.rows] = c.best, c.best_loss
    return result, loss, fooled


def _look(target: Target, x: Tensor, goal: Goal, args: Tensor, climbing: bool) -> Gradient:
    if not climbing:
        logits = target(x)
        loss = goal.objective(logits, args)
        loss = loss if goal.on_base is None else loss + goal.on_base(target.base(x), args)
        return Gradient(torch.zeros_like(x), logits, loss)
    differentiable = target if goal.tau is None else target.smooth(goal.tau)
    found = differentiable.gradient(x, goal.objective, args)
    if goal.on_base is None:
        return found
    beside = target.base.gradient(x, goal.on_base, args)
    return Gradient(found.grad + beside.grad, found.logits, found.loss + beside.loss)


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(per_image(mask, yes), yes, no)


def _move(c: Climbers, threat: Threat, weight: float) -> Tensor:
    ahead = project(c.current + per_image(c.size, c.grad) * steepest(c.grad, threat), c.origin, threat)
    kept = c.current + weight * (ahead - c.current) + (1 - weight) * (c.current - c.previous)
    return project(kept, c.origin, threat)


def _start(target: Target, x: Tensor, threat: Threat) -> Tensor:
    if threat.norm == "linf":
        noise = target.uniform(x, -1.0, 1.0)
        length = noise.abs().flatten(1).amax(1)
    else:
        noise = target.normal(x)
        length = l2_norm(noise)
    return (x + budget(threat) * noise / per_image(length.clamp_min(1e-12), x)).clamp(0.0, 1.0)
