"""Which attacks a row needs before it is ranked, where the keeper of a leaderboard says so."""

import json
from itertools import chain, product

import numpy as np
import pytest

from bench import registry
from bench.cli import main
from bench.keys import Keys
from bench.report.leaderboard.required import Policy
from bench.report.leaderboard.tables import build
from bench.report.render import text
from bench.schedule.contests import contests_of
from bench.store.history import serialise
from bench.types import PlannedCell, threat_text
from tests.report.fabricate import ITERATIVE, outcomes, result

N = 200
CLEAN = [True] * N


def row(recipe, attack, right, **more):
    """Return a result that keeps the first ``right`` images."""
    kept = [i < right for i in range(N)]
    return result(recipe, attack, recipe=recipe, clean=CLEAN, adversarial=kept, **more)


def rows():
    shares = {"pgd-at": (150, 140), "trades": (120, 100), "standard": (80, 10)}
    return [row(recipe, *each) for recipe, own in shares.items() for each in zip(("fgsm", "pgd"), own, strict=True)]


def ranks(results, *required):
    (table,) = build(results, policy=Policy(required)).tables
    return {each.name: each.rank for each in table.ranking.ranks} if table.ranking else None


def worst(results, *required):
    (table,) = build(results, policy=Policy(required)).tables
    (column,) = [each for each in table.columns if each.kind == "worst" and "8/255" in each.group]
    return {each.defense: each.values[column.id] for each in table.rows if column.id in each.values}


#: What somebody measured on a network of their own, and not on those of others.
OTHERS = {
    "attack": [row("mart", "deepfool", 5)],
    "more-steps": [row("mart", "pgd", 5, attack_params={"steps": 777})],
    "many": [row("mart", name, 5) for name in ("apgd-ce", "square", "noise", "fab", "mi-fgsm")],
    "budget": [row("mart", name, 5, eps="1/255") for name in ("fgsm", "pgd", *ITERATIVE, "noise", "deepfool", "sta")],
}


@pytest.mark.parametrize("more", OTHERS.values(), ids=OTHERS)
def test_what_one_row_was_attacked_with_is_not_asked_of_the_others(more):
    expected = {"pgd-at": 1, "trades": 2, "standard": 3}
    assert ranks(rows()) == expected
    known = ranks([*rows(), *more], "fgsm", "pgd")
    assert {name: known[name] for name in expected} == expected
    numbers = worst([*rows(), *more], "fgsm", "pgd")
    assert {name: (round(numbers[name].number * N), numbers[name].footnotes) for name in expected} == {
        "pgd-at": (140, ()),
        "trades": (100, ()),
        "standard": (10, ()),
    }
    if more is not OTHERS["budget"]:
        # Without it all attacks are needed, as in a table of one's own.
        assert ranks([*rows(), *more]) is None


def test_a_row_without_a_required_attack_is_not_ranked():
    results = [*rows(), row("mart", "fgsm", 199), row("mart", "noise", 199)]
    assert "mart" not in ranks(results, "fgsm", "pgd")
    value = worst(results, "fgsm", "pgd")["mart"]
    assert value.footnotes == ("1 of 2 required attacks",) and value.partial
    # One that has none at all of them is not complete either.
    assert worst([*rows(), row("mart", "noise", 199)], "fgsm")["mart"].footnotes == ("0 of 1 required attacks",)


def test_an_attack_that_is_not_required_counts_where_it_was_run():
    kept = outcomes(0.3, N, 5)
    more = result("pgd-at", "apgd-ce", recipe="pgd-at", clean=CLEAN, adversarial=kept)
    both = np.array(kept) & (np.arange(N) < 140)
    results = [*rows(), more]
    assert worst(results, "fgsm", "pgd")["pgd-at"].number == both.mean() < 0.35
    assert ranks(results, "fgsm", "pgd") == {"trades": 1, "pgd-at": 2, "standard": 3}


@pytest.mark.parametrize(
    ("pattern", "is_met"),
    [
        ("pgd", True),
        ("PGD*", True),
        ("pgd linf*", True),
        ("pgd Linf eps=8/255", True),
        ("pgd*steps=20*", True),
        ("pgd*steps=40*", False),
        ("pgd l2*", False),
        ("autoattack", False),
    ],
)
def test_patterns_are_of_names_threats_and_parameters(pattern, is_met):
    results = [each for each in rows() if each.names.attack == "pgd"]
    results += [row("trades", "fgsm", 190), row("mart", "fgsm", 199)]
    assert worst(results, pattern)["mart"].footnotes == ("0 of 1 required attacks",)
    assert (worst(results, pattern)["standard"].footnotes == ()) == is_met
    # Where nothing matches nobody is ranked, and the table says why.
    (table,) = build(results, policy=Policy((pattern,))).tables
    said = f"no row is ranked: a row needs an attack {pattern}, and none here was attacked with it"
    assert ((table.ranking is None) != is_met) and ((said in table.notes) != is_met)


def test_tables_are_ranked_by_the_threat_that_is_required():
    small = [row(recipe, attack, 199, eps="1/255") for recipe, attack in product(("a", "b", "c"), ("pgd", "square"))]
    (table,) = build([*rows(), *small], policy=Policy(("pgd linf eps=8/255",))).tables
    assert table.ranking.group == "L∞ ε=8/255"
    assert "worst case, under L∞ ε=8/255, of rows with pgd: " in text.settled(table)[0]


def test_the_threat_with_the_most_attacked_rows_ranks_a_table():
    small = [row("mart", name, 199, eps="1/255") for name in ("pgd", "square", "noise", "fab", "fgsm")]
    (table,) = build([*rows(), *small]).tables
    # Two attacks that most rows have, against five of one row.
    assert table.ranking.group == "L∞ ε=8/255"
    many = [row("mart", "pgd", 199, eps="1/255", attack_params={"steps": steps}) for steps in range(1, 20)]
    assert ranks([*rows(), *many]) == {"pgd-at": 1, "trades": 2, "standard": 3}


def test_a_row_needs_every_pattern_wherever_it_lies():
    l2 = [row(recipe, "pgd", 150, norm="l2", eps="1/2") for recipe in ("pgd-at", "trades", "standard")]
    alone = row("mart", "pgd", 199, norm="l2", eps="1/2")
    results = [*rows(), *l2, alone]
    expected = {"pgd-at": 1, "trades": 2, "standard": 3}
    for patterns in (("pgd linf*", "pgd l2*"), ("pgd l2*", "pgd linf*"), ("pgd linf*", "fgsm linf*", "pgd l2*")):
        (table,) = build(results, policy=Policy(patterns)).tables
        assert {each.name: each.rank for each in table.ranking.ranks} == expected
        assert table.ranking.group == "L∞ ε=8/255"
    # Who lacks one of another threat has no rank either.
    assert ranks([*rows(), *l2[1:]], "pgd linf*", "pgd l2*") == {"trades": 1, "standard": 2}


def test_rows_of_another_budget_do_not_take_the_ranks():
    small = [row(f"van-{i}", "pgd", 198, eps="1/255", recipe_params={"i": i}) for i in range(7)]
    expected = {"pgd-at": 1, "trades": 2, "standard": 3}
    for patterns in (("fgsm", "pgd linf*"), ("fgsm", "pgd*"), ("pgd*",), ("fgsm linf*", "pgd linf eps=8/255")):
        known = ranks([*rows(), *small[:2]], *patterns)
        assert {name: known[name] for name in expected} == expected
    # They stand behind those that have a number under the threat that ranks.
    (table,) = build([*rows(), *small[:2]], policy=Policy(("fgsm", "pgd*"))).tables
    assert [each.defense for each in table.rows][:3] == [*expected]
    # Nor where nobody has all that is asked for: then nobody is ranked.
    assert ranks([*rows(), *small], "fgsm", "square") is None


@pytest.mark.parametrize(
    ("pattern", "is_met"),
    [
        ("pgd", False),
        ("pgd linf*", False),
        ("pgd*", False),
        ("pgd*steps=20*", False),
        ("pgd*max_passes=1*", True),
        ("pgd[max_passes=1,steps=20]", True),
    ],
)
def test_an_attack_with_a_limit_on_passes_is_meant_only_where_a_pattern_says_so(pattern, is_met):
    mart = row("mart", "pgd", 199)
    attack = mart.cell.attack.model_copy(update={"max_passes": 1})
    cell = mart.cell.model_copy(update={"attack": attack})
    limited = mart.model_copy(update={"cell": cell, "key": Keys().of(cell)})
    value = worst([*rows(), limited, row("mart", "fgsm", 199)], pattern)["mart"]
    assert (value.footnotes == ()) == is_met


@pytest.mark.parametrize(
    ("params", "is_met"),
    [
        ({}, True),
        ({"preset": "tpap"}, True),
        ({"preset": "tpap", "steps": 1}, False),
        ({"steps": 1}, False),
        ({"step_size": "1/255"}, False),
        ({"rule": "last-iterate"}, True),
    ],
)
def test_a_name_alone_is_the_attack_with_its_usual_parameters(params, is_met):
    whole = dict(registry.find("attack", "pgd").ref(params).params)
    results = [*rows(), row("mart", "pgd", 199, attack_params=whole), row("mart", "fgsm", 199)]
    assert (worst(results, "fgsm", "pgd")["mart"].footnotes == ()) == is_met


@pytest.mark.parametrize(("count", "group"), [(6, "L∞ ε=8/255"), (3, "L∞ ε=8/255"), (1, "L∞ ε=1/255")])
def test_a_plan_and_its_table_rank_under_one_threat(count, group):
    small = [row("mart", name, 199, eps="1/255") for name in ("pgd", "square", "noise", "fab", "fgsm")]
    results = [*small, *rows()[:count]]
    (table,) = build(results).tables
    assert next(column.group for column in table.columns if column.kind == "attack") == group
    (plan,) = contests_of([PlannedCell(key=each.key, names=each.names, cell=each.cell) for each in results])
    keys = set(chain.from_iterable(chain.from_iterable(own.values() for own in plan.ranked)))
    assert keys == {each.key for each in results if threat_text(each.cell.attack.threat) == group}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text(serialise(rows()), encoding="utf-8")
    return str(tmp_path / "runs" / "a.json")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ["--require", "autoatack"],
            "--require autoatack: no result is of such an attack; there are fgsm; pgd",
        ),
        (["--require", "pgd linf eps=1/255"], "no result is of such an attack; there are pgd L∞ ε=8/255"),
        (["--require", "cifar10: pgd"], "--require cifar10: pgd: no result is of such an attack; there are fgsm; pgd"),
        (["--require", " "], "--require: a pattern is empty"),
        (["--require", "pgd", "--paper"], "leave out --paper"),
        (["--require", "pgd", "--eps", "1/255"], "leave out --eps"),
        (["--require", "pgd", "--format", "robustbench"], "leave out --format robustbench"),
        (["--require", "pgd", "--cover"], "--require is for the tables of defenses"),
    ],
)
def test_what_cannot_be_required_is_one_line(store, capsys, arguments, why):
    assert main(["leaderboard", "--store", store, *arguments]) == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1


def test_a_pattern_may_be_of_one_set_of_images():
    own = [row(recipe, "pgd", n, dataset="svhn", eps="16/255") for recipe, n in (("pgd-at", 90), ("trades", 110))]
    patterns = ("digits: pgd linf eps=8/255", "svhn: pgd linf eps=16/255")
    board = build([*rows(), *own], policy=Policy(patterns))
    found = {table.dataset: [each.name for each in table.ranking.ranks] for table in board.tables}
    assert found == {"digits": ["pgd-at", "trades", "standard"], "svhn": ["trades", "pgd-at"]}
    # Without the names of the sets each table needs both, and none has them.
    tables = build([*rows(), *own], policy=Policy([each.partition(": ")[2] for each in patterns])).tables
    assert [table.ranking for table in tables] == [None, None]


def test_a_pattern_that_one_threat_alone_matches_is_there(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    results = [*rows(), *(row(recipe, "pgd", 150, norm="l2", eps="1/2") for recipe in ("pgd-at", "trades"))]
    (tmp_path / "runs" / "a.json").write_text(serialise(results), encoding="utf-8")
    for pattern in ("pgd linf eps=8/255", "pgd l2*", "pgd*steps=20* L2*"):
        assert main(["leaderboard", "--store", str(tmp_path / "runs" / "a.json"), "--require", pattern, "--json"]) == 0
        assert capsys.readouterr().err == ""


def test_json_has_ranks_by_what_is_required(store, capsys):
    assert main(["leaderboard", "--store", store, "--require", "fgsm", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert [each["rank"] for each in table["ranks"]] == [1, 2, 3]
