from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._steps import adam_step, margin, per_image
from bench.api import Count, NonNegative, Positive, Target, Threat, attack


@attack(
    norms=("flow",),
    bounded=False,
    passes="steps forwards + steps backwards",
    presets={
        "tpap": {"steps": 50, "black_failures": True},
        "reference": {"steps": 200},
    },
)
def sta(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 100,
    smoothness: NonNegative = 0.05,
    confidence: NonNegative = 0.0,
    learning_rate: Positive = 0.02,
    black_failures: bool = False,
) -> Tensor:
    """Spatially transformed adversarial examples (stAdv; Xiao et al., 2018): pixels move, their values stay.

    A flow (u, v) in pixels says where each pixel is sampled from, bilinearly. Adam minimises, for each image by
    itself, max(z_y - max_{i != y} z_i, -confidence) + smoothness * sum_p sum_{q next to p} |flow(p) - flow(q)|. An
    image keeps its success of least total variation, itself if there is none. (advertorch, which the paper of TPAP
    used, also optimises a whole batch at once; here every image is on its own.)

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: flow; unbounded, or with an eps that bounds how far a pixel moves along either axis, as a fraction of
            that side of the image.
        steps: Adam steps; the first evaluates the image itself, and the last iterate is not evaluated.
        smoothness: weight of the flow's total variation; the paper's tau.
        confidence: margin, in logits, beyond which breaking an image further brings nothing; the paper's kappa.
        learning_rate: Adam's, in pixels.
        black_failures: return black images where no success was found, as advertorch does. A network that does not
            happen to call black by the right name then counts as broken by an attack that failed.

    Returns:
        Images shaped as ``x``, each pixel between the least and the greatest of its channel; the input, or black, where
        no success was found.
    """
    x_best, best_variation = x.clone(), x.new_full((len(x),), torch.inf)
    sides = x.new_tensor([x.shape[3], x.shape[2]]).view(2, 1, 1)
    limit = sides * (torch.inf if threat.eps is None else float(threat.eps))
    flow = x.new_zeros(len(x), 2, *x.shape[2:])
    m, v = torch.zeros_like(flow), torch.zeros_like(flow)
    floor, weight = x.new_full((len(x),), -confidence), x.new_full((len(x),), smoothness)
    grid = _grid(x)
    for step in range(1, steps + 1):
        flow.requires_grad_()
        with torch.enable_grad():
            x_adv, variation = _warp(x, flow, grid), _variation(flow)
        grad_x, logits, _ = target.gradient(x_adv.detach(), _hinge, y, floor)
        # Without asking whether any improved: a GPU would wait for the answer at every step.
        improved = (logits.argmax(1) != y) & (variation.detach() < best_variation)
        x_best = torch.where(per_image(improved, x), x_adv.detach(), x_best)
        best_variation = torch.where(improved, variation.detach(), best_variation)
        (grad,) = torch.autograd.grad((x_adv, variation), flow, (grad_x, weight))
        flow = flow.detach()
        adam_step(flow, grad, m, v, step, learning_rate)
        flow = flow.clamp_(-limit, limit)
    failed = torch.zeros_like(x) if black_failures else x
    return torch.where(per_image(best_variation < torch.inf, x), x_best, failed)


def _hinge(logits: Tensor, y: Tensor, floor: Tensor) -> Tensor:
    return torch.maximum(-margin(logits, y), floor)


class _Grid(NamedTuple):
    """The column and the row of each pixel (H, W), and what scales both to the units of ``grid_sample`` (2,)."""

    columns: Tensor
    rows: Tensor
    scale: Tensor


def _grid(x: Tensor) -> _Grid:
    height, width = x.shape[2:]
    columns, rows = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
    scale = x.new_tensor([2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)])
    return _Grid(*torch.meshgrid(columns, rows, indexing="xy"), scale)


def _warp(x: Tensor, flow: Tensor, grid: _Grid) -> Tensor:
    """Return x(p + flow(p)) by bilinear sampling, the border repeated outside."""
    source = torch.stack([flow[:, 0] + grid.columns, flow[:, 1] + grid.rows], dim=3)
    return F.grid_sample(x, source * grid.scale - 1, padding_mode="border", align_corners=True)


def _variation(flow: Tensor) -> Tensor:
    """Return the sum over pixels and their four neighbours of the length of the flow's difference, shape (N,)."""
    total = flow.new_zeros(len(flow))
    for dim in (2, 3):
        # Each pair of neighbours counts twice; 1e-8 keeps the root differentiable where the flow is constant.
        total = total + 2 * (flow.diff(dim=dim).square().sum(1) + 1e-8).sqrt().flatten(1).sum(1)
    return total
