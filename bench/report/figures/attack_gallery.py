"""Images under each attack, with what the attack added, magnified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, WIDTH, WRONG, caption, folded, without_eps
from bench.report.leaderboard.summaries import threat_text
from bench.types import AttackRef, CellResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.report.figures._network import Images

_IMAGES = 4
_MAX_ATTACKS = 10
#: Half a grey level of an image of eight bits: smaller changes are not visible.
_INVISIBLE = 0.5 / 255


class _Set(NamedTuple):
    """The adversarial images (N, C, H, W) of one attack."""

    name: str
    attack: AttackRef
    x_adv: Tensor


def draw(source: Source) -> Drawing:
    from bench.report.figures._network import clean_images, network, of_many_classes, predictions

    cells = _cells(source)
    first = cells[0].cell
    net, images = network(source, first.model, first.data), clean_images(source, first.data)
    sets = _sets(source, cells)
    right = predictions(net, images.x) == images.y
    broken = sum((predictions(net, attack_set.x_adv) != images.y).int() for attack_set in sets) * right
    chosen = of_many_classes(broken, images.y, _IMAGES)
    width = min(WIDTH, 0.95 * (len(sets) + 1))
    figure, axes = plt.subplots(
        2 * len(chosen),
        len(sets) + 1,
        figsize=(width, 2 * len(chosen) * 0.93 * width / (len(sets) + 1) + 0.45),
        squeeze=False,
    )
    rows: list[dict[str, Any]] = []
    for i, index in enumerate(chosen):
        _draw_clean(axes[2 * i][0], axes[2 * i + 1][0], images, index)
        for column, each in enumerate(sets, start=1):
            above, below = axes[2 * i][column], axes[2 * i + 1][column]
            heading = "" if i else f"{folded(without_eps(each.name), 14)}\n{_threat_lines(each)}\n"
            rows.append(_draw_attacked(above, below, net, images, index, each, heading))
    caption(
        figure,
        "above an image: the class predicted, coloured where it is wrong; below: what was added, so many times larger",
        6.5,
    )
    names = cells[0].names
    figure.suptitle(
        f"{names.dataset} · {names.model} · {source.board.labels[cells[0].key][0]}", fontsize=8, fontweight="bold"
    )
    return Drawing(figure, {"dataset": names.dataset, "model": names.model, "defense": names.defense, "images": rows})


def _sets(source: Source, cells: list[CellResult]) -> list[_Set]:
    """Return the adversarial sets that the store still holds.

    Raises:
        Missing: it holds none of them.
    """
    from bench.report.figures._network import adversarial

    sets: list[_Set] = []
    missing = ""
    for r in cells:
        assert r.cell.attack is not None
        try:
            sets.append(_Set(source.board.labels[r.key][1], r.cell.attack, adversarial(source, r.cell.attack)))
        except Missing as error:
            missing = str(error)
    if not sets:
        raise Missing(missing)
    return sets


def _threat_lines(each: _Set) -> str:
    return folded(threat_text(each.attack.threat), 11)


def _draw_clean(above: Axes, below: Axes, images: Images, index: int) -> None:
    """Draw a clean image, with its class below."""
    from bench.report.figures._network import blank, show

    show(above, images.x[index])
    blank(below)
    below.text(
        0.5,
        0.85,
        f"class {int(images.y[index])}",
        ha="center",
        va="top",
        fontsize=6,
        color=SOFT,
        transform=below.transAxes,
    )


def _draw_attacked(
    above: Axes, below: Axes, net: nn.Module, images: Images, index: int, each: _Set, heading: str
) -> dict[str, Any]:
    """Draw an adversarial image, below it the perturbation, magnified; return their numbers."""
    import torch

    from bench.report.figures._network import predictions, show

    x_adv, truth = each.x_adv[index], int(images.y[index])
    delta = x_adv - images.x[index]
    largest = float(delta.abs().max())
    show(above, x_adv)
    # Grey is no change; the largest change of the image reaches black or white.
    visible = largest >= _INVISIBLE
    show(below, (0.5 + delta / (2 * largest)).clamp(0, 1) if visible else torch.full_like(delta, 0.5))
    label = int(predictions(net, each.x_adv[index : index + 1]))
    above.set_title(
        f"{heading}{label}",
        fontsize=6.5,
        fontweight="normal",
        loc="center",
        pad=2,
        color=WRONG if label != truth else SOFT,
    )
    times = f"x{0.5 / largest:.{0 if largest < 0.05 else 1}f}" if visible else "below 1/510"
    below.set_xlabel(times if largest else "no change", fontsize=6, labelpad=1)
    return {
        "image": index,
        "class": truth,
        "attack": each.name,
        "threat": threat_text(each.attack.threat),
        "predicted": label,
        "linf": largest,
        "l2": float(delta.norm()),
    }


def _cells(source: Source) -> list[CellResult]:
    """Return the attacked cells of the bare network that most attacks broke, one for each attack."""
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
    )[:_MAX_ATTACKS]
