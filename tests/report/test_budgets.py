"""Robust accuracy at every budget from one attack, and what each class loses, against closed forms and plain loops."""

import hashlib
import json
import shutil
from fractions import Fraction
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import bench
from bench.cli import main
from bench.keys import Keys
from bench.report import figures
from bench.report.leaderboard.budgets import curves, with_budgets
from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View
from bench.report.leaderboard.view import build as build_view
from bench.stats import wilson
from bench.store.history import serialise
from bench.store.records import RECORD_COLUMNS
from bench.store.working_store import Store
from bench.types import UsageError, jsonable
from tests.report.fabricate import outcomes, result, stored
from tests.report.test_figures import assert_legible, drawn

INF = float("inf")
#: Images of the linear network.
N = 150
HALF = "1/2"


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A linear network under DDN without a budget and PGD with one: its store, and the exact distances of images.

    The distance is infinite for no image, and 0 for those that the network gets wrong.
    """
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 64, generator=generator))
    # Grey enough that no least perturbation reaches the ends of the box.
    x = (128 + 12 * torch.randn(N, 1, 8, 8, generator=generator)).clamp(90, 165).round() / 255
    with torch.no_grad():
        logits = net(x)
        y = logits.argmax(1)
        y[::7] = 1 - y[::7]
        margin = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
        width = (net[1].weight[0] - net[1].weight[1]).norm()
    root = tmp_path_factory.mktemp("linear")
    attacks = [
        {"use": "ddn", "steps": 200, "levels": None},
        *({"use": "pgd", "norm": "l2", "eps": eps, "steps": 30} for eps in ("1/10", "1/4")),
    ]
    bench.evaluate(net, x, y, attacks=attacks, store=root, progress=False, num_classes=2)
    return Store(root), (margin / width).clamp(min=0).numpy()


def number_of(text, eps, **where):
    """Return the entry of the JSON of a leaderboard at a budget."""
    (entry,) = (
        each
        for each in json.loads(text)["budgets"]
        if each["eps"] == eps and all(each[name] == value for name, value in where.items())
    )
    return entry


def as_json(capsys, store, *budgets):
    assert main(["leaderboard", "--store", str(store), "--json", "--eps", ",".join(budgets), "--quiet"]) == 0
    return capsys.readouterr().out


def test_targeted_attacks_are_in_no_curve_and_a_note_says_what_survives_them(linear):
    results = list(linear[0].results())
    (searched,) = (r for r in results if r.cell.attack and r.cell.attack.threat.eps is None)
    towards = searched.cell.attack.model_copy(update={"target": 1})
    cell = searched.cell.model_copy(update={"attack": towards})
    names = searched.names.model_copy(update={"attack": "ddn to class 1"})
    targeted = searched.model_copy(update={"key": Keys().of(cell), "names": names, "cell": cell})
    (table,) = build([targeted if r is searched else r for r in results]).tables
    (curve,) = curves(table)
    assert not curve.is_whole and curve.budgets == [Fraction(1, 10), Fraction(1, 4)] and len(curve.attacks) == 2
    assert "an image survives a targeted attack unless it is given the target class: ddn to class 1" in table.notes
    (table,) = build([r for r in (targeted, *results) if not r.cell.attack or r.cell.attack.threat.eps is None]).tables
    assert [[attack.results for attack in curve.attacks] for curve in curves(table)] == [[[searched]]]


def test_the_curve_of_a_linear_network_is_its_sorted_distances(linear):
    store, exact = linear
    (curve,) = (each for table in build(store.results()).tables for each in curves(table))
    assert curve.is_whole and curve.norm == "l2" and curve.budgets == [Fraction(1, 10), Fraction(1, 4)]
    for step in range(60):
        eps = Fraction(step, 100)
        value = curve.at(eps)
        # DDN comes within 3 % of the least distance, and never below it.
        assert (exact > eps).mean() - 1e-9 <= value.number <= (1.03 * exact > float(eps)).mean() + 1e-9
        assert (value.low, value.high) == pytest.approx(wilson(round(value.number * N), N)[1:])
    assert curve.at(Fraction(0)).number == pytest.approx((exact > 0).mean())
    assert curve.distances() == pytest.approx(sorted(exact[exact > 0]), rel=0.03)


def test_at_the_budget_of_another_attack_the_curve_is_not_above_it(linear):
    store, _ = linear
    results = list(store.results())
    (curve,) = (each for table in build(results).tables for each in curves(table))
    bounded = [r for r in results if r.cell.attack and r.cell.attack.threat.eps is not None]
    assert len(bounded) == 2
    alone = build([r for r in results if r not in bounded])
    (ddn,) = (each for table in alone.tables for each in curves(table))
    for each in bounded:
        eps, robust = each.cell.attack.threat.eps, each.metrics.robust_accuracy
        assert curve.at(eps).number <= robust
        low, high = wilson(round(robust * N), N)[1:]
        assert low <= ddn.at(eps).number <= high


def test_figure_leaderboard_recorded_file_and_records_say_the_same(linear, tmp_path, capsys):
    store, exact = linear
    kept = [number_of(as_json(capsys, store.root, HALF, "1/5"), eps)["robust_accuracy"] for eps in (HALF, "1/5")]
    recorded = tmp_path / "runs.json"
    recorded.write_text(serialise(store.results()))
    # A store of before distances were kept in results.
    shutil.copytree(store.root, tmp_path / "older")
    older = Store(tmp_path / "older")
    for each in list(older.results()):
        older.put(each.model_copy(update={"distances": None}))
    for source in (recorded, older.root):
        text = as_json(capsys, source, HALF, "1/5")
        assert [number_of(text, eps)["robust_accuracy"] for eps in (HALF, "1/5")] == kept
        out = tmp_path / "figures"
        assert main(["figures", "eps-curve", "--store", str(source), "--out", str(out), "--quiet"]) == 0
        capsys.readouterr()
        (curve,) = json.loads((out / "eps-curve.json").read_text())["curves"]
        by_budget = dict(zip(curve["eps"], curve["robust_accuracy"], strict=True))
        assert [by_budget[eps]["value"] for eps in (HALF, "1/5")] == kept
        assert [cell["eps"] for cell in curve["cells"]] == ["1/10", "1/4"]
    assert (1.03 * exact > 0.5).mean() >= kept[0] >= (exact > 0.5).mean()
    capsys.readouterr()
    # Recorded before distances were kept: the budgets that attacks had are known, others are not.
    recorded.write_text(serialise(older.results()))
    assert main(["leaderboard", "--store", str(recorded), "--eps", HALF]) == 2
    assert "of 1 without eps no distances were kept" in capsys.readouterr().err
    value = number_of(as_json(capsys, recorded, "1/4", HALF), "1/4")
    assert value["notes"] == ["without 1 whose distances were not kept"]


def test_records_have_all_four_distances(linear):
    store, _ = linear
    records = bench.load_records(store.root, cell="*/ddn/*")
    for name in ("linf", "l2", "l1", "l0"):
        assert (records[name] >= 0).all()
    assert (records["linf"] <= records["l2"] + 1e-6).all() and (records["l2"] <= records["l1"] + 1e-5).all()
    assert (records["l1"] <= records["linf"] * records["l0"] * (1 + 1e-4)).all() and records["l0"].max() <= 64
    (ddn,) = (r for r in store.results() if r.names.attack == "ddn")
    broken = np.where(records["adversarial_prediction"] == records["label"], np.inf, records["l2"])
    assert list(ddn.broken_at.values) == pytest.approx(broken)


CLEAN = [True, True, True, True, False]


def minimal(distances, name="standard", attack="ddn", norm="l2", **more):
    return result(name, attack, clean=CLEAN, distances=distances, norm=norm, **more)


def at(results, eps, norm="l2", **where):
    (curve,) = (
        each
        for table in build(results).tables
        for each in curves(table)
        if each.norm == norm and all(getattr(each, name) == value for name, value in where.items())
    )
    return curve.at(Fraction(eps))


def test_an_image_is_broken_by_any_attack_of_the_norm_from_its_distance_or_budget_on():
    first = minimal([0.1, 0.3, 0.6, INF, 0.0])
    second = minimal([0.2, 0.2, 0.7, INF, INF], attack="cw")
    # Of another norm: of no account.
    other = result("standard", "pgd", clean=CLEAN, adversarial=[False] * 5, norm="linf", eps="1/255")
    bounded = result("standard", "pgd", clean=CLEAN, adversarial=[True, True, True, False, True], norm="l2", eps=HALF)
    numbers = {eps: at([first, second, other, bounded], eps).number for eps in ("0", "1/5", "0.4", HALF, "0.6", "9")}
    # 0.1 and 0.2 are within 1/5; the fifth image is wrong when clean, and only PGD breaks the fourth.
    assert numbers == {"0": 0.8, "1/5": 0.4, "0.4": 0.4, HALF: 0.2, "0.6": 0.0, "9": 0.0}


def test_a_static_attacker_is_apart_from_one_who_sees_the_step():
    step = {"step": "jpeg", "name": "jpeg"}
    cells = [minimal([0.1] * 5, access="adaptive", **step), minimal([1.0] * 5, access="static", **step)]
    assert at(cells, HALF, access="adaptive").number == 0.0
    assert at(cells, HALF, access="static").number == 0.8


def test_what_no_attack_searched_is_no_number():
    only = [result("bounded", "pgd", clean=CLEAN, adversarial=CLEAN, norm="l2", eps=HALF, recipe="other")]
    both = [*only, minimal([0.1, 0.3, 0.6, INF, 0.0])]
    (table,) = build_view(both, (), View(eps=(Fraction(1, 4), Fraction(1, 2)))).tables
    # A budget that is also a threat of the table stays with it, before those that are not.
    columns = [column for column in table.columns if column.kind == "budget"][::-1]
    rows = {row.defense: [row.values[column.id] for column in columns] for row in table.rows}
    assert [value.number for value in rows["standard"]] == [0.6, 0.4]
    assert [value.number for value in rows["bounded"]] == [None, 0.8]
    assert rows["bounded"][0].footnotes == ("no attack without a budget, or with this one",)
    assert rows["bounded"][1].footnotes == ("1 of 2 attacks",) and rows["bounded"][1].partial
    assert [column.group for column in columns] == ["L2 ε=1/4", "L2 ε=1/2"]
    with pytest.raises(UsageError, match="no attack searched there"):
        with_budgets(build(only), [Fraction(1, 4)])
    (table,) = with_budgets(build(only), [Fraction(1, 4), Fraction(1, 2)]).tables
    assert "L2 at ε=1/4: no attack without a budget, or with this one" in table.notes


def test_several_seeds_are_their_mean_and_a_failed_attack_is_said():
    seeds = [minimal([0.1, 0.3, 0.6, INF, 0.0], seed=0), minimal([0.1, 0.1, 0.1, INF, 0.0], seed=1)]
    assert at(seeds, "0.2").number == pytest.approx(0.4)
    failed = result("standard", "cw", clean=CLEAN, norm="l2", eps=None, status="failed")
    value = at([*seeds, failed], "0.2")
    assert value.footnotes == ("without 1 failed",) and value.partial


def test_a_round_budget_has_the_images_that_the_audit_lets_keep_to_it():
    eps = Fraction(8, 255)
    distances = [float(np.float32(8 / 255)), 8 / 255 + 5e-7, 8 / 255 + 1e-5, INF, 0.0]
    assert at([minimal(distances, norm="linf")], eps, norm="linf").number == 0.4
    assert at([minimal([3, 4, 5, INF, 0], norm="l0")], 4, norm="l0").number == 0.4


@pytest.mark.parametrize("form", ["md", "csv", "tex", "html", "json"])
def test_every_format_has_the_budgets(tmp_path, capsys, form):
    store = stored(tmp_path / "store", [minimal([0.1, 0.3, 0.6, INF, 0.0])])
    words = ["leaderboard", "--store", str(store.root), "--format", form, "--eps", "1/5,1/2,1/2"]
    assert main([*words, "--quiet"]) == 0
    text = capsys.readouterr().out
    shown = {"csv": ("0.6", "0.4"), "json": ('"robust_accuracy": 0.6', '"robust_accuracy": 0.4')}
    assert all(each in text for each in shown.get(form, ("60.0", "40.0")))
    if form == "html":
        assert "no attack of this norm found a wrong image within ε" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "8/0"], "'8/0' is not a number"),
        (["--eps", "-1"], "a budget is from 0 to 1,000,000"),
        (["--eps", "1/255,"], "is not a number"),
        (["--eps", "1e7"], "a budget is from 0"),
        (["--eps", ",".join(map(str, range(21)))], "21 budgets"),
        (["--eps", "1/2", "--paper"], "--eps is for tables; --paper"),
        (["--eps", "1/2", "--format", "robustbench"], "--eps is for tables; --format robustbench"),
        (["--eps", "1/2"], "no attack searched there"),
    ],
)
def test_budgets_that_cannot_be_are_one_line(tmp_path, capsys, words, message):
    store = stored(tmp_path / "store", [result(clean=CLEAN)])
    assert main(["leaderboard", "--store", str(store.root), *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1


def test_the_short_form_and_patterns_have_the_budgets():
    cells = [minimal([0.1, 0.3, 0.6, INF, 0.0]), result("standard", None, clean=CLEAN)]
    for view in (View(eps=(Fraction(1, 5),), short=True), View(eps=(Fraction(1, 5),), columns=("clean", "budget"))):
        (table,) = build_view(cells, (), view).tables
        (column,) = (each for each in table.columns if each.kind == "budget")
        assert table.rows[0].values[column.id].number == 0.6
    assert View(eps=(Fraction(1, 5),)).digits != View().digits


def test_a_figure_without_distances_says_what_it_needs(tmp_path):
    for cells in ([result(clean=CLEAN)], [result("standard", "ddn", clean=CLEAN, norm="l2", eps=None)]):
        with pytest.raises(figures.Missing, match="no attack searched for the nearest wrong images"):
            drawn("eps-curve", cells, tmp_path)


def many_minimal(rows, letters):
    results = []
    for i in range(rows):
        name = f"d{i:02}-purify[strength=0.5,schedule=cosine_with_warmup]@pgd-at"[: letters - 2] + f"{i:02}"
        step = "jpeg" if i % 2 else None
        common = {"recipe": f"recipe-{i}", "step": step, "step_params": {"quality": i} if step else None}
        clean = outcomes(0.9, 40, i)
        for access in ("static", "adaptive") if step else ("white-box",):
            for norm, scale in (("linf", 0.001), ("l2", 0.05), ("l1", 1), ("l0", 1)):
                found = [float(int(k + i)) * scale if norm != "l0" else float(k + i) for k in range(40)]
                common |= {"norm": norm, "access": access}
                results.append(result(name, "ddn", clean=clean, distances=found, **common))
                results.append(result(name, "pgd", clean=clean, eps="1/100" if norm == "linf" else 1, **common))
    return results


@pytest.mark.parametrize(("rows", "letters", "width"), [(3, 8, "page"), (7, 60, "column")])
def test_every_text_of_curves_has_its_place(tmp_path, rows, letters, width):
    source = figures.source_of(many_minimal(rows, letters), Store(tmp_path), width=figures.WIDTHS[width])
    with plt.style.context(str(figures.STYLE)), plt.rc_context({"figure.dpi": 200}):
        drawing = import_module("bench.report.figures.eps_curve").draw(source)
        assert_legible(drawing.figure, figures.WIDTHS[width])
    plt.close(drawing.figure)
    assert {curve["panel"][1] for curve in drawing.numbers["curves"]} <= {"L∞", "L2", "L1", "L0"}


def with_records(store, cell, label, clean, adversarial):
    """Keep a result with records that say what each image was taken for."""
    n = len(label)
    columns = {name: np.zeros(n, np.float32) for name in RECORD_COLUMNS} | {
        "index": np.arange(n), "input_sha": [""] * n, "label": label, "clean": clean, "adversarial": adversarial,
        "robust": (clean == label) & (adversarial == label),
    }  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    path = store.records(cell.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sink.getvalue().to_pybytes())
    store.put(cell.model_copy(update={"records_sha": hashlib.sha256(path.read_bytes()).hexdigest()}))


def recorded(store, name="standard", n=300, classes=10, seed=0, **more):
    """Keep a result of images of many classes, and return what each image was taken for."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, n)
    clean = np.where(draw.random(n) < 0.9, label, draw.integers(0, classes, n))
    # The first classes lose more.
    adversarial = np.where(draw.random(n) * classes < label + 1, clean, (label + 1) % classes)
    right = {"clean": (clean == label).tolist(), "adversarial": (adversarial == label).tolist()}
    cell = result(name, "pgd", **right, recipe=name, **more)
    data = cell.cell.data.model_copy(update={"num_classes": classes})
    attack = cell.cell.attack.model_copy(update={"data": data})
    cell = cell.model_copy(update={"cell": cell.cell.model_copy(update={"data": data, "attack": attack})})
    with_records(store, cell, label, clean, adversarial)
    return label, clean, adversarial


def test_each_class_has_its_own_robust_accuracy_and_confusion(tmp_path):
    store = Store(tmp_path / "store")
    label, clean, adversarial = recorded(store)
    # A weaker attack on the same defense is not the one that is shown.
    (kept,) = store.results()
    weaker = result("standard", "fgsm", clean=list(kept.clean_outcomes), recipe="standard")
    (panel,) = drawn("per-class", [*store.results(), weaker], tmp_path, store)["panels"]
    assert panel["attack"] == "pgd" and panel["n"] == 300
    for number, each in enumerate(panel["classes"]):
        own = label == number
        for name, right in (
            ("clean_accuracy", clean == label),
            ("robust_accuracy", (clean == label) & (adversarial == label)),
        ):
            assert each[name] == pytest.approx(wilson(int(right[own].sum()), int(own.sum()))._asdict())
        assert (each["class"], each["n"]) == (number, own.sum())
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (clean, adversarial), 1)
    assert sum(each["images"] for each in panel["confusion"]) == 300
    for each in panel["confusion"]:
        assert counts[each["clean"], each["adversarial"]] == each["images"]
    total = sum(each["robust_accuracy"]["value"] * each["n"] for each in panel["classes"]) / 300
    assert total == pytest.approx(kept.metrics.robust_accuracy)


@pytest.mark.parametrize("width", ["page", "column"])
@pytest.mark.parametrize(("rows", "classes"), [(3, 10), (2, 40)])
def test_every_text_of_classes_has_its_place(tmp_path, width, rows, classes):
    store = Store(tmp_path / "store")
    for i in range(rows):
        recorded(store, f"d{i}", classes=classes, seed=i)
    source = figures.source_of(list(store.results()), store, width=figures.WIDTHS[width])
    with plt.style.context(str(figures.STYLE)), plt.rc_context({"figure.dpi": 200}):
        drawing = import_module("bench.report.figures.per_class").draw(source)
        assert_legible(drawing.figure, figures.WIDTHS[width])
    plt.close(drawing.figure)
    assert all(len(panel["classes"]) == classes for panel in drawing.numbers["panels"])


def test_classes_need_records_that_are_whole(tmp_path):
    store = stored(tmp_path / "store", [result(clean=CLEAN)])
    with pytest.raises(figures.Missing, match="no defense was attacked"):
        drawn("per-class", [result(attack=None, clean=CLEAN)], tmp_path, store)
    with pytest.raises(figures.Missing, match="records of the worst attacks are not in this store"):
        drawn("per-class", list(store.results()), tmp_path, store)
    (cell,) = store.results()
    right = np.array([0, 1, 2, 3, 4])
    wrong = np.array([0, 1, 2, 3, 5])
    # A label that is no class, and other outcomes than the result says.
    for label, answers in ((right + 95, wrong + 95), (right, right)):
        with_records(store, cell, label, answers, answers)
        with pytest.raises(figures.Missing, match="records of the worst attacks are not in this store"):
            drawn("per-class", list(store.results()), tmp_path, store)
    with_records(store, cell, right, wrong, wrong)
    assert len(drawn("per-class", list(store.results()), tmp_path, store)["panels"]) == 1


def test_results_of_before_distances_were_kept_read_as_ever():
    body = jsonable(result("standard", "cw", clean=CLEAN, norm="l2", eps=None))
    assert "distances" not in body
    assert "distances" in jsonable(minimal([0.1, 0.3, 0.6, INF, 0.0]))
