"""Square's random search (Andriushchenko et al., 2020)."""

import torch
from torch import Tensor

from attacks._balls import project
from attacks._steps import budget, keep, margin, per_image
from bench.api import Target, Threat


def square_search(
    target: Target, x: Tensor, y: Tensor, threat: Threat, queries: int, first_fraction: float
) -> tuple[Tensor, Tensor]:
    """Run one random search from a start of its own (Andriushchenko et al., 2020, algorithms 1 and 2).

    Args:
        target: the function under attack; only its logits are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ with its budget.
        queries: forwards per image; none once it is misclassified, unless the function is random.
        first_fraction: share of the pixels in the first squares; the paper's p.

    Returns:
        For each image the iterate of largest margin, shaped as ``x``, and that margin (N,).

    Raises:
        MethodError: the threat is unbounded.
    """
    eps = budget(threat)
    channels, height, width = x.shape[1:]
    x_adv = project(x + eps * _signs(target.uniform(x[:, :, :1])), x, threat)
    loss = margin(target(x_adv), y)
    x_best, best_margin = x_adv.clone(), loss.clone()
    active, x_orig = torch.arange(len(x), device=x.device), x
    for query in range(1, queries):
        # Made before it is known which images just fell, so that a GPU has work while that is read.
        draw = target.rows(active).uniform(x.new_empty(len(active), 2 + channels))
        side = _side(first_fraction, query / queries, height, width)
        delta = 2 * eps * _signs(draw[:, 2:])[:, :, None, None]
        x_new = project(x_adv + delta * _squares(draw[:, :2], side, height, width), x_orig, threat)
        if not target.stochastic and bool((is_adv := loss > 0).any()):
            x_best[active[is_adv]] = x_adv[is_adv]
            best_margin[active[is_adv]] = loss[is_adv]
            active, x_orig, x_adv, loss, x_new = keep(~is_adv, active, x_orig, x_adv, loss, x_new)
        if len(active) == 0:
            break
        new_loss = margin(target.rows(active)(x_new), y[active])
        improved = new_loss > loss
        x_adv = torch.where(per_image(improved, x_new), x_new, x_adv)
        loss = torch.maximum(loss, new_loss)
    x_best[active] = x_adv
    best_margin[active] = loss
    return x_best, best_margin


def _signs(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.5, -1.0, 1.0)


def _squares(draw: Tensor, side: int, height: int, width: int) -> Tensor:
    """Return a mask (N, 1, H, W) of one square for each image, its corner from uniform draws (N, 2)."""
    top = torch.floor(draw[:, :1] * (height - side + 1))
    left = torch.floor(draw[:, 1:] * (width - side + 1))
    rows, columns = torch.arange(height, device=draw.device), torch.arange(width, device=draw.device)
    in_rows = ((rows >= top) & (rows < top + side))[:, None, :, None]
    in_columns = ((columns >= left) & (columns < left + side))[:, None, None, :]
    return in_rows & in_columns


def _side(fraction: float, progress: float, height: int, width: int) -> int:
    halvings = sum(progress > threshold for threshold in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    side = round((fraction / 2**halvings * height * width) ** 0.5)
    return min(max(side, 1), height, width)
