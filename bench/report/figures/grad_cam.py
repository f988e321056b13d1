"""Grad-CAM of the predicted class: clean and adversarial images, each without and with purification."""

from __future__ import annotations

import importlib.util
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, WRONG, caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

    from bench.report.figures._network import Purification

_IMAGES = 4
_COLUMNS = ("clean", "adversarial", "clean, purified", "adversarial, purified")


def saliency(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Return Grad-CAM maps (Selvaraju et al., 2017) at the last layer that gives a map.

    Args:
        net: the classifier, in evaluation mode.
        x: images (N, C, H, W) in [0, 1].
        classes: whose logits are explained, (N,).

    Returns:
        Maps (N, H, W) in [0, 1], the maximum of each is 1, or 0 if no pixel supports the class.

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
    from bench.report.figures._network import predictions, purification, purified

    p = purification(source)
    chosen = _telling(p)
    stages = [p.images.x[chosen], p.adversarial[chosen]]
    stages += [purified(p, stage) for stage in stages]
    figure, axes = plt.subplots(len(chosen), 4, figsize=(4.6, 1.15 * len(chosen) + 0.5), squeeze=False)
    maps: list[dict[str, Any]] = []
    for name, stage, column in zip(_COLUMNS, stages, axes.T, strict=True):
        classes = predictions(p.net, stage)
        heat = saliency(p.net, stage, classes)
        for row, index in enumerate(chosen.tolist()):
            label, truth = int(classes[row]), int(p.images.y[index])
            _draw_image(column[row], stage[row], heat[row], label, truth)
            rounded = [[round(v, 4) for v in line] for line in heat[row].tolist()]
            maps.append({"image": index, "class": truth, "column": name, "predicted": label, "map": rounded})
        column[0].set_title(name.replace(", ", ",\n"), fontsize=7.5, loc="center", fontweight="normal")
    for axis, index in zip(axes[:, 0], chosen.tolist(), strict=True):
        axis.set_ylabel(f"class {int(p.images.y[index])}", fontsize=7)
    caption(figure, "below an image: the class predicted, coloured where it is wrong", 6.5)
    figure.suptitle(fill(p.title, 60), fontsize=8, fontweight="bold")
    return Drawing(figure, {**p.names, "maps": maps})


def _telling(p: Purification) -> Tensor:
    """Return the rows of images that the network gets right, the attack breaks and purification rescues."""
    import torch

    from bench.report.figures._network import of_many_classes, predictions, purified

    x, y = p.images
    right, broken = predictions(p.net, x) == y, predictions(p.net, p.adversarial) != y
    rescued = predictions(p.net, purified(p, p.adversarial)) == y
    return torch.tensor(of_many_classes(right.int() + broken.int() + rescued.int(), y, _IMAGES))


def _draw_image(axis: Axes, image: Tensor, saliency: Tensor, label: int, truth: int) -> None:
    from bench.report.figures._network import show

    show(axis, image)
    heat = saliency.numpy()
    axis.imshow(heat, cmap="inferno", alpha=0.15 + 0.5 * heat, vmin=0, vmax=1)
    axis.set_xlabel(f"{label}", fontsize=7, labelpad=1, color=WRONG if label != truth else SOFT)
