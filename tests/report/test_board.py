import csv
import io
import json
import re
from fractions import Fraction

import pytest

from bench import load_results
from bench.keys import cell_key
from bench.report.leaderboard.flags import in_seeds, unproven
from bench.report.leaderboard.tables import WORST_LABEL, build
from bench.report.render.export import as_json, comma_separated
from bench.report.render.html import render
from bench.report.render.markdown import markdown
from bench.stats import paired_difference, wilson
from bench.store.planned import PlannedTable
from tests.report.fabricate import outcomes, result, story

GAP = "gap, static − adaptive"


def line(table, defense, access):
    return next(each for each in table.rows if (each.defense, each.access) == (defense, access))


def value(table, defense, access, label, group="L∞ ε=8/255"):
    column = next(c for c in table.columns if c.label == label and c.group in (group, "", "cost"))
    return line(table, defense, access).values.get(column.id)


def test_the_story_in_one_table():
    (table,) = build(story()).tables
    assert [c.label for c in table.columns[:5]] == ["clean accuracy", "fgsm", "pgd", "robust accuracy, worst case", GAP]
    assert [(each.defense, each.access) for each in table.rows] == [
        ("pgd-at", "white-box"),
        ("fgsm-at", "white-box"),
        ("tpap", "static"),
        ("tpap", "adaptive"),
        ("jpeg", "static"),
        ("jpeg", "adaptive"),
        ("standard", "white-box"),
    ]
    assert value(table, "tpap", "static", "pgd").number == 0.970
    assert value(table, "tpap", "adaptive", "pgd").number == 0.026
    assert value(table, "pgd-at", "white-box", "clean accuracy").number == 0.974


def test_what_is_right_only_under_attack_does_not_make_a_defense_the_best():
    clean = [True] * 10
    harmful = [i < 3 for i in range(10)]
    cells = [
        result("honest", recipe="a", clean=clean, adversarial=[i < 6 for i in range(10)]),
        result("weak", recipe="b", clean=clean, adversarial=[i < 2 for i in range(10)]),
        # Right under attack on nine, of which three are right when clean.
        result("odd", recipe="c", step="x", access="adaptive", clean=harmful, adversarial=[i < 9 for i in range(10)]),
    ]
    (table,) = build(cells).tables
    (column,) = (column for column in table.columns if column.kind == "attack")
    marks = {row.defense: table.mark(row, column) for row in table.rows}
    assert marks == {"honest": "best", "odd": "second", "weak": ""}


def test_worst_case_is_per_image_not_the_least_accuracy():
    clean = [True] * 8
    one = result(attack="fgsm", clean=clean, adversarial=[True] * 4 + [False] * 4)
    two = result(attack="pgd", clean=clean, adversarial=[False] * 4 + [True] * 4)
    (table,) = build([one, two]).tables
    assert value(table, "standard", "white-box", "fgsm").number == 0.5
    assert value(table, "standard", "white-box", "pgd").number == 0.5
    worst = value(table, "standard", "white-box", WORST_LABEL)
    assert (worst.number, worst.low, worst.high) == pytest.approx(wilson(0, 8))
    assert set(worst.keys) == {one.key, two.key}


def asked_often(attack):
    """Return a result of a random defense under an adaptive attack with EOT 7."""
    cell = result("diffusion", attack, clean=[True] * 4, access="adaptive", step="diffusion")
    metrics = cell.metrics.model_copy(
        update={"protocol": "majority-of-5", "robust_mean": 0.6, "robust_accuracy": 0.75, "robust_worst": 0.25}
    )
    asked = cell.cell.model_copy(update={"attack": cell.cell.attack.model_copy(update={"eot": 7})})
    return cell.model_copy(update={"metrics": metrics, "cell": asked})


@pytest.mark.parametrize(
    ("attack", "averaged"),
    [("pgd", ", gradients averaged over 7 draws"), ("torchattacks:EOTPGD", ""), ("autoattack", "")],
)
def test_a_random_defense_is_measured_by_one_query_and_by_many(attack, averaged):
    (table,) = build([asked_often(attack)]).tables
    (note,) = (note for note in table.notes if "one query" in note)
    assert note == (
        f"diffusion, L∞ ε=8/255, adaptive {attack}{averaged}: right when clean and under attack by one query 60.0 %, "
        "by the majority of 5 queries 75.0 %, by each of 5 queries 25.0 %"
    )


def test_an_image_wrong_when_clean_is_never_robust():
    lucky = result(clean=[False, True, True, True], adversarial=[True, True, False, False])
    (table,) = build([lucky]).tables
    assert value(table, "standard", "white-box", WORST_LABEL).number == 0.25


def test_a_cell_is_right_under_attack_and_says_how_much_of_it_is_right_clean():
    lucky = result(clean=[False, True, True, True], adversarial=[True, True, True, False])
    other = result(attack="fgsm", clean=[False, True, True, True], adversarial=[True, False, True, True])
    (table,) = build([lucky, other]).tables
    accuracy = value(table, "standard", "white-box", "pgd")
    assert (accuracy.number, accuracy.robust) == (0.75, 0.5)
    assert (accuracy.low, accuracy.high) == pytest.approx(wilson(3, 4)[1:])
    # Only the third image is right clean, too: the worst case is below every cell, and no note takes that for news.
    assert value(table, "standard", "white-box", WORST_LABEL).number == 0.25
    assert value(table, "standard", "white-box", WORST_LABEL).robust is None
    assert table.notes == ()


def test_the_gap_is_paired():
    clean = [True] * 100
    static = result("tpap", step="tpap", access="static", clean=clean, adversarial=[i < 90 for i in range(100)])
    adaptive = result(
        "tpap", step="tpap", access="adaptive", clean=clean, adversarial=[20 <= i < 95 for i in range(100)]
    )
    (table,) = build([static, adaptive]).tables
    gap = value(table, "tpap", "adaptive", GAP)
    assert (gap.number, gap.low, gap.high) == pytest.approx(paired_difference(70, 20, 5, 5))
    assert value(table, "tpap", "static", GAP) is None
    said = "70.0 % right when clean and under all gray-box and adaptive attacks together"
    assert any(said in note for note in table.notes)


def test_a_gap_of_different_suites_says_so():
    clean = [True] * 10
    cells = [
        result("jpeg", "fgsm", step="jpeg", access="static", clean=clean, adversarial=[True] * 10),
        result("jpeg", "fgsm", step="jpeg", access="adaptive", clean=clean, adversarial=[True] * 10),
        result("jpeg", "pgd", step="jpeg", access="adaptive", clean=clean, adversarial=[False] * 10),
    ]
    (table,) = build(cells).tables
    gap = value(table, "jpeg", "adaptive", GAP)
    # The reader sees both worst cases beside it: what it is between is these.
    assert gap.number == 1.0
    assert gap.footnotes == ("1 static, 2 adaptive attacks",)
    assert value(table, "jpeg", "static", WORST_LABEL).footnotes == ("1 of 2 attacks",)


@pytest.mark.parametrize("later", ["1", "2"])
def test_two_versions_of_an_attack_make_no_gap(later):
    clean = [True] * 10
    cells = [
        result("jpeg", "pgd", step="jpeg", access="static", clean=clean, adversarial=[True] * 10),
        result("jpeg", "pgd", step="jpeg", access="adaptive", clean=clean, adversarial=[False] * 10, code=later),
        result("jpeg", "fgsm", step="jpeg", access="adaptive", clean=clean, adversarial=[False] * 10, code="3"),
    ]
    (table,) = build(cells).tables
    line = "jpeg, L∞ ε=8/255: no gap, for static and adaptive attacks are of different code of pgd"
    # What the second version finds and the first does not is no matter of what the attacker sees.
    is_mixed = later == "2"
    assert (GAP not in [column.label for column in table.columns]) == is_mixed
    assert (line in table.notes) == is_mixed
    assert ("gap" in [answer.kind for answer in table.answers]) != is_mixed


def test_flags_of_an_attack_are_not_those_of_clean_answers():
    clean = [True] * 9 + [False]
    flags = ("measured-differently", "no-op", "randomised")
    one = result("jpeg", "pgd", step="jpeg", access="adaptive", clean=clean, adversarial=clean, flags=flags)
    (table,) = build([one]).tables
    assert value(table, "jpeg", "adaptive", "clean accuracy").footnotes == ("randomised",)
    assert set(flags) <= set(value(table, "jpeg", "adaptive", "pgd").footnotes)


def test_other_budgets_never_share_a_worst_case():
    clean = [True] * 10
    small = result(eps="2/255", clean=clean, adversarial=[True] * 9 + [False])
    large = result(eps="16/255", clean=clean, adversarial=[False] * 10)
    (table,) = build([small, large]).tables
    assert [(s.threat.eps, s.worst["any"].number) for s in table.threats] == [
        (Fraction(2, 255), 0.9),
        (Fraction(16, 255), 0.0),
    ]
    assert [c.group for c in table.columns if c.label == "pgd"] == ["L∞ ε=2/255", "L∞ ε=16/255"]


def test_other_images_make_another_table_and_say_so():
    first, other = result(clean=[True] * 10), result(clean=[True] * 10, rows="another")
    tables = build([first, other]).tables
    assert len(tables) == 2
    assert all("another image list" in table.notes[0] for table in tables)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"interpolation": "bicubic"}, "another image size than its namesake: 16x16, bicubic where they were resized"),
        ({"data_sha": "0" * 64}, "another image set than its namesake: images #0000"),
        ({"num_classes": 5}, "another list of classes than its namesake: 5 classes"),
        (
            {"subset": "stratified", "interpolation": "bicubic"},
            "another image list and image size than its namesake: images #",
        ),
    ],
)
def test_a_note_says_in_what_images_differ(changes, note):
    first = result(clean=[True] * 10)
    data = first.cell.data.model_copy(update=changes)
    cell = first.cell.model_copy(update={"data": data})
    other = first.model_copy(update={"cell": cell, "key": cell_key(cell)})
    notes = {table.notes[0] for table in build([first, other]).tables}
    assert any(each.startswith(note) for each in notes), notes


def test_every_table_has_the_same_fields_in_json():
    """Also one of a single row, which has no rank, and one of which there is no cell."""
    rows = [result(name, recipe=name, clean=[True] * 10) for name in ("standard", "fgsm-at")]
    single = result("standard", "pgd", clean=[True] * 10, dataset="cifar10")
    cells = {"standard": {"pgd/white-box/0": "c" * 64}}
    planned = [PlannedTable(plan="plan", table="a" * 16, dataset="svhn", model="small-cnn", n=10, cells=cells)]
    tables = json.loads(as_json(build([*rows, single], planned)))["tables"]
    assert len(tables) == 3
    assert len({tuple(table) for table in tables}) == 1
    by_dataset = {table["dataset"]: table for table in tables}
    assert (by_dataset["cifar10"]["ranks"], by_dataset["cifar10"]["ranked_under"]) == ([], None)
    assert {each["defense"] for each in by_dataset["digits"]["ranks"]} == {"standard", "fgsm-at"}
    assert (by_dataset[None]["ranks"], by_dataset[None]["settled"]) == ([], [])


def test_cells_in_json_go_by_the_new_names_as_their_table_does():
    board = build([result("standard", "pgd", clean=[True] * 10)], rename={"digits": "Ziffern", "small-cnn": "net"})
    (cell,) = json.loads(as_json(board))["cells"]
    assert (cell["dataset"], cell["model"], cell["network"]) == ("Ziffern", "net", "net")


def test_networks_of_one_name_are_told_apart_in_the_heading():
    results = [
        result("standard", "pgd", clean=[True] * 10, network_params={"channels": channels, "depth": 3})
        for channels in (8, 16)
    ]
    board = build(results)
    titles = ["digits · small-cnn[channels=16] · 10 images", "digits · small-cnn[channels=8] · 10 images"]
    assert sorted(table.title for table in board.tables) == titles
    notes = {table.network: table.notes[0] for table in board.tables}
    assert notes["small-cnn[channels=8]"] == "another network than its namesake: small-cnn[channels=8]"
    page = render(board)
    assert all(f"small-cnn[channels={channels}]</h2>" in page for channels in (8, 16))
    assert [row["model"] for row in csv.DictReader(io.StringIO(comma_separated(board)))] == list(notes)
    # In JSON and in the frame too, beside the name that both have.
    body = json.loads(as_json(board))
    for rows in (body["tables"], body["cells"], body["defenses"], load_results(results).to_dict("records")):
        assert {(row["model"], row["network"]) for row in rows} == {("small-cnn", network) for network in notes}
    # In the page's own filter, too.
    assert '<option value="small-cnn[channels=8]">' in page or ">small-cnn[channels=8]</option>" in page
    # What is published of a network is found by its name.
    assert {table.model for table in board.tables} == {"small-cnn"}
    # Of another image list nothing is said, and code alone leaves the name.
    other = result("standard", "pgd", clean=[True] * 10, network_code="2", rows="others")
    tables = build([result("standard", "pgd", clean=[True] * 10), other]).tables
    assert {table.network for table in tables} == {"small-cnn"}
    assert all(
        re.match(
            "another image list and network than its namesake: images #.{4} of first 10 and code #", table.notes[0]
        )
        for table in tables
    )


def test_another_protocol_makes_another_table_and_says_so():
    clean = [True] * 10
    tables = build([result(clean=clean), result(attack="fgsm", clean=clean, version=99)]).tables
    assert len(tables) == 2
    assert sum("measured with protocol unknown" in note for table in tables for note in table.notes) == 1


def test_one_label_on_two_things_is_told_apart_by_what_differs():
    clean = [True] * 10
    cells = [result("jpeg", "fgsm", step="jpeg", step_params={"quality": q}, clean=clean) for q in (50, 75)]
    cells += [result("standard", attack_params={"steps": k, "size": "1/4"}, clean=clean) for k in (20, 40)]
    (table,) = build(cells).tables
    assert {each.defense for each in table.rows} == {"jpeg[quality=50]", "jpeg[quality=75]", "standard"}
    assert {"pgd[steps=20]", "pgd[steps=40]"} < {column.label for column in table.columns}


def test_trainings_of_other_length_are_told_apart_within_the_brackets_of_their_name():
    clean = [True] * 10
    cells = [result("a[preset=tpap]", epochs=epochs, clean=clean) for epochs in (20, 150)]
    (table,) = build(cells).tables
    assert {each.defense for each in table.rows} == {"a[preset=tpap,epochs=20]", "a[preset=tpap,epochs=150]"}


def test_of_the_names_of_one_thing_the_shortest_counts_in_any_order():
    clean = [True] * 10
    cells = [
        result("jpeg", step="jpeg", attack="fgsm", clean=clean),
        result("jpeg[quality=75]", step="jpeg", clean=clean),
    ]
    for ordered in (cells, cells[::-1]):
        (table,) = build(ordered).tables
        assert {each.defense for each in table.rows} == {"jpeg"}


def test_one_label_on_two_recipes_gets_a_suffix():
    clean = [True] * 10
    (table,) = build([result("a", recipe=recipe, clean=clean) for recipe in ("one", "other")]).tables
    names = {each.defense for each in table.rows}
    assert len(names) == 2
    assert all(name.startswith("a #") and len(name) == len("a #abcd") for name in names)


def test_one_label_on_two_attacks_gets_a_suffix_and_shows_its_rule():
    clean = [True] * 10
    cells = [result(attack_params={"steps": 20, "rule": rule}, clean=clean) for rule in ("any-iterate", "last-iterate")]
    (table,) = build(cells).tables
    columns = [c for c in table.columns if c.label.startswith("pgd #")]
    assert {c.rule for c in columns} == {"any-iterate", "last-iterate"}
    assert all("steps 20" in c.hint for c in columns)


def test_the_newest_answer_to_a_question_counts():
    clean = [True] * 10
    old = result(code="old", clean=clean, adversarial=[True] * 10, finished="2026-01-01T00:00:00+00:00")
    new = result(code="new", clean=clean, adversarial=[False] * 10)
    for order in ([old, new], [new, old]):
        board = build(order)
        assert board.superseded == 1
        assert list(board.results) == [new.key]
        assert value(board.tables[0], "standard", "white-box", "pgd").number == 0.0


def test_seeds_give_mean_and_spread():
    cells = [
        result(seed=s, clean=[True] * 100, adversarial=outcomes(share, 100)) for s, share in enumerate((0.4, 0.5, 0.6))
    ]
    (table,) = build(cells).tables
    accuracy = value(table, "standard", "white-box", "pgd")
    assert (accuracy.number, accuracy.spread) == pytest.approx((0.5, 0.1))
    assert (accuracy.low, accuracy.high) == pytest.approx(wilson(50, 100)[1:])
    assert len(table.rows) == 1


def test_a_failed_cell_is_seen_and_left_out_of_the_worst_case():
    clean = [True] * 10
    cells = [
        result(attack="fgsm", clean=clean, adversarial=[True] * 7 + [False] * 3),
        result(clean=clean, status="failed"),
    ]
    (table,) = build(cells).tables
    assert value(table, "standard", "white-box", "pgd").failed
    worst = value(table, "standard", "white-box", WORST_LABEL)
    assert worst.number == 0.7
    assert worst.footnotes == ("without 1 failed",)


def test_static_lines_are_not_ranked():
    (table,) = build(story()).tables
    column = next(c for c in table.columns if c.label == "pgd")
    assert table.best[column.id] == (0.842, 0.03)


def test_flags_reach_the_table():
    (table,) = build([result(clean=[True] * 4, flags=("zero-gradient", "no-op"))]).tables
    assert value(table, "standard", "white-box", "pgd").footnotes == ("no-op", "zero-gradient")


def test_a_flag_of_some_seeds_says_of_how_many_also_where_it_makes_an_upper_bound():
    flags = [("no-op", "randomised"), ("randomised",), ("no-op", "randomised"), ("randomised", "not-plausible")]
    seeds = [result(clean=[True] * 4, seed=seed, flags=own) for seed, own in enumerate(flags[:3])]
    (table,) = build(seeds).tables
    assert value(table, "standard", "white-box", "pgd").footnotes == ("no-op in 2 of 3 seeds", "randomised")
    worst = table.threats[0].worst["white-box"]
    assert worst.footnotes == ("upper bound only: no-op in 2 of 3 seeds",)
    assert "no-op in 2 of 3 seeds (the attack changed none of the images that it was to break)" in markdown(
        build(seeds)
    )
    # A cell that failed has no number that a flag could be of.
    failed = result(clean=[True] * 4, seed=3, status="failed")
    (table,) = build([*seeds[:1], failed]).tables
    assert value(table, "standard", "white-box", "pgd").footnotes == ("no-op", "randomised", "1 of 2 seeds failed")
    # What has no rank for one of its seeds has none.
    marked = [result(clean=[True] * 4, seed=seed, flags=own) for seed, own in enumerate(flags[2:])]
    noted = ("no-op in 1 of 2 seeds", "not-plausible in 1 of 2 seeds", "randomised")
    assert unproven(noted) == ("not-plausible",) and in_seeds(marked) == list(noted)


def test_no_results_no_tables():
    assert build([]).tables == ()


def test_one_attack_is_one_column_though_the_static_one_keeps_another_iterate():
    clean = [True] * 10
    rules = {"static": "last-iterate", "adaptive": "any-iterate"}
    cells = [
        result(
            "tpap",
            step="tpap",
            access=access,
            attack_params={"steps": 20, "rule": rule},
            clean=clean,
            adversarial=[access == "static"] * 10,
        )
        for access, rule in rules.items()
    ]
    (table,) = build(cells).tables
    (column,) = (c for c in table.columns if c.label == "pgd")
    assert column.rule == "any-iterate (adaptive), last-iterate (static)"
    assert value(table, "tpap", "adaptive", GAP).number == 1.0


def test_cells_of_one_row_that_contradict_each_other_are_marked():
    clean, other = [True] * 10, [True] * 9 + [False]
    agreeing = [result(clean=clean, adversarial=other), result(attack=None, clean=clean), result(clean=other, seed=1)]
    marks = "cells of one seed have different clean outcomes"
    assert marks not in value(build(agreeing).tables[0], "standard", "white-box", "clean accuracy").footnotes
    mixed = [*agreeing, result(attack="fgsm", clean=other)]
    assert marks in value(build(mixed).tables[0], "standard", "white-box", "clean accuracy").footnotes
    costs = [each.defense_cost.model_copy(update={"params": 100 + i}) for i, each in enumerate(agreeing)]
    sized = [each.model_copy(update={"defense_cost": cost}) for each, cost in zip(agreeing, costs, strict=True)]
    notes = value(build(sized).tables[0], "standard", "white-box", "clean accuracy").footnotes
    assert "cells have different numbers of parameters" in notes
    flops = [
        agreeing[0],
        agreeing[1].model_copy(update={"defense_cost": costs[1].model_copy(update={"test_flops": 1})}),
    ]
    notes = value(build(flops).tables[0], "standard", "white-box", "clean accuracy").footnotes
    assert "cells of one seed have different FLOPs of testing" in notes


def test_a_row_has_the_name_of_its_method_though_one_cell_has_a_shorter_one():
    clean = [True] * 10
    cells = [result("fgsm-at", recipe="fgsm-at", attack=attack, clean=clean) for attack in (None, "fgsm", "pgd")]
    forged = cells[2].model_copy(update={"names": cells[2].names.model_copy(update={"defense": "mart"})})
    assert [each.defense for each in build([*cells[:2], forged]).tables[0].rows] == ["fgsm-at"]
    # Where none has it, a label of the user's own is what it is.
    named = [each.model_copy(update={"names": each.names.model_copy(update={"defense": "ours"})}) for each in cells]
    assert [each.defense for each in build(named).tables[0].rows] == ["ours"]
