"""What test-time steps share: gradients lent to values that have none, and sign steps on an objective."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.api import Draws


class _Borrowed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, differentiable: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def borrow(values: Tensor, differentiable: Tensor) -> Tensor:
    """Return exactly ``values``, through which gradients flow as if they were ``differentiable``.

    With the received images as ``differentiable`` this is the identity of BPDA (Athalye et al., 2018).
    """
    return _Borrowed.apply(values.detach(), differentiable)


class Before(nn.Module):
    """A classifier behind a change of its images.

    Args:
        base: the classifier.
        change: images (N, C, H, W) in [0, 1] to images in [0, 1].
        gradient: what stands in for the derivative of ``change``: its own (``None``), or that of another function,
            such as the identity.
    """

    def __init__(
        self,
        base: nn.Module,
        change: Callable[[Tensor], Tensor],
        gradient: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.change, self.gradient = base, change, gradient

    def forward(self, x: Tensor) -> Tensor:
        if self.gradient is None:
            return self.base(self.change(x))
        return self.base(borrow(self.change(x.detach()), self.gradient(x)))


def identity(x: Tensor) -> Tensor:
    """Return ``x``: the stand-in of BPDA for a change that keeps images nearly as they are."""
    return x


def sign_steps(
    x: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    size: float,
    steps: int,
    radius: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Return images after sign-gradient steps up ``objective`` (down where ``size`` is negative), as a constant.

    Callers run a deployed network without gradients or in inference mode; here both are switched back on.

    Args:
        x: images (N, C, H, W) in [0, 1].
        objective: images to a scalar, the sum over images.
        size: length of a step in each pixel.
        steps: how many.
        radius: each step ends in this Linf ball round ``x``, and in the box.
        start: images to start from instead of ``x``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        origin = x.detach().clone()
        current = origin if start is None else start.detach().clone()
        for _ in range(steps):
            leaf = current.detach().requires_grad_()
            (grad,) = torch.autograd.grad(objective(leaf), leaf)
            moved = current + size * grad.sign()
            current = torch.minimum(torch.maximum(moved, origin - radius), origin + radius).clamp(0.0, 1.0)
    return current


def smooth_sign_steps(
    x: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    size: float,
    steps: int,
    radius: float = 1.0,
    start: Tensor | None = None,
    tau: float,
    climbed: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the values of :func:`sign_steps` as a function of ``x`` to gradients, of second order in the network.

    The derivative of the sign of a slope g is that of tanh(g / (tau * mean|g|)), the mean over each image, so that no
    tau is too small or too large for an image of another confidence; those of the projections are the identity. What
    a step needs is computed anew on the way back, so that memory does not grow with ``steps``.

    Args:
        x: images (N, C, H, W) in [0, 1].
        objective: as in :func:`sign_steps`.
        size: as in :func:`sign_steps`.
        steps: as in :func:`sign_steps`.
        radius: as in :func:`sign_steps`.
        start: as in :func:`sign_steps`; a function of ``x``.
        tau: width of the smoothed sign, in units of an image's mean slope.
        climbed: what to differentiate instead of ``objective`` where another function has the same signs and does not
            saturate, such as :func:`log_odds` for the cross-entropy.
    """

    def step(images: Tensor) -> Tensor:
        return sign_steps(x, objective, size=size, steps=1, radius=radius, start=images)

    current = x if start is None else start
    for _ in range(steps):
        current = _SmoothStep.apply(current, step, climbed or objective, size, tau)
    return current


class _SmoothStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, images: Tensor, step: Callable[[Tensor], Tensor], objective: Callable[[Tensor], Tensor], *how: float
    ) -> Tensor:
        ctx.save_for_backward(images)
        ctx.objective, ctx.how = objective, how
        return step(images)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        size, tau = ctx.how
        with torch.enable_grad():
            leaf = ctx.saved_tensors[0].detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.objective(leaf), leaf, create_graph=True)
            width = tau * slope.detach().abs().flatten(1).mean(1).view(-1, *[1] * (leaf.dim() - 1))
            soft = torch.tanh(slope * torch.where(width > 0, 1 / width, 0.0))
            if not soft.requires_grad:
                return grad, None, None, None, None
            (through,) = torch.autograd.grad(soft, leaf, size * grad, materialize_grads=True)
        return grad + through, None, None, None, None


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log((1 - p) / p) of the labels' probabilities p, shape (N,).

    Its gradient is that of the cross-entropy, -log p, divided by 1 - p: the same signs, and no rounding to zero where
    the softmax saturates.
    """
    true = logits.gather(1, labels[:, None])
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - true[:, 0]


def uniform_start(x: Tensor, radius: float, draws: Draws) -> Tensor:
    """Return a uniform point of the Linf ball round each image, clamped to the box; its derivative is the identity."""
    noise = draws.uniform(x) * 2 - 1
    return borrow((x + radius * noise).clamp(0.0, 1.0), x)
