from torch import Tensor

from attacks._aim import aim_of
from attacks._apgd import Objective, apgd
from bench.api import Count, Target, Threat, attack


@attack(
    norms=("linf", "l2", "l1"),
    passes="restarts x (steps + 1) forwards + restarts x steps backwards (in L1 2 x restarts forwards more), "
    "fewer where images break early",
    early_exit="misclassified",
    targetable=True,
    presets={"reference": {"steps": 100, "restarts": 5}},
)
def apgd_ce(target: Target, x: Tensor, y: Tensor, threat: Threat, *, steps: Count = 100, restarts: Count = 1) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce and Hein, 2020): momentum and a step that halves where progress stalls.

    The success rule is any-iterate: an image keeps its first misclassified iterate and costs nothing more. One that
    never breaks keeps the iterate of highest loss. With a target class t it maximises minus the cross-entropy to t, and
    only t is a success.

    In L1 (Croce and Hein, 2021) a step moves few values, fewer the sparser the best iterate is, and ends at the nearest
    point of ball and box. The first three tenths of the steps have three times the budget, the next three twice.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        steps: moves per restart.
        restarts: independent starts, on the sphere of radius eps in L∞ and L2.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    aim = aim_of(target, y)
    return apgd(target, x, y, threat, [Objective(aim.cross_entropy, aim.classes)] * restarts, steps)
