"""Moving pixel mass within windows: the entropic linear step of the fast Wasserstein attack (Wu et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import chain, groupby, product
from math import hypot
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._steps import per_image

DUAL_STEPS = 25
ROUNDS = 3
#: The gain of a pixel that takes nothing: its share is 0, yet it is finite, so that a difference of two is no NaN.
CLOSED = -1e30
#: A pixel whose best move is worth this much less than lambda keeps its mass, but for exp(-20) of it.
NEGLIGIBLE = 20.0
#: Share of an image's pixels that are sources at first; more where that proves too few.
FIRST_SHARE = 1 / 64

Offset = tuple[int, int]
Repeated = Callable[..., tuple[Tensor, ...]]


class _Window(NamedTuple):
    """The window around a pixel, on a padded image laid out as one line, where each offset is a fixed shift.

    Ring r holds the offsets at distance ``distances[r]`` (R,) from the centre, which is left out. ``shifts`` (S,) are
    those of all rings in order. Pixels from ``first`` to ``last`` have their whole window within the line.
    """

    distances: Tensor
    rings: list[list[int]]
    shifts: Tensor
    first: int
    last: int


class _Sources(NamedTuple):
    """The K pixels of each image whose mass may move: their positions (N, K), and those they may move to (N, S * K).

    ``gain`` (N, 1, K) is the gain at the source, ``least_worth`` (N,) the worth of the least worthy of them.
    """

    index: Tensor
    sinks: Tensor
    gain: Tensor
    least_worth: Tensor


class _Plan(NamedTuple):
    """An entropic transport plan: the mass of the sources (N, K), and what flows from each to each offset (N, S, K).

    ``rings`` are views of ``flows``, one per ring. They hold shares of what leaves to the ring, ``leaving`` (R, N, K).
    ``lam`` (N,) is the dual variable of the cost.
    """

    mass: Tensor
    flows: Tensor
    rings: list[Tensor]
    leaving: Tensor
    lam: Tensor


def linear_maximizer(
    x: Tensor, grad: Tensor, *, eps: float, kernel: int, entropy: float, capacity: bool, repeated: Repeated
) -> Tensor:
    """Return images of (nearly) the largest entropic gain along ``grad`` among those at cost eps * sum(x) or less.

    The plan is a softmax over each window of gain minus lambda times distance. Where pixels have a capacity of 1, plans
    are made in rounds: what full pixels cannot take stays, and with the budget left over moves elsewhere. A small
    budget moves few pixels, so plans are worked out only for those whose mass is most worth moving.

    Args:
        x: images (N, C, H, W) in [0, 1].
        grad: what a unit of mass gains at each pixel, shaped as ``x``; an image stays where all of it is 0.
        eps: budget as a fraction of an image's mass times one pixel.
        kernel: side of the window.
        entropy: weight of the entropy, relative to the largest gain.
        capacity: fill no pixel above 1.
        repeated: calls a step that is taken again and again (:meth:`bench.api.Target.repeated`).
    """
    height, width = x.shape[2:]
    before, after = kernel // 2, kernel - 1 - kernel // 2

    def padded(image: Tensor, value: float) -> Tensor:
        return F.pad(image, (before, after) * 2, value=value).flatten(1)

    largest = grad.abs().flatten(1).amax(1)
    gain = padded(grad / per_image(largest.clamp_min(1e-30), x) / entropy, CLOSED)
    kept, arrived = padded(x, 0.0), torch.zeros_like(gain)
    budget = remaining = eps * kept.sum(1) * (largest > 0)
    window = _window(kernel, width + kernel - 1, gain)
    worth = _worth(gain, kept, window)
    # On a GPU launches cost more than arithmetic, so there every pixel is a source from the start.
    n_sources = worth.shape[1] if x.is_cuda else max(int(FIRST_SHARE * worth.shape[1]), 1)
    sources = _choose_sources(worth, gain, window, n_sources)
    for round_ in range(ROUNDS if capacity else 1):
        room = 1 - kept - arrived
        plan = _plan(gain, kept, room if round_ else None, remaining, sources, window, repeated)
        while not _enough(sources, worth, plan, remaining):
            sources = _choose_sources(worth, gain, window, min(2 * sources.index.shape[1], worth.shape[1]))
            plan = _plan(gain, kept, room if round_ else None, remaining, sources, window, repeated)
        for ring, leaving in zip(plan.rings, plan.leaving[:, :, None], strict=True):
            ring.mul_(leaving)
        landed = torch.zeros_like(gain).scatter_add_(1, sources.sinks, plan.flows.flatten(1))
        if capacity:
            # A pixel takes what it has room for, the same share from every side; the rest stays for the next round.
            accepted = (room / landed.clamp_min(1e-30)).clamp_(0, 1)
            refused = accepted.amin(1) < 1
            plan.flows.mul_(accepted.gather(1, sources.sinks).view_as(plan.flows))
            landed.mul_(accepted)
        cost = sum(distance * ring.sum((1, 2)) for distance, ring in zip(window.distances, plan.rings, strict=True))
        affordable = (remaining / cost.clamp_min(1e-30)).clamp_max(1)[:, None]
        kept = kept.scatter(1, sources.index, plan.mass - plan.flows.sum(1) * affordable)
        arrived.addcmul_(landed, affordable)
        if not capacity:
            break
        # An image that was refused nothing, or has spent all but a hundredth, is done, whatever the others still do.
        remaining = torch.where(refused & (remaining - cost > 0.01 * budget), remaining - cost, 0.0)
        if not bool((remaining > 0).any()):
            break
    images = (kept + arrived).view(*x.shape[:2], height + kernel - 1, width + kernel - 1)
    return images[..., before : before + height, before : before + width]


def _window(kernel: int, line: int, like: Tensor) -> _Window:
    """Return the window on padded images (N, pixels) shaped as ``like``, whose lines have ``line`` pixels."""
    by_distance = _rings(kernel)
    rings = [[i * line + j for i, j in offsets] for _, offsets in by_distance]
    shifts = torch.tensor(list(chain.from_iterable(rings)), device=like.device)
    distances = like.new_tensor([distance for distance, _ in by_distance])
    return _Window(distances, rings, shifts, -int(shifts.min()), like.shape[1] - int(shifts.max()))


def _rings(kernel: int) -> list[tuple[float, list[Offset]]]:
    """Return the offsets of a window from its centre, which is left out, by distance."""

    def distance(offset: Offset) -> float:
        return hypot(*offset)

    reach = range(-(kernel // 2), (kernel - 1) // 2 + 1)
    offsets = sorted(product(reach, repeat=2), key=distance)
    return [(radius, list(ring)) for radius, ring in groupby(offsets, distance) if radius > 0]


def _worth(gain: Tensor, mass: Tensor, window: _Window) -> Tensor:
    """Return the best gain per unit of distance (N, pixels) of each pixel's mass, from ``first`` to ``last``.

    Where lambda is above it, and all other pixels are open, the mass stays.
    """
    first, last = window.first, window.last
    best = [reduce(torch.maximum, (gain[:, first + s : last + s] for s in shifts)) for shifts in window.rings]
    worths = [
        (ring_best - gain[:, first:last]).div_(distance)
        for ring_best, distance in zip(best, window.distances, strict=True)
    ]
    return reduce(torch.maximum, worths).clamp_(min=0).mul_(mass[:, first:last].sign())


def _choose_sources(worth: Tensor, gain: Tensor, window: _Window, count: int) -> _Sources:
    most_worth, index = worth.topk(count, 1, sorted=False)
    index = index + window.first
    sinks = (index[:, None] + window.shifts[:, None]).flatten(1)
    return _Sources(index, sinks, gain.gather(1, index)[:, None], most_worth.amin(1))


def _enough(sources: _Sources, worth: Tensor, plan: _Plan, budget: Tensor) -> bool:
    """Say whether no pixel that is left out would move at the plan's lambda."""
    if sources.index.shape[1] == worth.shape[1]:
        return True
    return bool(((sources.least_worth <= plan.lam - NEGLIGIBLE) | (budget <= 0)).all())


def _plan(
    gain: Tensor,
    mass: Tensor,
    room: Tensor | None,
    budget: Tensor,
    sources: _Sources,
    window: _Window,
    repeated: Repeated,
) -> _Plan:
    """Return the entropic plan that costs ``budget`` (N,), without sinks that have no ``room`` (N, pixels) left."""
    source_mass = mass.gather(1, sources.index)
    flows = gain.gather(1, sources.sinks)
    if room is not None:
        flows.masked_fill_(room.gather(1, sources.sinks) <= 1e-6, CLOSED)
    flows = flows.view(len(gain), len(window.shifts), sources.index.shape[1]).sub_(sources.gain)
    # For each ring: its gain as a whole, and the share of each of its pixels.
    rings = flows.split([len(shifts) for shifts in window.rings], 1)
    best = [ring.amax(1, keepdim=True) for ring in rings]
    rings = [_exp(ring.sub_(ring_best)) for ring, ring_best in zip(rings, best, strict=True)]
    sums = torch.stack([ring.sum(1) for ring in rings])
    of_rings = torch.stack(best)[:, :, 0] + sums.log()
    shares, lam = _solve_dual(of_rings, window.distances, source_mass, budget, repeated)
    return _Plan(source_mass, flows, rings, source_mass * shares / sums, lam)


def _solve_dual(
    gain: Tensor, distances: Tensor, mass: Tensor, budget: Tensor, repeated: Repeated
) -> tuple[Tensor, Tensor]:
    """Return the shares (R, N, K) of rings in a plan that costs ``budget`` (N,), and its dual variable lambda (N,).

    Lambda is the price of distance, 0 where everything is affordable.

    Args:
        gain: of each ring as a whole, for each source (R, N, K).
        distances: of the rings (R,).
        mass: of the sources (N, K).
        budget: mass times distance (N,).
        repeated: calls a step that is taken again and again.
    """
    lam = _lambda_without_entropy(gain, distances, mass, budget)
    # Staying is a ring of its own, at distance 0 with gain 0.
    distances, gain = F.pad(distances, (1, 0))[:, None, None], F.pad(gain, (0, 0, 0, 0, 1, 0))
    powers = torch.cat([distances**power for power in range(3)], 1)[..., 0].mT
    lower, upper = torch.zeros_like(lam), torch.full_like(lam, torch.inf)
    dual = _Dual(lam, lower, upper, budget <= 0)
    budget = budget.clamp_min(1e-30)
    for _ in range(DUAL_STEPS):
        lam = dual.lam
        dual = _Dual(*repeated(_dual_step, gain, distances, powers, mass, budget, *dual))
        if bool(dual.converged.all()):
            break
    weights = _weights(gain, distances, lam)
    total = (powers @ weights.flatten(1))[0].view(weights.shape[1:])
    return weights[1:] / total, dual.lam


class _Dual(NamedTuple):
    """The search for the dual variable lambda of each image (N,), between ``lower`` and ``upper``."""

    lam: Tensor
    lower: Tensor
    upper: Tensor
    converged: Tensor


def _weights(gain: Tensor, distances: Tensor, lam: Tensor) -> Tensor:
    """Return the shares (R, N, K) of rings at the price ``lam``, not yet scaled to a sum of 1."""
    weights = gain - distances * lam[:, None]
    return _exp(weights.sub_(weights.amax(0)))


def _dual_step(
    gain: Tensor,
    distances: Tensor,
    powers: Tensor,
    mass: Tensor,
    budget: Tensor,
    lam: Tensor,
    lower: Tensor,
    upper: Tensor,
    converged: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the state of a search after a step, as :class:`_Dual` has it; an image that converged stays as it is."""
    weights = _weights(gain, distances, lam)
    total, mean, mean_square = (powers @ weights.flatten(1)).view(3, *weights.shape[1:])
    mean, mean_square = mean / total, mean_square / total
    cost = (mass * mean).sum(1).clamp_min(1e-30)
    log_excess = (cost / budget).log()
    converged = converged | (log_excess.abs() < 5e-3) | ((lam == 0) & (log_excess <= 0))
    too_dear = log_excess > 0
    lower, upper = torch.where(too_dear, lam, lower), torch.where(too_dear, upper, lam)
    # The cost falls about exponentially at the lambdas where a pixel starts to move, and is flat between two of
    # them: Newton's method on its logarithm, in bounded steps, and bisection where that leaves the bracket.
    slope = (mass * (mean_square - mean**2)).sum(1).clamp_min(1e-30)
    newton = lam + (log_excess * cost / slope).clamp(-8.0, 8.0)
    newton = torch.where((newton > lower) & (newton < upper), newton, (lower + upper) / 2)
    return torch.where(converged, lam, newton), lower, upper, converged


def _lambda_without_entropy(gain: Tensor, distances: Tensor, mass: Tensor, budget: Tensor) -> Tensor:
    """Return lambda (N,) of the plan without entropy that moves each pixel at most once, to the ring worth most."""
    worth, ring = (gain / distances[:, None, None]).max(0)
    sorted_worth, order = worth.sort(1, descending=True)
    cost = (mass * distances[ring]).gather(1, order).cumsum(1)
    marginal = (cost < budget[:, None]).sum(1, keepdim=True).clamp_max(cost.shape[1] - 1)
    return sorted_worth.gather(1, marginal)[:, 0].clamp_min(0.0)


def _exp(values: Tensor) -> Tensor:
    # 1e-13 does as 0 here, and products of results stay clear of denormal numbers, which are ten times slower.
    return values.clamp_(min=-30.0).exp_()
