import json

import pytest

from bench.cli import main
from bench.report import figures
from bench.report.leaderboard.published import beside
from bench.report.leaderboard.tables import build
from bench.report.render.published import as_markdown, as_text
from bench.store.working_store import Store
from tests.report.fabricate import outcomes, result, stored

CLEAN = outcomes(0.85, 1000)


def cifar(defense="pgd-at", attack="pgd", **more):
    how = {"recipe": defense, "dataset": "cifar10", "network": "resnet18", "clean": CLEAN, "train_n": 50_000}
    return result(defense, attack, **{**how, **more})


def by_name(results):
    return {(row.defense, row.access, row.what): row for row in beside(build(results))}


def test_published_numbers_stand_beside_measured_ones_with_source_and_deviation():
    rows = by_name([cifar(adversarial=outcomes(0.5, 1000)), cifar(attack="fgsm")])
    clean = rows["pgd-at", "white-box", "clean accuracy"]
    assert (clean.measured, clean.published) == (85.0, 84.54)
    assert clean.deviation == pytest.approx(0.46)
    assert "slides" in clean.source
    assert rows["pgd-at", "white-box", "pgd, L∞ ε=8/255"].published == 48.91
    assert rows["pgd-at", "white-box", "fgsm, L∞ ε=8/255"].published == 55.11
    assert rows["pgd-at", "white-box", "inference TFLOP/10k images"].published == 11.1
    assert any("41.2" in each or "84.74" in each for each in clean.references)


def test_what_compares_with_a_published_number_is_the_accuracy_under_attack():
    # Right under attack on 700 images, of which 300 are right clean: the paper would print 70.
    clean, under = [i < 400 for i in range(1000)], [100 <= i < 800 for i in range(1000)]
    row = by_name([cifar(clean=clean, adversarial=under)])["pgd-at", "white-box", "pgd, L∞ ε=8/255"]
    assert (row.measured, row.robust_accuracy) == (70.0, 30.0)
    assert row.deviation == pytest.approx(70 - 48.91)
    assert "| 70 | 48.91 | +21.1 | 30 |" in as_markdown([row])
    assert "Measured and published alike are accuracy under attack" in as_text([row])


def test_lists_of_other_lengths_are_told_apart():
    short = {"clean": [True] * 50, "adversarial": outcomes(0.2, 50)}
    rows = beside(build([cifar(adversarial=outcomes(0.5, 1000)), cifar(**short)]))
    assert {row.n for row in rows} == {1000, 50}
    assert {row.measured for row in rows if row.what.startswith("pgd") and row.n == 50} == {20.0}
    text = as_text(rows)
    assert text.index("cifar10 · resnet18 · 1,000 images") < text.index("cifar10 · resnet18 · 50 images")


def test_a_training_compares_with_one_on_as_many_images():
    for images, epoch, clean in ((50_000, 1831.5, 84.54), (1000, None, None)):
        rows = by_name([cifar(train_n=images)])
        assert rows["pgd-at", "white-box", "training TFLOP/epoch"].published == epoch
        assert rows["pgd-at", "white-box", "clean accuracy"].published == clean
        assert rows["pgd-at", "white-box", "inference TFLOP/10k images"].published == 11.1


@pytest.mark.parametrize(
    "cell",
    [
        cifar(attack_params={"steps": 40}),
        cifar(eps="4/255"),
        cifar(norm="l2", eps="1/2"),
        cifar("my-own"),
        cifar(step="jpeg", access="adaptive"),
        result("pgd-at", "pgd", recipe="pgd-at", clean=CLEAN),
    ],
    ids=["other steps", "other budget", "other norm", "other defense", "adaptive", "other data"],
)
def test_what_is_not_the_same_question_has_no_published_number(cell):
    attacked = [row for row in beside(build([cell])) if row.what.startswith("pgd")]
    assert len(attacked) == 1
    assert attacked[0].published is None
    assert "not known" in as_markdown(attacked)


def test_the_verb_says_what_is_known_and_what_is_not(tmp_path, capsys):
    store = str(stored(tmp_path / "store", [cifar(), cifar("mine")]).root)
    assert main(["leaderboard", "--paper", "--store", store]) == 0
    text = capsys.readouterr().out
    assert "48.91" in text
    assert "not known" in text
    assert "published: Tang and Zhang" in text
    assert main(["leaderboard", "--paper", "--json", "--store", store]) == 0
    assert len(json.loads(capsys.readouterr().out)["numbers"]) == 14
    assert main(["leaderboard", "--paper", "--format", "html", "--store", store]) == 2
    assert capsys.readouterr().err == (
        "error: --paper comes as text, md or json, or with --out FOLDER as a folder, not html\n"
    )


def test_figures_carry_them_too(tmp_path):
    source = figures.source_of([cifar(adversarial=outcomes(0.5, 1000))], Store(tmp_path))
    (table,) = json.loads(figures.draw("accuracy-heatmap", source, tmp_path)[2].read_text())["tables"]
    assert [cell["published_percent"] for cell in table["rows"][0]["accuracy"]] == [84.54, 48.91, None]
    (table,) = json.loads(figures.draw("cost", source, tmp_path)[2].read_text())["tables"]
    assert table["defenses"][0]["published"]["params"] == 11.17


def test_a_defense_that_met_none_of_the_attacks_of_a_table_has_no_line_in_it(tmp_path, capsys):
    other = {"adversarial": outcomes(0.3, 1000)}
    cells = [cifar(**other), cifar(attack="fgsm", **other), cifar(attack="ti-dim", access="transfer", **other)]
    cells += [cifar("trades", attack="ti-dim", **other)]
    store = str(stored(tmp_path / "store", cells).root)
    assert main(["leaderboard", "--paper", "--store", store, "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "README.md").read_text()
    motivation, main_table = page.partition("## Motivation table")[2].split("\n## ", 2)[:2]
    assert "| pgd-at | white-box |" in motivation
    assert "| pgd-at | transfer |" not in motivation and "| trades |" not in motivation
    assert "| pgd-at | transfer |" in main_table and "| trades | white-box |" in main_table
