"""The cover of a worst case, against counts by hand, exhaustive search and what a set cover has to satisfy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, combinations
from math import log
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.outcomes import Outcomes, right_in_all
from bench.report.leaderboard.cover import Cover, Tried, covers, greedy
from bench.report.leaderboard.tables import build
from bench.store.files import file_sha256
from bench.types import CellResult
from tests.report.fabricate import result, stored

CLEAN = [True, True, True, True, False]
#: What survives a cheap attack, a dear one that breaks the same and more, and one that breaks an image of its own.
CHEAP = [False, False, True, True, False]
DEAR = [False, False, False, True, False]
OTHER = [True, True, True, False, False]


def cells() -> list[CellResult]:
    return [
        result("a", "fgsm", clean=CLEAN, adversarial=CHEAP, forwards=1.0),
        result("a", "pgd", clean=CLEAN, adversarial=DEAR, forwards=20.0),
        result("a", "mi-fgsm", clean=CLEAN, adversarial=CHEAP, forwards=10.0),
        result("a", "square", clean=CLEAN, adversarial=OTHER, forwards=500.0),
    ]


def only(results: Sequence[CellResult], passes: dict[str, list[float]] | None = None) -> Cover:
    named = passes or {}
    (cover,) = covers(build(results), lambda r: named.get(r.names.attack))
    return cover


def test_the_order_is_by_images_that_are_still_right_for_their_passes() -> None:
    cover = only(cells())
    # Forwards and backwards: 2 on four images, 40 on the two that are left, 1000 on the last.
    assert [(s.attack, s.broken, s.left, s.passes) for s in cover.steps] == [
        ("fgsm", 2, 2, 8.0),
        ("pgd", 1, 1, 80.0),
        ("square", 1, 0, 1000.0),
    ]
    assert (cover.right, cover.networks, cover.passes) == (4, 1, 4 * (2 + 40 + 20 + 1000))
    assert (cover.idle, cover.partial) == (["mi-fgsm"], [])
    assert cover.averaged == ["fgsm", "mi-fgsm", "pgd", "square"]


def test_an_attack_that_others_make_dear_is_left_out() -> None:
    # The first to be chosen breaks two images for few passes, the next breaks these too and takes all images anyway.
    clean = [True] * 4
    names = {"square": [False, False, True, True], "cascade": [False] * 4}
    passes = {"square": [10.0, 10.0, 500.0, 500.0], "cascade": [300.0, 300.0, 1.0, 1.0]}
    results = [result("a", name, clean=clean, adversarial=robust) for name, robust in names.items()]
    assert [step.attack for step in only(results, passes).steps] == ["cascade"]
    passes["square"] = [10.0, 10.0, 20.0, 20.0]
    cover = only(results, passes)
    # Here it pays: 60 passes on all and 2 on what is left, not 602.
    assert [(step.attack, step.broken, step.left, step.passes) for step in cover.steps] == [
        ("square", 2, 2, 60.0),
        ("cascade", 2, 0, 2.0),
    ]


def test_passes_of_single_images_decide_where_they_are_known() -> None:
    # On the images that fgsm leaves, pgd is dear, so that square goes before it.
    cover = only(cells(), {"pgd": [1.0, 1.0, 9000.0, 9000.0, 0.0]})
    assert [step.attack for step in cover.steps] == ["fgsm", "square", "pgd"]
    assert cover.steps[-1].passes == 9000
    assert "pgd" not in cover.averaged


def test_other_access_targets_and_attacks_on_some_networks_do_not_count() -> None:
    static = result("j", "pgd", clean=CLEAN, adversarial=[False] * 5, step="jpeg", access="static")
    aimed = result("a", "cw", clean=CLEAN, adversarial=[False] * 5)
    ref = aimed.cell.attack
    assert ref is not None
    aimed = aimed.model_copy(
        update={"cell": aimed.cell.model_copy(update={"attack": ref.model_copy(update={"target": "second"})})}
    )
    second = [result("b", name, clean=CLEAN, adversarial=CHEAP, recipe="pgd-at") for name in ("fgsm", "pgd")]
    cover = only([*cells(), *second, static, aimed])
    assert cover.networks == 2
    assert cover.partial == ["mi-fgsm", "square"]
    assert {*cover.idle, *(step.attack for step in cover.steps)} == {"fgsm", "pgd"}


@pytest.mark.parametrize("seed", range(5))
def test_it_leaves_what_all_attacks_leave_at_no_more_than_the_bound_of_set_cover(seed: int) -> None:
    draw = np.random.default_rng(seed)
    robust = [Outcomes.of((draw.random(14) < 0.7).tolist()) for _ in range(6)]
    price = draw.integers(1, 30, 6).tolist()
    clean = Outcomes.of((draw.random(14) < 0.9).tolist())

    def left(chosen: Sequence[int]) -> int:
        return right_in_all([clean, *(robust[i] for i in chosen)]).count

    # A price for the whole set however few images are left, as in the theorem.
    attacks = {f"{i}": [Tried(each, [float(p)] * 14)] for i, (each, p) in enumerate(zip(robust, price, strict=True))}
    steps = greedy(attacks, [clean])
    order = [int(step.attack) for step in steps]
    assert left(order) == left(range(6)) == steps[-1].left
    assert sum(step.broken for step in steps) == clean.count - left(range(6))
    # With one price for each image, the rate is by price alone, so each step is the best of the rest.
    for position, step in enumerate(steps):
        gained = [(left(order[:position]) - left([*order[:position], i])) / price[i] for i in range(6)]
        assert gained[int(step.attack)] == pytest.approx(max(gained))
    sets = chain.from_iterable(combinations(range(6), size) for size in range(7))
    least = min(sum(price[i] for i in chosen) for chosen in sets if left(chosen) == left(range(6)))
    assert sum(price[i] for i in order) <= least * (1 + log(14))


def test_an_attack_without_passes_goes_first_and_ties_go_by_name() -> None:
    robust = Outcomes.of([False, True])
    other = Outcomes.of([True, False])
    attacks = {"b": [Tried(robust, [1.0, 1.0])], "a": [Tried(robust, [1.0, 1.0])], "free": [Tried(other, [0.0, 0.0])]}
    assert [step.attack for step in greedy(attacks, [Outcomes.of([True, True])])] == ["free", "a"]
    assert greedy(attacks, [Outcomes.of([False, False])]) == []


def test_the_command_reads_the_passes_of_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    store = stored(tmp_path / "store", cells())
    pgd = cells()[1]
    path = store.records(pgd.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"forwards": [1, 1, 6000, 6000, 0], "backwards": [0, 0, 3000, 3000, 0]}), path)
    store.put(pgd.model_copy(update={"records_sha": file_sha256(path)}))
    ask = ["leaderboard", "--cover", "--store", str(store.root)]
    assert main([*ask, "--json"]) == 0
    (cover,) = json.loads(capsys.readouterr().out)["covers"]
    assert [step["attack"] for step in cover["steps"]] == ["fgsm", "square", "pgd"]
    assert cover["averaged"] == ["fgsm", "mi-fgsm", "square"]
    for more in ([], ["--format", "md"]):
        assert main([*ask, *more]) == 0
        assert "Break no other image: mi" in capsys.readouterr().out.replace("\\", "")


def test_what_it_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["leaderboard", "--cover", "--store", str(stored(tmp_path / "store", cells()).root)]
    for more, line in (
        (["--format", "csv"], "--cover comes as text, md, json, not csv"),
        (["--sort", "worst"], "--sort is for the tables of defenses; --cover ranks all attacks"),
    ):
        assert main([*ask, *more]) == 2
        assert line in capsys.readouterr().err
