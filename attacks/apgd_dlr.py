import torch
from torch import Tensor

from attacks._apgd import Objective, apgd, dlr, targeted_dlr
from bench.api import Count, MethodError, Target, Threat, attack


@attack(
    norms=("linf", "l2", "l1"),
    passes="restarts x (steps + 1) forwards + restarts x steps backwards (in L1 2 x restarts forwards more), "
    "fewer where images break early",
    early_exit="misclassified",
    min_classes=3,
    min_classes_targeted=4,
    targetable=True,
    presets={"reference": {"steps": 100, "restarts": 5}},
)
def apgd_dlr(
    target: Target, x: Tensor, y: Tensor, threat: Threat, *, steps: Count = 100, restarts: Count = 1
) -> Tensor:
    """Auto-PGD on the difference of logits ratio (Croce and Hein, 2020), which no scale of the logits saturates.

    DLR = -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)), z_(i) being the i-th largest logit. The success rule is
    any-iterate: an image keeps its first misclassified iterate and costs nothing more. One that never breaks keeps the
    iterate of highest loss. With a target class t the loss is the targeted one, -(z_y - z_t) / (z_(1) - (z_(3) +
    z_(4)) / 2) (equation 7), which takes four classes, and only t is a success.

    In L1 (Croce and Hein, 2021) a step moves few values, fewer the sparser the best iterate is, and ends at the nearest
    point of ball and box. The first three tenths of the steps have three times the budget, the next three twice.

    Args:
        target: the function under attack; it must have three classes or more.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        steps: moves per restart.
        restarts: independent starts, on the sphere of radius eps in L∞ and L2.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: two classes, with a target class fewer than four, or an unbounded threat.
    """
    loss, least = ("DLR", 3) if target.goal is None else ("targeted DLR", 4)
    if target.num_classes < least:
        raise MethodError(f"the {loss} loss needs {least} classes, the network has {target.num_classes}: use apgd-ce")
    objective = Objective(dlr, y) if target.goal is None else Objective(targeted_dlr, torch.stack((y, target.goal), 1))
    return apgd(target, x, y, threat, [objective] * restarts, steps)
