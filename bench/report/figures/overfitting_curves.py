"""Accuracy over training epochs, one panel for each recipe: train and test images, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice, product
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.keys import training_key
from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import MAX_PANELS, SOFT, legend_below, narrow_title, three_across, trained_with
from bench.report.leaderboard.summaries import threat_text
from bench.store import cards
from bench.types import TrainRef

_CURVES = {
    "clean": ("clean", "#333333"),
    "fgsm": ("FGSM", "#0072B2"),
    "pgd20": ("PGD-20", "#D55E00"),
    "mi10": ("MI-FGSM-10", "#CC79A7"),
}
_LINE_STYLES = {"train": "--", "test": "-"}


class _Network(NamedTuple):
    """A trained network, and the threat under which its training measured it."""

    title: str
    threat: str


class _Run(NamedTuple):
    network: _Network
    #: The log, a row for each epoch.
    epochs: list[dict[str, Any]]


def draw(source: Source) -> Drawing:
    networks = _networks(source)
    runs = list(islice(_runs(source, networks), MAX_PANELS))
    if not runs:
        raise Missing("no trained network in the store has a log with accuracies on train and test images")
    figure, axes = three_across(len(runs), "accuracy under attack, %\n(or clean)")
    for axis, run in zip(axes, runs, strict=True):
        _draw_run(axis, run)
    if len(runs) == MAX_PANELS < len(networks):
        figure.suptitle(f"the first {MAX_PANELS} of {len(networks):,} trained networks by name", fontsize=8, color=SOFT)
    handles = {line.get_label(): line for line in chain.from_iterable(axis.lines for axis in axes)}
    legend_below(figure, handles.values(), 4)
    numbers = [{"title": run.network.title, "threat": run.network.threat, "epochs": run.epochs} for run in runs]
    return Drawing(figure, {"runs": numbers})


def _draw_run(axis: Axes, run: _Run) -> None:
    for measure, images in product(_CURVES, _LINE_STYLES):
        name, colour = _CURVES[measure]
        points = [(row["epoch"], 100 * row[images][measure]) for row in run.epochs if measure in row[images]]
        # An older log lacks the attacks that training measures by now.
        if points:
            (line,) = axis.plot(*zip(*points, strict=True), _LINE_STYLES[images], color=colour, linewidth=1.3)
            line.set(label=f"{name}, {images}", marker="o" if len(points) == 1 else "", markersize=3)
    axis.set(ylim=(-3, 103), xlabel="epoch")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    narrow_title(axis, run.network.title)


def _networks(source: Source) -> dict[str, _Network]:
    """Return every trained network by the key of its training."""
    from bench.training.overfitting import watched_threat

    networks: dict[str, _Network] = {}
    several = len({(r.names.dataset, r.names.model) for r in source.results}) > 1
    for r in source.results:
        weights = r.cell.model.weights
        if isinstance(weights, TrainRef):
            threat = threat_text(watched_threat(weights.recipe))
            recipe = trained_with(weights.recipe.name, weights.recipe.params)
            seed = f", seed {weights.seed}" if weights.seed else ""
            images = f"\n{r.names.dataset} · {r.names.model}" if several else ""
            networks[training_key(r.cell.model)] = _Network(f"{recipe}{seed}, {threat}{images}", threat)
    return networks


def _runs(source: Source, networks: Mapping[str, _Network]) -> Iterator[_Run]:
    """Yield the training runs that are in the store, by title."""
    for key, network in sorted(networks.items(), key=lambda item: item[1].title):
        card = cards.read(source.store.training(key))
        epochs = [row for row in (card or {}).get("log", []) if {"epoch", "train", "test"} <= row.keys()]
        if epochs:
            yield _Run(network, epochs)
