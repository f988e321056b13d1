from torch import Tensor

from attacks._apgd import Objective, apgd, dlr
from attacks._steps import cross_entropy
from bench.api import Count, Literal, Positive, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="widths x (steps + 1) forwards + widths x steps backwards, fewer where images break early; "
    "a second-order backward takes the base classifier a forward and two backwards more",
    early_exit="misclassified",
    purifiers_only=True,
)
def second_order_apgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 100,
    tau: Positive = 1.0,
    widths: Count = 3,
    loss: Literal["cross-entropy", "dlr"] = "dlr",
) -> Tensor:
    """Auto-PGD through a purifier's own gradient step, its sign smoothed (Crossfire; after Croce et al., 2022).

    The derivative of the sign being zero, BPDA sees the purification as the identity. Here the values stay those of
    the deployed function and the gradient is that of sign(g) taken as tanh(g / (tau * mean|g|)), so it holds products
    of the network's Hessian. Small widths follow the pixels whose sign is about to turn, large ones all pixels. The
    success rule is any-iterate: an image keeps its first misclassified iterate and costs nothing more.

    Args:
        target: the function under attack, a purifier.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
        steps: moves for each width.
        tau: the first width, in units of an image's mean slope.
        widths: how many are tried, each a tenth of the last.
        loss: the loss to maximise.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the function is no purifier, or the threat is unbounded.
    """
    loss_fn = dlr if loss == "dlr" else cross_entropy
    objectives = [Objective(loss_fn, y, tau=tau / 10**i) for i in range(widths)]
    return apgd(target, x, y, threat, objectives, steps)
