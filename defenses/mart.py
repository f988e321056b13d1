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
    """MART (Wang et al., 2020): boosted cross-entropy, and a divergence weighted by how unsure the clean prediction is.

    CE(f(x'), y) - log(1.0001 - max_{k != y} p_k(x')) + weight * KL(p(x) || p(x')) * (1 - p_y(x)), the mean over the
    batch; x' is made by cross-entropy. The authors' code (preset ``reference``) does not clip the Gaussian start to
    [0, 1] and adds 1e-12 inside the logarithms of p(x'), which bounds the divergence where p(x') vanishes.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the Linf budget.
        weight: of the divergence, lambda in the paper.
        inner: how x' is made.
        steps: gradient steps of PGD.
        step_size: their length; 7/31 of eps by default, 0.007 at 0.031 as in the paper's code.
        start: 0.001 times a Gaussian, clipped to [0, 1] or not.
        floor: added to p(x') inside the logarithms.
        masked: drop the divergence of rightly classified clean images whose class is 2 or above. That is what the mask
            in the code of the TPAP paper, ``1e-7 + argmax f(x) != y``, comes to in float32.

    Returns:
        The loss, a scalar.
    """
    threat = Threat(norm="linf", eps=eps)
    size = step_size or eps * Fraction(7, 31)
    if inner == "fgsm":
        x_adv = step.attack("fgsm", x, y, threat)
    else:
        x_adv = step.attack("pgd", x, y, threat, steps=steps, step_size=size, start=start, rule="last-iterate")
    clean, adversarial = step.net(x), step.net(x_adv)
    p_adv = F.softmax(adversarial, 1)
    p_wrong = p_adv.scatter(1, y[:, None], 0.0).amax(1)
    boosted = F.cross_entropy(adversarial, y) - torch.log(1.0001 - p_wrong).mean()
    p_clean = F.softmax(clean, 1)
    log_p_adv = torch.log(p_adv + floor) if floor else F.log_softmax(adversarial, 1)
    divergence = F.kl_div(log_p_adv, p_clean, reduction="none").sum(1)
    unsure = 1.0000001 - p_clean.gather(1, y[:, None]).squeeze(1)
    if masked:
        predicted = clean.argmax(1)
        unsure = unsure * ((predicted != y) | (predicted < 2))
    return boosted + weight * (divergence * unsure).mean()
