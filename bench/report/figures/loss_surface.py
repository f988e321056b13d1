"""Loss and accuracy on the plane of the FGSM direction and a random one, for each bare network."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from bench.keys import derive_seed
from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import HEAT, WIDTH
from bench.types import CellResult, eps_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.report.figures._network import Images

_IMAGES, _POINTS, _NETWORKS = 64, 17, 4


class Surface(NamedTuple):
    """Mean cross-entropy in nats and share of images right, over steps along (random, FGSM) in units of eps."""

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray


def surface(net: nn.Module, images: Images, eps: float, *, points: int = _POINTS, seed: int = 0) -> Surface:
    """Measure a network on clamp(x + a * eps * sign(grad CE) + b * eps * r), r random signs, for a and b in [0, 1].

    Returns:
        Arrays whose rows are b and whose columns are a.
    """
    import torch
    from torch.nn import functional as F

    x, y = images
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
    from bench.report.figures._network import Images, clean_images, network

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
        raise Missing("no bare network was attacked in Linf under a budget")
    (dataset, model, _), chosen = max(groups.items(), key=lambda item: (len(item[1]), item[1][0].cell.data.n))
    chosen = sorted(chosen, key=lambda r: source.board.labels[r.key][0])[:_NETWORKS]
    budgets = [r.cell.attack.threat.eps for r in chosen if r.cell.attack and r.cell.attack.threat.eps]
    eps: Fraction = max(set(budgets), key=budgets.count)
    figure, axes = plt.subplots(
        2,
        len(chosen),
        figsize=(max(0.5, len(chosen) / _NETWORKS) * WIDTH, 3.9),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    found = []
    for r in chosen:
        images = clean_images(source, r.cell.data)
        found.append(
            (
                source.board.labels[r.key][0],
                surface(
                    network(source, r.cell.model, r.cell.data),
                    Images(images.x[:_IMAGES], images.y[:_IMAGES]),
                    float(eps),
                ),
            )
        )
    highest = max(float(each.loss.max()) for _, each in found)
    levels = MaxNLocator(12).tick_values(0, highest or 1)
    body: list[dict[str, Any]] = []
    for column, (name, each) in enumerate(found):
        losses = axes[0][column].contourf(each.steps, each.steps, each.loss, levels=levels, cmap="cividis")
        shares = axes[1][column].contourf(
            each.steps, each.steps, 100 * each.accuracy, levels=np.linspace(0, 100, 11), cmap=HEAT
        )
        axes[0][column].set_title(name)
        axes[1][column].set_xlabel("FGSM direction / eps")
        body.append({"defense": name, "loss": each.loss.round(6).tolist(), "accuracy": each.accuracy.round(6).tolist()})
    for line, drawn, word in zip(axes, (losses, shares), ("mean loss", "accuracy, %"), strict=True):
        figure.colorbar(drawn, ax=line, label=word, pad=0.01, aspect=16)
        line[0].set_ylabel("random direction / eps")
        for axis in line:
            axis.grid(False)
            axis.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    figure.suptitle(f"{dataset} · {model}, eps {eps_text(eps)}, {len(images.x[:_IMAGES])} images", fontsize=8)
    return Drawing(
        figure,
        {
            "dataset": dataset,
            "model": model,
            "eps": eps_text(eps),
            "steps": found[0][1].steps.tolist(),
            "networks": body,
        },
    )
