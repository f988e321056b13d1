from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._aim import Aim, aim_of
from attacks._balls import ascend, project, uniform_start
from attacks._steps import budget, keep
from bench.api import Budget, Count, Literal, MethodError, Target, Threat, attack


@attack(
    norms=("linf", "l2", "l1"),
    passes="restarts x steps forwards + restarts x steps backwards (+ restarts forwards if more than one), "
    "fewer where images break early",
    early_exit="misclassified",
    targetable=True,
    presets={
        "tpap": {"steps": 20, "step_size": "0.003", "restarts": 1, "rule": "last-iterate"},
        "reference": {"steps": 20, "restarts": 5, "rule": "any-iterate"},
    },
)
def pgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 20,
    step_size: Budget | None = None,
    restarts: Count = 1,
    start: Literal["uniform", "gaussian", "gaussian-unclipped", "clean"] = "uniform",
    loss: Literal["cross-entropy", "margin", "kl"] = "cross-entropy",
    rule: Literal["any-iterate", "last-iterate"] = "any-iterate",
) -> Tensor:
    """Projected gradient descent (Madry et al., 2018): steps up the loss, each projected back on the ball.

    x <- project(x + step_size * steepest(grad loss)), ``steps`` times from each of ``restarts`` starts. One restart
    costs exactly ``steps`` forwards and backwards an image: its last iterate is returned unevaluated, since the
    harness evaluates it anyway. With several, the last iterate of each is evaluated too (one forward more), so that no
    success is lost to the next. In L1 a step moves the hundredth of the values with the largest slope, all by the same
    amount (Tramèr and Boneh, 2019), and ends at the nearest point of ball and box. With a target class t the loss is
    minus the cross-entropy to t, or z_t - max_{i != t} z_i.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        steps: gradient steps per restart.
        step_size: length of a step in the threat's norm; a quarter of eps by default, 2/255 at 8/255.
        restarts: independent starts, of which an image keeps the iterate with the largest margin, so one that breaks
            it if there is any. ``start = "clean"`` would repeat itself and takes one.
        start: uniform in the ball, 0.001 times a Gaussian (as TRADES starts), the same without clipping to [0, 1]
            before the first step (as the code of TRADES and MART does), or the image itself.
        loss: the loss to maximise; ``kl`` is the divergence of the predictions from those on ``x`` (TRADES).
        rule: ``any-iterate`` keeps the first iterate that is misclassified and stops paying for its image;
            ``last-iterate`` takes every step and keeps the last. Random functions always get the latter.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded, or ``kl`` is to lead to a target class.
    """
    alpha = float(step_size) if step_size is not None else budget(threat) / 4
    aim = aim_of(target, y)
    loss_fn, loss_args = _loss_fn(target, x, aim, loss)
    stops_early = rule == "any-iterate" and not target.stochastic
    restarts = 1 if start == "clean" else restarts
    x_best, best_margin = x.clone(), x.new_full(y.shape, -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(active) == 0:
            break
        x_orig = x[active]
        x_adv = _start(target.rows(active), x_orig, threat, start)
        for _ in range(steps):
            if len(active) == 0:
                break
            grad, logits, _ = target.rows(active).gradient(x_adv, loss_fn, loss_args[active])
            if stops_early and bool((is_adv := aim.succeeded(logits, aim.classes[active])).any()):
                x_best[active[is_adv]] = x_adv[is_adv]
                active, x_orig, x_adv, grad = keep(~is_adv, active, x_orig, x_adv, grad)
            x_adv = ascend(x_adv, grad, alpha, x_orig, threat)
        if restarts == 1:
            x_best[active] = x_adv
        elif len(active):
            final_margin = aim.margin(target.rows(active)(x_adv), aim.classes[active])
            improved = final_margin > best_margin[active]
            x_best[active[improved]] = x_adv[improved]
            best_margin[active[improved]] = final_margin[improved]
            active = active if target.stochastic else active[final_margin <= 0]
    return x_best


def _loss_fn(target: Target, x: Tensor, aim: Aim, loss: str) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return the loss, and its second argument for all images."""
    if loss == "kl":
        if target.goal is not None:
            raise MethodError('the loss "kl" leads to no class: take "cross-entropy" or "margin"')
        return _kl_divergence, F.softmax(target(x), 1)
    return (aim.margin if loss == "margin" else aim.cross_entropy), aim.classes


def _kl_divergence(logits: Tensor, clean_probabilities: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(logits, 1), clean_probabilities, reduction="none").sum(1)


def _start(target: Target, x: Tensor, threat: Threat, start: str) -> Tensor:
    if start == "clean":
        return x
    if start in ("gaussian", "gaussian-unclipped"):
        x_adv = x + 0.001 * target.normal(x)
        return x_adv if start == "gaussian-unclipped" else project(x_adv, x, threat)
    return uniform_start(target, x, threat)
