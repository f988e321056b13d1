"""Accuracy over training epochs, one panel for each recipe: train and test images, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, product
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.keys import training_key
from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import KEPT, natural, precedence
from bench.report.figures._layout import LEGEND_POINTS, NAME_POINTS, Block, Foot, Grid, axes_at, fitting, stack
from bench.report.figures._plot import MAX_PANELS, SOFT, trained_with, unbroken
from bench.store import cards
from bench.types import TrainRef, threat_text

_CURVES = {
    "clean": ("clean accuracy", "#333333"),
    "fgsm": ("under FGSM", "#0072B2"),
    "pgd20": ("under PGD-20", "#D55E00"),
    "mi10": ("under MI-FGSM-10", "#CC79A7"),
}
#: What each kind of images is called, with its line.
_IMAGES = {"train": "training images", "test": "test images"}
_LINE_STYLES: Mapping[str, Literal["--", "-"]] = {"train": "--", "test": "-"}
#: Inches: the height of the axes of one panel, and of each of several.
_HIGH, _LOW = 2.4, 1.5


class _Network(NamedTuple):
    """A trained network, and the threat under which its training measured it."""

    title: str
    threat: str
    #: What is kept first has the least.
    precedence: tuple[int, int]


class _Run(NamedTuple):
    network: _Network
    #: The log, a row for each epoch that was measured.
    epochs: list[dict[str, Any]]
    #: Training images, and as many test images, that these were measured on; ``None`` where that is not known.
    images: int | None


def draw(source: Source) -> Drawing:
    networks = _networks(source)
    first = list(islice(_runs(source, networks), MAX_PANELS))
    if not first:
        raise Missing("no trained network in the store has a log with accuracies on train and test images")
    more = len(first) == MAX_PANELS and len(networks) > MAX_PANELS
    total = len(networks) if more else len(first)
    foot = Foot(source.width, _handles(first))
    count = fitting(len(first), lambda count: _grid(first[:count], total, source.width, foot).total)
    runs = sorted(first[:count], key=lambda run: natural(run.network.title))
    figure, axes = _grid(runs, total, source.width, foot).draw("accuracy, %")
    for axis, run in zip(axes, runs, strict=True):
        _draw_run(axis, run)
    foot.draw(figure)
    numbers = [
        {"title": run.network.title, "threat": run.network.threat, "images": run.images, "epochs": run.epochs}
        for run in runs
    ]
    return Drawing(figure, {"runs": numbers})


def of_training(title: str, ref: TrainRef, log: Sequence[Mapping[str, Any]], width: float) -> Drawing:
    """Return the curves of one training, finished or not: its accuracies, and below them its loss.

    Args:
        title: of the training.
        ref: its recipe.
        log: a row for each epoch that is done.
        width: of the figure, in inches.

    Raises:
        Missing: no epoch is done.
    """
    from bench.training.overfitting import watched_threat

    if not log:
        raise Missing("no epoch of the training is done")
    threat = threat_text(watched_threat(ref.recipe))
    epochs = [dict(row) for row in log if {"epoch", "train", "test"} <= row.keys()]
    images = _watched({"images_per_epoch": ref.data.n - ref.schedule.holdout}, epochs)
    run = _Run(_Network(f"{title}, {threat}", threat, (0, 0)), epochs, images)
    foot = Foot(width, _handles([run]) if epochs else ())
    accuracies = [Block(_title(run), _HIGH, below=Grid.BELOW)] if epochs else []
    blocks = [*accuracies, Block("" if epochs else _title(run), _LOW, below=Grid.BELOW)]
    figure, boxes = stack(blocks, width, left=Grid.LEFT, right=Grid.RIGHT, foot=foot.height)
    axes = [axes_at(figure, box) for box in boxes]
    if epochs:
        axes[0].set(ylim=(-4, 104), yticks=range(0, 101, 25))
        axes[0].set_ylabel("accuracy, %", fontsize=NAME_POINTS)
        _draw_run(axes[0], run)
    losses = [(row["epoch"], row["loss"]) for row in log]
    axes[-1].plot(*zip(*losses, strict=True), color=SOFT, linewidth=1.3, marker="o" if len(losses) == 1 else "")
    axes[-1].set_ylabel("training loss", fontsize=NAME_POINTS)
    for axis in axes:
        _count_epochs(axis)
        axis.set_xlim(axes[-1].get_xlim())
        axis.tick_params(labelsize=LEGEND_POINTS)
    foot.draw(figure)
    return Drawing(figure, {"title": title, "threat": threat, "images": images, "epochs": [dict(row) for row in log]})


def _grid(runs: Sequence[_Run], total: int, width: float, foot: Foot) -> Grid:
    """Lay out some of ``total`` runs."""
    titles = list(map(_title, runs))
    remarks = []
    if len({run.network.threat for run in runs}) > 1:
        remarks.append("attacked with different budgets: curves under attack of two panels are not comparable")
    if len(runs) < total:
        remarks.append(f"{len(runs):,} of {total:,} trained networks, {KEPT}")
    height = _HIGH if len(runs) == 1 else _LOW
    return Grid.of(titles, width, Grid.across_of(len(runs), width), height, foot.height, "; ".join(remarks))


def _title(run: _Run) -> str:
    """Return the recipe, and below it the budget and the number of images."""
    network = run.network
    images = "" if run.images is None else f", {run.images:,}\xa0images each"
    return network.title.replace(f", {network.threat}", f"\n{unbroken(network.threat)}{images}")


def _handles(runs: Sequence[_Run]) -> list[Line2D]:
    """Return what a legend explains: a colour for each measure, and a line for each kind of images."""
    rows = list(chain.from_iterable(run.epochs for run in runs))
    shown = [look for measure, look in _CURVES.items() if any(measure in row["train"] | row["test"] for row in rows)]
    handles = [Line2D([], [], color=colour, label=name) for name, colour in shown]
    for images, style in _LINE_STYLES.items():
        handles.append(Line2D([], [], color=SOFT, linestyle=style, label=_IMAGES[images]))
    return handles


def _draw_run(axis: Axes, run: _Run) -> None:
    for measure, images in product(_CURVES, _LINE_STYLES):
        _, colour = _CURVES[measure]
        points = [(row["epoch"], 100 * row[images][measure]) for row in run.epochs if measure in row[images]]
        # An older log lacks the attacks that training measures by now.
        if points:
            (line,) = axis.plot(*zip(*points, strict=True), _LINE_STYLES[images], color=colour, linewidth=1.3)
            # Between two points that are not marked there is no epoch.
            every_epoch = 1 < len(points) == points[-1][0] - points[0][0] + 1
            line.set(marker="" if every_epoch else "o", markersize=3)
    _count_epochs(axis)


def _count_epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch", fontsize=NAME_POINTS)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axis.xaxis.set_major_formatter("{x:,.0f}")


def _networks(source: Source) -> dict[str, _Network]:
    """Return every trained network by the key of its training."""
    from bench.training.overfitting import watched_threat

    order = precedence(source)
    networks: dict[str, _Network] = {}
    several = len({(r.names.dataset, r.names.model) for r in source.results}) > 1
    for r in source.results:
        weights = r.cell.model.weights
        if isinstance(weights, TrainRef):
            threat = threat_text(watched_threat(weights.recipe))
            recipe = trained_with(weights.recipe.name, weights.recipe.params)
            seed = f", seed {weights.seed}" if weights.seed else ""
            images = f"\n{r.names.dataset} · {r.names.model}" if several else ""
            key, first = training_key(r.cell.model), order[source.board.labels[r.key][0]]
            first = min(first, networks[key].precedence) if key in networks else first
            networks[key] = _Network(f"{recipe}{seed}, {threat}{images}", threat, first)
    return networks


def _runs(source: Source, networks: Mapping[str, _Network]) -> Iterator[_Run]:
    """Yield the training runs that are in the store, those to be kept first."""
    for key, network in sorted(networks.items(), key=lambda item: (item[1].precedence, natural(item[1].title))):
        card = cards.read(source.store.training(key))
        epochs = [row for row in (card or {}).get("log", []) if {"epoch", "train", "test"} <= row.keys()]
        if epochs:
            yield _Run(network, epochs, _watched(card or {}, epochs))


def _watched(card: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many images a training was measured on; ``None`` where its accuracies are not shares of so many."""
    from bench.training.overfitting import watched_images

    rows = card.get("images_per_epoch")
    if not isinstance(rows, int):
        return None
    images = watched_images(rows)
    shares = chain.from_iterable(row[kind].values() for row, kind in product(epochs, _LINE_STYLES))
    counts = [images * share for share in shares]
    return images if all(abs(count - round(count)) < 1e-6 for count in counts) else None
