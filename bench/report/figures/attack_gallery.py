"""Images under each attack, with what the attack added, magnified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, WIDTH, folded, without_eps
from bench.report.leaderboard.summaries import threat_text
from bench.types import AttackRef, CellResult

if TYPE_CHECKING:
    from torch import Tensor

_IMAGES, _ATTACKS = 4, 10
#: Half a grey level of an image of eight bits.
_UNSEEN = 0.5 / 255


def draw(source: Source) -> Drawing:
    import torch

    from bench.report.figures._network import (
        adversarial,
        blank,
        clean_images,
        network,
        of_many_classes,
        predictions,
        show,
    )

    cells = _cells(source)
    first = cells[0].cell
    net, images = network(source, first.model, first.data), clean_images(source, first.data)
    sets: list[tuple[str, AttackRef, Tensor]] = []
    missing = ""
    for r in cells:
        assert r.cell.attack is not None
        try:
            sets.append((source.board.labels[r.key][1], r.cell.attack, adversarial(source, r.cell.attack)))
        except Missing as error:
            missing = str(error)
    if not sets:
        raise Missing(missing)
    right = predictions(net, images.x) == images.y
    broken = sum((predictions(net, found) != images.y).int() for _, _, found in sets) * right
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
        above, below = axes[2 * i], axes[2 * i + 1]
        show(above[0], images.x[index])
        blank(below[0])
        below[0].text(
            0.5,
            0.85,
            f"class {int(images.y[index])}",
            ha="center",
            va="top",
            fontsize=6,
            color=SOFT,
            transform=below[0].transAxes,
        )
        for column, (name, attack, found) in enumerate(sets, start=1):
            delta = found[index] - images.x[index]
            largest = float(delta.abs().max())
            show(above[column], found[index])
            # Grey is no change; the largest change of the image reaches black or white.
            seen = largest >= _UNSEEN
            show(below[column], (0.5 + delta / (2 * largest)).clamp(0, 1) if seen else torch.full_like(delta, 0.5))
            label = int(predictions(net, found[index : index + 1]))
            above[column].set_title(
                f"{label}"
                if i
                else f"{folded(without_eps(name), 14)}\n{folded(threat_text(attack.threat), 11)}\n{label}",
                fontsize=6.5,
                fontweight="normal",
                loc="center",
                pad=2,
                color="#D55E00" if label != int(images.y[index]) else SOFT,
            )
            times = f"x{0.5 / largest:.{0 if largest < 0.05 else 1}f}" if seen else "below 1/510"
            below[column].set_xlabel(times if largest else "no change", fontsize=6, labelpad=1)
            rows.append(
                {
                    "image": index,
                    "class": int(images.y[index]),
                    "attack": name,
                    "threat": threat_text(attack.threat),
                    "predicted": label,
                    "linf": largest,
                    "l2": float(delta.norm()),
                }
            )
    figure.supxlabel(
        "above an image: the class predicted, coloured where it is wrong; below: what was added, so many times larger",
        fontsize=6.5,
        color=SOFT,
    )
    names = cells[0].names
    figure.suptitle(
        f"{names.dataset} · {names.model} · {source.board.labels[cells[0].key][0]}", fontsize=8, fontweight="bold"
    )
    return Drawing(figure, {"dataset": names.dataset, "model": names.model, "defense": names.defense, "images": rows})


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

    def strength(found: dict[str, CellResult]) -> tuple[int, float]:
        return len(found), -sum(r.metrics.robust_accuracy for r in found.values() if r.metrics)

    return sorted(
        max(groups.values(), key=strength).values(),
        key=lambda r: (r.cost.forwards_per_example if r.cost else 0.0, r.key),
    )[:_ATTACKS]
