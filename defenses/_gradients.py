"""What test-time steps share: gradients lent to values that have none, and sign steps on an objective."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


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
    radius: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Return images after sign-gradient steps up ``objective`` (down where ``size`` is negative).

    Callers run a deployed network without gradients or in inference mode; here both are switched back on.

    Args:
        x: images (N, C, H, W) in [0, 1].
        objective: images to a scalar, the sum over images.
        size: length of a step in each pixel.
        steps: how many.
        radius: each step ends in this Linf ball round ``x``, and always in the box; ``None`` for the box alone.
        start: images to start from instead of ``x``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        origin = x.detach().clone()
        current = origin if start is None else start.detach().clone()
        for _ in range(steps):
            leaf = current.detach().requires_grad_()
            (grad,) = torch.autograd.grad(objective(leaf), leaf)
            current = current + size * grad.sign()
            if radius is not None:
                current = torch.minimum(torch.maximum(current, origin - radius), origin + radius)
            current = current.clamp(0.0, 1.0)
    return current


def uniform_start(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    """Return a uniform point of the Linf ball round each image, clamped to the box."""
    noise = torch.rand(x.shape, generator=rng).to(x) * 2 - 1
    return (x + radius * noise).clamp(0.0, 1.0)
