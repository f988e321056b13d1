"""Accuracy over training epochs, one panel for each recipe: train and test images, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from bench.keys import training_key
from bench.report.figures import Drawing, Source
from bench.report.figures._plot import PANELS, SOFT, WIDTH, narrow_title, need, trained_with
from bench.report.leaderboard.summaries import threat_text
from bench.store import cards
from bench.types import ModelRef, TrainRef

_CURVES = {
    "clean": ("clean", "#333333"),
    "fgsm": ("FGSM", "#0072B2"),
    "pgd20": ("PGD-20", "#D55E00"),
    "mi10": ("MI-FGSM-10", "#CC79A7"),
}
_PARTS = {"train": ("train", "--"), "test": ("test", "-")}


def draw(source: Source) -> Drawing:
    models = _models(source)
    runs = list(islice(_runs(source, models), PANELS))
    need(runs, "no trained network in the store has a log with accuracies on train and test images")
    across = min(3, len(runs))
    down = -(-len(runs) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(WIDTH if across > 1 else WIDTH / 2, 2.3 * down + 0.3), squeeze=False, sharey=True
    )
    for axis, (title, _, rows) in zip(axes.flat, runs, strict=False):
        for measure, (name, colour) in _CURVES.items():
            for part, (part_name, style) in _PARTS.items():
                points = [(row["epoch"], 100 * row[part][measure]) for row in rows if measure in row[part]]
                if not points:  # A log from before this attack was watched.
                    continue
                (line,) = axis.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.3)
                line.set(label=f"{name}, {part_name}", marker="o" if len(points) == 1 else "", markersize=3)
        axis.set(ylim=(-3, 103), xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        narrow_title(axis, title)
    for axis in axes.flat[len(runs) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("accuracy under attack, %\n(or clean)")
    if len(runs) == PANELS < len(models):
        figure.suptitle(f"the first {PANELS} of {len(models):,} trained networks by name", fontsize=8, color=SOFT)
    named = {line.get_label(): line for axis in axes.flat for line in axis.lines}
    figure.legend(handles=[*named.values()], loc="outside lower center", ncols=4)
    return Drawing(
        figure, {"runs": [{"title": title, "threat": threat, "epochs": rows} for title, threat, rows in runs]}
    )


def _models(source: Source) -> dict[str, tuple[str, str, ModelRef]]:
    """Return every trained network by its key, with its title and the threat that it was watched under."""
    from bench.training.overfitting import watched_threat

    models: dict[str, tuple[str, str, ModelRef]] = {}
    many = len({(r.names.dataset, r.names.model) for r in source.results}) > 1
    for r in source.results:
        weights = r.cell.model.weights
        if isinstance(weights, TrainRef):
            place = f"\n{r.names.dataset} · {r.names.model}" if many else ""
            threat = threat_text(watched_threat(weights.recipe))
            seed = f", seed {weights.seed}" if weights.seed else ""
            models[training_key(r.cell.model)] = (
                f"{trained_with(weights.recipe.name, weights.recipe.params)}{seed}, {threat}{place}",
                threat,
                r.cell.model,
            )
    return models


def _runs(
    source: Source, models: Mapping[str, tuple[str, str, ModelRef]]
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield title, threat and epochs of each training run that is in the store, by its title."""
    for key, (title, threat, _) in sorted(models.items(), key=lambda item: item[1][0]):
        card = cards.read(source.store.training(key))
        rows = [row for row in (card or {}).get("log", []) if {"epoch", "train", "test"} <= row.keys()]
        if rows:
            yield title, threat, rows
