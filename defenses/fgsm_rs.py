from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Fraction, Literal, Positive, Threat, TrainingStep, defense


@defense(
    kind="recipe",
    attacks=("pgd",),
    schedule={"epochs": 15, "schedule": "one-cycle", "lr": 0.2, "weight_decay": 5e-4},
    presets={"reference": {"eps": "8/255", "alpha": 1.25, "craft_mode": "train"}},
)
def fgsm_rs(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    alpha: Positive = 1.25,
    craft_mode: Literal["eval", "train"] = "eval",
) -> Tensor:
    """Fast adversarial training (Wong et al., 2020): one FGSM step from a uniform random start in the ball.

    x' = project(x + u + alpha * eps * sign(grad CE(f(x + u), y))) with u uniform in [-eps, eps] and x + u in [0, 1].
    The authors craft x' in training mode (preset ``reference``), so batch norm sees and counts every batch twice. By
    default x' is crafted in evaluation mode, as in every recipe here.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget.
        alpha: the step size as a multiple of eps.
        craft_mode: mode of the network while x' is crafted.

    Returns:
        The mean cross-entropy on the adversarial images, a scalar.
    """
    step_size = eps * Fraction(str(alpha))
    threat = Threat(norm="linf", eps=eps)
    x_adv = step.attack(
        "pgd", x, y, threat, mode=craft_mode, steps=1, step_size=step_size, start="uniform", rule="last-iterate"
    )
    return F.cross_entropy(step.net(x_adv), y)
