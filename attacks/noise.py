from torch import Tensor

from attacks._balls import project, steepest
from attacks._steps import budget
from bench.api import Target, Threat, attack


@attack(norms=("linf", "l2"), needs="nothing", passes="0 forwards")
def noise(target: Target, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Uniform random noise of the whole budget: the floor that every attack must beat.

    In L∞ every pixel moves by +-eps at random, in L2 the image moves by eps in a random direction.

    Args:
        target: the function under attack; only its draws are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.

    Returns:
        Images shaped as ``x``, within the threat.
    """
    direction = target.uniform(x, -1.0, 1.0).sign() if threat.norm == "linf" else steepest(target.normal(x), threat)
    return project(x + budget(threat) * direction, x, threat)
