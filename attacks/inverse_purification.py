import torch
from torch import Tensor

from attacks._balls import project
from attacks._steps import budget, margin, per_image
from bench.api import Count, Target, Threat, attack


@attack(
    norms=("linf",),
    passes="restarts x (steps + 2 x inversions) + 1 forwards + restarts x steps backwards, most on the base classifier",
    purifiers_only=True,
)
def inverse_purification(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 40,
    inversions: Count = 20,
    restarts: Count = 1,
) -> Tensor:
    """Images that a purifier itself turns into adversarial ones, its reach added to the budget (Crossfire).

    First PGD on the margin of the base classifier finds z that breaks it within eps plus what the purification moved
    the clean image; then x <- project(z - (P(x) - x)) looks for the image whose purification P(x) is z. An image
    keeps the iterate that the base classifier misclassifies most once purified.

    Args:
        target: the function under attack; its purification is evaluated, never differentiated.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ with its budget.
        steps: PGD steps to z, each a tenth of the widened budget.
        inversions: fixed-point iterations from z to x.
        restarts: independent starts.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded, or the defense hands on images of another shape.
    """
    eps = budget(threat)
    reach = (target.purified(x) - x).abs().flatten(1).amax(1)
    wide_eps = per_image(eps + reach, x)
    lower, upper = (x - wide_eps).clamp_min(0.0), (x + wide_eps).clamp_max(1.0)
    x_best, best_margin = x.clone(), x.new_full((len(x),), -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(active) == 0:
            break
        view, labels = target.rows(active), y[active]
        x_orig = x[active]
        z = (x_orig + wide_eps[active] * view.uniform(x_orig, -1.0, 1.0)).clamp(0.0, 1.0)
        for _ in range(steps):
            grad = view.base.gradient(z, margin, labels).grad
            z = z + 0.1 * wide_eps[active] * grad.sign()
            z = torch.maximum(torch.minimum(z, upper[active]), lower[active])
        x_adv = project(z, x_orig, threat)
        for _ in range(inversions):
            purified = view.purified(x_adv)
            loss = margin(view.base(purified), labels)
            improved = loss > best_margin[active]
            x_best[active[improved]] = x_adv[improved]
            best_margin[active[improved]] = loss[improved]
            x_adv = project(z - (purified - x_adv), x_orig, threat)
        active = active if target.stochastic else active[best_margin[active] <= 0]
    return x_best
