"""Grad-CAM of the predicted class: clean and adversarial images, each without and with purification."""

from __future__ import annotations

import importlib.util
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT

if TYPE_CHECKING:
    from torch import Tensor, nn

_IMAGES = 4
_COLUMNS = ("clean", "adversarial", "clean, purified", "adversarial, purified")


def saliency(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Return Grad-CAM maps (Selvaraju et al., 2017) at the last layer that gives a map.

    Args:
        net: the classifier, in evaluation mode.
        x: images (N, C, H, W) in [0, 1].
        classes: whose logits are explained, (N,).

    Returns:
        Maps (N, H, W) in [0, 1], the highest place of each at 1 unless nothing speaks for the class.

    Raises:
        Missing: captum is not installed, or the network has no such layer.
    """
    if importlib.util.find_spec("captum") is None:
        raise Missing("needs captum: pip install captum")
    import torch
    from captum.attr import LayerGradCam  # type: ignore[import-untyped]
    from torch.nn import functional as F

    from bench.report.figures._network import last_map

    maps = LayerGradCam(net, last_map(net, x)).attribute(
        x.clone().requires_grad_(), target=classes, relu_attributions=True
    )
    large: Tensor = F.interpolate(maps.detach(), size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, large / highest.clamp_min(torch.finfo(large.dtype).tiny), large)


def draw(source: Source) -> Drawing:
    import torch

    from bench.report.figures._network import of_many_classes, predictions, purification, purified, show

    p = purification(source)
    x, y = p.images
    before, after = predictions(p.net, x), predictions(p.net, p.adversarial)
    rescued = predictions(p.net, purified(p, p.adversarial)) == y
    telling = (before == y).int() + (after != y).int() + rescued.int()
    chosen = torch.tensor(of_many_classes(telling, y, _IMAGES))
    stages = [x[chosen], p.adversarial[chosen]]
    stages += [purified(p, stage) for stage in stages]
    figure, axes = plt.subplots(len(chosen), 4, figsize=(4.6, 1.15 * len(chosen) + 0.5), squeeze=False)
    rows: list[dict[str, Any]] = []
    for column, (name, stage) in enumerate(zip(_COLUMNS, stages, strict=True)):
        classes = predictions(p.net, stage)
        maps = saliency(p.net, stage, classes)
        for row, index in enumerate(chosen.tolist()):
            axis = axes[row][column]
            show(axis, stage[row])
            heat = maps[row].numpy()
            axis.imshow(heat, cmap="inferno", alpha=0.15 + 0.5 * heat, vmin=0, vmax=1)
            label, truth = int(classes[row]), int(y[index])
            axis.set_xlabel(f"{label}", fontsize=7, labelpad=1, color="#D55E00" if label != truth else SOFT)
            if row == 0:
                axis.set_title(name.replace(", ", ",\n"), fontsize=7.5, loc="center", fontweight="normal")
            if column == 0:
                axis.set_ylabel(f"class {truth}", fontsize=7)
            rows.append(
                {
                    "image": index,
                    "class": truth,
                    "column": name,
                    "predicted": label,
                    "map": [[round(v, 4) for v in line] for line in maps[row].tolist()],
                }
            )
    figure.supxlabel("below an image: the class predicted, coloured where it is wrong", fontsize=6.5, color=SOFT)
    names = p.cell.names
    figure.suptitle(
        fill(f"{p.name} on {names.dataset} · {names.model}, {source.board.labels[p.cell.key][1]}", 60),
        fontsize=8,
        fontweight="bold",
    )
    return Drawing(
        figure,
        {"dataset": names.dataset, "model": names.model, "defense": p.name, "attack": names.attack, "maps": rows},
    )
