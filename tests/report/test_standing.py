"""Which ranks of a table are settled, in every format."""

import csv
import io
import json

import pytest

from bench.anytime import anytime_interval
from bench.outcomes import Outcomes
from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View, shown
from bench.report.render import text
from bench.report.render.export import as_json, comma_separated
from bench.report.render.html import fragment, render
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.types import PartialResult
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
    assert ": none; not settled: 1 pgd-at, 2 trades, 3 fgsm-at, 4 standard; cells missing: mart" in line


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


def part(whole, n):
    """Return what is known of a cell after its first images."""
    bits = {"clean_bits": whole.clean_bits, "adversarial_bits": whole.adversarial_bits}
    bits = {name: Outcomes.decode(each, N).first(n).encode() for name, each in bits.items()}
    return PartialResult(key=whole.key, names=whole.names, cell=whole.cell, n=n, seconds=1.0, **bits)


def test_cells_that_are_begun_are_shown_as_such_and_ranked():
    clean = [result(r.names.defense, None, recipe=r.names.defense, clean=CLEAN) for r in ROWS]
    # The first of the images survive, so of the first hundred all do.
    begun = [part(ROWS[0], 100), part(ROWS[1], 150), part(ROWS[2], 100)]
    board = build([*clean, ROWS[3]], plan_of([*clean, *ROWS]), begun=begun)
    (table,) = board.tables
    assert table.incomplete == "incomplete: 5 of 8 cells, 3 begun"
    (line,) = text.settled(table)
    assert line.endswith(": 3 fgsm-at, 4 standard; not settled: 1 pgd-at, 2 trades")
    (column,) = (column for column in table.columns if column.kind == "attack")
    value = next(row for row in table.rows if row.defense == "trades").values[column.id]
    assert value.number == pytest.approx(118 / 150) and value.footnotes == ("the first 150 of 200 images",)
    assert (value.low, value.high) == anytime_interval(118, 150)[1:]
    assert all(table.mark(row, column) == "" for row in table.rows if row.defense != "standard")
    for write in (terminal, markdown, render, fragment, latex, comma_separated):
        assert "the first 150 of 200 images" in " ".join(write(board).split()), write
    assert "<sup>" in render(board)


def stepped(right, access="adaptive", **more):
    """Return a result of JPEG on standard training that keeps the first ``right`` of the images."""
    outcomes = {"clean": CLEAN, "adversarial": [i < right for i in range(N)]}
    return result("jpeg", step="jpeg", access=access, **outcomes, **more)


def test_a_step_that_is_begun_has_no_verdict_yet_but_what_is_settled_of_it():
    base = [result("standard", None, clean=CLEAN), row("standard", 0)]
    clean = result("jpeg", None, step="jpeg", clean=CLEAN)
    (table,) = build([*base, clean], begun=[part(stepped(200), 128)]).tables
    assert table.verdicts == () and "jpeg: no verdict, for not all cells of jpeg are done" in table.notes
    assert text.settled(table)[1] == "verdicts settled at any stop (95 %), image by image: jpeg above standard"
    (table,) = build([*base, clean], begun=[part(stepped(200), 5)]).tables
    assert text.settled(table)[1].endswith(": none; not settled: jpeg against standard")


def settled(*results, planned=()):
    """Return what is settled of the verdicts and gaps of a table, by kind and threat."""
    (table,) = build(results, planned).tables
    return {(answer.kind, answer.group): answer.finding for answer in table.answers}


LINF, L2 = "L∞ ε=8/255", "L2 ε=1/2"


@pytest.mark.parametrize(
    ("right", "base", "finding"),
    [(120, 60, "above"), (40, 110, "below"), (66, 60, "open"), (60, 60, "open"), (61, 60, "open")],
)
def test_a_verdict_is_settled_where_step_and_base_differ_by_more_than_chance_at_any_stop(right, base, finding):
    assert settled(row("standard", base), stepped(right)) == {("verdict", LINF): finding}


def test_a_broken_step_is_settled_once_it_is_within_a_point_of_its_base():
    none, all_clean = [False] * 1200, [True] * 1200
    cells = [
        result("standard", clean=all_clean, adversarial=none),
        result("jpeg", step="jpeg", access="adaptive", clean=all_clean, adversarial=none),
    ]
    board = build(cells)
    assert "broken under adaptive attack" in board.tables[0].verdicts[0]
    assert text.settled(board.tables[0])[1].endswith(": jpeg within 1 point of standard")


def test_nothing_is_said_settled_that_a_verdict_denies_or_that_has_none():
    weak = row("standard", 200, attack="fgsm"), stepped(100, attack="fgsm")
    assert settled(*weak, stepped(100, attack="square")) == {}, "square was not tried on the base: no verdict"
    assert settled(row("standard", 0), stepped(100, access="static")) == {}
    assert settled(stepped(100)) == {}
    planned = plan_of([row("standard", 0), stepped(200), stepped(200, attack="fgsm")])
    assert settled(row("standard", 0), stepped(200), planned=planned) == {("verdict", LINF): "open"}


def test_a_gap_is_settled_beside_the_verdict_and_each_threat_is_named():
    l2 = {"norm": "l2", "eps": "1/2"}
    cells = [row("standard", 0), stepped(20), stepped(150, access="static")]
    cells += [row("standard", 100, **l2), stepped(102, **l2)]
    assert settled(*cells) == {("verdict", LINF): "above", ("gap", LINF): "above", ("verdict", L2): "open"}
    board = build(cells)
    said = text.settled(board.tables[0])[1]
    assert said == (
        f"verdicts settled at any stop (95 %), image by image: jpeg above standard ({LINF}), gray-box (static) "
        f"above adaptive for jpeg ({LINF}); not settled: jpeg against standard ({L2})"
    )
    for write in (markdown, render, fragment):
        assert said in write(board).replace("&#8734;", "∞"), write
    assert said in " ".join(terminal(board).split()) and "Verdicts at any stop" in " ".join(terminal(board).split())
    (adaptive,) = (r for r in csv.DictReader(io.StringIO(comma_separated(board))) if r["access"] == "adaptive")
    assert adaptive[f"verdict ({LINF}) settled"] == adaptive[f"gap ({LINF}) settled"] == "above"
    assert adaptive[f"verdict ({L2}) settled"] == "open"
    (table,) = json.loads(as_json(board))["tables"]
    about = {"defense": "jpeg", "threat": LINF, "of": "verdict", "first": "jpeg", "second": "standard"}
    assert table["settled"][0] == {**about, "finding": "above", "n": N}


def test_a_view_says_nothing_settled_of_what_it_hides():
    board = build([row("standard", 0), stepped(20), stepped(150, access="static")])
    for view, kinds in (
        (View(rows=("jpeg",)), ["verdict", "gap"]),
        (View(rows=("standard",)), []),
        (View(columns=("worst", "gap")), ["gap"]),
        (View(short=True), ["verdict", "gap"]),
    ):
        assert [answer.kind for answer in shown(board, view).tables[0].answers] == kinds, view


def test_verdicts_take_their_part_of_what_a_table_may_get_wrong():
    # As many images as settle one pair of rows, but not where verdicts are asked as well.
    rows = [row("standard", 40), row("pgd-at", 48)]
    (alone,) = build(rows).tables
    (together,) = build([*rows, stepped(40), stepped(40, access="static")]).tables
    assert alone.ranking.ranks[0].is_settled and not together.ranking.ranks[0].is_settled
