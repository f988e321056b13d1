"""Building blocks of test-time steps: BPDA, pseudo-label losses, and sign-gradient steps with a smooth derivative."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Draws


class _Bpda(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, approximation: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def bpda(values: Tensor, approximation: Tensor) -> Tensor:
    """Return exactly ``values``, with the gradient of ``approximation`` (BPDA; Athalye et al., 2018)."""
    return _Bpda.apply(values.detach(), approximation)


class Preprocessed(nn.Module):
    """A classifier behind a transform of its input images.

    Args:
        base: the classifier.
        transform: images (N, C, H, W) in [0, 1] to images in [0, 1].
        approximation: the function whose derivative replaces that of ``transform`` in the backward pass (BPDA), such
            as :func:`identity`; ``None`` keeps the true derivative.
    """

    def __init__(
        self,
        base: nn.Module,
        transform: Callable[[Tensor], Tensor],
        approximation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.transform, self.approximation = transform, approximation

    def forward(self, x: Tensor) -> Tensor:
        if self.approximation is None:
            return self.base(self.transform(x))
        return self.base(bpda(self.transform(x.detach()), self.approximation(x)))


def identity(x: Tensor) -> Tensor:
    """Return ``x``: the BPDA approximation of a transform that changes images little."""
    return x


class PseudoLabelLoss:
    """Losses of one label per image, which ``choose_labels`` picks from the logits (N, classes) of the first forward.

    Later forwards keep these labels. Both losses are summed over images.
    """

    def __init__(self, base: nn.Module, choose_labels: Callable[[Tensor], Tensor]) -> None:
        self.base, self.choose_labels = base, choose_labels
        self.labels: Tensor | None = None

    def cross_entropy(self, x: Tensor) -> Tensor:
        return F.cross_entropy(*self._logits_and_labels(x), reduction="sum")

    def log_odds(self, x: Tensor) -> Tensor:
        return log_odds(*self._logits_and_labels(x)).sum()

    def _logits_and_labels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.base(x)
        if self.labels is None:
            self.labels = self.choose_labels(logits.detach())
        return logits, self.labels


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log((1 - p) / p) of the labels' probabilities p, shape (N,).

    Its gradient is that of the cross-entropy, -log p, divided by 1 - p: the same signs, and no rounding to zero where
    the softmax saturates.
    """
    true_logit = logits.gather(1, labels[:, None])
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - true_logit[:, 0]


def uniform_start(x: Tensor, eps: float, draws: Draws) -> Tensor:
    """Return a uniform point of the L∞ ball around each image, clamped to [0, 1]; its derivative is the identity."""
    noise = draws.uniform(x) * 2 - 1
    return bpda((x + eps * noise).clamp(0.0, 1.0), x)


def sign_steps(
    x: Tensor,
    loss_fn: Callable[[Tensor], Tensor],
    *,
    alpha: float,
    steps: int,
    eps: float = 1.0,
    x_init: Tensor | None = None,
    tau: float | None = None,
    backward_loss_fn: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return purified images: ``x`` after sign-gradient steps that maximise a loss.

    Without ``tau`` they are a constant to gradients. With it they are a function of ``x``, whose gradient is of second
    order in the network: the derivative of sign(g) is that of tanh(g / (tau * mean|g|)), the mean over each image, so
    one tau suits images of any confidence; the derivative of the projections is the identity. The backward pass
    recomputes what each step needs, so memory grows by one image per step.

    Args:
        x: images (N, C, H, W) in [0, 1].
        loss_fn: images to a scalar, the sum over images.
        alpha: step size in each pixel; a negative one minimises the loss.
        steps: number of steps.
        eps: each step is projected onto this L∞ ball around ``x`` and onto [0, 1].
        x_init: images to start from instead of ``x``; a function of ``x``.
        tau: width of the smoothed sign, in units of an image's mean absolute gradient.
        backward_loss_fn: the loss to differentiate twice instead of ``loss_fn``: one whose gradient has the same signs
            and does not saturate, such as :func:`log_odds` for the cross-entropy.
    """
    x_purified = x if x_init is None else x_init
    if tau is None:
        return _detached_sign_steps(x, x_purified, loss_fn, alpha, steps, eps)

    def step(x_purified: Tensor) -> Tensor:
        return _detached_sign_steps(x, x_purified, loss_fn, alpha, 1, eps)

    for _ in range(steps):
        x_purified = _SmoothSignStep.apply(x_purified, step, backward_loss_fn or loss_fn, alpha, tau)
    return x_purified


def _detached_sign_steps(
    x: Tensor, x_init: Tensor, loss_fn: Callable[[Tensor], Tensor], alpha: float, steps: int, eps: float
) -> Tensor:
    # A deployed network may run under no_grad or in inference mode; the steps need gradients.
    with torch.inference_mode(False), torch.enable_grad():
        x_orig = x.detach().clone()
        x_purified = x_init.detach().clone()
        for _ in range(steps):
            leaf = x_purified.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss_fn(leaf), leaf)
            x_stepped = x_purified + alpha * grad.sign()
            x_purified = torch.minimum(torch.maximum(x_stepped, x_orig - eps), x_orig + eps).clamp(0.0, 1.0)
    return x_purified


class _SmoothSignStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x_purified: Tensor,
        step: Callable[[Tensor], Tensor],
        loss_fn: Callable[[Tensor], Tensor],
        alpha: float,
        tau: float,
    ) -> Tensor:
        ctx.save_for_backward(x_purified)
        ctx.loss_fn = loss_fn
        ctx.alpha, ctx.tau = alpha, tau
        return step(x_purified)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x_purified,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x_purified.detach().requires_grad_()
            (grad,) = torch.autograd.grad(ctx.loss_fn(leaf), leaf, create_graph=True)
            width = ctx.tau * grad.detach().abs().flatten(1).mean(1).view(-1, *[1] * (leaf.dim() - 1))
            smooth_sign = torch.tanh(grad * torch.where(width > 0, 1 / width, 0.0))
            if not smooth_sign.requires_grad:
                return grad_output, None, None, None, None
            (grad_of_sign,) = torch.autograd.grad(smooth_sign, leaf, ctx.alpha * grad_output, materialize_grads=True)
        return grad_output + grad_of_sign, None, None, None, None
