"""Grad-CAM of the predicted class: clean and adversarial images, each without and with purification."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._layout import text_height
from bench.report.figures._sheet import EDGE, Sheet
from bench.report.figures._text import fitted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.report.figures._network import Images, Purification

_IMAGES = 4
#: Inches: the greatest width of a column, what lies between two, and the most that the true class takes.
_MAX_COLUMN, _GAP = 1.15, 0.08
_TRUTH_INCHES = 0.75
#: Points: the letters of headings, and those below images.
_HEADING, _LABEL = 6.5, 6.0
_CLASS_LINES = 2
_CAPTION = (
    "Below each image: the class that the network predicts. Bright: the pixels that speak for it (Grad-CAM), dark: "
    "those that do not."
)
_COLUMNS = ("clean", "adversarial", "clean, purified", "adversarial, purified")


class _Column(NamedTuple):
    """A stage of images (N, C, H, W), with their maps (N, H, W) and the predicted classes."""

    name: str
    x: Tensor
    maps: Tensor
    classes: list[int]


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

    from bench.report.figures._network import last_map, running

    layer = last_map(net, x)
    with running("Grad-CAM"):
        maps = LayerGradCam(net, layer).attribute(x.clone().requires_grad_(), target=classes, relu_attributions=True)
    large: Tensor = F.interpolate(maps.detach(), size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, large / highest.clamp_min(torch.finfo(large.dtype).tiny), large)


def draw(source: Source) -> Drawing:
    from bench.report.figures._network import predictions, purification, purified

    p = purification(source)
    chosen = _telling(p)
    stages = [p.images.x[chosen], p.adversarial[chosen]]
    stages += [purified(p, stage) for stage in stages]
    columns: list[_Column] = []
    for name, stage in zip(_COLUMNS, stages, strict=True):
        classes = predictions(p.net, stage)
        columns.append(_Column(name, stage, saliency(p.net, stage, classes), classes.tolist()))
    figure = _draw(source.width, p, chosen.tolist(), columns)
    maps: list[dict[str, Any]] = []
    for column in columns:
        maps += (_numbers(p.images, index, column, row) for row, index in enumerate(chosen.tolist()))
    return Drawing(figure, {**p.names, "maps": maps})


def _numbers(images: Images, index: int, column: _Column, row: int) -> dict[str, Any]:
    truth, label = int(images.y[index]), column.classes[row]
    return {
        "image": index,
        "class": truth,
        "class_name": images.class_name(truth),
        "column": column.name,
        "predicted": label,
        "predicted_name": images.class_name(label),
        "map": [[round(v, 4) for v in line] for line in column.maps[row].tolist()],
    }


def _draw(width: float, p: Purification, chosen: Sequence[int], columns: Sequence[_Column]) -> Figure:
    """Draw a row for each image, its true class on the left and the predicted one below each stage.

    Args:
        width: inches, of the page or column.
        p: the purified network.
        chosen: the rows of the images in their set.
        columns: the stages, of the chosen images.
    """
    beside = min(_TRUTH_INCHES, 0.17 * width)
    column = min(_MAX_COLUMN, (width - 2 * EDGE - beside) / len(columns))
    side = column - _GAP
    headings = [fitted(each.name, column - 0.02, _HEADING, 2) for each in columns]
    head = max(text_height(heading, _HEADING) for heading in headings) + 0.08
    below = _CLASS_LINES * text_height("", _LABEL) + 0.06
    left, row_height = EDGE + beside, side + below
    size = left + column * len(columns) + EDGE, head + row_height * len(chosen)
    sheet = Sheet(*size, p.title, f"{p.accuracies} {_CAPTION}")
    for place, heading in enumerate(headings):
        sheet.write(left + column * place + side / 2, sheet.top + head - 0.05, heading, _HEADING, va="bottom")
    for row, index in enumerate(chosen):
        y = sheet.top + head + row * row_height
        truth = p.images.fitted_class(int(p.images.y[index]), beside - 0.05, _LABEL, 5)
        sheet.write(EDGE, y + side / 2, f"true class:\n{truth}", _LABEL, va="center", ha="left")
        for place, each in enumerate(columns):
            x = left + column * place
            heat = each.maps[row].numpy()
            axes = sheet.show(x, y, side, each.x[row])
            axes.imshow(heat, cmap="inferno", alpha=0.15 + 0.5 * heat, vmin=0, vmax=1)
            label = p.images.prediction(index, each.classes[row], side, _LABEL, _CLASS_LINES)
            sheet.write(x + side / 2, y + side + 0.02, label.text, _LABEL, color=label.colour)
    return sheet.figure


def _telling(p: Purification) -> Tensor:
    """Return the rows of images that the network gets right, the attack breaks and purification rescues."""
    import torch

    from bench.report.figures._network import of_many_classes, predictions, purified

    x, y = p.images.x, p.images.y
    right, broken = predictions(p.net, x) == y, predictions(p.net, p.adversarial) != y
    rescued = predictions(p.net, purified(p, p.adversarial)) == y
    return torch.tensor(of_many_classes(right.int() + broken.int() + rescued.int(), y, _IMAGES))
