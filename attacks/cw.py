import torch
from torch import Tensor

from attacks._steps import adam, keep, l2_norm, margin, per_image
from bench.api import Count, NonNegative, Positive, Target, Threat, attack


@attack(
    norms=("l2",),
    bounded=False,
    passes="searches x steps forwards + searches x steps backwards, fewer where the search for an image stalls",
    early_exit="stalled",
    presets={
        "tpap": {"steps": 10, "searches": 4, "confidence": 1.0, "first_c": 1.0, "abort_early": False},
        "reference": {"steps": 1000, "searches": 9},
    },
)
def cw(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 200,
    searches: Count = 9,
    confidence: NonNegative = 0.0,
    first_c: Positive = 1e-3,
    learning_rate: Positive = 0.01,
    abort_early: bool = True,
) -> Tensor:
    """Carlini and Wagner's L2 attack (2017): the least perturbation, by Adam on a penalty found by binary search.

    It minimises ||x' - x||^2 + c * max(z_y - max_{i != y} z_i + confidence, 0) with x' = (tanh(w) + 1) / 2, for
    ``searches`` values of c per image: half-way between the largest that failed and the smallest that succeeded, ten
    times more while none has. An image keeps its nearest success over all iterates, itself if there is none.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2; unbounded, or with an eps that a success must keep to, and that ends the search for its image.
        steps: Adam steps for each c.
        searches: values of c.
        confidence: margin, in logits, that a success must have; the paper's kappa.
        first_c: the c tried first.
        learning_rate: Adam's, on w.
        abort_early: every tenth of the steps, leave an image whose objective fell by less than 0.01 % since.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    eps = torch.inf if threat.eps is None else float(threat.eps)
    result, nearest = x.clone(), x.new_full((len(x),), torch.inf)
    c, low, high = (x.new_full((len(x),), value) for value in (first_c, 0.0, torch.inf))
    anchor = torch.atanh((2 * x - 1) * 0.999999)
    check, half, one = max(steps // 10, 1), x.new_tensor(0.5), x.new_tensor(1.0)
    for _ in range(searches):
        solved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        rows = (nearest > eps).nonzero().flatten() if eps < torch.inf else torch.arange(len(x), device=x.device)
        origin, labels, weight, w = x[rows], y[rows], c[rows], anchor[rows]
        mean, square, before = torch.zeros_like(w), torch.zeros_like(w), torch.full_like(weight, torch.inf)
        for step in range(1, steps + 1):
            if len(rows) == 0:
                break
            tanh = torch.tanh(w)
            image = torch.add(half, tanh, alpha=0.5)
            push, logits, reached = target.rows(rows).gradient(image, margin, labels)
            delta = image - origin
            distance = l2_norm(delta)
            success = (logits.argmax(1) != labels) & (reached >= confidence)
            solved[rows] |= success
            if bool((better := success & (distance < nearest[rows])).any()):
                result[rows[better]], nearest[rows[better]] = image[better], distance[better]
            # Half the objective's gradient by the image, times twice the image's by w, which is (1 - tanh^2) / 2.
            pressing = torch.where(reached < confidence, weight, 0.0)
            grad = torch.addcmul(delta, push, per_image(pressing, w), value=-0.5)
            adam(w, grad.mul_(torch.addcmul(one, tanh, tanh, value=-1)), mean, square, step, learning_rate)
            done = (nearest[rows] <= eps) & (eps < torch.inf)
            if abort_early and step % check == 0:
                objective = distance**2 + weight * (confidence - reached).clamp_min(0)
                done |= objective > 0.9999 * before
                before = objective
            if not target.stochastic and bool(done.any()):
                rows, origin, labels, weight, w, mean, square, before = keep(
                    ~done, rows, origin, labels, weight, w, mean, square, before
                )
        high = torch.where(solved, torch.minimum(high, c), high)
        low = torch.where(solved, low, torch.maximum(low, c))
        c = torch.where(high < torch.inf, (low + high) / 2, c * 10)
    return torch.where(per_image(nearest <= eps, x) & per_image(nearest < torch.inf, x), result, x)
