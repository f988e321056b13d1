"""Steps that several attacks share: losses per image, moves and projections in a threat's ball, the active set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import MethodError, Threat


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
    eps = budget(threat)
    if threat.norm == "linf":
        return torch.maximum(torch.minimum(x_adv, x + eps), x - eps).clamp_(0.0, 1.0)
    delta = x_adv - x
    shrink = (eps / l2_norm(delta).clamp_min(1e-12)).clamp_max(1.0)
    return (x + delta * per_image(shrink, delta)).clamp_(0.0, 1.0)


def steepest(grad: Tensor, threat: Threat) -> Tensor:
    """Return the unit step that raises a linear loss most: the sign in Linf, the normalised gradient in L2."""
    return grad.sign() if threat.norm == "linf" else unit(grad)


def unit(grad: Tensor) -> Tensor:
    """Return each image's gradient with an L2 norm of 1, or 0 where it is zero."""
    # A saturated softmax leaves gradients whose squares underflow, so the largest entry is brought to 1 first.
    grad = grad / per_image(grad.abs().flatten(1).amax(1).clamp_min(1e-38), grad)
    return grad / per_image(l2_norm(grad).clamp_min(1.0), grad)


def accumulate(momentum: Tensor, grad: Tensor, decay: float) -> Tensor:
    """Return ``decay * momentum + grad / mean|grad|``, the mean over each image (Dong et al., 2018, eq. 6)."""
    size = grad.abs().flatten(1).mean(1).clamp_min(1e-30)
    return decay * momentum + grad / per_image(size, grad)


def keep(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of every tensor where ``mask`` is true: the images an attack still works on."""
    return tuple(value[mask] for value in values)
