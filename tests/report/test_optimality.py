"""Optimality of attacks, against areas under sampled curves and numbers computed by hand."""

from __future__ import annotations

import csv
import json
from math import inf
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.report.leaderboard.optimality import local_optimality, ranking
from bench.report.leaderboard.tables import build
from bench.types import CellResult
from tests.report.fabricate import result, stored

CLEAN = [True, True, True, False]
#: What two attacks found of the four images, on two networks.
NEAR, FAR = [1.0, 4.0, 2.0, 0.0], [2.0, 3.0, inf, 0.0]


def sampled(least: list[float], best: list[float]) -> float:
    """Return local optimality by trapezoids on a fine grid."""
    budgets = np.linspace(0, max(each for each in best if each < inf), 400_001)
    areas = [np.trapezoid(1 - (np.array(each)[:, None] > budgets).mean(0), budgets) for each in (least, best)]
    return float(areas[0] / areas[1])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_ratio_of_areas_and_one_for_the_best_everywhere(seed: int) -> None:
    draw = np.random.default_rng(seed)
    attacks = draw.gamma(2.0, size=(3, 12))
    attacks[draw.random(attacks.shape) < 0.2] = inf
    attacks[0, :2] = 0
    best = attacks.min(0).tolist()
    for attack in attacks.tolist():
        optimality = local_optimality(attack, best)
        assert optimality is not None
        assert 0 <= optimality <= 1
        assert optimality == pytest.approx(sampled(attack, best), abs=1e-4)
    assert local_optimality(best, best) == 1
    assert local_optimality([inf] * len(best), best) == 0


def test_an_image_that_no_attack_broke_changes_nothing() -> None:
    assert local_optimality([2.0, 4.0], [1.0, 4.0]) == pytest.approx(2 / 3)
    assert local_optimality([2.0, 4.0, inf], [1.0, 4.0, inf]) == pytest.approx(2 / 3)


def test_without_any_area_there_is_none() -> None:
    assert local_optimality([inf], [inf]) is None
    assert local_optimality([3.0, 3.0], [3.0, 3.0]) is None


def test_an_image_that_a_random_defense_loses_unchanged_counts_as_broken_at_once() -> None:
    assert local_optimality([0.0, 4.0], [0.0, 4.0]) == 1
    assert local_optimality([2.0, 4.0], [0.0, 4.0]) == pytest.approx(1 / 2)
    attacks = [
        result("random", name, clean=CLEAN, distances=distances, norm="l2")
        for name, distances in (("near", [0.0, 4.0, 2.0, 0.0]), ("far", [2.0, 4.0, 4.0, 0.0]))
    ]
    near, far = ranking(build(attacks))
    assert (near.optimality, far.optimality) == (1, pytest.approx(2 / 6))
    assert (near.broken, far.broken) == (1, 1)
    assert (near.median_distance, far.median_distance) == (2, 4)


def cells() -> list[CellResult]:
    def cell(defense: str, attack: str, distances: list[float]) -> CellResult:
        return result(defense, attack, clean=CLEAN, distances=distances, norm="l2", recipe=defense)

    return [
        cell("a", "ddn", NEAR),
        cell("a", "fmn", FAR),
        cell("b", "ddn", FAR),
        cell("b", "fmn", FAR),
        # It breaks two images within 3, at no known distance.
        result("b", "pgd", clean=CLEAN, adversarial=[False, True, False, False], norm="l2", eps="3", recipe="b"),
    ]


def test_the_ranking_is_by_the_mean_over_networks() -> None:
    # On a the best are 1, 3, 2: areas up to 3 are 2 + 0 + 1, of ddn 2 + 0 + 1, of fmn 1 + 0 + 0.
    # On b the best are 2, 3, 3: areas up to 3 are 1 + 0 + 0, of both attacks as well.
    first, second = ranking(build(cells()))
    assert [(each.attack, each.optimality, each.of) for each in (first, second)] == [
        ("ddn", pytest.approx(1.0), 2),
        ("fmn", pytest.approx((1 / 3 + 1) / 2), 2),
    ]
    assert first.median_distance == 2.5 and second.median_distance == 3
    assert first.broken == pytest.approx(5 / 6)


def test_the_command_writes_it_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = stored(tmp_path / "store", cells()).root
    ask = ["leaderboard", "--optimality", "--store", str(store)]
    assert main([*ask, "--json"]) == 0
    attacks = json.loads(capsys.readouterr().out)["attacks"]
    assert [each["attack"] for each in attacks] == ["ddn", "fmn"]
    assert attacks[1]["optimality"] == pytest.approx(np.mean([one["optimality"] for one in attacks[1]["networks"]]))
    assert main([*ask, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert sorted(row["defense"] for row in rows) == ["", "", "a", "a", "b", "b"]
    for more in ([], ["--format", "md"]):
        assert main([*ask, *more]) == 0
        assert "66.7 %" in capsys.readouterr().out


def test_what_it_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["leaderboard", "--optimality", "--store", str(stored(tmp_path / "store", cells()).root)]
    for more, line in (
        (["--format", "tex"], "--optimality comes as text, md, csv, json, not tex"),
        (["--sort", "worst"], "--sort is for the tables of defenses; --optimality ranks all attacks"),
    ):
        assert main([*ask, *more]) == 2
        assert line in capsys.readouterr().err
