import torch
from torch import Tensor

from attacks._steps import budget, margin, per_image, project
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
        target: the function under attack, whose purification is only looked at.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf with its budget.
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
    wide = per_image(eps + reach, x)
    low, high = (x - wide).clamp_min(0.0), (x + wide).clamp_max(1.0)
    result, best = x.clone(), x.new_full((len(x),), -torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(rows) == 0:
            break
        view, origin, labels = target.rows(rows), x[rows], y[rows]
        goal = (origin + wide[rows] * view.uniform(origin, -1.0, 1.0)).clamp(0.0, 1.0)
        for _ in range(steps):
            grad = view.base.gradient(goal, margin, labels).grad
            goal = torch.maximum(torch.minimum(goal + 0.1 * wide[rows] * grad.sign(), high[rows]), low[rows])
        current = project(goal, origin, threat)
        for _ in range(inversions):
            given = view.purified(current)
            reached = margin(view.base(given), labels)
            better = reached > best[rows]
            result[rows[better]], best[rows[better]] = current[better], reached[better]
            current = project(goal - (given - current), origin, threat)
        rows = rows if target.stochastic else rows[best[rows] <= 0]
    return result
