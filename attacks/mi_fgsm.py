import torch
from torch import Tensor

from attacks._balls import ascend
from attacks._steps import accumulate, budget, cross_entropy, keep
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
        threat: L∞ or L2 with its budget.
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
    alpha = float(step_size) if step_size is not None else budget(threat) / steps
    stops_early = rule == "any-iterate" and not target.stochastic
    x_best = x.clone()
    active = torch.arange(len(x), device=x.device)
    x_orig, x_adv = x, x
    momentum = torch.zeros_like(x)
    for _ in range(steps):
        if len(active) == 0:
            break
        grad, logits, _ = target.rows(active).gradient(x_adv, cross_entropy, y[active])
        momentum = accumulate(momentum, grad, decay)
        if stops_early and bool((is_adv := logits.argmax(1) != y[active]).any()):
            x_best[active[is_adv]] = x_adv[is_adv]
            active, x_orig, x_adv, momentum = keep(~is_adv, active, x_orig, x_adv, momentum)
        x_adv = ascend(x_adv, momentum, alpha, x_orig, threat)
    x_best[active] = x_adv
    return x_best
