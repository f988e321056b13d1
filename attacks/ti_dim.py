import torch
from torch import Tensor

from attacks import _resizing
from attacks._balls import ascend
from attacks._steps import accumulate, budget, cross_entropy, keep
from bench.api import Budget, Count, Literal, MethodError, NonNegative, Probability, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
    passes="steps forwards + steps backwards",
    presets={
        "tpap": {"steps": 20, "step_size": "0.003", "kernel": 1, "diversity": 0.0},
        "reference": {"steps": 10, "diversity": 0.7},
    },
)
def ti_dim(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 10,
    step_size: Budget | None = None,
    decay: NonNegative = 1.0,
    kernel: Count | None = None,
    diversity: Probability = 0.7,
    shrink: Probability = 0.9,
    rule: Literal["any-iterate", "last-iterate"] = "last-iterate",
) -> Tensor:
    """TI-DIM (Dong et al., 2019; Xie et al., 2019): MI-FGSM on randomly resized images with a smoothed gradient.

    A transfer attack. At each step an image is shrunk and padded at random with probability ``diversity``, its
    gradient is convolved with a Gaussian (translation invariance) and accumulated as in MI-FGSM. The preset ``tpap``
    is what that paper ran: no kernel, and a resizing that leaves every pixel where it was, so MI-FGSM. (Its code also
    divides gradients by their mean over the whole batch, so that images depend on each other; here the mean is over
    one image, as in the authors' papers.)

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
        steps: gradient steps.
        step_size: length of a step in the threat's norm; eps / steps by default.
        decay: weight of the past gradients, mu.
        kernel: odd length of the Gaussian, which spans three standard deviations to each side; by default 3 below 16
            pixels, 7 below 128 (1 pixel of standard deviation), else the paper's 15.
        diversity: probability that an image is resized at a step, drawn per image.
        shrink: smallest side, as a fraction of the image's, after which zeros fill it up to its size again.
        rule: ``last-iterate`` by default, since an image that only just breaks ``target`` seldom breaks another
            function; ``any-iterate`` keeps the first iterate that is misclassified as it is, without resizing.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: an even kernel, or an unbounded threat.
    """
    alpha = float(step_size) if step_size is not None else budget(threat) / steps
    blur_rows, blur_columns = _blur_matrices(x, kernel)
    stops_early = rule == "any-iterate" and not target.stochastic
    x_best = x.clone()
    active = torch.arange(len(x), device=x.device)
    x_orig, x_adv = x, x
    momentum = torch.zeros_like(x)
    resizing = _resizing.draw(target, x, steps, diversity, shrink)
    for step in range(steps):
        if len(active) == 0:
            break
        view = target.rows(active)
        if diversity > 0:
            index = _resizing.pixel_index(resizing.rows[active, step], resizing.columns[active, step], x_adv)
            grad, logits, _ = view.gradient(_resizing.resize(x_adv, index), cross_entropy, y[active])
            grad = _resizing.resize_backward(grad, index)
        else:
            grad, logits, _ = view.gradient(x_adv, cross_entropy, y[active])
        momentum = accumulate(momentum, blur_rows @ grad @ blur_columns, decay)
        is_adv = (logits.argmax(1) != y[active]) & ~resizing.resized[active, step]
        if stops_early and bool(is_adv.any()):
            x_best[active[is_adv]] = x_adv[is_adv]
            active, x_orig, x_adv, momentum = keep(~is_adv, active, x_orig, x_adv, momentum)
        x_adv = ascend(x_adv, momentum, alpha, x_orig, threat)
    x_best[active] = x_adv
    return x_best


def _blur_matrices(x: Tensor, kernel: int | None) -> tuple[Tensor, Tensor]:
    """Return the matrices (H, H) and (W, W) that convolve an image with the Gaussian, as (H, H) @ image @ (W, W).

    The Gaussian is separable, so a zero-padded convolution is a banded matrix on either side of the image.

    Raises:
        MethodError: an even kernel.
    """
    length = kernel if kernel is not None else _default_kernel(min(x.shape[-2:]))
    if length % 2 == 0:
        raise MethodError(f"kernel = {length} must be odd, such as {length - 1}")
    gaussian = torch.exp(-0.5 * torch.linspace(-3.0, 3.0, length, device=x.device) ** 2)
    gaussian = gaussian if length > 1 else x.new_ones(1)
    gaussian = gaussian / gaussian.sum()
    height, width = x.shape[-2:]
    return _banded(gaussian, height, x), _banded(gaussian, width, x)


def _default_kernel(side: int) -> int:
    if side < 16:
        return 3
    return 7 if side < 128 else 15


def _banded(gaussian: Tensor, n: int, like: Tensor) -> Tensor:
    """Return the matrix (n, n) that convolves a vector with the Gaussian, zeros outside."""
    matrix = like.new_zeros(n, n)
    half = len(gaussian) // 2
    for shift, weight in zip(range(-half, half + 1), gaussian, strict=True):
        if abs(shift) < n:
            matrix = matrix + weight * torch.diag(like.new_ones(n - abs(shift)), shift)
    return matrix
