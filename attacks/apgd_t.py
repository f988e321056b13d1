import torch
from torch import Tensor

from attacks._apgd import Objective, apgd, targeted_dlr
from bench.api import Count, MethodError, Target, Threat, attack


@attack(
    norms=("linf", "l2", "l1"),
    passes="1 + targets x (steps + 1) forwards + targets x steps backwards (in L1 2 x targets forwards more), "
    "fewer where images break early",
    early_exit="misclassified",
    min_classes=4,
    presets={"reference": {"steps": 100, "targets": 9}},
)
def apgd_t(target: Target, x: Tensor, y: Tensor, threat: Threat, *, steps: Count = 100, targets: Count = 9) -> Tensor:
    """Targeted Auto-PGD (Croce and Hein, 2020): the targeted DLR loss towards each of the likeliest other classes.

    DLR = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), z_(i) being the i-th largest logit, so that scaling the logits
    hides nothing. The success rule is any-iterate: an image keeps its first misclassified iterate, to whatever class,
    and costs nothing more. One that never breaks keeps the iterate of highest loss. More targets than the network has
    other classes are capped (note ``classes-capped``).

    In L1 (Croce and Hein, 2021) a step moves few values, fewer the sparser the best iterate is, and ends at the nearest
    point of ball and box. The first three tenths of the steps have three times the budget, the next three twice.

    Args:
        target: the function under attack; it must have four classes or more.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        steps: moves per target class.
        targets: how many classes are aimed at, the likeliest on the clean image first.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: fewer than four classes, or an unbounded threat.
    """
    if target.num_classes < 4:
        raise MethodError(f"the targeted DLR loss needs 4 classes, the network has {target.num_classes}: use apgd-ce")
    if targets > target.num_classes - 1:
        targets = target.num_classes - 1
        target.notes.append("classes-capped")
    logits = target(x)
    target_classes = logits.scatter(1, y[:, None], -torch.inf).topk(targets).indices
    objectives = [Objective(targeted_dlr, torch.stack((y, t), 1)) for t in target_classes.unbind(1)]
    active = None if target.stochastic else (logits.argmax(1) == y).nonzero().flatten()
    return apgd(target, x, y, threat, objectives, steps, active)
