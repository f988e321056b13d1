"""Cards of trainings made by somebody else, with a right seal: what figures and tables would break on is refused."""

import pytest

from bench import cards
from bench.keys import training_key
from bench.report import figures
from bench.seals import sealed
from bench.store import Store
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
