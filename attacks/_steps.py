"""Steps that several attacks share: losses per image, norms of gradients, restarts, the active set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import MethodError, Target, Threat


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each row, shape (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one, shape (N,): above zero where it is misclassified."""
    true_logit = logits.gather(1, y[:, None]).squeeze(1)
    other_logits = logits.scatter(1, y[:, None], -torch.inf)
    return other_logits.amax(1) - true_logit


def soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return log sum exp of the other logits minus the true one, shape (N,): at least the margin.

    It rises in the direction in which the cross-entropy does, but its slope does not vanish on confident logits.
    """
    true_logit = logits.gather(1, y[:, None]).squeeze(1)
    other_logits = logits.scatter(1, y[:, None], -torch.inf)
    return other_logits.logsumexp(1) - true_logit


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


def grad_norm(grad: Tensor) -> Tensor:
    """Return the L2 norm of each image's gradient, shape (N,)."""
    # In double precision: a saturated softmax leaves gradients whose squares underflow.
    return torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=torch.float64).to(grad.dtype)


def accumulate(momentum: Tensor, grad: Tensor, decay: float) -> Tensor:
    """Return, in place, ``decay * momentum + grad / mean|grad|``, the mean over an image (Dong et al., 2018, eq. 6)."""
    mean_abs = grad.abs().flatten(1).mean(1).clamp_min(1e-30)
    return momentum.mul_(decay).addcdiv_(grad, per_image(mean_abs, grad))


def adam_step(w: Tensor, grad: Tensor, m: Tensor, v: Tensor, t: int, learning_rate: float) -> None:
    """Update ``w`` and its moments ``m`` and ``v`` in place, by step t = 1, 2, ... of Adam (Kingma and Ba, 2015)."""
    m.lerp_(grad, 0.1)
    v.mul_(0.999).addcmul_(grad, grad, value=0.001)
    correction = math.sqrt(1 - 0.999**t)
    w.addcdiv_(m, v.sqrt().add_(1e-8 * correction), value=-learning_rate * correction / (1 - 0.9**t))


def best_of_restarts(
    target: Target,
    x: Tensor,
    y: Tensor,
    restarts: int,
    search: Callable[[Target, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Return for each image the result of largest margin; a restart gets the images that are not yet misclassified.

    With a random function every restart gets every image, and a result's margin comes from one more evaluation: the
    one that the search saw is the luckiest of its draws.

    Args:
        target: the function under attack.
        x: images (N, C, H, W).
        y: labels (N,).
        restarts: number of searches.
        search: target, images and labels to adversarial images and their margins (N,).
    """
    x_best, best_margin = x.clone(), x.new_full(y.shape, -torch.inf)
    active = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        if len(active) == 0:
            break
        view, labels = target.rows(active), y[active]
        x_adv, loss = search(view, x[active], labels)
        if target.stochastic and restarts > 1:
            loss = margin(view(x_adv), labels)
        improved = loss > best_margin[active]
        x_best[active[improved]] = x_adv[improved]
        best_margin[active[improved]] = loss[improved]
        active = active if target.stochastic else active[best_margin[active] <= 0]
    return x_best


def keep(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of every tensor where ``mask`` is true: the images that are still attacked."""
    return tuple(value[mask] for value in values)


@dataclass
class ActiveImages:
    """The state of the images that are still attacked: in each field a tensor with one row for each of them."""

    active: Tensor
    x_orig: Tensor

    def drop(self, mask: Tensor) -> None:
        """Remove the images where ``mask`` is true."""
        for name, value in vars(self).items():
            setattr(self, name, value[~mask])
