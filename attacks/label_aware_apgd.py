from itertools import chain

import torch
from torch import Tensor

from attacks._apgd import Objective, apgd, dlr, targeted_dlr
from bench.api import Count, Literal, MethodError, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="1 + 2 x (targets + 2) x (steps + 1) forwards + 2 x (targets + 2) x steps backwards, "
    "half of them on the base classifier, fewer where images break early",
    early_exit="misclassified",
    min_classes=4,
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
        threat: L∞ or L2 with its budget.
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
    other_logits = target.base(x).scatter(1, y[:, None], -torch.inf)
    target_classes = other_logits.topk(min(targets, target.num_classes - 1)).indices
    branches = {
        "both-at-once": [Objective(dlr, y, dlr)],
        "wrong-before": [
            Objective(targeted_dlr, torch.stack((y, t), 1), _targeted_dlr_up_to_zero) for t in target_classes.unbind(1)
        ],
        "right-before": [Objective(dlr, y, _dlr_penalty_above_zero)],
    }
    objectives = chain.from_iterable(branches.values()) if branch == "all" else branches[branch]
    return apgd(target, x, y, threat, objectives, steps)


def _dlr_penalty_above_zero(logits: Tensor, y: Tensor) -> Tensor:
    return -dlr(logits, y).clamp_min(0)


def _targeted_dlr_up_to_zero(logits: Tensor, classes: Tensor) -> Tensor:
    return targeted_dlr(logits, classes).clamp_max(0)
