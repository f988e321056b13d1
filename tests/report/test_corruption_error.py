"""The mean corruption error of a row is the mean over its cells, and is there only where all of them are."""

from itertools import product

import pytest

from bench.report.leaderboard.short import shortened
from bench.report.leaderboard.tables import build
from bench.report.render import export
from bench.report.render.markdown import markdown
from bench.types import CORRUPTIONS, SEVERITIES
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
