from torch import Tensor

from attacks._balls import ascend
from attacks._steps import budget, cross_entropy
from bench.api import Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="1 forward + 1 backward",
    presets={"tpap": {}, "reference": {}},
)
def fgsm(target: Target, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., 2015): one step of the whole budget up the loss.

    x' = clamp(x + eps * sign(grad CE(f(x), y))); in L2 the gradient is normalised instead. Every image is moved, also
    those already misclassified.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    grad = target.gradient(x, cross_entropy, y).grad
    return ascend(x, grad, budget(threat), x, threat)
