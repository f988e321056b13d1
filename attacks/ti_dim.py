import torch
from torch import Tensor

from attacks import _resizing
from attacks._steps import accumulate, ascend, budget, cross_entropy, keep
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
    divides gradients by their mean over the whole batch, so that images depend on their company; here the mean is over
    one image, as in the authors' papers.)

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf or L2 with its budget.
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
    size = float(step_size) if step_size is not None else budget(threat) / steps
    left, right = _smoothing(x, kernel)
    drops = rule == "any-iterate" and not target.stochastic
    result, rows, origin, current = x.clone(), torch.arange(len(x), device=x.device), x, x
    momentum = torch.zeros_like(x)
    down, across, resized = _resizing.sources(target, x, steps, diversity, shrink)
    for step in range(steps):
        if len(rows) == 0:
            break
        view, moved = target.rows(rows), resized[rows, step]
        if diversity > 0:
            places = _resizing.pixels(down[rows, step], across[rows, step], current)
            found = view.gradient(_resizing.picked(current, places), cross_entropy, y[rows])
            grad = left @ _resizing.put_back(found.grad, places) @ right
        else:
            found = view.gradient(current, cross_entropy, y[rows])
            grad = left @ found.grad @ right
        momentum = accumulate(momentum, grad, decay)
        if drops and bool((broken := (found.logits.argmax(1) != y[rows]) & ~moved).any()):
            result[rows[broken]] = current[broken]
            rows, origin, current, momentum = keep(~broken, rows, origin, current, momentum)
        current = ascend(current, momentum, size, origin, threat)
    result[rows] = current
    return result


def _smoothing(x: Tensor, kernel: int | None) -> list[Tensor]:
    """Return the matrices (H, H) and (W, W) that, on either side of an image, convolve it with the Gaussian."""
    side = min(x.shape[-2:])
    length = kernel if kernel is not None else 3 if side < 16 else 7 if side < 128 else 15
    if length % 2 == 0:
        raise MethodError(f"kernel = {length} must be odd, such as {length - 1}")
    # The Gaussian is separable, so a zero-padded convolution is a banded matrix on either side of the image.
    line = torch.exp(-0.5 * torch.linspace(-3.0, 3.0, length, device=x.device) ** 2) if length > 1 else x.new_ones(1)
    line = line / line.sum()
    return [
        sum(weight * torch.diag(x.new_ones(n - abs(shift)), shift) for shift, weight in _taps(line) if abs(shift) < n)
        for n in x.shape[-2:]
    ]


def _taps(line: Tensor) -> list[tuple[int, Tensor]]:
    return list(zip(range(-(len(line) // 2), len(line) // 2 + 1), line, strict=True))
