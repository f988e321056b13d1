import json
from importlib import import_module
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from bench.cli import main
from bench.keys import training_key
from bench.report import figures
from bench.report.figures._choice import natural
from bench.report.figures._labels import label_apart
from bench.report.figures._plot import HEAT, fold, heat_cells, number_text, text_width
from bench.report.figures.accuracy_heatmap import _blocks
from bench.report.leaderboard.tables import Column
from bench.store import cards
from bench.store.working_store import Store
from bench.types import UsageError
from bench.visible import visible
from tests.report.fabricate import outcomes, result, stored, story

CLEAN = [True] * 100
RECIPES = {"fgsm-at": {"eps": "1/4"}, "standard": {}}


def drawn(name, results, tmp_path, store=None):
    source = figures.source_of(results, store or Store(tmp_path / "no-store"))
    files = figures.draw(name, source, tmp_path / "out")
    assert [path.name for path in files] == [f"{name}.png", f"{name}.pdf", f"{name}.json"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert files[1].read_bytes().startswith(b"%PDF")
    return json.loads(files[2].read_text())


def test_every_figure_says_what_it_shows():
    known = figures.summaries()
    named = (
        "accuracy-heatmap overfitting-curves cost accuracy-vs-cost tpap-ablation substitution attack-gallery grad-cam "
        "tsne loss-surface preprocessing large-images access-gap eps-sweep eps-curve per-class"
    )
    assert set(named.split()) == set(known)
    assert all(20 < len(about) < 120 for about in known.values())


@pytest.mark.parametrize("name", ["accuracy-heatmap", "accuracy-vs-cost"])
def test_a_figure_is_the_same_to_the_byte(tmp_path, name):
    source = figures.source_of(story(), Store(tmp_path))
    first = [path.read_bytes() for path in figures.draw(name, source, tmp_path / "a")]
    other = figures.source_of(list(reversed(story())), Store(tmp_path))
    assert [path.read_bytes() for path in figures.draw(name, other, tmp_path / "b")] == first


def test_the_heat_map_holds_the_numbers_of_the_leaderboard(tmp_path):
    (table,) = drawn("accuracy-heatmap", story(), tmp_path)["tables"]
    heads = [column["attack"] for column in table["columns"]]
    rows = {(row["defense"], row["access"]): [cell["value"] for cell in row["accuracy"]] for row in table["rows"]}
    assert heads == ["clean", "fgsm", "pgd", "worst case"]
    assert rows["tpap", "static"] == [0.984, 0.418, 0.970, 0.418]
    assert rows["tpap", "adaptive"] == [0.984, 0.300, 0.026, 0.026]


def harmed(*more_budgets):
    """A step that harms clean images: 70 of 100 right under attack, 30 of them right clean as well."""
    clean = [i < 40 for i in range(100)]
    under = [10 <= i < 80 for i in range(100)]
    common = {"step": "tpap", "clean": clean, "adversarial": under}
    places = [("static", "8/255"), ("adaptive", "8/255"), *(("static", eps) for eps in more_budgets)]
    stepped = [result("tpap", access=access, eps=eps, **common) for access, eps in places]
    bare = [result("plain", None, clean=clean, recipe="plain"), result("plain", clean=clean, recipe="plain")]
    return [*stepped, *bare, result("jpeg", step="jpeg", clean=clean, recipe="plain", access="adaptive")]


def words(name, results, tmp_path, store=None):
    """Return everything that is written on a figure, as one line."""
    return words_and_numbers(name, results, tmp_path, store)[0]


def words_and_numbers(name, results, tmp_path, store=None):
    source = figures.source_of(results, store or Store(tmp_path / "no-store"))
    drawing = import_module(f"bench.report.figures.{name.replace('-', '_')}").draw(source)
    try:
        said = " ".join(" ".join(text.get_text() for text in drawing.figure.findobj(Text)).split())
        return said, drawing.numbers
    finally:
        plt.close(drawing.figure)


def test_cells_of_figures_are_accuracy_under_attack_and_worst_cases_are_not(tmp_path):
    (table,) = drawn("accuracy-heatmap", harmed(), tmp_path)["tables"]
    heads = [(column["attack"], column["threat"]) for column in table["columns"]]
    (static,) = (row["accuracy"] for row in table["rows"] if (row["defense"], row["access"]) == ("tpap", "static"))
    cell = static[heads.index(("pgd", "L∞ ε=8/255"))]
    assert (cell["value"], cell["robust_accuracy"]) == (0.7, 0.3)
    (curve,) = drawn("eps-sweep", harmed("4/255"), tmp_path)["curves"]
    assert [point["value"] for point in curve["accuracy"]] == [0.7, 0.7]
    (gap,) = drawn("access-gap", harmed(), tmp_path)["tables"]
    assert {d["static"]["value"] for d in gap["defenses"] if d["defense"] == "tpap"} == {0.3}
    shown = drawn("preprocessing", harmed(), tmp_path)["accuracies"]
    tpap = {row["attack"]: row["accuracy"]["value"] for row in shown if row["defense"] == "tpap"}
    assert tpap == {"clean": 0.4, "pgd": 0.7, "worst case": 0.3}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("accuracy-heatmap", ("accuracy under attack, % of all images", "robust accuracy: right when clean and under")),
        ("preprocessing", ("under one attack: accuracy under attack", "robust accuracy")),
        ("eps-sweep", ("accuracy under attack, %", "L∞ budget ε")),
        ("access-gap", ("robust accuracy, %", "robust accuracy: right when clean and under every attack")),
        ("accuracy-vs-cost", ("robust accuracy, %", "inference FLOP/image")),
        ("cost", ("training s/epoch", "inference TFLOP/10k images")),
    ],
)
def test_a_figure_says_which_measure_it_shows(tmp_path, name, said):
    text = words(name, [*harmed(*["4/255"] * (name == "eps-sweep")), *story(100)], tmp_path)
    assert all(each in text for each in said), text


def test_ablation_and_substitution_say_that_worst_cases_are_robust_accuracy(tmp_path):
    settings = [*purified(0.5), *purified(0.4, steps=10), *purified(0.3, recipe="pgd-at")]
    for name in ("tpap-ablation", "substitution"):
        text = words(name, settings, tmp_path)
        assert "robust accuracy" in text and "under the first threat of each table: L∞ ε=8/255" in text


def test_the_pareto_front_holds_no_point_that_a_cheaper_one_beats(tmp_path):
    (table,) = drawn("accuracy-vs-cost", story(), tmp_path)["tables"]
    assert table["front"] == [[1e6, 0.842]]
    assert {point["defense"] for point in table["points"]} == {"standard", "fgsm-at", "pgd-at", "tpap", "jpeg"}


def test_the_gap_of_the_figure_is_that_of_the_leaderboard(tmp_path):
    (table,) = drawn("access-gap", story(), tmp_path)["tables"]
    gaps = {row["defense"]: row["gap"]["value"] for row in table["defenses"]}
    assert gaps["tpap"] == pytest.approx(0.392)
    assert gaps["jpeg"] == pytest.approx(0.194)
    assert gaps["standard"] is None


def test_the_budget_sweep_has_a_curve_for_each_defense(tmp_path):
    cells = [result(eps=f"{k}/255", clean=CLEAN, adversarial=outcomes(1 - k / 20, 100)) for k in (2, 6, 16)]
    (curve,) = drawn("eps-sweep", cells, tmp_path)["curves"]
    assert curve["eps"] == ["2/255", "6/255", "16/255"]
    assert [point["value"] for point in curve["accuracy"]] == [0.9, 0.7, 0.2]


def many_curves():
    """A standard network, one with a step on it, and many that are more robust, under two budgets each."""
    weak, strong = outcomes(0.1, 100), outcomes(0.9, 100)
    for eps in ("4/255", "8/255"):
        yield result("zz-standard", clean=CLEAN, adversarial=weak, eps=eps)
        for access in ("static", "adaptive"):
            yield result("zz-jpeg", step="jpeg", access=access, clean=CLEAN, adversarial=weak, eps=eps)
        for i in range(1, 65):
            yield result(f"at-{i}", recipe=f"at-{i}", clean=CLEAN, adversarial=strong, eps=eps)


def test_what_is_left_out_is_neither_the_baseline_nor_a_step(tmp_path):
    results = list(many_curves())
    said, numbers = words_and_numbers("eps-sweep", results, tmp_path)
    curves = [(each["defense"], each["access"]) for each in numbers["curves"]]
    assert len(curves) == 12 and curves[-3:] == [
        ("zz-jpeg", "adaptive"),
        ("zz-jpeg", "static"),
        ("zz-standard", "white-box"),
    ]
    assert "12 of 67 curves, baselines and test-time steps first" in said
    names = [name for name, _ in curves[:-3]]
    assert names == sorted(names, key=lambda name: int(name.removeprefix("at-")))
    for name, row in (("accuracy-heatmap", "rows"), ("cost", "defenses"), ("accuracy-vs-cost", "points")):
        said, numbers = words_and_numbers(name, results, tmp_path)
        (table,) = numbers["tables"]
        assert {"zz-standard", "zz-jpeg"} < {each["defense"] for each in table[row]}, name
        assert "of 66 defenses, baselines and test-time steps first" in said


def test_numbers_of_a_heat_map_are_legible_on_every_colour():
    """WCAG 2 asks for a contrast of 4.5 of texts of this size."""
    figure, axes = plt.subplots()
    heat_cells(axes, [[share / 40 for share in range(41)]])
    for share, text in enumerate(axes.texts):
        ground, letters = (luminance(colour) for colour in (HEAT(share / 40)[:3], to_rgb(text.get_color())))
        assert (max(ground, letters) + 0.05) / (min(ground, letters) + 0.05) >= 4.5, text
    plt.close(figure)


def luminance(colour):
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def test_names_are_in_the_order_of_their_numbers():
    names = ["a", "a 0.05", "a 0.1", "a 2", "a 10", "b1[x=9]", "b1[x=10]", "10"]
    assert sorted(reversed(names), key=natural) == ["10", *names[:-1]]


def test_every_threat_that_has_a_gap_has_a_panel(tmp_path):
    results = [result("standard", clean=CLEAN, adversarial=outcomes(0.5, 100), eps=eps) for eps in ("4/255", "8/255")]
    for eps, static in (("4/255", 0.9), ("8/255", 0.6)):
        for access, share in (("static", static), ("adaptive", 0.2)):
            under = outcomes(share, 100)
            results.append(result("jpeg", step="jpeg", access=access, clean=CLEAN, adversarial=under, eps=eps))
    results.append(result("standard", clean=CLEAN, adversarial=outcomes(0.5, 100), norm="l2", eps="1/2"))
    _, numbers = words_and_numbers("access-gap", results, tmp_path)
    tables = numbers["tables"]
    gaps = {table["threat"]: table["defenses"][-1]["gap"]["value"] for table in tables}
    assert gaps == {"L∞ ε=4/255": pytest.approx(0.7), "L∞ ε=8/255": pytest.approx(0.4)}
    assert "1 of 3 threats" in words("accuracy-vs-cost", results, tmp_path)
    many_threats = [
        result("jpeg", step="jpeg", access=access, clean=CLEAN, eps=f"{i}/255")
        for access in ("static", "adaptive")
        for i in range(1, 9)
    ]
    assert "the first 6 of 8 panels" in words("access-gap", many_threats, tmp_path)


def test_accuracies_of_other_image_lists_are_never_on_one_curve(tmp_path):
    cells = [
        result(eps=f"{k}/255", clean=[True] * n, adversarial=outcomes(1 - k / 20, n)) for k in (2, 6) for n in (100, 60)
    ]
    curves = drawn("eps-sweep", cells, tmp_path)["curves"]
    assert sorted(curve["panel"][0] for curve in curves) == [
        "digits · small-cnn · 100 images",
        "digits · small-cnn · 60 images",
    ]


def test_names_beside_points_stay_apart_and_inside():
    figure, axes = plt.subplots(figsize=(3.5, 2.7))
    axes.set(xscale="log", xlim=(1, 100), ylim=(-5, 105))
    points = [(x, y, f"d {x} {i}") for x in (1.2, 10, 80) for i, y in enumerate((100, 100, 91, 50, 50, 0))]
    label_apart(axes, points)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    # Points that lie on one another share a label, and each is named once.
    assert sorted(", ".join(" ".join(text.get_text().split()) for text in axes.texts).split(", ")) == sorted(
        name for _, _, name in points
    )
    assert len(boxes) < len(points)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.x0 - 1 <= box.x0 and box.x1 <= inside.x1 + 1 for box in boxes)
    plt.close(figure)


def test_texts_are_folded_where_words_end_and_long_words_anywhere():
    name = "ti-dim[diversity=0.0,kernel=1,preset=reference,step_size=3/1000]"
    for inches in (0.3, 0.6, 1.0, 9.0):
        lines = fold(name, inches, 7).split("\n")
        assert max(text_width(line, 7) for line in lines) <= inches
        assert "".join(lines) == name
    assert fold(name, 1.0, 7).split("\n")[:2] == ["ti-dim", "[diversity=0.0,"]
    assert fold("L∞\xa0ε=8/255 and more", 0.6, 7) == "L∞\xa0ε=8/255\nand more"


@pytest.mark.parametrize("most", [5, 11])
def test_a_wide_table_goes_on_in_the_next_panel(most):
    columns = [Column("clean", "clean", "accuracy", "clean")]
    columns += [
        Column(f"{g} {i}", f"a{i}", "accuracy", "attack", g)
        for g, count in (("one", 8), ("two", 4), ("three", 25))
        for i in range(count)
    ]
    blocks = _blocks(columns, most)
    assert [column for block in blocks for column in block] == columns
    assert max(map(len, blocks)) <= most
    assert max(map(len, blocks)) - min(map(len, blocks)) <= most / 2


def test_a_threat_is_in_one_panel_where_that_takes_no_more_panels():
    columns = [Column("clean", "clean", "accuracy", "clean")]
    columns += [Column(f"{g} {i}", "a", "accuracy", "attack", g) for g in ("one", "two") for i in range(3)]
    assert [{c.group for c in block} for block in _blocks(columns, 5)] == [{"", "one"}, {"two"}]


def purified(share, recipe="fgsm-at", training=None, attack="pgd", **params):
    step = {"beta": "1/4", "steps": 1, "label": "predicted", "direction": "ascend", **params}
    name = f"tpap{params}{recipe}{training or ''}"
    return [
        result(
            name,
            attack,
            step="tpap",
            recipe=recipe,
            recipe_params=training,
            step_params=step,
            access=access,
            clean=CLEAN,
            adversarial=outcomes(share * (access == "static"), 100),
        )
        for access in ("static", "adaptive")
    ]


def test_the_ablation_changes_one_parameter_at_a_time(tmp_path):
    cells = [
        result("fgsm-at", recipe="fgsm-at", clean=CLEAN, adversarial=outcomes(0.05, 100)),
        *purified(0.9),
        *purified(0.7, beta="1/8"),
        *purified(0.6, steps=5),
        *purified(0.1, steps=5, beta="1/8"),
    ]
    rows = drawn("tpap-ablation", cells, tmp_path)["settings"]
    assert [(row["parameter"], row["value"], row["static"]["value"]) for row in rows] == [
        ("on", "without", 0.05),
        ("on", "with", 0.9),
        ("beta", "1/8", 0.7),
        ("beta", "1/4", 0.9),
        ("steps", "1", 0.9),
        ("steps", "5", 0.6),
    ]


def test_settings_are_compared_under_the_attacks_that_all_of_them_met(tmp_path):
    cells = [
        result("fgsm-at", recipe="fgsm-at", clean=CLEAN, adversarial=outcomes(0.05, 100)),
        *purified(0.9),
        *purified(0.0, attack="cw"),
        *purified(0.7, beta="1/8"),
        *purified(0.5, recipe="pgd-at"),
        *purified(0.8, steps=10),
        *purified(0.1, steps=10, attack="cw"),
    ]
    rows = {(row["parameter"], row["value"]): row for row in drawn("tpap-ablation", cells, tmp_path)["settings"]}
    assert rows["beta", "1/4"]["static"]["value"] == 0.9, "the other beta was not attacked with cw"
    assert rows["beta", "1/4"]["attacks"] == "1 static, 1 adaptive"
    assert rows["steps", "1"]["static"]["value"] == 0.0, "both were attacked with it"
    assert rows["steps", "10"]["static"]["value"] == 0.1
    assert rows["steps", "10"]["attacks"] == "2 static, 2 adaptive"
    (static_only, _) = purified(0.6, steps=5)
    rows = {r["value"]: r for r in drawn("tpap-ablation", [*cells, static_only], tmp_path)["settings"]}
    assert (rows["5"]["attacks"], rows["5"]["adaptive"]["value"]) == ("1 static", None)
    crossed = drawn("substitution", cells, tmp_path)["accuracies"]
    static = {(r["trained_with"], r["purified_with"]): r["static"]["value"] for r in crossed}
    assert (static["fgsm-at", "FGSM"], static["fgsm-at", "PGD-10"], static["pgd-at", "FGSM"]) == (0.9, 0.8, 0.5)


def test_substitution_crosses_training_with_purification(tmp_path):
    cells = [
        *purified(0.9),
        *purified(0.8, steps=10),
        *purified(0.5, recipe="pgd-at"),
        *purified(0.4, recipe="pgd-at", steps=10),
        # Another beta is another question, and its name comes first.
        *purified(0.1, beta="1/16"),
    ]
    rows = drawn("substitution", cells, tmp_path)["accuracies"]
    static = {(row["trained_with"], row["purified_with"]): row["static"]["value"] for row in rows}
    assert static == {
        ("fgsm-at", "FGSM"): 0.9,
        ("fgsm-at", "PGD-10"): 0.8,
        ("pgd-at", "FGSM"): 0.5,
        ("pgd-at", "PGD-10"): 0.4,
    }


def test_substitution_tells_trainings_of_one_recipe_apart(tmp_path):
    cells = [
        *purified(0.1, training={"eps": "1/8"}),
        *purified(0.9, training={"eps": "1/4"}),
        *purified(0.8, training={"eps": "1/4"}, steps=10),
        *purified(0.5, "at", {"inner": "cw[steps=10]"}),
        *purified(0.4, "at", {"inner": "ddn[steps=10]"}),
    ]
    rows = drawn("substitution", cells, tmp_path)["accuracies"]
    static = {(row["trained_with"], row["purified_with"]): row["static"]["value"] for row in rows}
    assert static["fgsm-at", "FGSM"] == 0.9, "of two trainings the one that most settings share"
    assert (static["at cw", "FGSM"], static["at ddn", "FGSM"]) == (0.5, 0.4)


def test_preprocessing_shows_every_step_under_every_access(tmp_path):
    rows = drawn("preprocessing", story(), tmp_path)["accuracies"]
    accuracies = {(row["defense"], row["access"]): row["accuracy"]["value"] for row in rows if row["attack"] == "pgd"}
    assert accuracies["tpap", "static"] == 0.970
    assert accuracies["jpeg", "adaptive"] == 0.016
    assert accuracies["pgd-at", "white-box"] == 0.842


def test_steps_are_compared_under_the_attacks_that_all_defenses_met(tmp_path):
    lone = result("standard", "cw", recipe="standard", clean=CLEAN, adversarial=outcomes(0.0, 100))
    cells = [
        result("standard", recipe="standard", clean=CLEAN, adversarial=outcomes(0.3, 100)),
        lone,
        *purified(0.9, "standard"),
        *purified(0.7, "standard", beta="1/8"),
        result("jpeg", step="jpeg", access="static", clean=CLEAN, adversarial=outcomes(0.6, 100)),
        *purified(0.8, "pgd-at"),
    ]
    rows = drawn("preprocessing", cells, tmp_path)["accuracies"]
    accuracies = {(r["defense"], r["access"]): r["accuracy"]["value"] for r in rows if r["attack"] == "worst case"}
    assert accuracies["standard", "white-box"] == 0.3
    assert {name for name, _ in accuracies} == {"standard", "jpeg", "tpap{}standard", "tpap{}pgd-at"}, (
        "TPAP of one setting"
    )


def test_the_curves_are_the_log_of_the_training(tmp_path):
    cell = result(clean=CLEAN, recipe="fgsm-at")
    rows = [
        {
            "epoch": e + 1,
            "train": {"clean": 0.5, "fgsm": 0.4, "pgd20": 0.1 * e},
            "test": {"clean": 0.4, "fgsm": 0.3, "pgd20": 0.05},
        }
        for e in range(3)
    ]
    store = stored(tmp_path / "store", [cell])
    folder = store.training(training_key(cell.cell.model))
    cards.write(folder, {"log": rows, "images_per_epoch": 1_297})
    (run,) = drawn("overfitting-curves", [cell], tmp_path, store)["runs"]
    assert run == {"title": "fgsm-at, L∞ ε=8/255", "threat": "L∞ ε=8/255", "images": 100, "epochs": rows}
    # A version that watched another number of images wrote this share.
    rows[2]["test"]["clean"] = 1 / 3
    cards.write(folder, {"log": rows, "images_per_epoch": 1_297})
    (run,) = drawn("overfitting-curves", [cell], tmp_path, store)["runs"]
    assert run["images"] is None


def test_curves_mark_the_epochs_that_were_measured_where_not_all_were(tmp_path):
    cell = result(clean=CLEAN, recipe="fgsm-at")
    store = stored(tmp_path / "store", [cell])
    accuracies = {"train": {"clean": 0.5}, "test": {"clean": 0.25}}

    def lines(*measured):
        rows = [{"epoch": epoch, "loss": 1.0} | (accuracies if epoch in measured else {}) for epoch in range(1, 9)]
        cards.write(store.training(training_key(cell.cell.model)), {"log": rows, "images_per_epoch": 50_000})
        drawing = import_module("bench.report.figures.overfitting_curves").draw(figures.source_of([cell], store))
        (axis,) = drawing.figure.axes
        shown = [([int(x) for x in line.get_xdata()], line.get_marker()) for line in axis.lines]
        assert len(shown) == 2 and shown[0] == shown[1]
        return shown[0]

    assert lines(1, 4, 8) == ([1, 4, 8], "o")
    assert lines(*range(1, 9)) == (list(range(1, 9)), "")


def test_panels_of_curves_say_their_budget_and_their_images(tmp_path):
    cells = [result(name, clean=CLEAN, recipe=name, recipe_params=eps) for name, eps in RECIPES.items()]
    store = stored(tmp_path / "store", cells)
    for cell in cells:
        card = {"log": [{"epoch": 1, "train": {"clean": 0.5}, "test": {"clean": 0.25}}], "images_per_epoch": 10_000}
        cards.write(store.training(training_key(cell.cell.model)), card)
    text = words("overfitting-curves", cells, tmp_path, store)
    assert "fgsm-at L∞ ε=1/4, 200 images each" in text and "standard L∞ ε=8/255, 200 images each" in text
    assert "different budgets" in text
    assert "different budgets" not in words("overfitting-curves", cells[:1], tmp_path, store)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eps-sweep", "no attack was run with several budgets"),
        ("large-images", "no attacked cell has images of 96 pixels"),
        ("overfitting-curves", "no trained network in the store has a log"),
        ("substitution", "tpap was run on one training recipe only"),
        ("access-gap", "no test-time step was attacked both"),
        ("attack-gallery", "the weights of small-cnn are not in this store"),
        ("grad-cam", "no test-time step was attacked with static access"),
    ],
)
def test_what_cannot_be_drawn_says_what_is_missing(tmp_path, name, message):
    with pytest.raises(figures.Missing, match=message):
        drawn(name, [result(clean=CLEAN)], tmp_path)


def test_the_verb_draws_what_it_can_and_says_the_rest(tmp_path, capsys):
    store = str(stored(tmp_path / "store", story(60)).root)
    assert main(["figures", "cost", "access-gap", "--store", store, "--out", str(tmp_path / "f")]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [
        f"{n}.{k}" for n in ("cost", "access-gap") for k in ("png", "pdf", "json")
    ]
    assert main(["figures", "--list"]) == 0
    assert "access-gap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["acess-gap"], "did you mean 'access-gap'"),
        (["eps-sweep"], "eps-sweep: no attack was run with several budgets"),
        (["cost", "--out", "/dev/null/x"], "cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, words, message):
    store = str(stored(tmp_path / "store", story(20)).root)
    assert (
        main(
            [
                "figures",
                *words,
                "--quiet",
                "--store",
                store,
                *([] if "--out" in words else ["--out", str(tmp_path / "f")]),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def many(rows, letters, sets, n=12):
    """Results of many defenses, every second with a step, under two budgets; names as long as people make them."""
    results = []
    for i in range(rows):
        name = f"d{i:02}" + "-purify[strength=0.5,schedule=cosine_with_warmup,kernel=gaussian]@pgd-at" * 2
        name = name[: letters - 2] + f"{i:02}"
        clean = outcomes(0.8, n, i)
        step = "jpeg" if i % 2 else None
        common = {"recipe": f"recipe-{i}", "step": step, "step_params": {"quality": i} if step else None}
        for data in range(sets):
            where = common | {"dataset": f"folder:/home/somebody/sets/{data}"[-letters:]}
            costs = {"test_flops": 10 ** (5 + i * 7 % 13 / 3), "test_seconds": 0.0 if i == 1 else 0.3 * i}
            cells = [result(name, None, clean=clean, **where)]
            for access in ("static", "adaptive") if step else ("white-box",):
                for attack, eps in (("pgd", "8/255"), ("fgsm", "8/255"), ("pgd", "4/255")):
                    under = [right and (i + data + k) % 3 > 0 for k, right in enumerate(clean)]
                    cells.append(result(name, attack, clean=clean, adversarial=under, access=access, eps=eps, **where))
            for each in cells:
                cost = each.defense_cost.model_copy(update=costs)
                results.append(each.model_copy(update={"defense_cost": cost}))
    return results


def trained(tmp_path, count):
    """Return results and the store of many trainings, with their logs."""
    cells = [
        result(f"r{i}", clean=CLEAN, recipe="pgd-at", recipe_params={"eps": "8/255"}, seed=i) for i in range(count)
    ]
    store = stored(tmp_path / "trained", cells)
    shares = {"clean": 0.5, "fgsm": 0.4, "pgd20": 0.1}
    for each in cells:
        log = [{"epoch": e, "train": shares, "test": shares} for e in (1, 2_000, 30_000)]
        cards.write(store.training(training_key(each.cell.model)), {"log": log})
    return cells, store


def drawn_texts(figure):
    """Return the texts that a figure shows, each with its box in pixels; ticks beyond the axes are not shown."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    hidden = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in texts if text not in hidden]


def shrunk(box):
    """Return a box without the pixel at each side that rounding may add."""
    return Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)


def assert_legible(figure, width):
    assert figure.get_figwidth() == width
    assert figure.get_figheight() <= 9.3, "longer than a page"
    texts = drawn_texts(figure)
    for text, box in texts:
        assert text.get_fontsize() >= 5.5, text
        inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert inside and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{text} leaves the figure"
    # As Bbox.overlaps for every pair, without the pixel at each side that rounding may add.
    low, high = (np.array([corner(box) for _, box in texts]) for corner in (lambda b: b.p0 + 1, lambda b: b.p1 - 1))
    covered = np.all((low[:, None] <= high) & (low <= high[:, None]), axis=2)
    pairs = [(texts[a][0], texts[b][0]) for a, b in np.argwhere(np.triu(covered, 1))]
    assert pairs == [], "one covers the other"


def intervals(axes):
    """Return the boxes of the vertical lines that are drawn over data."""
    lines = (line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata()) == 2)
    return [line.get_window_extent() for line in lines if len(set(line.get_xdata())) == 1]


CHARTS = ("access-gap", "accuracy-heatmap", "accuracy-vs-cost", "cost", "eps-sweep")


@pytest.mark.parametrize(
    ("rows", "letters", "sets", "name"),
    [
        (2, 5, 1, "column"),
        (12, 120, 1, "page"),
        (12, 120, 1, "column"),
        (5, 5, 6, "column"),
        (60, 5, 1, "page"),
        (2, 120, 6, "page"),
    ],
)
def test_every_text_of_a_chart_has_its_place(tmp_path, rows, letters, sets, name):
    width = figures.WIDTHS[name]
    source = figures.source_of(many(rows, letters, sets), Store(tmp_path / "no-store"), width=width)
    for name in CHARTS:
        with plt.style.context(str(figures.STYLE)), plt.rc_context({"figure.dpi": 200}):
            drawing = import_module(f"bench.report.figures.{name.replace('-', '_')}").draw(source)
            assert_legible(drawing.figure, width)
        if name == "accuracy-heatmap":
            labels = [label for axes in drawing.figure.axes for label in axes.get_xticklabels()]
            assert len({label.get_rotation() for label in labels}) == 1, "some headings are turned"
        if name == "accuracy-vs-cost":
            for axes in drawing.figure.axes:
                boxes = [shrunk(text.get_window_extent()) for text in axes.texts]
                assert not any(box.overlaps(line) for box in boxes for line in intervals(axes)), "over an error bar"
        plt.close(drawing.figure)


@pytest.mark.parametrize("width", figures.WIDTHS.values(), ids=figures.WIDTHS)
def test_many_trainings_are_one_page(tmp_path, width):
    cells, store = trained(tmp_path, 14)
    source = figures.source_of(cells, store, width=width)
    with plt.style.context(str(figures.STYLE)), plt.rc_context({"figure.dpi": 200}):
        drawing = import_module("bench.report.figures.overfitting_curves").draw(source)
        assert_legible(drawing.figure, width)
    text = " ".join(text.get_text() for text, _ in drawn_texts(drawing.figure)).replace("\n", " ")
    assert f"{len(drawing.numbers['runs'])} of 14 trained networks" in text
    assert "30,000" in text
    plt.close(drawing.figure)


@pytest.mark.parametrize("digits", [3, 4])
def test_numbers_have_no_exponent_and_read_back(digits):
    expected = {0.0: "0", 2e3: "2,000", 999_960.0: "1 million", 1.5e6: "1.5 million", 2.5e-5: "0.000025"}
    assert {number: number_text(number, 3) for number in expected} == expected
    words = {"": 1, "million": 1e6, "billion": 1e9, "trillion": 1e12}
    for number in (sign * 1.2345678 * 10**k for k in range(-7, 16) for sign in (1, -1)):
        shown, _, word = number_text(number, digits).partition(" ")
        assert float(shown.replace(",", "")) * words[word] == pytest.approx(number, rel=10 ** (1 - digits))
        assert "e" not in shown


def test_a_cost_of_zero_is_not_one_that_was_not_measured(tmp_path):
    cells = [result(name, clean=CLEAN, recipe=name) for name in ("free", "unknown", "costly")]
    for i, seconds in enumerate((0.0, None, 2_000.0)):
        cost = cells[i].defense_cost.model_copy(update={"train_seconds_per_epoch": seconds})
        cells[i] = cells[i].model_copy(update={"defense_cost": cost})
    text = f" {words('cost', cells, tmp_path)} "
    assert all(f" {each} " in text for each in ("0", "not measured", "2,000"))
    (table,) = drawn("cost", cells, tmp_path)["tables"]
    assert {row["defense"]: row["train_seconds"] for row in table["defenses"]} == {
        "free": 0.0,
        "unknown": None,
        "costly": 2_000.0,
    }


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_charts_show_any_name_as_it_is(tmp_path):
    names = ["$\\frac{1}{$", "a_b^{c}%", "one\ntwo", "防御 ε", "x" * 400, "%s{}", " "]
    cells = [
        result(name, attack, clean=CLEAN, recipe=str(i)) for i, name in enumerate(names) for attack in ("cw", "pgd")
    ]
    text = "".join(words("accuracy-heatmap", cells, tmp_path).split())
    assert all("".join(visible(name).split())[:20] in text for name in names)
    drawn("cost", cells, tmp_path)


def test_a_figure_that_fails_leaves_the_others(tmp_path, capsys, monkeypatch):
    def fails(source):
        raise KeyError("a method of\nanother name")

    def is_unknown(source):
        raise UsageError("unknown network 'small-cnn'")

    names = ("accuracy-heatmap", "accuracy-vs-cost", "cost", "access-gap")
    monkeypatch.setattr(figures, "summaries", lambda: dict.fromkeys(names, "") | {"eps-sweep": ""})
    monkeypatch.setattr(import_module("bench.report.figures.accuracy_heatmap"), "draw", fails)
    monkeypatch.setattr(import_module("bench.report.figures.cost"), "draw", is_unknown)
    store, out = str(stored(tmp_path / "store", story(20)).root), tmp_path / "f"
    assert main(["figures", "--store", store, "--out", str(out), "--quiet"]) == 3
    captured = capsys.readouterr()
    assert {path.stem for path in out.iterdir()} == {"access-gap", "accuracy-vs-cost"}
    lines = captured.err.splitlines()
    assert r"failed accuracy-heatmap: KeyError: 'a method of\nanother name'" in lines
    assert "failed cost: unknown network 'small-cnn'" in lines
    assert "Traceback" not in captured.err
    # What is asked for by name and is not there does not stop the rest either.
    names = ["eps-sweep", "access-gap"]
    assert main(["figures", *names, "--store", store, "--out", str(out), "--quiet"]) == 2
    assert [Path(line).stem for line in capsys.readouterr().out.splitlines()] == ["access-gap"] * 3


def test_a_figure_that_fails_while_it_is_written_out_changes_no_file(tmp_path, monkeypatch):
    drawn("cost", story(20), tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(figures, "json_text", lambda *_, **__: 1 / 0)
    with pytest.raises(figures.Failed, match="ZeroDivisionError"):
        drawn("cost", story(30), tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_width_is_that_of_a_page_or_a_column(tmp_path):
    store = str(stored(tmp_path / "store", story(20)).root)
    for width, pixels in (("page", 1400), ("column", 650)):
        out = tmp_path / width
        assert main(["figures", "cost", "--store", store, "--out", str(out), "--width", width, "--quiet"]) == 0
        assert Image.open(out / "cost.png").width == pixels


def test_a_method_that_is_gone_costs_the_figures_that_run_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.report.figures._network.is_trained", lambda folder: True)
    store = str(stored(tmp_path / "store", story(20, network="old-cnn")).root)
    names = ["attack-gallery", "cost"]
    assert main(["figures", *names, "--store", store, "--out", str(tmp_path / "f"), "--quiet"]) == 3
    captured = capsys.readouterr()
    assert "error: attack-gallery: unknown network 'old-cnn'" in captured.err and captured.err.count("\n") == 1
    assert [Path(line).name for line in captured.out.splitlines()] == ["cost.png", "cost.pdf", "cost.json"]
