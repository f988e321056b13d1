"""Square's random search (Andriushchenko et al., 2020)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._balls import project
from attacks._steps import budget, keep, l2_norm, margin, per_image
from bench.api import Target, Threat

#: In L2 the first change is of tiles, so many to a side or, where that does not divide it, some more.
_TILES = 5
#: In L2 a square has at least so many pixels to a side.
_LEAST_SIDE = 3


def square_search(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    queries: int,
    first_fraction: float,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one random search from a start of its own (Andriushchenko et al., 2020, algorithms 1 to 3).

    Args:
        target: the function under attack; only its logits are used.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
        queries: forwards per image; none once it is misclassified, unless the function is random.
        first_fraction: share of the pixels in the first squares; the paper's p.
        start: images within the threat to begin at, shaped as ``x``, instead of the paper's first change.

    Returns:
        For each image the iterate of largest margin, shaped as ``x``, and that margin (N,).

    Raises:
        MethodError: the threat is unbounded.
    """
    eps = budget(threat)
    moves = _MOVES[threat.norm]
    channels, height, width = x.shape[1:]
    x_adv = project(x + moves.start(target, x, eps), x, threat) if start is None else start
    loss = margin(target(x_adv), y)
    x_best, best_margin = x_adv.clone(), loss.clone()
    active, x_orig = torch.arange(len(x), device=x.device), x
    for query in range(1, queries):
        # Made before it is known which images just fell, so that a GPU has work while that is read.
        draw = target.rows(active).uniform(x.new_empty(len(active), moves.draws + channels))
        side = _side(first_fraction, query / queries, height, width)
        x_new = project(moves.propose(x_adv, x_orig, draw, side, eps), x_orig, threat)
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


def _stripes(target: Target, x: Tensor, eps: float) -> Tensor:
    """Return the first change in L∞: columns of +-eps."""
    return eps * _signs(target.uniform(x[:, :, :1]))


def _square_of_signs(x_adv: Tensor, x: Tensor, draw: Tensor, side: int, eps: float) -> Tensor:
    """Return ``x_adv`` with one square moved by 2 eps in every channel, by draws (N, 2 + C)."""
    delta = 2 * eps * _signs(draw[:, 2:])[:, :, None, None]
    return x_adv + delta * _squares(draw[:, :2], side, *x.shape[2:])


def _tiles(target: Target, x: Tensor, eps: float) -> Tensor:
    """Return the first change in L2: the image covered with small bumps of random signs, of norm eps."""
    height, width = x.shape[2:]
    side = max(min(height, width) // _TILES, 1)
    rows, columns = height // side, width // side
    draw = target.uniform(x.new_empty(len(x), x.shape[1] + 1, rows, columns))
    draw = draw.repeat_interleave(side, 2).repeat_interleave(side, 3)
    bump = _bump(side, x)
    lying, standing = bump.repeat(rows, columns), bump.T.repeat(rows, columns)
    delta = torch.where(draw[:, :1] < 0.5, lying, standing) * _signs(draw[:, 1:])
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta = F.pad(delta, (left, width - columns * side - left, top, height - rows * side - top))
    return eps * delta / per_image(l2_norm(delta), delta)


def _moved_mass(x_adv: Tensor, x: Tensor, draw: Tensor, side: int, eps: float) -> Tensor:
    """Return ``x`` with a change of norm eps that has a bump added in one square, at the cost of a second square.

    By draws (N, 5 + C): the corners of both, which way the bump lies, and its sign in each channel. The first square
    gets what the change had in both and, where the box took some of eps, an equal share of that in each channel.
    """
    height, width = x.shape[2:]
    side = min(max(side, _LEAST_SIDE) // 2 * 2 + 1, height, width)
    delta = x_adv - x
    gains, loses = _squares(draw[:, :2], side, height, width), _squares(draw[:, 2:4], side, height, width)
    inside = delta * gains
    added = _signs(draw[:, 5:])[:, :, None, None] * _placed(draw, side, x)
    unit = gains * (added + inside / _per_channel(inside).sqrt().clamp_min(1e-12))
    unused = (eps**2 - l2_norm(delta) ** 2).clamp_min(0) / x.shape[1]
    mass = (_per_channel(delta * (gains | loses)) + per_image(unused, x)).sqrt()
    unit = unit * (mass / _per_channel(unit).sqrt().clamp_min(1e-12))
    delta = torch.where(gains, unit, torch.where(loses, 0.0, delta))
    return x + delta * per_image(eps / l2_norm(delta).clamp_min(1e-12), x)


def _per_channel(delta: Tensor) -> Tensor:
    """Return the squared norm of each channel, shape (N, C, 1, 1)."""
    return delta.square().sum((2, 3), keepdim=True)


def _placed(draw: Tensor, side: int, x: Tensor) -> Tensor:
    """Return a bump (N, 1, H, W) at the corner of the first square, and its nearest values around."""
    bump = _bump(side, x)
    top, left = _corner(draw[:, :2], side, *x.shape[2:])
    row = (torch.arange(x.shape[2], device=x.device) - top).clamp(0, side - 1).long()
    column = (torch.arange(x.shape[3], device=x.device) - left).clamp(0, side - 1).long()
    lying, standing = bump[row[:, :, None], column[:, None]], bump.T[row[:, :, None], column[:, None]]
    return torch.where(draw[:, 4, None, None] < 0.5, lying, standing)[:, None]


def _bump(side: int, like: Tensor) -> Tensor:
    """Return a hill beside a valley (side, side), of norm one: the paper's eta."""
    upper, lower = _hill(side // 2, side, like), _hill(side - side // 2, side, like)
    bump = torch.cat((upper / upper.norm().clamp_min(1e-12), -lower / lower.norm()))
    return bump / bump.norm()


def _hill(height: int, width: int, like: Tensor) -> Tensor:
    """Return values (height, width) that fall from the middle: at distance d the sum of 1 / (k + 1)^2 from k = d on."""
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    distance = torch.maximum((rows - height // 2).abs()[:, None], (columns - width // 2).abs())
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype) ** 2
    return terms.flip(0).cumsum(0).flip(0)[distance]


def _signs(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.5, -1.0, 1.0)


def _squares(draw: Tensor, side: int, height: int, width: int) -> Tensor:
    """Return a mask (N, 1, H, W) of one square for each image, its corner from uniform draws (N, 2)."""
    top, left = _corner(draw, side, height, width)
    rows, columns = torch.arange(height, device=draw.device), torch.arange(width, device=draw.device)
    in_rows = ((rows >= top) & (rows < top + side))[:, None, :, None]
    in_columns = ((columns >= left) & (columns < left + side))[:, None, None, :]
    return in_rows & in_columns


def _corner(draw: Tensor, side: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the top row and the left column of a square for each image, (N, 1) each."""
    return torch.floor(draw[:, :1] * (height - side + 1)), torch.floor(draw[:, 1:] * (width - side + 1))


def _side(fraction: float, progress: float, height: int, width: int) -> int:
    halvings = sum(progress > threshold for threshold in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    side = round((fraction / 2**halvings * height * width) ** 0.5)
    return min(max(side, 1), height, width)


class _Moves(NamedTuple):
    """What the search moves in a norm.

    Attributes:
        start: target, images and eps to the first change, shaped as the images.
        propose: iterates, images, draws, the side of the square and eps to the next iterates, not yet projected.
        draws: that ``propose`` takes for each image, besides one for each channel.
    """

    start: Callable[[Target, Tensor, float], Tensor]
    propose: Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
    draws: int


_MOVES = {"linf": _Moves(_stripes, _square_of_signs, 2), "l2": _Moves(_tiles, _moved_mass, 5)}
