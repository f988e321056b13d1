"""What the decorator of an attack says about its cost is what the attack does; predictions of a run rest on it."""

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.evaluation.passes import passes_of
from tests.attacks.driving import FEW, THREATS, Case, drive

ATTACKS = [name for name, entry in registry.entries("attack").items() if entry.available]


class AlwaysClass0(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net = case.net

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * self.net(x) + nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_early_exit_is_stated_where_there_is_one(plain: Case, name: str) -> None:
    meta = registry.find("attack", name).meta
    passes = []
    # Label 0 can never become misclassified; label 1 is so from the start.
    for label in (0, 1):
        y = torch.full((7,), label)
        driven = drive(AlwaysClass0(plain), name, plain.x[:7], y, THREATS[meta["norms"][0]], **FEW.get(name, {}))
        passes.append(float(driven.forwards.sum() + driven.backwards.sum()))
    never, at_once = passes
    if meta.get("early_exit") in ("misclassified", "suite"):
        assert at_once < never
    elif meta.get("early_exit") is None:
        assert at_once == never


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_that_stays_right_takes_at_least_what_is_stated(plain: Case, name: str) -> None:
    entry = registry.find("attack", name)
    if entry.meta.get("early_exit") == "stalled":
        pytest.skip("a search that stalls is over at any time")
    stated = passes_of(entry.meta.get("least") or entry.meta["passes"], entry.arguments(FEW.get(name, {})))
    assert stated is not None
    y = torch.zeros(7, dtype=torch.int64)
    for norm in entry.meta["norms"]:
        driven = drive(AlwaysClass0(plain), name, plain.x[:7], y, THREATS[norm], **FEW.get(name, {}))
        assert float(driven.forwards.min()) >= stated.forwards and float(driven.backwards.min()) >= stated.backwards


def test_cw_stops_where_its_search_stalls(plain: Case) -> None:
    assert registry.find("attack", "cw").meta["early_exit"] == "stalled"
    passes = [
        float(drive(plain.net, "cw", plain.x[:7], plain.y[:7], THREATS["l2"], abort_early=early).forwards.sum())
        for early in (True, False)
    ]
    assert passes[0] < passes[1]
