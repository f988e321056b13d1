import math

import torch
from torch import Tensor

from attacks._aim import aim_of
from attacks._balls import distance
from attacks._steps import adam_step, per_image
from bench.api import Count, Positive, Probability, Target, Threat, attack


@attack(
    norms=("l0",),
    bounded=False,
    targetable=True,
    passes="steps forwards + steps backwards",
    presets={"reference": {"steps": 1000}},
)
def sigma_zero(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 200,
    learning_rate: Positive = 1.0,
    sigma: Positive = 1e-3,
    first_threshold: Probability = 0.3,
    threshold_step: Probability = 0.01,
) -> Tensor:
    """Sigma-zero (Cinà et al., 2024): the fewest changed values, by Adam on a smooth L0 and a threshold below it.

    It minimises max(z_y - max_{i != y} z_i, 0) + mean_j(delta_j^2 / (delta_j^2 + sigma)), with each gradient scaled to
    an L∞ norm of one, and after each step sets values of delta below a threshold to zero. The threshold rises where
    the image is broken and falls where it is not. With a target class t the first term is max(max_{i != t} z_i - z_t,
    0), and only t breaks an image. The length of steps falls to a tenth as a cosine. An image keeps its
    sparsest success, itself if there is none. Values are counted: three in a pixel of three channels.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L0; unbounded, or with an eps that a success must keep to.
        steps: gradient steps; the first evaluates the image itself, and the last iterate is not evaluated.
        learning_rate: Adam's, at the start.
        sigma: how smooth the L0 is: a value of sqrt(sigma) counts half.
        first_threshold: the threshold at the start, in units of pixels.
        threshold_step: change of the threshold at a step, times the learning rate there.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    aim = aim_of(target, y)
    x_best, fewest = x, x.new_full((len(x),), torch.inf)
    threshold = torch.full_like(fewest, first_threshold)
    delta, m, v = (torch.zeros_like(x) for _ in range(3))
    rate = learning_rate
    for step in range(steps):
        x_adv = x + delta
        grad_margin, logits, loss = target.gradient(x_adv, aim.margin, aim.classes)
        is_adv = aim.succeeded(logits, aim.classes)
        l0 = distance(delta, "l0")
        # Without asking whether any improved: a GPU would wait for the answer at every step.
        improved = is_adv & (l0 < fewest)
        x_best = torch.where(per_image(improved, x), x_adv, x_best)
        fewest = torch.where(improved, l0, fewest)
        square = delta**2
        grad = 2 * sigma / x[0].numel() * delta / (square + sigma) ** 2
        grad -= torch.where(per_image(loss < 0, x), grad_margin, 0.0)
        grad /= per_image(distance(grad, "linf").clamp_min(1e-12), x)
        adam_step(delta, grad, m, v, step + 1, rate)
        delta.add_(x).clamp_(0.0, 1.0).sub_(x)
        rate = learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        change = threshold_step * rate
        threshold = (threshold + torch.where(is_adv, change, -change)).clamp(0.0, 1.0)
        delta = torch.where(delta.abs() < per_image(threshold, x), 0.0, delta)
    eps = torch.inf if threat.eps is None else float(threat.eps)
    return torch.where(per_image(fewest <= eps, x), x_best, x)
