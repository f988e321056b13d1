import torch
from torch import Tensor

from attacks._balls import project
from attacks._steps import best_of_restarts, budget, keep, margin, per_image
from bench.api import Count, Probability, Target, Threat, attack


@attack(
    norms=("linf",),
    needs="scores",
    passes="restarts x queries forwards (+ restarts for a random function if more than one), "
    "fewer where images break early",
    early_exit="misclassified",
    presets={"reference": {"queries": 5000}},
)
def square(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: Count = 1000,
    restarts: Count = 1,
    first_fraction: Probability = 0.8,
) -> Tensor:
    """Square attack (Andriushchenko et al., 2020): random squares at the edge of the ball, kept if the margin falls.

    It starts from vertical stripes of +-eps. Each query moves one square of an image, of random position and sign, by
    2 eps in every channel; the squares shrink by the authors' schedule, stretched from 10,000 to ``queries``. The
    success rule is any-iterate: an image costs nothing more once it is broken.

    Args:
        target: the function under attack; only its logits are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ with its budget.
        queries: forwards per image and restart; the schedule of the squares runs through in each.
        restarts: independent searches, each of the images that the ones before it did not break. An image keeps the
            result with the largest margin; with a random function, the margin of one more evaluation.
        first_fraction: share of the pixels in the first squares; the paper's p.

    Returns:
        Images shaped as ``x``, within the threat.

    Raises:
        MethodError: the threat is unbounded.
    """

    def search(view: Target, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _search(view, x, y, threat, queries, first_fraction)

    return best_of_restarts(target, x, y, restarts, search)


def _search(
    target: Target, x: Tensor, y: Tensor, threat: Threat, queries: int, first_fraction: float
) -> tuple[Tensor, Tensor]:
    """Return for each image the iterate of largest margin of one random search, and that margin."""
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
