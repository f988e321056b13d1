"""Auto-PGD (Croce and Hein, 2020, algorithm 1; in L1: 2021), and the losses that its variants maximise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._aim import aim_of
from attacks._balls import distance, project, sparse_sign, steepest
from attacks._steps import ActiveImages, budget, l2_norm, margin, per_image
from bench.api import Gradient, Target, Threat

#: The step size is halved where at most this share of the steps since the last checkpoint raised the loss.
RHO = 0.75
#: Weight of the gradient step against the previous move; the paper's alpha.
MOMENTUM = 0.75
#: In L1, the largest step over the least; and how much shorter a step gets while the best iterate gets no sparser.
STEP_RANGE = 10.0
STEP_CUT = 1.5
#: In L1 a step moves this many times fewer values than the best iterate has moved.
SPARSER = 1.5

LossFn = Callable[[Tensor, Tensor], Tensor]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio of each row, -(z_y - max z_i) / (z_(1) - z_(3)), z_(i) the i-th largest.

    Scaling the logits does not change it. It takes three classes or more.
    """
    ordered = logits.topk(3).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, classes: Tensor) -> Tensor:
    """Return -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) of each row; ``classes`` (N, 2) are y and t."""
    ordered = logits.topk(4).values
    true_logit, target_logit = logits.gather(1, classes).unbind(1)
    return (target_logit - true_logit) / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)


class Objective(NamedTuple):
    """What a run maximises: ``loss_fn(logits, args)``, ``args`` with a row for each image.

    With ``base_loss_fn`` it is the sum of that and ``base_loss_fn(logits of the base classifier, args)``. With ``tau``
    the gradient is the second-order one of a purification, its sign smoothed over tau.
    """

    loss_fn: LossFn
    args: Tensor
    base_loss_fn: LossFn | None = None
    tau: float | None = None


def apgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    objectives: Iterable[Objective],
    steps: int,
    active: Tensor | None = None,
) -> Tensor:
    """Maximise one objective after the other; an image keeps its first success, else the iterate of highest loss.

    Where the function is random one success proves nothing: every image runs through every objective, and keeps the
    candidate with the largest margin over the draws of one more evaluation.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        objectives: each maximised from a start of its own.
        steps: steps for each objective.
        active: positions of the images to attack; all by default.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    x_best, best_loss = x.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device) if active is None else active
    for objective in objectives:
        if len(active) == 0:
            break
        view, labels = target.rows(active), y[active]
        objective = objective._replace(args=objective.args[active])
        x_adv, loss, is_adv = apgd_run(view, x[active], labels, threat, objective, steps)
        if target.stochastic:
            aim = aim_of(view, labels)
            loss = aim.margin(view(x_adv), aim.classes)
            is_adv = torch.zeros_like(is_adv)
        improved = is_adv | (loss > best_loss[active])
        x_best[active[improved]] = x_adv[improved]
        best_loss[active[improved]] = loss[improved]
        active = active[~is_adv]
    return x_best


class Run(NamedTuple):
    """What one run returns for each image: the iterate it keeps, the loss there, and whether it is misclassified."""

    x_best: Tensor
    best_loss: Tensor
    is_adv: Tensor


@dataclass
class _State(ActiveImages):
    """The variables of algorithm 1, for the images that are still attacked."""

    args: Tensor
    x_adv: Tensor
    x_prev: Tensor
    grad: Tensor
    loss: Tensor
    x_best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    loss_at_checkpoint: Tensor
    halved_at_checkpoint: Tensor
    rises: Tensor
    eta: Tensor
    # Used in L1 alone: the share of values that a step moves, and the values moved at the last checkpoint.
    density: Tensor
    moved_at_checkpoint: Tensor


def apgd_run(target: Target, x: Tensor, y: Tensor, threat: Threat, objective: Objective, steps: int) -> Run:
    """Maximise one objective from a random start, by algorithm 1.

    It takes ``steps + 1`` forwards and ``steps`` backwards, in L1 two forwards more, and none for an image once it is
    misclassified within the budget. Images of a random function are never dropped.

    In L1 the first three tenths of the steps have three times the budget, the next three twice, and each part starts
    from the best iterate of the one before, moved into its ball (Croce and Hein, 2021, as AutoAttack does).

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        objective: ``args`` with a row for each of ``x``.
        steps: the paper's N_iter.

    Returns:
        For each image its first misclassified iterate, else the one of highest loss.
    """
    x_start = _random_start(target, x, threat)
    if threat.norm != "l1" or threat.eps is None:
        return _climb(target, x, y, threat, objective, steps, x_start)
    # At least one step is left for the budget itself.
    wider_steps = min(math.ceil(0.3 * steps), (steps - 1) // 2)
    for factor in (3, 2):
        wider = threat.model_copy(update={"eps": factor * threat.eps})
        x_start = project(x_start, x, wider)
        x_start = _climb(target, x, y, wider, objective, wider_steps, x_start, stops=False).x_best
    return _climb(target, x, y, threat, objective, steps - 2 * wider_steps, project(x_start, x, threat))


def _climb(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    objective: Objective,
    steps: int,
    x_start: Tensor,
    *,
    stops: bool = True,
) -> Run:
    """Maximise one objective from ``x_start``; without ``stops`` no image is dropped, and each keeps the best."""
    aim, state = aim_of(target, y), _initial_state(x, x_start, threat, objective.args)
    run = Run(x.clone(), x.new_full((len(x),), -torch.inf), torch.zeros(len(x), dtype=torch.bool, device=x.device))
    periods = _periods(steps, threat)
    for k in range(steps + 1):
        if len(state.active) == 0:
            break
        gradient = _evaluate(target.rows(state.active), state.x_adv, objective, state.args, backward=k < steps)
        _record(state, gradient, first=k == 0)
        is_adv = aim.succeeded(gradient.logits, aim.classes[state.active])
        run.is_adv[state.active] = is_adv
        if stops and not target.stochastic and bool(is_adv.any()):
            run.x_best[state.active[is_adv]] = state.x_adv[is_adv]
            run.best_loss[state.active[is_adv]] = gradient.loss[is_adv]
            state.drop(is_adv)
        if k in periods:
            _adapt(state, periods[k], threat)
        if k < steps:
            x_next = _step(state, threat, MOMENTUM if k else 1.0)
            state.x_prev, state.x_adv = state.x_adv, x_next
    run.x_best[state.active] = state.x_best
    run.best_loss[state.active] = state.best_loss
    return run


def _initial_state(x: Tensor, x_adv: Tensor, threat: Threat, args: Tensor) -> _State:
    moved = _moved(x_adv, x)
    zeros = x.new_zeros(len(x))
    lowest = x.new_full((len(x),), -torch.inf)
    return _State(
        active=torch.arange(len(x), device=x.device),
        x_orig=x,
        args=args,
        x_adv=x_adv,
        x_prev=x_adv,
        grad=x,
        # As in the authors' code: the first loss is compared with zero, and at the first checkpoint every step size
        # counts as just halved.
        loss=zeros,
        x_best=x,
        best_grad=x,
        best_loss=lowest,
        loss_at_checkpoint=lowest,
        halved_at_checkpoint=zeros == 0,
        rises=zeros,
        eta=zeros + (1 if threat.norm == "l1" else 2) * budget(threat),
        density=moved / x.shape[1:].numel() / SPARSER,
        moved_at_checkpoint=moved,
    )


def _random_start(target: Target, x: Tensor, threat: Threat) -> Tensor:
    """Return a random point on the sphere of radius eps around each image, clamped to the box; in L1 anywhere."""
    if threat.norm == "l1":
        return x + target.normal(x)
    if threat.norm == "linf":
        noise = target.uniform(x, -1.0, 1.0)
        length = noise.abs().flatten(1).amax(1)
    else:
        noise = target.normal(x)
        length = l2_norm(noise)
    return (x + budget(threat) * noise / per_image(length.clamp_min(1e-12), x)).clamp(0.0, 1.0)


def _periods(steps: int, threat: Threat) -> dict[int, int]:
    """Return the checkpoints w_j of a run, each with its distance to the one before, w_j - w_(j-1)."""
    if threat.norm == "l1":
        period = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(period, steps + 1, period), period)
    periods: dict[int, int] = {}
    period = max(int(0.22 * steps), 1)
    checkpoint = period
    while checkpoint <= steps:
        periods[checkpoint] = period
        period = max(period - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
        checkpoint += period
    return periods


def _evaluate(target: Target, x: Tensor, objective: Objective, args: Tensor, *, backward: bool) -> Gradient:
    """Return gradient, logits and loss of an objective; the gradient is zero without ``backward``."""
    loss_fn, base_loss_fn = objective.loss_fn, objective.base_loss_fn
    if not backward:
        logits = target(x)
        loss = loss_fn(logits, args)
        loss = loss if base_loss_fn is None else loss + base_loss_fn(target.base(x), args)
        return Gradient(torch.zeros_like(x), logits, loss)
    differentiable = target if objective.tau is None else target.smooth(objective.tau)
    gradient = differentiable.gradient(x, loss_fn, args)
    if base_loss_fn is None:
        return gradient
    base_gradient = target.base.gradient(x, base_loss_fn, args)
    return Gradient(gradient.grad + base_gradient.grad, gradient.logits, gradient.loss + base_gradient.loss)


def _record(state: _State, gradient: Gradient, *, first: bool) -> None:
    """Take the gradient and loss at the current iterate into the state, and keep the iterate where it is the best."""
    improved = gradient.loss > state.best_loss
    state.grad = gradient.grad
    state.x_best = _where(improved, state.x_adv, state.x_best)
    state.best_grad = _where(improved, gradient.grad, state.best_grad)
    state.best_loss = torch.maximum(gradient.loss, state.best_loss)
    if first:
        state.loss_at_checkpoint = gradient.loss
        return
    state.rises = state.rises + (gradient.loss > state.loss)
    state.loss = gradient.loss


def _adapt(state: _State, period: int, threat: Threat) -> None:
    """Adapt steps at a checkpoint: their length, in L1 also how many values they move."""
    if threat.norm == "l1":
        _follow_sparsity(state, budget(threat))
    else:
        _halve_where_stalled(state, period)


def _halve_where_stalled(state: _State, period: int) -> None:
    """Halve eta and go back to the best iterate where condition 1 or condition 2 of the paper holds."""
    few_rises = state.rises <= RHO * period
    no_progress = ~state.halved_at_checkpoint & (state.loss_at_checkpoint >= state.best_loss)
    stalled = few_rises | no_progress
    state.halved_at_checkpoint = stalled
    state.loss_at_checkpoint = state.best_loss
    state.rises = torch.zeros_like(state.rises)
    state.eta = torch.where(stalled, state.eta / 2, state.eta)
    state.x_adv = _where(stalled, state.x_best, state.x_adv)
    state.grad = _where(stalled, state.best_grad, state.grad)


def _follow_sparsity(state: _State, eps: float) -> None:
    """Go back to the best iterate with full steps where that got 5 % sparser, else shorten the steps."""
    moved = _moved(state.x_best, state.x_orig)
    sparser = moved < 0.95 * state.moved_at_checkpoint
    state.density = moved / state.x_orig.shape[1:].numel() / SPARSER
    state.moved_at_checkpoint = moved
    state.eta = torch.where(sparser, eps, (state.eta / STEP_CUT).clamp_min(eps / STEP_RANGE))
    state.x_adv = _where(sparser, state.x_best, state.x_adv)
    state.grad = _where(sparser, state.best_grad, state.grad)


def _moved(x_adv: Tensor, x: Tensor) -> Tensor:
    """Return how many values of each image differ, shape (N,), as floating point."""
    return distance(x_adv - x, "l0")


def _step(state: _State, threat: Threat, momentum: float) -> Tensor:
    """Return the next iterate: a projected gradient step z, averaged with the previous move; in L1 a sparse step."""
    x_adv, x_orig = state.x_adv, state.x_orig
    if threat.norm == "l1":
        step = sparse_sign(state.grad, state.density)
        return project(x_adv + per_image(state.eta, step) * step, x_orig, threat)
    z = project(x_adv + per_image(state.eta, state.grad) * steepest(state.grad, threat), x_orig, threat)
    return project(x_adv + momentum * (z - x_adv) + (1 - momentum) * (x_adv - state.x_prev), x_orig, threat)


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(per_image(mask, yes), yes, no)
