"""Values of one tensor with the gradient of another: what BPDA needs."""

import torch
from torch import Tensor


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
