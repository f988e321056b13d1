"""Penultimate features as t-SNE sees them: clean, adversarial, and adversarial after purification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, legend_below, marker, text_width
from bench.report.figures._text import fitted

if TYPE_CHECKING:
    from bench.report.figures._network import Images

_MAX_IMAGES = 240
_NEIGHBOURS = 5
#: Inches: the least width of a figure whose stages are side by side, and the greatest of the name of a class.
_SIDE_BY_SIDE, _MAX_NAME_INCHES = 6.0, 2.0
#: Tol's muted palette and grey: ten classes that colour-blind readers can tell apart.
_CLASSES = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#777777",
)


def separability(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measure how well classes are separated.

    Args:
        features: (N, D).
        labels: (N,), at least two classes.

    Returns:
        ``knn_accuracy``: share of points whose class is that of most of their five nearest others, and
        ``silhouette``: mean silhouette in [-1, 1] (Rousseeuw, 1987).
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    near = (
        NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(features) - 1))
        .fit(features)
        .kneighbors(return_distance=False)
    )
    votes = np.array([np.bincount(labels[row]).argmax() for row in near])
    return {"knn_accuracy": float((votes == labels).mean()), "silhouette": float(silhouette_score(features, labels))}


def draw(source: Source) -> Drawing:
    from sklearn.manifold import TSNE

    from bench.report.figures._network import penultimate, purification, purified

    p = purification(source)
    labels = p.images.y.numpy()
    common = np.argsort(-np.bincount(labels), kind="stable")[: len(_CLASSES)]
    rows = np.flatnonzero(np.isin(labels, common))[:_MAX_IMAGES]
    y = labels[rows]
    if len(rows) < 10 or len(set(y.tolist())) < 2:
        raise Missing(f"{len(rows)} images are too few for t-SNE")
    stages = {"clean": p.images.x[rows], "adversarial": p.adversarial[rows]}
    stages["adversarial, purified"] = purified(p, stages["adversarial"])
    features = {name: penultimate(p.net, x) for name, x in stages.items()}
    # One embedding for all stages, so that positions can be compared; exact, so that threads do not matter.
    tsne = TSNE(2, perplexity=min(30, len(y) / 4), init="pca", method="exact", random_state=0)
    positions = tsne.fit_transform(np.concatenate(list(features.values())).astype(np.float64))
    figure, numbers = _draw_stages(source.width, features, np.split(positions, 3), y)
    head = (fitted(text, source.width - 0.1, 8, 3) for text in (p.title, p.accuracies))
    figure.suptitle("\n".join(head), fontsize=8, color=SOFT)
    _legend(figure, p.images, sorted(set(y.tolist())), len(y))
    names = {str(label): p.images.class_name(label) for label in sorted(set(y.tolist()))}
    return Drawing(figure, {**p.names, "classes": y.tolist(), "class_names": names, "stages": numbers})


def _draw_stages(
    width: float, features: Mapping[str, np.ndarray], positions: Sequence[np.ndarray], y: np.ndarray
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw each stage, and return the figure with their numbers.

    Args:
        width: inches, of the page or column.
        features: (N, D) of each stage.
        positions: of its points in the plane, (N, 2).
        y: their classes (N,).
    """
    across = 3 if width >= _SIDE_BY_SIDE else 1
    figure, axes = plt.subplots(
        3 // across, across, figsize=(width, 2.0 * (3 // across) + 0.9), sharex=True, sharey=True, squeeze=False
    )
    numbers: list[dict[str, Any]] = []
    for axis, (name, vectors), points in zip(axes.flat, features.items(), positions, strict=True):
        measure = separability(vectors, y)
        for colour, label in zip(_CLASSES, sorted(set(y.tolist())), strict=False):
            axis.scatter(*points[y == label].T, s=9, color=colour, linewidths=0)
        axis.set(
            title=name,
            xticks=[],
            yticks=[],
            xlabel=f"{_NEIGHBOURS}-NN accuracy {100 * measure['knn_accuracy']:.1f} %, "
            f"silhouette {measure['silhouette']:+.2f}",
        )
        axis.spines[:].set(visible=True, color="#c9ced4")
        rounded = [[round(float(v), 3) for v in point] for point in points]
        numbers.append({"stage": name, **measure, "places": rounded})
    return figure, numbers


def _legend(figure: Figure, images: Images, classes: Sequence[int], count: int) -> None:
    """Name the classes below a figure, and say what is shown and what the two measures are.

    Args:
        figure: to write on.
        images: the images, with the names of their classes.
        classes: that are shown.
        count: of the images that are shown.
    """
    inside = figure.get_size_inches()[0] - 0.3
    longest = min(inside, _MAX_NAME_INCHES)
    labels = [images.fitted_class(label, longest, 7, 1) for label in classes]
    most = max(1, int(inside / (max(text_width(label, 7) for label in labels) + 0.6)))
    handles = [marker(label, colour) for label, colour in zip(labels, _CLASSES, strict=False)]
    present = len(set(images.y.tolist()))
    shown = f"{count:,} of {len(images.y):,} images, {len(classes)} of {present:,} classes. " * (count < len(images.y))
    text = (
        f"{shown}{_NEIGHBOURS}-NN accuracy: images whose {_NEIGHBOURS} nearest others in the network's features are "
        "mostly of their class. Silhouette: how far classes are apart, -1 to 1. True class:"
    )
    legend_below(figure, handles, min(most, len(handles)), fitted(text, inside, 7, 6))
