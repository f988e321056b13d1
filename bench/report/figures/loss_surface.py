"""Loss and accuracy on the plane of the FGSM direction and a random one, for each bare network."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.keys import derive_seed
from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import KEPT, natural, precedence
from bench.report.figures._plot import HEAT
from bench.report.figures._text import fitted
from bench.types import CellResult, eps_text

if TYPE_CHECKING:
    from torch import Tensor, nn

_MAX_IMAGES = 64
_MAX_NETWORKS = 4
#: Inches: the least and the greatest width of a panel, and what labels and bars of colour take.
_PANEL, _MAX_PANEL = 1.0, 2.2
_SIDES = 1.1
#: Points: the names of networks, and labels.
_TITLE, _LABEL = 7.5, 7.0
#: Steps on each axis of the surface.
_STEPS = 17


class Surface(NamedTuple):
    """Mean cross-entropy in nats and share of images right, over steps along (random, FGSM) in units of eps."""

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray


def surface(net: nn.Module, x: Tensor, y: Tensor, eps: float, *, points: int = _STEPS, seed: int = 0) -> Surface:
    """Measure a network on clamp(x + a * eps * sign(grad CE) + b * eps * r), r random signs, for a and b in [0, 1].

    Returns:
        Arrays whose rows are b and whose columns are a.
    """
    import torch
    from torch.nn import functional as F

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
    generator = torch.Generator().manual_seed(derive_seed(seed, "loss-surface"))
    random = torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1
    steps = np.linspace(0, 1, points)
    loss, accuracy = np.zeros((points, points)), np.zeros((points, points))
    with torch.no_grad():
        for row, b in enumerate(steps):
            for column, a in enumerate(steps):
                logits: Tensor = net((x + eps * (float(a) * gradient.sign() + float(b) * random)).clamp(0, 1))
                loss[row, column] = float(F.cross_entropy(logits, y))
                accuracy[row, column] = float((logits.argmax(1) == y).float().mean())
    return Surface(steps, loss, accuracy)


def draw(source: Source) -> Drawing:
    every = _networks(source)
    most = min(_MAX_NETWORKS, int((source.width - _SIDES) / _PANEL))
    chosen = sorted(every[:most], key=lambda r: natural(source.board.labels[r.key][0]))
    budgets = [r.cell.attack.threat.eps for r in chosen if r.cell.attack and r.cell.attack.threat.eps]
    eps: Fraction = max(set(budgets), key=budgets.count)
    surfaces = [(source.board.labels[r.key][0], _surface_of(source, r, float(eps))) for r in chosen]
    figure = _draw_surfaces(surfaces, source.width)
    names, images = chosen[0].names, min(_MAX_IMAGES, chosen[0].cell.data.n)
    parts = [f"{names.dataset} · {names.model}", f"L∞ ε={eps_text(eps)}", f"{images:,} images"]
    if len(chosen) < len(every):
        parts.append(f"{len(chosen)} of {len(every):,} networks, {KEPT}")
    figure.suptitle(fitted(", ".join(parts), source.width - 0.1, 8, 3), fontsize=8)
    body: list[dict[str, Any]] = [
        {"defense": name, "loss": each.loss.round(6).tolist(), "accuracy": each.accuracy.round(6).tolist()}
        for name, each in surfaces
    ]
    return Drawing(
        figure,
        {
            "dataset": names.dataset,
            "model": names.model,
            "eps": eps_text(eps),
            "steps": surfaces[0][1].steps.tolist(),
            "networks": body,
        },
    )


def _networks(source: Source) -> list[CellResult]:
    """Return an attacked cell for each bare network, of the images and architecture with the most of them.

    Those to be kept first come first.
    """
    cells: dict[str, CellResult] = {}
    for r in source.results:
        if r.cell.step is None and r.cell.attack and r.cell.attack.threat.norm == "linf" and r.cell.attack.threat.eps:
            cells.setdefault(
                f"{r.cell.data.model_dump_json()} {r.cell.model.model_dump_json(exclude={'weights': {'seed'}})}", r
            )
    groups: dict[tuple[str, str, str], list[CellResult]] = {}
    for r in cells.values():
        groups.setdefault((r.names.dataset, r.names.model, r.cell.data.model_dump_json()), []).append(r)
    if not groups:
        raise Missing("no bare network was attacked in L∞ under a budget")
    largest = max(groups.values(), key=lambda cells: (len(cells), cells[0].cell.data.n))
    order = precedence(source)
    return sorted(largest, key=lambda r: order[source.board.labels[r.key][0]])


def _surface_of(source: Source, r: CellResult, eps: float) -> Surface:
    from bench.report.figures._network import clean_images, network, running

    images = clean_images(source, r.cell.data)
    net = network(source, r.cell.model, r.cell.data)
    with running(source.board.labels[r.key][0]):
        return surface(net, images.x[:_MAX_IMAGES], images.y[:_MAX_IMAGES], eps)


def _draw_surfaces(surfaces: Sequence[tuple[str, Surface]], width: float) -> Figure:
    """Draw mean loss above and accuracy below, a column for each network."""
    panel = min(_MAX_PANEL, (width - _SIDES) / len(surfaces))
    figure, axes = plt.subplots(
        2,
        len(surfaces),
        figsize=(_SIDES + panel * len(surfaces), 2 * min(panel, 1.6) + 1.0),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    highest = max(float(each.loss.max()) for _, each in surfaces)
    levels = MaxNLocator(8).tick_values(0, highest or 1)
    for column, (name, each) in enumerate(surfaces):
        losses = axes[0][column].contourf(each.steps, each.steps, each.loss, levels=levels, cmap="cividis")
        shares = axes[1][column].contourf(
            each.steps, each.steps, 100 * each.accuracy, levels=np.linspace(0, 100, 11), cmap=HEAT
        )
        title = fitted(name, panel - 0.12, _TITLE, 4, weight="bold")
        axes[0][column].set_title(title, fontsize=_TITLE, loc="center")
    for row, drawn, word in zip(axes, (losses, shares), ("mean cross-entropy, nats", "accuracy, %"), strict=True):
        bar = figure.colorbar(drawn, ax=row, pad=0.01, aspect=16)
        bar.set_label(word, fontsize=_LABEL)
        bar.ax.tick_params(labelsize=_LABEL)
        for axis in row:
            axis.grid(False)
            axis.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            axis.set_xticklabels(["0", "½", "1"], fontsize=_LABEL)
            axis.set_yticklabels(["0", "½", "1"], fontsize=_LABEL)
    figure.supxlabel("step along the FGSM direction, times ε", fontsize=_LABEL + 0.5)
    figure.supylabel("step along a random direction, times ε", fontsize=_LABEL + 0.5)
    return figure
