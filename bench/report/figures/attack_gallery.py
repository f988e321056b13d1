"""Images under each attack, with what the attack added, of full contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._layout import text_height
from bench.report.figures._plot import SOFT, without_eps
from bench.report.figures._sheet import EDGE, Sheet
from bench.report.figures._text import fitted
from bench.types import AttackRef, CellResult, threat_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.report.figures._network import Images, ShownClass

_IMAGES = 4
#: Inches: the least and the greatest width of a column, what lies between two, and a title of one line.
_MIN_COLUMN, _MAX_COLUMN = 0.62, 0.95
_GAP = 0.06
_MIN_WIDTH = 3.25
#: Points: the letters of headings, and those of single images.
_HEADING, _LABEL = 6.5, 6.0
#: Lines of a predicted and a true class, and of the name of an attack and its threat.
_CLASS_LINES, _TRUTH_LINES = 2, 4
_NAME_LINES, _THREAT_LINES = 3, 2
_CHOSEN = "Of the networks without a test-time step: the one with the most attacks, of several the least robust."
#: Half a grey level of an image of eight bits: smaller changes are not visible.
_INVISIBLE = 0.5 / 255


class _Set(NamedTuple):
    """The adversarial images (N, C, H, W) of one attack, and the classes (N,) that they were to be given."""

    name: str
    attack: AttackRef
    x_adv: Tensor
    goals: Tensor


class _Picture(NamedTuple):
    """One adversarial image (C, H, W), what was added to the clean one, the class predicted, and the one aimed at."""

    x_adv: Tensor
    delta: Tensor
    predicted: int
    goal: int | None

    @property
    def largest(self) -> float:
        return float(self.delta.abs().max())


def draw(source: Source) -> Drawing:
    from bench.report.figures._network import clean_images, network, of_many_classes, predictions

    cells = _cells(source)
    first = cells[0].cell
    net, images = network(source, first.model, first.data), clean_images(source, first.data)
    sets = _sets(source, cells, int(source.width / _MIN_COLUMN) - 1)
    labels = predictions(net, images.x)
    broken = sum((predictions(net, attack_set.x_adv) != images.y).int() for attack_set in sets) * (labels == images.y)
    chosen = of_many_classes(broken, images.y, _IMAGES)
    pictures = {index: [_picture(net, images, index, each) for each in sets] for index in chosen}
    names = cells[0].names
    title = f"{names.dataset} · {names.model} · {source.board.labels[cells[0].key][0]}"
    figure = _Gallery(source.width, images, labels, sets).draw(pictures, title, _caption(pictures, len(cells)))
    rows: list[dict[str, Any]] = []
    for index, row in pictures.items():
        rows += (_numbers(images, index, each, picture) for each, picture in zip(sets, row, strict=True))
    return Drawing(figure, {"dataset": names.dataset, "model": names.model, "defense": names.defense, "images": rows})


def _sets(source: Source, cells: list[CellResult], most: int) -> list[_Set]:
    """Return at most so many adversarial sets that the store still holds.

    Raises:
        Missing: it holds none of them.
    """
    from bench.report.figures._network import adversarial

    sets: list[_Set] = []
    missing = ""
    for r in cells:
        assert r.cell.attack is not None
        try:
            sets.append(_Set(source.board.labels[r.key][1], r.cell.attack, *adversarial(source, r.cell.attack)))
        except Missing as error:
            missing = str(error)
        if len(sets) == most:
            break
    if not sets:
        raise Missing(missing)
    return sets


def _picture(net: nn.Module, images: Images, index: int, each: _Set) -> _Picture:
    from bench.evaluation.goals import ANY
    from bench.report.figures._network import predictions

    x_adv = each.x_adv[index]
    predicted, goal = int(predictions(net, each.x_adv[index : index + 1])), int(each.goals[index])
    return _Picture(x_adv, x_adv - images.x[index], predicted, None if goal == ANY else goal)


def _caption(pictures: Mapping[int, Sequence[_Picture]], attacks: int) -> str:
    rows = list(pictures.values())
    targeted = any(picture.goal is not None for picture in chain.from_iterable(rows))
    text = (
        "Above each image: the class that the network predicts"
        f"{'; a targeted attack reached its target class or missed it' if targeted else ''}. "
        "Below: the perturbation on grey (no change), times the factor below it, so that its largest change is black "
        f"or white. {_CHOSEN}"
    )
    shown = len(rows[0])
    if shown == attacks:
        return text
    return f"{text} Shown: {shown} of {attacks:,} attacks, those of the fewest passes whose images this store holds."


class _Gallery:
    """The picture: a row for each image, clean first, then under each attack.

    Args:
        width: inches, of the page or column.
        images: the clean images.
        labels: the classes that the network predicts for them, (N,).
        sets: the attacks.
    """

    def __init__(self, width: float, images: Images, labels: Tensor, sets: Sequence[_Set]) -> None:
        self.images = images
        self.labels = labels
        self.column = min(_MAX_COLUMN, (width - 2 * EDGE) / (len(sets) + 1))
        self.side = self.column - _GAP
        self.headings = ["clean", *(_heading(each, self.column - 0.02) for each in sets)]
        self.width = max(min(width, _MIN_WIDTH), self.column * len(self.headings) + 2 * EDGE)

    def draw(self, pictures: Mapping[int, Sequence[_Picture]], title: str, caption: str) -> Figure:
        """Draw some images, by their rows in the set."""
        head = max(text_height(heading, _HEADING) for heading in self.headings) + 0.06
        rows = [self._labels(index, attacked) for index, attacked in pictures.items()]
        # What is above an image, both images, and what is below them.
        above = [max(text_height(label.text, _LABEL) for label in row) + 0.05 for row in rows]
        rest = 2 * self.side + _GAP + text_height("", _LABEL) + 0.08
        sheet = Sheet(self.width, head + sum(above) + rest * len(rows), title, caption)
        for place, heading in enumerate(self.headings):
            sheet.write(self._middle(place), sheet.top + head - 0.04, heading, _HEADING, va="bottom")
        y = sheet.top + head
        for (index, attacked), labels, height in zip(pictures.items(), rows, above, strict=True):
            y += height
            self._draw_row(sheet, y, index, attacked, labels)
            y += rest
        return sheet.figure

    def _labels(self, index: int, attacked: Sequence[_Picture]) -> list[ShownClass]:
        """Return the predicted classes of an image, clean and under each attack."""
        classes = [(int(self.labels[index]), None), *((picture.predicted, picture.goal) for picture in attacked)]
        return [
            self.images.prediction(index, label, self.side, _LABEL, _CLASS_LINES, goal=goal) for label, goal in classes
        ]

    def _middle(self, place: int) -> float:
        return EDGE + self.column * (place + 0.5)

    def _draw_row(
        self, sheet: Sheet, y: float, index: int, attacked: Sequence[_Picture], labels: Sequence[ShownClass]
    ) -> None:
        """Draw the images of a row from ``y`` on, and their predicted classes above."""
        for place, label in enumerate(labels):
            sheet.write(self._middle(place), y - 0.02, label.text, _LABEL, va="bottom", color=label.colour)
        left, below = EDGE + _GAP / 2, y + self.side + _GAP
        sheet.show(left, y, self.side, self.images.x[index])
        truth = self.images.fitted_class(int(self.images.y[index]), self.side, _LABEL, _TRUTH_LINES)
        sheet.write(self._middle(0), below, f"true class:\n{truth}", _LABEL, color=SOFT)
        for place, picture in enumerate(attacked, start=1):
            x = left + self.column * place
            sheet.show(x, y, self.side, picture.x_adv)
            sheet.show(x, below, self.side, _magnified(picture))
            sheet.write(self._middle(place), below + self.side + 0.03, _times(picture), _LABEL)


def _heading(each: _Set, inches: float) -> str:
    name = fitted(without_eps(each.name), inches, _HEADING, _NAME_LINES)
    return f"{name}\n{fitted(threat_text(each.attack.threat), inches, _HEADING, _THREAT_LINES)}"


def _magnified(picture: _Picture) -> Tensor:
    """Return a perturbation on grey, whose largest change reaches black or white."""
    import torch

    if picture.largest < _INVISIBLE:
        return torch.full_like(picture.delta, 0.5)
    return (0.5 + picture.delta / (2 * picture.largest)).clamp(0, 1)


def _times(picture: _Picture) -> str:
    """Say how many times larger a perturbation is drawn than it is."""
    if picture.largest == 0:
        return "no change"
    if picture.largest < _INVISIBLE:
        return "< 0.5/255"
    times = 0.5 / picture.largest
    return f"×{times:,.0f}" if times >= 9.95 else f"×{times:.2g}"


def _numbers(images: Images, index: int, each: _Set, picture: _Picture) -> dict[str, Any]:
    truth = int(images.y[index])
    return {
        "image": index,
        "class": truth,
        "class_name": images.class_name(truth),
        "attack": each.name,
        "threat": threat_text(each.attack.threat),
        "predicted": picture.predicted,
        "predicted_name": images.class_name(picture.predicted),
        "target_class": picture.goal,
        "linf": picture.largest,
        "l2": float(picture.delta.norm()),
    }


def _cells(source: Source) -> list[CellResult]:
    """Return the attacked cells of the bare network that most attacks broke, one for each attack, cheapest first."""
    groups: dict[str, dict[str, CellResult]] = {}
    for r in source.results:
        if r.cell.attack and r.cell.step is None and r.metrics:
            groups.setdefault(r.cell.data.model_dump_json() + r.cell.model.model_dump_json(), {}).setdefault(
                f"{source.board.labels[r.key][1]} {r.cell.attack.threat}", r
            )
    if not groups:
        raise Missing("no bare network was attacked")

    def strength(cells: dict[str, CellResult]) -> tuple[int, float]:
        return len(cells), -sum(r.metrics.robust_accuracy for r in cells.values() if r.metrics)

    return sorted(
        max(groups.values(), key=strength).values(),
        key=lambda r: (r.cost.forwards_per_example if r.cost else 0.0, r.key),
    )
