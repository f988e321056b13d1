import math

import torch
from torch import Tensor

from attacks._aim import aim_of
from attacks._steps import grad_norm, l2_norm, per_image
from bench.api import Count, Positive, Probability, Target, Threat, attack


@attack(
    norms=("l2",),
    bounded=False,
    targetable=True,
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
    where it is not, up to the farthest corner of the box. With a target class t it moves down the cross-entropy to t,
    and only t breaks an image. An image keeps its nearest success, itself if there is none. Where logits are so small
    that several classes stay likely at the boundary, the cross-entropy does not point to the nearest one, and the
    distance is a few percent above the least, however many steps are taken.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2; unbounded, or with an eps that a success must keep to.
        steps: gradient steps; the first evaluates the image itself, and the last iterate is not evaluated.
        gamma: relative change of the norm at a step.
        first_norm: the norm at the start.
        levels: grey levels that iterates are rounded to, None for none. 256 is that of an image file.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    aim = aim_of(target, y)
    x_best, best_l2 = x, x.new_full((len(x),), torch.inf)
    norm, max_norm = x.new_full((len(x),), first_norm), l2_norm(torch.maximum(x, 1 - x))
    # Drawn once for all images, so that the draws of an image do not depend on its batch.
    random_direction = target.normal(x).to(x)
    random_l2 = grad_norm(random_direction)
    x_adv, delta = x, torch.zeros_like(x)
    l2 = torch.zeros_like(norm)
    for step in range(steps):
        grad, logits, _ = target.gradient(x_adv, aim.cross_entropy, aim.classes)
        is_adv = aim.succeeded(logits, aim.classes)
        # Without asking whether any improved, or vanished: a GPU would wait for the answer at every step.
        improved = is_adv & (l2 < best_l2)
        x_best = torch.where(per_image(improved, x), x_adv, x_best)
        best_l2 = torch.where(improved, l2, best_l2)
        grad_l2 = grad_norm(grad)
        vanished = grad_l2 == 0
        grad = torch.where(per_image(vanished, x), random_direction, grad)
        grad_l2 = torch.where(vanished, random_l2, grad_l2)
        alpha = 0.01 + 0.495 * (1 + math.cos(math.pi * step / steps))
        delta.addcdiv_(grad, per_image(grad_l2, x), value=alpha)
        norm = torch.minimum(norm * torch.where(is_adv, 1 - gamma, 1 + gamma), max_norm)
        x_adv = torch.addcmul(x, delta, per_image(norm / l2_norm(delta).clamp_min(1e-12), x))
        if levels is not None:
            x_adv.mul_(levels - 1).round_().div_(levels - 1)
        torch.sub(x_adv.clamp_(0.0, 1.0), x, out=delta)
        l2 = l2_norm(delta)
    eps = torch.inf if threat.eps is None else float(threat.eps)
    return torch.where(per_image(best_l2 <= eps, x), x_best, x)
