from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Fraction, Literal, Threat, TrainingStep, defense


@defense(kind="recipe", inner="inner")
def at(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    inner: str = "pgd[steps=10]",
    norm: Literal["linf", "l2", "wasserstein", "flow"] = "linf",
    eps: Budget = Fraction(8, 255),
    bounded: bool = True,
) -> Tensor:
    """Adversarial training with any registered attack: cross-entropy on its adversarial images.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        inner: the attack, with the parameters that differ from its defaults in brackets, as in
            ``"pgd[steps=7, step_size=2/255]"``.
        norm: of the threat.
        eps: its budget.
        bounded: attacks that minimise the norm keep to ``eps``, too; ``false`` gives them no bound.

    Returns:
        The mean cross-entropy on the adversarial images, a scalar.
    """
    x_adv = step.attack(inner, x, y, Threat(norm=norm, eps=eps if bounded else None))
    return F.cross_entropy(step.net(x_adv), y)
