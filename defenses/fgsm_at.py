import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Fraction, Probability, Threat, TrainingStep, defense


@defense(kind="recipe", attacks=("fgsm",), presets={"tpap": {"mixed_batch_norm": True}})
def fgsm_at(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    mixed_batch_norm: bool = False,
    clean_weight: Probability = 0.0,
    clean_from: Probability = 0.0,
) -> Tensor:
    """FGSM adversarial training without a random start (Goodfellow et al., 2015).

    It can overfit catastrophically, which TPAP relies on.

    theta <- SGD on w * CE(f(x), y) + (1 - w) * CE(f(x'), y) with x' = clamp(x + eps * sign(grad CE(f(x), y))). Here w
    is ``clean_weight``, and 0 before ``clean_from``. Goodfellow et al. (section 6) have w = 0.5 from the start; from a
    later time on, a network that has overfitted can learn clean images again.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget and the step size.
        mixed_batch_norm: forward the clean batch as well, as the code of the TPAP paper does, so the running statistics
            of batch norm mix clean and adversarial images; a positive ``clean_weight`` does so too.
        clean_weight: the share of the clean images in the loss.
        clean_from: the share of the training after which they are in the loss.

    Returns:
        The mean cross-entropy, a scalar.
    """
    x_adv = step.attack("fgsm", x, y, Threat(norm="linf", eps=eps))
    if clean_weight:
        weight = clean_weight * (step.progress >= clean_from)
        return weight * F.cross_entropy(step.net(x), y) + (1 - weight) * F.cross_entropy(step.net(x_adv), y)
    if mixed_batch_norm:
        with torch.no_grad():
            step.net(x)
    return F.cross_entropy(step.net(x_adv), y)
