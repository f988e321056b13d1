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
    """TRADES (Zhang et al., 2019): clean cross-entropy plus the KL divergence of adversarial from clean predictions.

    CE(f(x), y) + weight * KL(p(x) || p(x')), the mean over the batch; the gradient flows through both predictions.
    The authors' code (preset ``reference``) does not clip the Gaussian start to [0, 1]. It also forwards the clean
    images again for the KL term, so batch norm counts them twice; loss and gradient are the same. By default the start
    is clipped and one forward pass serves both terms. The TPAP paper's code uses the same loss but crafts x' with
    cross-entropy, by FGSM (preset ``tpap``) or by PGD (``tpap-pgd``).

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget.
        weight: of the KL term; 1 / lambda in the paper, beta in its code.
        inner: the attack that crafts x'; ``pgd-kl`` maximises the KL divergence, as in the paper.
        steps: gradient steps of PGD.
        step_size: their length; 7/31 of eps by default, 0.007 at 0.031 as in the paper's code.
        start: 0.001 times a Gaussian, clipped to [0, 1] or not.
        clean_passes: forward passes of the clean images in training mode, each of which updates the running statistics
            of batch norm.

    Returns:
        The loss, a scalar.
    """
    threat = Threat(norm="linf", eps=eps)
    alpha = step_size or eps * Fraction(7, 31)
    if inner == "fgsm":
        x_adv = step.attack("fgsm", x, y, threat)
    else:
        inner_loss = "kl" if inner == "pgd-kl" else "cross-entropy"
        x_adv = step.attack(
            "pgd", x, y, threat, steps=steps, step_size=alpha, start=start, loss=inner_loss, rule="last-iterate"
        )
    logits_clean, logits_adv = step.net(x), step.net(x_adv)
    kl_logits_clean = step.net(x) if clean_passes == 2 else logits_clean
    kl = F.kl_div(F.log_softmax(logits_adv, 1), F.softmax(kl_logits_clean, 1), reduction="batchmean")
    return F.cross_entropy(logits_clean, y) + weight * kl
