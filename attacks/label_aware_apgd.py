import torch
from torch import Tensor

from attacks._apgd import Goal, dlr, strongest, targeted_dlr
from bench.api import Count, Literal, MethodError, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="1 + 2 x (targets + 2) x (steps + 1) forwards + 2 x (targets + 2) x steps backwards, "
    "half of them on the base classifier, fewer where images break early",
    early_exit="misclassified",
    purifiers_only=True,
)
def label_aware_apgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 100,
    targets: Count = 3,
    branch: Literal["all", "right-before", "wrong-before", "both-at-once"] = "all",
) -> Tensor:
    """Auto-PGD on a purifier and its base at once, by which label the purification starts from (Crossfire).

    A purifier leaves the class that its base classifier predicts, so an image is broken in one of two ways.
    ``right-before``: the base classifier stays right, and purification leads it astray; the DLR loss of the deployed
    function climbs while that of the base is held below zero. ``wrong-before``: the base classifier is wrong, and
    stays so when purified; the targeted DLR losses of both climb towards one class, that of the base up to zero.
    ``both-at-once`` climbs the sum of both untargeted losses. An image keeps its first misclassified iterate.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf or L2 with its budget.
        steps: moves for each branch and class.
        targets: classes of ``wrong-before``, the likeliest of the base classifier on the clean image first.
        branch: one of them alone, to see which breaks what.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: fewer than four classes, or an unbounded threat.
    """
    if target.num_classes < 4:
        raise MethodError(f"the targeted DLR loss needs 4 classes, the network has {target.num_classes}")
    aims = target.base(x).scatter(1, y[:, None], -torch.inf).topk(min(targets, target.num_classes - 1)).indices
    goals = {
        "both-at-once": [Goal(dlr, y, on_base=dlr)],
        "wrong-before": [Goal(targeted_dlr, torch.stack((y, aim), 1), on_base=_carried_over) for aim in aims.unbind(1)],
        "right-before": [Goal(dlr, y, on_base=_held_right)],
    }
    chosen = goals.values() if branch == "all" else [goals[branch]]
    return strongest(target, x, y, threat, [goal for each in chosen for goal in each], steps)


def _held_right(logits: Tensor, y: Tensor) -> Tensor:
    return -dlr(logits, y).clamp_min(0)


def _carried_over(logits: Tensor, classes: Tensor) -> Tensor:
    return targeted_dlr(logits, classes).clamp_max(0)
