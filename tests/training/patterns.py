"""A training run of a tenth of a second, and the files that it writes."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file

from bench.models.build import network_ref
from bench.registry import find
from bench.types import DataRef, Schedule, TrainRef

SHAPE, CLASSES = (1, 8, 8), 4
NETWORK = network_ref("small-cnn", {"channels": 4, "hidden": 16})


class Run(NamedTuple):
    folder: Path

    @property
    def weights(self):
        return load_file(self.folder / "weights.safetensors")

    @property
    def card(self):
        return json.loads((self.folder / "card.json").read_text())

    @property
    def log(self):
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    def untimed_log(self):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in self.log]


def reference(recipe="fgsm-at", params=None, n=100, seed=0, **schedule):
    settings = {"epochs": 3, "batch": 32, "lr": 0.05, "drops": (0.6,)} | schedule
    data = DataRef(
        name="patterns", split="train", n=n, image_shape=SHAPE, num_classes=CLASSES, indices_sha="a", data_sha="b"
    )
    return TrainRef(
        recipe=find("recipe", recipe).ref(params or {}), schedule=Schedule(**settings), data=data, seed=seed
    )
