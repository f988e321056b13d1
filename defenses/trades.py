from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, Literal, NonNegative, Threat, TrainingStep, defense


@defense(
    kind="recipe",
    attacks=("fgsm", "pgd"),
    presets={
        "reference": {
            "eps": "0.031",
            "step_size": "0.007",
            "start": "gaussian-unclipped",
            "clean_passes": 2,
        },
        "tpap": {"inner": "fgsm"},
        "tpap-pgd": {"eps": "0.031", "step_size": "0.007", "inner": "pgd-ce", "start": "gaussian-unclipped"},
    },
)
def trades(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    weight: NonNegative = 6.0,
    inner: Literal["pgd-kl", "pgd-ce", "fgsm"] = "pgd-kl",
    steps: Count = 10,
    step_size: Budget | None = None,
    start: Literal["gaussian", "gaussian-unclipped"] = "gaussian",
    clean_passes: Literal[1, 2] = 1,
) -> Tensor:
    """TRADES (Zhang et al., 2019): clean cross-entropy plus the divergence of adversarial from clean predictions.

    CE(f(x), y) + weight * KL(p(x) || p(x')), the mean over the batch; the gradient flows through both predictions.
    The authors' code (preset ``reference``) does not clip the Gaussian start to [0, 1]. It also predicts the clean
    images again for the divergence, so that batch norm counts them twice; loss and gradient are the same. By default
    the start is clipped and one prediction serves both terms. The TPAP paper's code uses the same loss but crafts x' by
    cross-entropy: by FGSM (preset ``tpap``) or by PGD (``tpap-pgd``).

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the Linf budget.
        weight: of the divergence; 1 / lambda in the paper, beta in its code.
        inner: how x' is made; ``pgd-kl`` climbs the divergence itself, as the paper does.
        steps: gradient steps of the PGD kinds.
        step_size: their length; 7/31 of eps by default, 0.007 at 0.031 as in the paper's code.
        start: 0.001 times a Gaussian, clipped to [0, 1] or not.
        clean_passes: predictions of the clean images in training mode, each of which moves the running statistics of
            batch norm.

    Returns:
        The loss, a scalar.
    """
    threat = Threat(norm="linf", eps=eps)
    size = step_size or eps * Fraction(7, 31)
    if inner == "fgsm":
        x_adv = step.attack("fgsm", x, y, threat)
    else:
        loss = "kl" if inner == "pgd-kl" else "cross-entropy"
        x_adv = step.attack(
            "pgd", x, y, threat, steps=steps, step_size=size, start=start, loss=loss, rule="last-iterate"
        )
    clean, adversarial = step.net(x), step.net(x_adv)
    again = step.net(x) if clean_passes == 2 else clean
    divergence = F.kl_div(F.log_softmax(adversarial, 1), F.softmax(again, 1), reduction="batchmean")
    return F.cross_entropy(clean, y) + weight * divergence
