"""Cards of trainings made by somebody else, with a right seal: what figures and tables would break on is refused."""

import pytest

from bench.keys import sha256_hex, training_key
from bench.models.build import network_ref
from bench.registry import find
from bench.report import figures
from bench.store import cards
from bench.store.seals import sealed
from bench.store.working_store import Store
from bench.types import DataRef, ModelRef, Schedule, TrainRef, jsonable
from tests.report.fabricate import result

ROW = {"epoch": 0, "loss": 1, "train": {"clean": 0.5, "fgsm": 1}, "test": {"clean": 0, "fgsm": 0.1}}
HOSTILE = [
    *({"log": [ROW | {"epoch": epoch}]} for epoch in (None, -1, 10**18, 10**400, "3", 3.0, True)),
    *({"log": [ROW | {"train": {"clean": share}}]} for share in (None, -0.1, 1.1, 1e308, "0.5", True, [])),
    *({"log": log} for log in ({}, [[]], [None], "x")),
    *({"weights_bytes": size} for size in (-1, 10**30, 1.5)),
    {"params": -1},
    {"passes_per_example": [1.0]},
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_what_no_training_writes_is_not_what_a_card_says(body):
    with pytest.raises(ValueError, match="is not what a card says$"):
        cards.parse(sealed(body))


def test_what_a_training_writes_is(tmp_path):
    body = {"log": [ROW], "weights_bytes": 7, "params": 3, "passes_per_example": [1, 0.5], "seconds_per_epoch": 2}
    assert cards.parse(sealed(body)) == body


def test_a_figure_over_a_hostile_card_is_missing(tmp_path):
    trained = result(clean=[True] * 4)
    folder = Store(tmp_path).training(training_key(trained.cell.model))
    cards.write(folder, {"log": [ROW | {"epoch": 10**400}]})
    with pytest.raises(figures.Missing, match="no trained network in the store has a log"):
        figures.draw("overfitting-curves", figures.source_of([trained], Store(tmp_path)), tmp_path / "out")


DATA = DataRef(name="d", split="train", n=50, image_shape=(1, 8, 8), num_classes=4, indices_sha="a", data_sha="b")
REF = TrainRef(recipe=find("recipe", "standard").ref({}), schedule=Schedule(epochs=2, holdout=10), data=DATA, seed=0)
MODEL = ModelRef(network=network_ref("small-cnn", {}), weights=REF)
KEY = training_key(MODEL)
ROWS = [
    {"epoch": 1, "seconds": 1.0, "flops": 10.0, "forwards": 40, "backwards": 40, "learning_rate": 0.1},
    {"epoch": 2, "seconds": 2.0, "flops": 20.0, "forwards": 120, "backwards": 80, "learning_rate": 0.0},
]
#: Of 40 images: 80 passes forwards and 60 backwards in the mean epoch.
CARD = {
    **{"schema": 2, "training": jsonable(REF), "network": jsonable(MODEL.network), "log": ROWS},
    **{"weights_sha256": sha256_hex("w"), "weights_bytes": 400, "params": 100, "overfitting": None},
    **{"epochs": 2, "epoch_kept": 1, "images_per_epoch": 40, "device": "cpu", "torch": "2.15"},
    **{"passes_per_example": [2.0, 1.5], "seconds_per_epoch": 1.5, "flops_per_epoch": 15.0},
}
IMPOSSIBLE = [
    *({"schema": schema} for schema in (0, 3, 99, "2", None)),
    *({"weights_sha256": sha} for sha in ("", "abc", None)),
    *({"weights_bytes": size} for size in (0, -1, 2**40)),
    *({"params": count} for count in (0, -1, 1.5, None)),
    *({"epochs": epochs} for epochs in (0, 1, 3, -2, None)),
    *({"epoch_kept": epoch} for epoch in (0, 3, 99, -1, None)),
    *({"images_per_epoch": count} for count in (0, 39, 50, -40, None)),
    *({"passes_per_example": passes} for passes in ([1e9, 1], [2.0, 1.4], [-2.0, 1.5], [2.0], None)),
    *({"seconds_per_epoch": seconds} for seconds in (-5.0, 1.6, 1e300, None)),
    *({"flops_per_epoch": flops} for flops in (-1, 0, 1e300, None)),
    *({"log": log} for log in ([], ROWS[:1], ROWS[::-1], None)),
    *({"log": [ROWS[0], ROWS[1] | {name: -2}]} for name in ("seconds", "flops", "forwards", "learning_rate")),
    *(
        {"overfitting": overfitting}
        for overfitting in ({"regime": "mild"}, {"best_pgd20": 2}, {"catastrophic": "yes"}, {"robust": 3})
    ),
    *({name: value} for name in ("training", "network") for value in ({}, None, 3)),
    {"training": {"name": "w.pt", "sha256": "0" * 64}},
]


@pytest.mark.parametrize("body", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_a_card_that_cannot_be_of_its_training_does_not_count(body):
    assert cards.parse(sealed(CARD), KEY) == CARD
    with pytest.raises(ValueError):
        cards.parse(sealed(CARD | body), KEY)


def test_cards_of_older_versions_count():
    first = CARD | {"schema": 1}
    for lacking in ("log", "weights_bytes", "flops_per_epoch"):
        del first[lacking]
    assert cards.parse(sealed(first), KEY) == first
    second = {name: value for name, value in CARD.items() if name != "weights_bytes"}
    assert cards.parse(sealed(second), KEY) == second


def test_a_card_that_names_no_training_is_not_of_one():
    with pytest.raises(ValueError, match="of another training"):
        cards.parse(sealed({name: value for name, value in CARD.items() if name != "training"}), KEY)
