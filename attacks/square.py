import torch
from torch import Tensor

from attacks._steps import best_of_restarts, budget, keep, margin, per_image, project
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

    It starts from vertical stripes of +-eps. Each query moves one square of an image, of random place and sign, by
    2 eps in every channel; the squares shrink by the authors' schedule, stretched from 10,000 to ``queries``. The
    success rule is any-iterate: an image costs nothing more once it is broken.

    Args:
        target: the function under attack; only its logits are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: Linf with its budget.
        queries: forwards per image and restart; the schedule of the squares runs through in each.
        restarts: independent searches, each of the images that the ones before it did not break. An image keeps the
            result with the largest margin, of a random function that of one evaluation more.
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
    """Return the image of largest margin of one random search for each, and that margin."""
    eps, (channels, height, width) = budget(threat), x.shape[1:]
    current = project(x + eps * _signs(target.uniform(x[:, :, :1])), x, threat)
    result, best = current.clone(), margin(target(current), y)
    reached = best.clone()
    rows, origin = torch.arange(len(x), device=x.device), x
    across, down = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
    for query in range(1, queries):
        if not target.stochastic and bool((broken := best > 0).any()):
            result[rows[broken]], reached[rows[broken]] = current[broken], best[broken]
            rows, origin, current, best = keep(~broken, rows, origin, current, best)
        if len(rows) == 0:
            break
        view = target.rows(rows)
        side = _side(first_fraction, query / queries, height, width)
        draw = view.uniform(x.new_empty(len(rows), 2 + channels))
        top, left = (torch.floor(draw[:, i] * (n - side + 1))[:, None] for i, n in enumerate((height, width)))
        inside = ((down >= top) & (down < top + side))[:, None, :, None]
        inside = inside & ((across >= left) & (across < left + side))[:, None, None, :]
        move = 2 * eps * _signs(draw[:, 2:])[:, :, None, None]
        tried = project(current + move * inside, origin, threat)
        now = margin(view(tried), y[rows])
        better = now > best
        current, best = torch.where(per_image(better, tried), tried, current), torch.maximum(best, now)
    result[rows], reached[rows] = current, best
    return result, reached


def _signs(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.5, -1.0, 1.0)


def _side(fraction: float, progress: float, height: int, width: int) -> int:
    halvings = sum(progress > at for at in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    side = round((fraction / 2**halvings * height * width) ** 0.5)
    return min(max(side, 1), height, width)
