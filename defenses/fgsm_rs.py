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
    The authors craft in training mode (preset ``reference``), so that batch norm sees and counts every batch twice; by
    default x' is made in evaluation mode, as all recipes here make it.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the Linf budget.
        alpha: length of the step as a multiple of eps.
        craft_mode: mode of the network while x' is made.

    Returns:
        The mean cross-entropy on the adversarial images, a scalar.
    """
    size = eps * Fraction(str(alpha))
    threat = Threat(norm="linf", eps=eps)
    x_adv = step.attack(
        "pgd", x, y, threat, mode=craft_mode, steps=1, step_size=size, start="uniform", rule="last-iterate"
    )
    return F.cross_entropy(step.net(x_adv), y)
