from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._steps import ascend, budget, cross_entropy, keep, margin, project, uniform_start
from bench.api import Budget, Count, Literal, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="restarts x steps forwards + restarts x steps backwards (+ restarts forwards if more than one), "
    "fewer where images break early",
    early_exit="misclassified",
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
    costs exactly ``steps`` forwards and backwards an image: its last iterate is returned unseen, for whoever judges
    the result looks at it anyway. With several, the last iterate of each is looked at too (one forward more), so
    that no success is lost to the next.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf or L2 with its budget.
        steps: gradient steps per restart.
        step_size: length of a step in the threat's norm; a quarter of eps by default, 2/255 at 8/255.
        restarts: independent starts, of which an image keeps the iterate with the largest margin, so one that breaks
            it if there is any. ``start = "clean"`` would repeat itself and takes one.
        start: uniform in the ball, 0.001 times a Gaussian (as TRADES starts), the same without clipping to [0, 1]
            before the first step (as the code of TRADES and MART does), or the image itself.
        loss: what is climbed; ``kl`` is the divergence of the predictions from those on ``x`` (TRADES).
        rule: ``any-iterate`` keeps the first iterate that is misclassified and stops paying for its image;
            ``last-iterate`` takes every step and keeps the last. Random functions always get the latter.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    size = float(step_size) if step_size is not None else budget(threat) / 4
    objective, anchor = _objective(target, x, y, loss)
    drops = rule == "any-iterate" and not target.stochastic
    restarts = 1 if start == "clean" else restarts
    result, best = x.clone(), x.new_full(y.shape, -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(active) == 0:
            break
        rows, origin = active, x[active]
        current = _start(target.rows(rows), origin, threat, start)
        for _ in range(steps):
            if len(rows) == 0:
                break
            found = target.rows(rows).gradient(current, objective, anchor[rows])
            grad = found.grad
            if drops and bool((broken := found.logits.argmax(1) != y[rows]).any()):
                result[rows[broken]] = current[broken]
                rows, origin, current, grad = keep(~broken, rows, origin, current, grad)
            current = ascend(current, grad, size, origin, threat)
        if restarts == 1:
            result[rows] = current
        elif len(rows):
            reached = margin(target.rows(rows)(current), y[rows])
            better = reached > best[rows]
            result[rows[better]], best[rows[better]] = current[better], reached[better]
            rows = rows if target.stochastic else rows[reached <= 0]
        active = rows
    return result


def _objective(target: Target, x: Tensor, y: Tensor, loss: str) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    if loss == "kl":
        return _divergence, F.softmax(target(x), 1)
    return (margin if loss == "margin" else cross_entropy), y


def _divergence(logits: Tensor, clean: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(logits, 1), clean, reduction="none").sum(1)


def _start(target: Target, x: Tensor, threat: Threat, start: str) -> Tensor:
    if start == "clean":
        return x
    if start in ("gaussian", "gaussian-unclipped"):
        moved = x + 0.001 * target.normal(x)
        return moved if start == "gaussian-unclipped" else project(moved, x, threat)
    return uniform_start(target, x, threat)
