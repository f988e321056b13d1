"""The mean corruption error of a row is the mean over its cells, and is there only where all of them are."""

from itertools import product

import pytest
from torchvision.models import AlexNet_Weights

from bench.keys import cell_key
from bench.report.leaderboard.corruption_error import ALEXNET, ALEXNET_CLEAN, Condition, Measure
from bench.report.leaderboard.short import shortened
from bench.report.leaderboard.tables import build
from bench.report.render import export
from bench.report.render.markdown import markdown
from bench.report.render.text import foot
from bench.types import CORRUPTIONS, SEVERITIES, CorruptionCount, WeightsRef
from tests.report.fabricate import outcomes, result

N = 100
FULL = "mCE, unnormalised"


def accuracy(kind, severity):
    return round(0.95 - 0.01 * CORRUPTIONS.index(kind) - 0.1 * severity, 2)


def corrupted(kind, severity, attack="corruption", share=None, **more):
    right = outcomes(accuracy(kind, severity) if share is None else share, N, severity)
    more = {"clean": outcomes(0.9, N), "adversarial": right, "norm": "corruption", "eps": None, **more}
    label = f"{attack}[kind={kind},severity={severity}]"
    return result(attack=attack, label=label, attack_params={"kind": kind, "severity": severity}, **more)


def cells(severities=SEVERITIES, **more):
    return [corrupted(kind, severity, **more) for kind, severity in product(CORRUPTIONS, severities)]


def errors(table):
    """The errors by label, one row after another."""
    columns = {column.id: column.label for column in table.columns if column.kind == "mce"}
    return [
        {columns[name]: value.number for name, value in row.values.items() if name in columns} for row in table.rows
    ]


def mean_error(severities=SEVERITIES):
    each = [1 - accuracy(kind, severity) for kind, severity in product(CORRUPTIONS, severities)]
    return pytest.approx(sum(each) / len(each), abs=1e-12)


def test_it_is_the_mean_over_corruptions_and_severities():
    (table,) = build(cells()).tables
    assert errors(table) == [{FULL: mean_error()}]
    (column,) = [column for column in table.columns if column.kind == "mce"]
    assert (column.group, column.unit, column.ranked) == ("common corruptions", "error", False)
    (row,) = table.rows
    assert len(set(row.values[column.id].keys)) == 75
    assert table.mark(row, column) == ""


def test_without_one_of_them_there_is_none_and_single_severities_say_which():
    (table,) = build(cells()[1:]).tables
    assert errors(table) == [{f"{FULL}, severity {s}": mean_error((s,)) for s in (2, 3, 4, 5)}]
    (table,) = build(cells((5,))).tables
    assert errors(table) == [{f"{FULL}, severity 5": mean_error((5,))}]
    (table,) = build(cells((5,))[1:]).tables
    assert errors(table) == [{}]
    assert not any(column.kind == "mce" for column in table.columns)


def test_a_failed_cell_leaves_the_error_of_its_row_out():
    broken = corrupted("fog", 5, status="failed")
    (table,) = build([*[cell for cell in cells((5,)) if "kind=fog" not in cell.names.attack], broken]).tables
    assert errors(table) == [{}]


def test_seeds_are_averaged_and_rows_do_not_mix():
    own = [*cells((5,)), *cells((5,), seed=1, share=0.5), *cells((5,), recipe="fgsm-at", defense="fgsm-at", share=0.2)]
    (table,) = build(own).tables
    by_defense = dict(zip((row.defense for row in table.rows), errors(table), strict=True))
    mean_accuracy = sum(accuracy(kind, 5) for kind in CORRUPTIONS) / 15
    assert by_defense["standard"] == {f"{FULL}, severity 5": pytest.approx(1 - (mean_accuracy + 0.5) / 2)}
    assert by_defense["fgsm-at"] == {f"{FULL}, severity 5": pytest.approx(0.8)}


def test_another_threat_with_such_parameters_is_no_corruption():
    (table,) = build(cells((5,), norm="linf", eps="8/255")).tables
    assert errors(table) == [{}]


def test_corruptions_stand_after_adversaries_and_are_no_floor_for_each_other():
    clean = outcomes(0.9, N)
    (table,) = build([*cells((5,)), result(attack="fgsm", clean=clean, adversarial=outcomes(0.3, N))]).tables
    groups = list(dict.fromkeys(column.group for column in table.columns if column.kind == "attack"))
    assert groups == ["L∞ ε=8/255", "common corruptions"]
    assert not any("weaker-than-noise" in value.footnotes for row in table.rows for value in row.values.values())


def test_every_format_shows_it_as_an_error_in_percent():
    board = build(cells())
    (number,) = (f"{100 * value:.1f}" for value in errors(board.tables[0])[0].values())
    assert FULL in export.comma_separated(board)
    (defense,) = export.payload(board)["defenses"]
    assert defense["mean_corruption_error"] == mean_error()
    assert export.payload(build(cells((5,))))["defenses"][0]["mean_corruption_error"] is None
    assert FULL in markdown(board) and f" {number} |" in markdown(board)
    short = shortened(board.tables[0])
    assert [column.kind for column in short.columns] == ["clean", "worst", "mce"]
    assert errors(short) == errors(board.tables[0])


#: AlexNet's errors at each severity, in the order of corruptions, as a fork of timm lists them for its validation.
ALEXNET_BY_SEVERITY = """
0.69528 0.82542 0.93554 0.98138 0.99452
0.71224 0.85108 0.93574 0.98182 0.99146
0.78374 0.89808 0.94870 0.98720 0.99548
0.65624 0.73202 0.85036 0.91364 0.94714
0.64308 0.75054 0.88806 0.91622 0.93344
0.58430 0.70048 0.82108 0.89750 0.92638
0.70008 0.76992 0.80784 0.84198 0.87198
0.71726 0.88392 0.86468 0.91870 0.94952
0.61390 0.79734 0.88790 0.89942 0.93430
0.67474 0.76050 0.84378 0.87260 0.94500
0.45140 0.48502 0.54048 0.62166 0.72440
0.64548 0.76150 0.88874 0.97760 0.99270
0.52596 0.70116 0.55686 0.64076 0.80554
0.52218 0.54620 0.73728 0.87092 0.91262
0.51002 0.54718 0.57294 0.65458 0.74778
"""
#: Accuracies on ImageNet-C and corruption errors in percent, published for torchvision's ResNet-50 (76.13 on ImageNet).
RESNET50 = {
    "gaussian_noise": (29.29, 79.77),
    "impulse_noise": (23.81, 82.58),
    "defocus_blur": (38.75, 74.71),
    "glass_blur": (26.79, 88.61),
    "frost": (38.14, 74.84),
    "fog": (45.83, 66.11),
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "elastic_transform": (45.25, 84.75),
}
NORMALISED = Measure("mCE", SEVERITIES, "alexnet")
RELATIVE = Measure("relative mCE", SEVERITIES, "alexnet above clean")


def alexnet_errors():
    rows = [map(float, line.split()) for line in ALEXNET_BY_SEVERITY.strip().splitlines()]
    by_kind = zip(CORRUPTIONS, rows, strict=True)
    return {Condition(kind, severity): error for kind, row in by_kind for severity, error in enumerate(row, 1)}


def test_alexnet_has_the_errors_that_it_is_divided_by():
    assert tuple(ALEXNET) == CORRUPTIONS
    errors = alexnet_errors()
    for kind in CORRUPTIONS:
        assert sum(errors[kind, severity] for severity in SEVERITIES) / 5 == pytest.approx(ALEXNET[kind], abs=1e-9)
    assert NORMALISED.value(errors, None) == pytest.approx(1, abs=1e-9)
    accuracy = AlexNet_Weights.IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert 1 - accuracy / 100 == pytest.approx(ALEXNET_CLEAN, abs=1e-9)
    assert RELATIVE.value(errors, 1 - accuracy / 100) == pytest.approx(1, abs=1e-9)
    assert RELATIVE.value(errors, None) is None


@pytest.mark.parametrize("kind", RESNET50)
def test_a_published_corruption_error_is_a_fifteenth_of_its_mean(kind):
    accuracy, published = RESNET50[kind]
    errors = {Condition(*each): 0.0 for each in product(CORRUPTIONS, SEVERITIES)}
    errors |= {Condition(kind, severity): 1 - accuracy / 100 for severity in SEVERITIES}
    assert 100 * 15 * NORMALISED.value(errors, None) == pytest.approx(published, abs=0.015)


def counted(right_of, n=4):
    """Counts of all conditions, and outcomes in that order, given how many of ``n`` images are right of each."""
    rights = {each: right_of(*each) for each in product(CORRUPTIONS, SEVERITIES)}
    counts = [CorruptionCount(kind=kind, severity=s, n=n, right=right) for (kind, s), right in rights.items()]
    return {"by_corruption": counts, "clean": [i < right for right in rights.values() for i in range(n)]}


def pretrained(own, sha="1"):
    """The same result of a network with weights from elsewhere, which are the same whatever the images."""
    weights = WeightsRef(name="weights:net.safetensors", sha256=sha * 64)
    cell = own.cell.model_copy(update={"model": own.cell.model.model_copy(update={"weights": weights})})
    return own.model_copy(update={"cell": cell, "key": cell_key(cell)})


def on_imagenet(share, path="folder:/data/imagenet/val", sha="1"):
    return pretrained(result(attack=None, clean=outcomes(share, N), dataset=path, num_classes=1000), sha)


def test_imagenet_c_is_divided_by_alexnet_and_relative_where_clean_images_were_measured():
    # Half of the images are wrong under the first corruption, none under the second, all under the others.
    counts = counted(lambda kind, severity: {"gaussian_noise": 2, "shot_noise": 4}.get(kind, 0))
    own = pretrained(result(attack=None, dataset="imagenet-c", num_classes=1000, **counts))
    rest = [ALEXNET[kind] for kind in CORRUPTIONS[2:]]
    mce = (0.5 / 0.886428 + 0 + sum(1 / each for each in rest)) / 15
    plain = (0.5 + 13) / 15
    (table,) = build([own]).tables
    assert errors(table) == [{"mCE": pytest.approx(mce), FULL: pytest.approx(plain)}]
    (column, *_) = [column for column in table.columns if column.kind == "mce"]
    assert (column.group, column.unit) == ("", "error") and "divided by that of AlexNet on ImageNet-C" in column.hint
    elsewhere = [on_imagenet(0.75), on_imagenet(0.3, "folder:/data/places/val"), on_imagenet(0.2, sha="2")]
    board = build([own, *elsewhere])
    (table,) = [table for table in board.tables if table.dataset == "imagenet-c"]
    relative = ((0.5 - 0.25) / (0.886428 - 0.43478) + (0 - 0.25) / (0.894468 - 0.43478)) / 15
    relative += sum(0.75 / (each - 0.43478) for each in rest) / 15
    wanted = {"mCE": mce, "relative mCE": relative, FULL: plain}
    assert errors(table) == [{label: pytest.approx(number) for label, number in wanted.items()}]
    assert errors(shortened(table)) == errors(table)
    defense = next(each for each in export.payload(board)["defenses"] if each["dataset"] == "imagenet-c")
    assert defense["mean_corruption_error_normalised"] == pytest.approx(mce)
    assert defense["relative_mean_corruption_error"] == pytest.approx(relative)
    assert defense["mean_corruption_error"] == pytest.approx(plain)


def test_corruptions_computed_on_imagenet_are_relative_to_its_clean_accuracy():
    on = {"dataset": "parquet:/data/ImageNet/validation", "num_classes": 1000}
    (table,) = build(cells(**on)).tables
    means = {kind: sum(1 - accuracy(kind, severity) for severity in SEVERITIES) / 5 for kind in CORRUPTIONS}
    wanted = {
        "mCE": sum(means[kind] / ALEXNET[kind] for kind in CORRUPTIONS) / 15,
        "relative mCE": sum((means[kind] - 0.1) / (ALEXNET[kind] - 0.43478) for kind in CORRUPTIONS) / 15,
        FULL: sum(means.values()) / 15,
    }
    assert errors(table) == [{label: pytest.approx(number) for label, number in wanted.items()}]
    # At one severity no errors of AlexNet were published.
    (table,) = build(cells((3,), **on)).tables
    assert list(errors(table)[0]) == [f"{FULL}, severity 3"]


def test_other_sets_of_corruptions_are_not_normalised_and_seeds_are_averaged():
    counts = [
        counted(lambda kind, severity, more=more: severity - 1 + more - (severity == 5) * more) for more in (0, 1)
    ]
    own = [result(attack=None, dataset="cifar10-c", seed=seed, **each) for seed, each in enumerate(counts)]
    (table,) = build([*own, on_imagenet(0.75)]).tables[:1]
    assert errors(table) == [{FULL: pytest.approx((1 - 2 / 4 + 1 - 2.8 / 4) / 2)}]
    # A set without counts, as older results have it, has none.
    (table,) = build([result(attack=None, dataset="cifar10-c", clean=outcomes(0.5, N))]).tables
    assert errors(table) == [{}]


def test_below_a_table_stands_which_error_it_is():
    (plain,) = build(cells()).tables
    both = build([result(attack=None, dataset="imagenet-c", num_classes=1000, **counted(lambda *_: 1))])
    assert "mCE, unnormalised: the mean error" in foot([plain]) and "AlexNet on ImageNet-C" not in foot([plain])
    assert "error divided by that of AlexNet on ImageNet-C" in foot(both.tables)
    assert "mCE" not in foot(build([result(clean=outcomes(0.9, N))]).tables)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda counts: [counts[0].model_copy(update={"right": 0}), *counts[1:]], "74 of 300 images are right"),
        (lambda counts: counts[1:], "of 296 images are right"),
        (lambda counts: [counts[1], *counts[1:]], "have one at one severity twice"),
    ],
)
def test_counts_that_contradict_the_result_are_refused(change, line):
    counts = counted(lambda *_: 1)
    with pytest.raises(ValueError, match=line):
        result(attack=None, dataset="cifar10-c", **{**counts, "by_corruption": change(counts["by_corruption"])})
    with pytest.raises(ValueError, match="no clean cell"):
        result(dataset="cifar10-c", **counts)
    with pytest.raises(ValueError, match="5 of 4 images are right"):
        CorruptionCount(kind="fog", severity=1, n=4, right=5)
