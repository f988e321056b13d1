import math

import torch
from torch import Tensor

from attacks._steps import cross_entropy, l2_norm, per_image, slope
from bench.api import Count, Positive, Probability, Target, Threat, attack


@attack(
    norms=("l2",),
    bounded=False,
    passes="steps forwards + steps backwards",
    presets={
        "tpap": {"steps": 20, "levels": 16},
        "reference": {"steps": 1000, "levels": 256},
    },
)
def ddn(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 100,
    gamma: Probability = 0.05,
    first_norm: Positive = 1.0,
    levels: Count | None = 256,
) -> Tensor:
    """Decoupled direction and norm (Rony et al., 2019): the least L2, growing or shrinking the norm at each step.

    The perturbation moves along the normalised gradient of the cross-entropy, by a length that falls from 1 to 0.01
    as a cosine, and is then set to a norm that is 1 - gamma times the last where the image is broken, 1 + gamma times
    where it is not, up to the farthest corner of the box. An image keeps its nearest success, itself if there is none.
    Where logits are so small that several classes stay likely at the boundary, the cross-entropy does not point to the
    nearest one, and the result lies a few percent farther than the least, however many steps are taken.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2; unbounded, or with an eps that a success must keep to.
        steps: gradient steps; the last move is never looked at, the first look is at the image itself.
        gamma: relative change of the norm at a step.
        first_norm: the norm at the start.
        levels: grey levels that iterates are rounded to, None for none. 256 is that of an image file.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    result, nearest = x.clone(), x.new_full((len(x),), torch.inf)
    norm, farthest = x.new_full((len(x),), first_norm), l2_norm(torch.maximum(x, 1 - x))
    # Drawn once and for all images, so that what one image gets does not depend on its company.
    anywhere = target.normal(x).to(x)
    current, delta, distance = x, torch.zeros_like(x), torch.zeros_like(norm)
    for step in range(steps):
        grad, logits, _ = target.gradient(current, cross_entropy, y)
        broken = logits.argmax(1) != y
        if bool((better := broken & (distance < nearest)).any()):
            result[better], nearest[better] = current[better], distance[better]
        size = slope(grad)
        if bool((lost := size == 0).any()):
            grad[lost] = anywhere[lost]
            size = slope(grad)
        delta.addcdiv_(grad, per_image(size, x), value=0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        norm = torch.minimum(norm * torch.where(broken, 1 - gamma, 1 + gamma), farthest)
        current = torch.addcmul(x, delta, per_image(norm / l2_norm(delta).clamp_min(1e-12), x))
        if levels is not None:
            current.mul_(levels - 1).round_().div_(levels - 1)
        torch.sub(current.clamp_(0.0, 1.0), x, out=delta)
        distance = l2_norm(delta)
    eps = torch.inf if threat.eps is None else float(threat.eps)
    return torch.where(per_image(nearest <= eps, x), result, x)
