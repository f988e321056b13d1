from torch import Tensor

from attacks._square import square_search
from attacks._steps import best_of_restarts
from bench.api import Count, Probability, Target, Threat, attack


@attack(
    norms=("linf", "l2"),
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

    In L∞ it starts from vertical stripes of +-eps, and each query moves one square of an image, of random position and
    sign, by 2 eps in every channel. In L2 it starts from tiles, each a hill beside a valley, and each query adds
    such a tile to the change in one square, at the cost of the change in another. The squares shrink by the authors'
    schedule, stretched from 10,000 to ``queries``. The success rule is any-iterate: an image costs nothing more once it
    is broken.

    Args:
        target: the function under attack; only its logits are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
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
        return square_search(view, x, y, threat, queries, first_fraction)

    return best_of_restarts(target, x, y, restarts, search)
