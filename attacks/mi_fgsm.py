import torch
from torch import Tensor

from attacks._steps import accumulate, ascend, budget, cross_entropy, keep
from bench.api import Budget, Count, Literal, NonNegative, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="steps forwards + steps backwards, fewer where images break early",
    early_exit="misclassified",
    presets={
        "tpap": {"steps": 20, "step_size": "0.003", "rule": "last-iterate"},
        "reference": {"steps": 10, "rule": "last-iterate"},
    },
)
def mi_fgsm(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 10,
    step_size: Budget | None = None,
    decay: NonNegative = 1.0,
    rule: Literal["any-iterate", "last-iterate"] = "any-iterate",
) -> Tensor:
    """Momentum iterative FGSM (Dong et al., 2018): steps along an accumulated gradient, from the image itself.

    m <- decay * m + g / mean|g|, x <- project(x + step_size * steepest(m)), with g the gradient of the cross-entropy
    and the mean over one image, so that images do not depend on each other (the code of the TPAP paper takes it over
    the batch, which the preset ``tpap`` does not follow). ``decay = 0`` is iterative FGSM.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf or L2 with its budget.
        steps: gradient steps.
        step_size: length of a step in the threat's norm; eps / steps by default, as in the paper.
        decay: the paper's mu.
        rule: ``any-iterate`` keeps the first iterate that is misclassified and stops paying for its image, best
            against ``target`` itself; ``last-iterate`` goes deeper and transfers better to other functions.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    size = float(step_size) if step_size is not None else budget(threat) / steps
    drops = rule == "any-iterate" and not target.stochastic
    result, rows, origin, current = x.clone(), torch.arange(len(x), device=x.device), x, x
    momentum = torch.zeros_like(x)
    for _ in range(steps):
        if len(rows) == 0:
            break
        found = target.rows(rows).gradient(current, cross_entropy, y[rows])
        momentum = accumulate(momentum, found.grad, decay)
        if drops and bool((broken := found.logits.argmax(1) != y[rows]).any()):
            result[rows[broken]] = current[broken]
            rows, origin, current, momentum = keep(~broken, rows, origin, current, momentum)
        current = ascend(current, momentum, size, origin, threat)
    result[rows] = current
    return result
