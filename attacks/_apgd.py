"""The climb of Auto-PGD (Croce and Hein, 2020, algorithm 1), shared by its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks._steps import budget, l2_norm, per_image, project, steepest
from bench.api import Target, Threat

RHO = 0.75
MOMENTUM = 0.75


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
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    objective: Callable[[Tensor, Tensor], Tensor],
    args: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb ``objective(logits, args)`` from a random start with steps that halve where progress stalls.

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
    c = Climbers(rows, x, args, start, start, x, x, x, low, zeros, low, zeros == 0, zeros, zeros + 2 * eps)
    gap, since = max(int(0.22 * steps), 1), 0
    for step in range(steps + 1):
        if len(c.rows) == 0:
            break
        view = target.rows(c.rows)
        if step < steps:
            c.grad, logits, value = view.gradient(c.current, objective, c.args)
        else:
            logits = view(c.current)
            value = objective(logits, c.args)
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
