from torch import Tensor
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, Literal, Threat, TrainingStep, defense


@defense(
    kind="recipe",
    attacks=("pgd",),
    presets={
        "reference": {"eps": "8/255", "steps": 7, "step_size": "2/255", "craft_mode": "train"},
        "tpap": {"eps": "0.031", "steps": 10, "step_size": "0.007", "start": "gaussian-unclipped"},
    },
)
def pgd_at(
    step: TrainingStep,
    x: Tensor,
    y: Tensor,
    *,
    eps: Budget = Fraction(8, 255),
    steps: Count = 10,
    step_size: Budget | None = None,
    start: Literal["uniform", "gaussian", "gaussian-unclipped"] = "uniform",
    craft_mode: Literal["eval", "train"] = "eval",
) -> Tensor:
    """PGD adversarial training (Madry et al., 2018): cross-entropy on the last of ``steps`` projected gradient steps.

    The authors' code takes 7 steps of 2/255 and crafts in training mode (preset ``reference``), so batch norm uses and
    counts the statistics of every iterate. By default images are crafted in evaluation mode, with 10 steps.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: the L∞ budget.
        steps: gradient steps.
        step_size: length of a step; a quarter of eps by default, 2/255 at 8/255.
        start: uniform in the ball, or 0.001 times a Gaussian; the code of the TPAP paper does not clip it to [0, 1].
        craft_mode: mode of the network while images are crafted.

    Returns:
        The mean cross-entropy on the adversarial images, a scalar.
    """
    threat = Threat(norm="linf", eps=eps)
    x_adv = step.attack(
        "pgd",
        x,
        y,
        threat,
        mode=craft_mode,
        steps=steps,
        step_size=step_size,
        start=start,
        restarts=1,
        rule="last-iterate",
    )
    return F.cross_entropy(step.net(x_adv), y)
