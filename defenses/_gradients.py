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
    radius: float = 1.0,
    start: Tensor | None = None,
    tau: float | None = None,
) -> Tensor:
    """Return images after sign-gradient steps up ``objective`` (down where ``size`` is negative).

    Callers run a deployed network without gradients or in inference mode; here both are switched back on.

    Args:
        x: images (N, C, H, W) in [0, 1].
        objective: images to a scalar, the sum over images.
        size: length of a step in each pixel.
        steps: how many.
        radius: each step ends in this Linf ball round ``x``, and in the box.
        start: images to start from instead of ``x``.
        tau: what is returned is a function of ``x`` to gradients, the derivative of the sign of ``g`` being that of
            ``tanh(g / tau)`` and those of the projections the identity. ``None``: a constant.
    """
    with torch.inference_mode(False), torch.enable_grad():
        origin = x.detach().clone()
        current = x if start is None else start
        if tau is None:
            current = current.detach().clone()
        for _ in range(steps):
            leaf = current if current.requires_grad else current.detach().requires_grad_()
            (grad,) = torch.autograd.grad(objective(leaf), leaf, create_graph=tau is not None)
            sign = grad.sign() if tau is None else borrow(grad.sign(), torch.tanh(grad / tau))
            moved = current + size * sign
            inside = torch.minimum(torch.maximum(moved, origin - radius), origin + radius).clamp(0.0, 1.0)
            current = inside if tau is None else borrow(inside, moved)
    return current


def uniform_start(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    """Return a uniform point of the Linf ball round each image, clamped to the box; its derivative is the identity."""
    noise = torch.rand(x.shape, generator=rng).to(x) * 2 - 1
    return borrow((x + radius * noise).clamp(0.0, 1.0), x)
