"""Which ranks of a table are settled, in every format."""

import csv
import io
import json

import pytest

from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View, shown
from bench.report.render import text
from bench.report.render.export import as_json, comma_separated
from bench.report.render.html import fragment, render
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from tests.report.fabricate import result
from tests.report.test_incomplete import plan_of, terminal

N = 200
CLEAN = [True] * N


def row(recipe, right, **more):
    """Return a result that keeps the first ``right`` of the images."""
    return result(recipe, recipe=recipe, clean=CLEAN, adversarial=[i < right for i in range(N)], **more)


ROWS = [row("pgd-at", 120), row("trades", 118), row("fgsm-at", 60), row("standard", 0)]
SAID = (
    "ranks settled at any stop (95 %), by robust accuracy, worst case, under L∞ ε=8/255: 3 fgsm-at, 4 standard; "
    "not settled: 1 pgd-at, 2 trades"
)


def said(results, planned=()):
    (table,) = build(results, planned).tables
    return text.settled(table)


def test_every_format_says_which_ranks_are_settled():
    board = build(ROWS)
    assert text.settled(board.tables[0]) == [SAID]
    joined = " ".join(terminal(board).split())
    assert f"= {SAID}" in joined and "Ranks at any stop" in joined
    for write in (markdown, render, fragment):
        assert SAID in write(board).replace("&#8734;", "∞"), write
    assert "3 fgsm-at, 4 standard" in latex(board)
    rows = {
        row["defense"]: (row["rank"], row["rank settled"])
        for row in csv.DictReader(io.StringIO(comma_separated(board)))
    }
    assert rows == {"pgd-at": ("1", "no"), "trades": ("2", "no"), "fgsm-at": ("3", "yes"), "standard": ("4", "yes")}
    (table,) = json.loads(as_json(board))["tables"]
    assert table["ranked_under"] == "L∞ ε=8/255" and table["not_begun"] == []
    assert table["ranks"][2] == {"defense": "fgsm-at", "rank": 3, "settled": True, "n": N}


def test_a_rank_is_among_all_rows_whatever_a_view_shows():
    board = shown(build(ROWS), View(rows=("fgsm-at",)))
    assert text.settled(board.tables[0])[0].endswith(": 3 fgsm-at")


def test_static_rows_are_not_ranked():
    static = row("jpeg", 190, step="jpeg", access="static")
    assert said([*ROWS, static]) == [SAID]


def test_while_a_planned_row_has_no_image_nothing_is_settled():
    planned = plan_of([*ROWS, row("mart", 80)])
    (line,) = said(ROWS, planned)
    assert ": none; not settled: 1 pgd-at, 2 trades, 3 fgsm-at, 4 standard; no image yet: mart" in line


def test_a_row_that_lacks_an_attack_has_no_rank():
    failed = result("mart", "fgsm", recipe="mart", clean=CLEAN, status="failed")
    lacking = [
        row("mart", 199),
        failed,
        *(row(each, right, attack="fgsm") for each, right in (("pgd-at", 130), ("trades", 130))),
    ]
    lacking += [row("fgsm-at", 100, attack="fgsm"), row("standard", 50, attack="fgsm")]
    assert said([*ROWS, *lacking]) == [SAID]


@pytest.mark.parametrize("more", [{"norm": "corruption", "eps": None}, {"distances": [1.0] * N}])
def test_corruptions_and_attacks_without_a_budget_rank_nothing(more):
    rows = [result(name, "some", recipe=name, clean=CLEAN, **more) for name in ("standard", "pgd-at")]
    assert said(rows) == []


def test_rows_that_are_equal_share_a_rank_that_is_not_settled():
    (line,) = said([row("pgd-at", 90), row("trades", 90), row("standard", 0)])
    assert line.endswith(": 3 standard; not settled: 1 pgd-at, 1 trades")
