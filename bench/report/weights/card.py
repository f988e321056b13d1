"""What exported weights are: a sealed card for programs, and a page to read with the configuration that loads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.report.weights.kept import Training, Weights
from bench.report.weights.parts import Halved, Written
from bench.store.cards import EXPORTED, EXPORTED_SCHEMA
from bench.types import INITIAL_SHA, NETWORK_KEYS, MethodRef, Scalar, threat_text
from bench.visible import visible

_KEYS = {name: key for key, name in NETWORK_KEYS.items()}
_MEASURES = {"clean": "clean", "fgsm": "FGSM", "pgd20": "PGD-20", "mi10": "MI-FGSM-10"}


@dataclass(frozen=True)
class Export:
    """An exported training.

    Attributes:
        training: of the store.
        weights: as it had them.
        dtypes: of the exported tensors, the one with the most bytes first.
        halved: what became of them as float16; ``None`` where all stay as they were trained.
        written: the files.
        software: versions by name.
    """

    training: Training
    weights: Weights
    dtypes: tuple[str, ...]
    halved: Halved | None
    written: Written
    software: dict[str, str | None]

    @property
    def epochs(self) -> str:
        """Of which epoch the weights are, in words."""
        planned = self.training.ref.schedule.epochs
        kept = self.weights.epoch
        of = f"epoch {kept:,} of {planned:,}"
        if self.weights.epochs < planned:
            return f"{of}, of a training that is not finished ({self.weights.epochs:,} done)"
        return of if kept == planned else f"{of}, the most robust on held-out images"


def body(export: Export) -> dict[str, Any]:
    """Return the card: the training's own, and what was exported; it names no path, machine or time."""
    training, weights = export.training, export.weights
    halved = export.halved
    return {
        "format": EXPORTED,
        "schema": EXPORTED_SCHEMA,
        "key": training.key,
        "name": training.name,
        "epoch": weights.epoch,
        "epochs_done": weights.epochs,
        "epochs_planned": training.ref.schedule.epochs,
        "weights": {
            "file": export.written.entry,
            "files": export.written.files,
            "bytes": export.written.size,
            "dtypes": list(export.dtypes),
            "original_sha256": weights.sha256,
            "largest_relative_error": None if halved is None else halved.error,
            "not_halved": {} if halved is None else halved.kept,
        },
        "software": export.software,
        "card": weights.card,
    }


def page(export: Export, source: str) -> str:
    """Return the page to read, in Markdown.

    Args:
        export: what it is about.
        source: what a configuration calls the weights, such as ``weights:DIR``.
    """
    training = export.training
    ref = training.ref
    schedule = ", ".join(
        f"{name} = {json.dumps(value)}" for name, value in ref.schedule.model_dump(mode="json").items()
    )
    facts = [
        ("network", _method(training.model.network)),
        ("recipe", _method(ref.recipe)),
        ("images", f"{ref.data.n:,} training images of {ref.data.name}, {'x'.join(map(str, ref.data.image_shape))}"),
        ("weights", export.epochs),
        ("numbers", _numbers(export)),
        ("schedule", schedule),
        ("seed", str(ref.seed)),
        ("key", training.key),
        ("SHA-256 of the original file", export.weights.sha256),
        ("software", ", ".join(f"{name} {version}" for name, version in export.software.items() if version)),
    ]
    lines = [f"# {visible(training.name)}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in facts]
    lines += ["", "## Accuracy as training logged it", "", *_accuracies(export), "", "## Use it again", ""]
    lines += ["```toml", *configuration(training, source), "```", ""]
    lines += [
        "`log.jsonl` has a row for each epoch, `card.json` everything above for programs.",
        "",
        "| file | SHA-256 |",
    ]
    lines += ["| --- | --- |", *(f"| {name} | {sha} |" for name, sha in export.written.files.items()), ""]
    return "\n".join(lines)


def configuration(training: Training, source: str) -> Iterable[str]:
    """Return the lines of a configuration that judges the weights under PGD."""
    from bench.training.overfitting import watched_threat

    data = training.ref.data
    yield from ("schema = 1", 'name = "exported"', "", "[dataset]", f"name = {_toml(data.name)}", "n = 100", "")
    yield "[[models]]"
    network = training.model.network
    yield f"arch = {_toml([each.name for each in network.members] or network.name)}"
    # What it was initialised with plays no part once it is trained.
    for name, value in network.params.items():
        key = _KEYS.get(name, name)
        if value is not None and name != INITIAL_SHA and not key.startswith("initial_"):
            yield f"{key} = {_toml(_listed(key, value))}"
    threat = watched_threat(training.ref.recipe)
    yield from ("", "[[defenses]]", "# The folder of this page, seen from where you run.", f"use = {_toml(source)}")
    yield from ("", "[[attacks]]", 'use = "pgd"')
    yield f"norm = {_toml(threat.norm)}"
    yield f"eps = {_toml(str(threat.eps))}"


def _listed(key: str, value: Scalar) -> Scalar | list[float]:
    """Return a value as a configuration has it: means and deviations are kept as one text."""
    return [float(each) for each in str(value).split()] if key in ("mean", "std") else value


def _toml(value: Scalar | list[float] | list[str]) -> str:
    # Texts, numbers, true and false are the same in TOML as in JSON, and so are lists of them.
    return json.dumps(value, ensure_ascii=True)


def _method(method: MethodRef) -> str:
    params = ", ".join(f"{name} = {value}" for name, value in method.params.items() if value is not None)
    return method.name + (f" ({params})" if params else "")


def _numbers(export: Export) -> str:
    size = f"{export.written.size / 1e6:,.2f} MB, {' and '.join(export.dtypes)}"
    if export.halved is None:
        return f"{size}, as they were trained"
    kept, of = len(export.halved.kept), len(export.halved.tensors)
    also = f"; {kept:,} of {of:,} tensors as they were trained, see card.json" if kept else ""
    return f"{size}; changed by at most {export.halved.error:.1e} of a channel's own size{also}"


def _accuracies(export: Export) -> list[str]:
    from bench.training.overfitting import watched_images, watched_threat

    rows = [row for row in export.training.log if row.get("test") and row["epoch"] <= export.weights.epochs]
    if not rows:
        return ["None was measured."]
    ref = export.training.ref
    names = [name for name in _MEASURES if any(name in row["test"] for row in rows)]
    shown = {row["epoch"]: row for row in (rows[0], *rows[-3:])}
    # The epoch that is kept may not be among the last.
    shown |= {row["epoch"]: row for row in rows if row["epoch"] == export.weights.epoch}
    images = watched_images(ref.data.n - ref.schedule.holdout)
    return [
        f"Percent of the first test images, at most {images:,}, under {threat_text(watched_threat(ref.recipe))}; no "
        "evaluation, which takes more images and stronger attacks. `curve.png` has every epoch that was measured.",
        "",
        f"| epoch | {' | '.join(_MEASURES[name] for name in names)} | training loss |",
        f"| ---: |{' ---: |' * (len(names) + 1)}",
        *(_accuracy_row(shown[epoch], names) for epoch in sorted(shown)),
    ]


def _accuracy_row(row: Mapping[str, Any], names: Iterable[str]) -> str:
    cells = [f"{100 * row['test'][name]:.1f}" if name in row["test"] else "" for name in names]
    loss = row.get("loss")
    return f"| {row['epoch']} | {' | '.join(cells)} | {'' if loss is None else f'{loss:.3f}'} |"


def _cell(text: str) -> str:
    return visible(text).replace("|", "\\|")
