import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Fraction, Threat, TrainingStep, defense


@defense(kind="recipe", attacks=("fgsm",), presets={"tpap": {"mixed_batch_norm": True}})
def fgsm_at(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    mixed_batch_norm: bool = False,
) -> Tensor:
    """FGSM adversarial training without a random start (Goodfellow et al., 2015).

    It can overfit catastrophically, which TPAP relies on.

    theta <- SGD on CE(f(clamp(x + eps * sign(grad CE(f(x), y)))), y).

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget and the step size.
        mixed_batch_norm: forward the clean batch as well, as the code of the TPAP paper does, so the running statistics
            of batch norm mix clean and adversarial images; its loss is not used.

    Returns:
        The mean cross-entropy on the adversarial images, a scalar.
    """
    x_adv = step.attack("fgsm", x, y, Threat(norm="linf", eps=eps))
    if mixed_batch_norm:
        with torch.no_grad():
            step.net(x)
    return F.cross_entropy(step.net(x_adv), y)
