"""Penultimate features as t-SNE sees them: clean, adversarial, and adversarial after purification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, WIDTH

_MAX_IMAGES = 240
_NEIGHBOURS = 5
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
    figure, numbers = _draw_stages(features, np.split(positions, 3), y)
    figure.suptitle(p.title, fontsize=8, color=SOFT)
    return Drawing(figure, {**p.names, "classes": y.tolist(), "stages": numbers})


def _draw_stages(
    features: Mapping[str, np.ndarray], positions: Sequence[np.ndarray], y: np.ndarray
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw each stage, and return the figure with their numbers.

    Args:
        features: (N, D) of each stage.
        positions: of its points in the plane, (N, 2).
        y: their classes (N,).
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.9), sharex=True, sharey=True)
    numbers: list[dict[str, Any]] = []
    for axis, (name, vectors), points in zip(axes, features.items(), positions, strict=True):
        measure = separability(vectors, y)
        for colour, label in zip(_CLASSES, sorted(set(y.tolist())), strict=False):
            axis.scatter(*points[y == label].T, s=9, color=colour, linewidths=0, label=str(label))
        axis.set(
            title=name,
            xticks=[],
            yticks=[],
            xlabel=f"{_NEIGHBOURS}-NN accuracy {100 * measure['knn_accuracy']:.1f} %\n"
            f"silhouette {measure['silhouette']:+.2f}",
        )
        axis.spines[:].set(visible=True, color="#c9ced4")
        rounded = [[round(float(v), 3) for v in point] for point in points]
        numbers.append({"stage": name, **measure, "places": rounded})
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=10,
        title="class",
        title_fontsize=7,
        handletextpad=0.1,
        columnspacing=1,
    )
    return figure, numbers
