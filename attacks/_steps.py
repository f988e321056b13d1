"""Steps that several attacks share: losses per image, moves and projections in a threat's ball, the active set."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import MethodError, Target, Threat


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each row, shape (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one, shape (N,): above zero where the image is broken."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N,) shaped to multiply images (N, C, H, W)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """Return the L2 norm of each image, shape (N,)."""
    return delta.flatten(1).norm(dim=1)


def budget(threat: Threat) -> float:
    """Return eps as a number.

    Raises:
        MethodError: the threat is unbounded.
    """
    if threat.eps is None:
        raise MethodError("this attack needs a bounded threat: set eps")
    return float(threat.eps)


def project(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv`` moved into the ball round ``x`` and then into [0, 1]; the box never leaves either ball."""
    eps, delta = budget(threat), x_adv - x
    if threat.norm == "linf":
        delta.clamp_(-eps, eps)
    else:
        delta.mul_(per_image((eps / l2_norm(delta).clamp_min(1e-12)).clamp_max(1.0), delta))
    return delta.add_(x).clamp_(0.0, 1.0)


def uniform_start(target: Target, x: Tensor, threat: Threat) -> Tensor:
    """Return a uniform point of the threat's ball round each image, then clamped to the box."""
    eps = budget(threat)
    if threat.norm == "linf":
        return project(x + target.uniform(x, -eps, eps), x, threat)
    direction = target.normal(x)
    radius = eps * target.uniform(x[:, :1, :1, :1]).flatten() ** (1.0 / x[0].numel())
    return project(x + direction * per_image(radius / l2_norm(direction).clamp_min(1e-12), x), x, threat)


def ascend(x_adv: Tensor, grad: Tensor, size: float, x: Tensor, threat: Threat) -> Tensor:
    """Return ``x_adv`` after a step of length ``size`` that raises a linear loss most, projected."""
    return project(torch.add(x_adv, steepest(grad, threat), alpha=size), x, threat)


def steepest(grad: Tensor, threat: Threat) -> Tensor:
    """Return the unit step that raises a linear loss most: the sign in Linf, the normalised gradient in L2."""
    return grad.sign() if threat.norm == "linf" else grad / per_image(slope(grad).clamp_min(1e-38), grad)


def slope(grad: Tensor) -> Tensor:
    """Return the L2 norm of each image's gradient, shape (N,)."""
    # In double precision: a saturated softmax leaves gradients whose squares underflow.
    return torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=torch.float64).to(grad.dtype)


def accumulate(momentum: Tensor, grad: Tensor, decay: float) -> Tensor:
    """Return, in place, ``decay * momentum + grad / mean|grad|``, the mean over an image (Dong et al., 2018, eq. 6)."""
    size = grad.abs().flatten(1).mean(1).clamp_min(1e-30)
    return momentum.mul_(decay).addcdiv_(grad, per_image(size, grad))


def adam(w: Tensor, grad: Tensor, mean: Tensor, square: Tensor, step: int, rate: float) -> None:
    """Move ``w`` and its averages ``mean`` and ``square`` in place, by step 1, 2, ... of Adam (Kingma and Ba, 2015)."""
    mean.lerp_(grad, 0.1)
    square.mul_(0.999).addcmul_(grad, grad, value=0.001)
    unbiased = math.sqrt(1 - 0.999**step)
    w.addcdiv_(mean, square.sqrt().add_(1e-8 * unbiased), value=-rate * unbiased / (1 - 0.9**step))


def best_of_restarts(
    target: Target,
    x: Tensor,
    y: Tensor,
    restarts: int,
    search: Callable[[Target, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Return the strongest result of several searches, each of the images that the ones before it did not break.

    Of a random function every search gets every image, and the margin of a result is that of one evaluation more: what
    a search kept is the luckiest of its answers.

    Args:
        target: the function under attack.
        x: images (N, C, H, W).
        y: labels (N,).
        restarts: how many searches.
        search: target, images and labels to adversarial images and their margins (N,).
    """
    result, best = x.clone(), x.new_full(y.shape, -torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(rows) == 0:
            break
        view, labels = target.rows(rows), y[rows]
        found, reached = search(view, x[rows], labels)
        if target.stochastic and restarts > 1:
            reached = margin(view(found), labels)
        better = reached > best[rows]
        result[rows[better]], best[rows[better]] = found[better], reached[better]
        rows = rows if target.stochastic else rows[best[rows] <= 0]
    return result


def keep(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of every tensor where ``mask`` is true: the images an attack still works on."""
    return tuple(value[mask] for value in values)
