import torch
from torch import Tensor

from attacks._steps import budget, cross_entropy, keep, per_image
from attacks._transport import linear_maximizer
from bench.api import Annotated, Count, Field, Literal, Positive, Target, Threat, attack

#: Entries of transport plans held at once, so that memory stays flat; more on a GPU, which would wait for its launches.
PLAN_ENTRIES = {"cpu": 2**23, "cuda": 2**26}


@attack(
    norms=("wasserstein",),
    passes="steps forwards + steps backwards, fewer where images break early",
    early_exit="misclassified",
    presets={
        "tpap": {"steps": 20, "kernel": 4, "entropy": 3e-3, "capacity": False, "rule": "last-iterate"},
        "reference": {"steps": 300, "kernel": 5, "entropy": 1e-3, "rule": "last-iterate"},
    },
)
def fwa(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 20,
    kernel: Annotated[int, Field(ge=2)] = 5,
    entropy: Positive = 1e-3,
    capacity: bool = True,
    rule: Literal["any-iterate", "last-iterate"] = "any-iterate",
) -> Tensor:
    """Wasserstein attack by Frank-Wolfe (Wu et al., 2020): pixel mass moves, per channel, to pixels near by.

    The ball holds the images that a transport plan makes of x by moving mass within a window, at a cost of mass times
    Euclidean pixel distance of at most eps * sum(x) over all channels. Each step moves by 2 / (t + 2) towards the image
    whose plan gains most along the gradient (scaled to a largest entry of 1) plus ``entropy`` times its entropy. That
    plan is a softmax over each window; its price of distance is found by Newton's method on the cost. Plans are
    not stored: the image and the cost of a convex combination of plans are the same combination of their own.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Wasserstein, eps as a fraction of the image's mass times one pixel.
        steps: Frank-Wolfe steps.
        kernel: side of the window; an even one reaches one pixel less to the right and below.
        entropy: weight of the plan's entropy; the paper's gamma.
        capacity: fill no pixel above 1 (plans are then made in rounds, and full pixels take no more), which
            keeps every channel's mass; otherwise pixels are clamped to 1 and their excess is lost.
        rule: ``any-iterate`` keeps the first iterate that is misclassified and stops paying for its image;
            ``last-iterate`` takes every step and keeps the last. Random functions always get the latter.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    eps = budget(threat)
    stops_early = rule == "any-iterate" and not target.stochastic
    x_best = x.clone()
    active = torch.arange(len(x), device=x.device)
    x_orig, iterate = x, x
    entries = PLAN_ENTRIES.get(x.device.type, PLAN_ENTRIES["cpu"])
    batch = max(1, entries // (x[:1].numel() * kernel**2 or 1))
    for step in range(steps if eps > 0 else 0):
        x_adv = iterate.clamp(0.0, 1.0)
        grad, logits, _ = target.rows(active).gradient(x_adv, cross_entropy, y[active])
        if stops_early and bool((is_adv := logits.argmax(1) != y[active]).any()):
            x_best[active[is_adv]] = x_adv[is_adv]
            active, x_orig, iterate, grad = keep(~is_adv, active, x_orig, iterate, grad)
        if len(active) == 0:
            break
        maximizers = [
            linear_maximizer(
                images,
                slopes,
                eps=eps,
                kernel=kernel,
                entropy=entropy,
                capacity=capacity,
                repeated=target.repeated,
            )
            for images, slopes in zip(x_orig.split(batch), grad.split(batch), strict=True)
        ]
        eta = grad.flatten(1).any(1).to(grad.dtype) * (2.0 / (step + 2.0))
        iterate = iterate.lerp(torch.cat(maximizers), per_image(eta, grad))
    x_best[active] = iterate.clamp(0.0, 1.0)
    return x_best
