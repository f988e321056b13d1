import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, Literal, NonNegative, Threat, TrainingStep, defense


@defense(
    kind="recipe",
    attacks=("fgsm", "pgd"),
    presets={
        "reference": {"eps": "0.031", "step_size": "0.007", "start": "gaussian-unclipped", "floor": 1e-12},
        "tpap": {"inner": "fgsm", "weight": 6.0, "masked": True},
        "tpap-pgd": {
            "eps": "0.031",
            "step_size": "0.007",
            "weight": 6.0,
            "masked": True,
            "start": "gaussian-unclipped",
        },
    },
)
def mart(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    weight: NonNegative = 5.0,
    inner: Literal["pgd", "fgsm"] = "pgd",
    steps: Count = 10,
    step_size: Budget | None = None,
    start: Literal["gaussian", "gaussian-unclipped"] = "gaussian",
    floor: NonNegative = 0.0,
    masked: bool = False,
) -> Tensor:
    """MART (Wang et al., 2020): boosted cross-entropy, and a KL term weighted by 1 - p_y of the clean image.

    CE(f(x'), y) - log(1.0001 - max_{k != y} p_k(x')) + weight * KL(p(x) || p(x')) * (1 - p_y(x)), the mean over the
    batch; x' maximises the cross-entropy. The authors' code (preset ``reference``) does not clip the Gaussian start to
    [0, 1] and adds 1e-12 inside the logarithms of p(x'), which bounds the KL divergence where p(x') vanishes.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget.
        weight: of the KL term, lambda in the paper.
        inner: the attack that crafts x'.
        steps: gradient steps of PGD.
        step_size: their length; 7/31 of eps by default, 0.007 at 0.031 as in the paper's code.
        start: 0.001 times a Gaussian, clipped to [0, 1] or not.
        floor: added to p(x') inside the logarithms.
        masked: drop the KL term of correctly classified clean images whose class is 2 or above. That is the effect in
            float32 of the mask in the code of the TPAP paper, ``1e-7 + argmax f(x) != y``.

    Returns:
        The loss, a scalar.
    """
    threat = Threat(norm="linf", eps=eps)
    alpha = step_size or eps * Fraction(7, 31)
    if inner == "fgsm":
        x_adv = step.attack("fgsm", x, y, threat)
    else:
        x_adv = step.attack("pgd", x, y, threat, steps=steps, step_size=alpha, start=start, rule="last-iterate")
    logits_clean, logits_adv = step.net(x), step.net(x_adv)
    probs_adv = F.softmax(logits_adv, 1)
    max_other_prob = probs_adv.scatter(1, y[:, None], 0.0).amax(1)
    bce = F.cross_entropy(logits_adv, y) - torch.log(1.0001 - max_other_prob).mean()
    probs_clean = F.softmax(logits_clean, 1)
    log_probs_adv = torch.log(probs_adv + floor) if floor else F.log_softmax(logits_adv, 1)
    kl = F.kl_div(log_probs_adv, probs_clean, reduction="none").sum(1)
    kl_weight = 1.0000001 - probs_clean.gather(1, y[:, None]).squeeze(1)
    if masked:
        predicted = logits_clean.argmax(1)
        kl_weight = kl_weight * ((predicted != y) | (predicted < 2))
    return bce + weight * (kl * kl_weight).mean()
