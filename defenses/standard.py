from torch import Tensor
from torch.nn import functional as F

from bench.api import TrainingStep, defense


@defense(kind="recipe")
def standard(step: TrainingStep, x: Tensor, y: Tensor) -> Tensor:
    """Standard training: cross-entropy on the images as they are.

    Args:
        step: the optimiser step.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).

    Returns:
        The mean cross-entropy, a scalar.
    """
    return F.cross_entropy(step.net(x), y)
