import math

import torch
from torch import Tensor

from attacks._balls import ascend, uniform_start
from attacks._steps import best_of_restarts, budget, keep, margin
from bench.api import Budget, Count, Literal, Positive, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="restarts x steps x (samples + 1) forwards + restarts x steps x samples backwards "
    "(+ restarts forwards for a random function if more than one), fewer where images break early",
    early_exit="misclassified",
)
def smoothed_pgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 60,
    samples: Count = 4,
    sigma: Positive = 0.1,
    step_size: Budget | None = None,
    schedule: Literal["constant", "cosine"] = "cosine",
    restarts: Count = 1,
) -> Tensor:
    """PGD on a margin smoothed by Gaussian noise, for functions whose own gradient leads nowhere.

    It maximises E[margin(f(clamp(x + sigma * n)))], n standard normal, by the mean gradient of ``samples`` fresh
    draws at each step: the variance-reduced gradient of Wu et al. (2018), or expectation over transformation (Athalye
    et al., 2018) with noise as the transformation. A defense that shatters the loss into cells much smaller than the
    budget, as a sign or a quantisation under BPDA does, leaves the plain gradient to chance; its mean over cells still
    says where margins fall. Each iterate is then evaluated without noise. The success rule is any-iterate: an
    image keeps its first misclassified iterate and costs nothing more, and one that never breaks the iterate of largest
    margin. So does every image of a random function; of several restarts it keeps the one with the largest margin in
    one evaluation more.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
        steps: gradient steps per restart.
        samples: noisy copies of an image whose gradients one step averages.
        sigma: standard deviation of the noise in each pixel; wider than the cells of the loss, and not much wider than
            a defense moves pixels.
        step_size: length of the first step in the threat's norm; a quarter of eps by default.
        schedule: the steps keep their length, or shorten to nothing along half a cosine.
        restarts: independent uniform starts in the ball, each for the images that the ones before it did not break.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """
    first_alpha = float(step_size) if step_size is not None else budget(threat) / 4
    alphas = [first_alpha * _decay(schedule, step, steps) for step in range(steps)]

    def run(view: Target, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _run(view, x, y, threat, alphas, samples, sigma)

    return best_of_restarts(target, x, y, restarts, run)


def _run(
    target: Target, x: Tensor, y: Tensor, threat: Threat, alphas: list[float], samples: int, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return for each image the iterate of largest margin, its first misclassified one if any, and that margin."""
    x_best, best_margin = x.clone(), x.new_full(y.shape, -torch.inf)
    active, x_orig = torch.arange(len(x), device=x.device), x
    x_adv = uniform_start(target, x, threat)
    for alpha in alphas:
        view = target.rows(active)
        grad = _smoothed_gradient(view, x_adv, y[active], samples, sigma)
        x_adv = ascend(x_adv, grad, alpha, x_orig, threat)
        loss = margin(view(x_adv), y[active])
        improved = loss > best_margin[active]
        x_best[active[improved]] = x_adv[improved]
        best_margin[active[improved]] = loss[improved]
        if not target.stochastic and bool((is_adv := loss > 0).any()):
            active, x_orig, x_adv = keep(~is_adv, active, x_orig, x_adv)
        if len(active) == 0:
            break
    return x_best, best_margin


def _smoothed_gradient(target: Target, x: Tensor, y: Tensor, samples: int, sigma: float) -> Tensor:
    """Return the mean gradient of the margin over noisy copies of the images, each clamped to the box."""
    total = torch.zeros_like(x)
    for _ in range(samples):
        noisy = torch.add(x, target.normal(x), alpha=sigma).clamp_(0.0, 1.0)
        total += target.gradient(noisy, margin, y).grad
    return total / samples


def _decay(schedule: str, step: int, steps: int) -> float:
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
