"""Numbers that are only the word of strangers stand in a table, and change nothing of those that somebody repeated."""

from dataclasses import replace
from itertools import chain, combinations

import pytest

from bench.report.leaderboard.flags import NOT_PLAUSIBLE, NOT_REPEATED, unproven
from bench.report.leaderboard.pareto import cost_front, primary
from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View
from bench.report.leaderboard.view import build as viewed
from tests.report.fabricate import outcomes, result, story

CLEAN = outcomes(0.9, 100)
NONE = [False] * 100


def attacked(defense, attack, share, **more):
    adversarial = [clean and right for clean, right in zip(CLEAN, outcomes(share, 100, 3), strict=True)]
    return result(defense, attack, clean=more.pop("clean", CLEAN), adversarial=adversarial, recipe=defense, **more)


def rows(*more):
    """Return two rows of two attacks each that somebody repeated, and other results."""
    own = (("standard", "fgsm", 0.6), ("standard", "pgd", 0.5), ("pgd-at", "fgsm", 0.8), ("pgd-at", "pgd", 0.7))
    return [*(attacked(*each) for each in own), *more]


def stranger(*arguments, flag=NOT_REPEATED, **more):
    made = attacked(*arguments, **more)
    return made.model_copy(update={"flags": (flag,)})


def proven(board):
    """Return all that a table says of the rows of which enough is known."""
    (table,) = board.tables
    numbers = {}
    for row in table.rows:
        for column in table.columns:
            value = row.values.get(column.id)
            is_own = row.defense in ("standard", "pgd-at") and row.access == "white-box"
            if is_own and value is not None and not unproven(value.footnotes):
                numbers[row.defense, column.id] = value, table.mark(row, column)
    ranks = table.ranking and table.ranking.ranks
    return numbers, ranks, table.verdicts, cost_front(primary(table)), primary(table)[0].group


STRANGERS = {
    "attack": [stranger("standard", "apgd-ce", 0.0)],
    "attack-implausible": [stranger("standard", "apgd-ce", 0.0, flag=NOT_PLAUSIBLE)],
    "more-steps": [stranger("pgd-at", "pgd", 0.0, attack_params={"steps": 2000, "rule": "any-iterate"})],
    "other-rule": [stranger("pgd-at", "pgd", 0.0, attack_params={"steps": 20, "rule": "last-iterate"})],
    "no-gradient": [stranger("standard", "square", 0.0, attack_params={"queries": 10})],
    "noise": [stranger("standard", "noise", 0.0, attack_params={})],
    "transfer": [stranger("standard", "fgsm", 0.0, access="transfer")],
    "seed": [stranger("standard", "pgd", 0.0, seed=7)],
    "clean": [stranger("standard", None, 0.0, clean=NONE)],
    "huge-budget": [stranger("standard", "pgd", 1.0, eps="1")],
    "threat-of-many": [stranger("standard", "pgd", 0.0, eps="1/255", attack_params={"steps": s}) for s in range(1, 9)],
    "failed": [stranger("standard", "apgd-ce", 0.0, status="failed")],
    "row": [stranger("fgsm-at", "pgd", 0.9), stranger("fgsm-at", "apgd-ce", 0.9)],
    "row-of-other-attack": [stranger("fgsm-at", "cw", 0.9)],
}


@pytest.mark.parametrize("names", [*((name,) for name in STRANGERS), *combinations(STRANGERS, 2)])
def test_strangers_change_nothing_of_what_was_repeated(names):
    before = proven(build(rows()))
    assert before[1] is not None and len(before[3]) == 1
    board = build(rows(*chain.from_iterable(STRANGERS[name] for name in names)))
    assert proven(board) == before


@pytest.mark.parametrize("name", [name for name in STRANGERS if name not in ("seed", "clean", "failed")])
def test_what_strangers_say_is_shown_with_its_mark(name):
    (table,) = build(rows(*STRANGERS[name])).tables
    marked = [
        (row.defense, column.id)
        for row in table.rows
        for column in table.columns
        if column.kind == "attack" and (value := row.values.get(column.id)) and unproven(value.footnotes)
    ]
    assert len(marked) == len(STRANGERS[name])


def test_where_nobody_repeated_anything_all_counts_as_ever():
    results = [each.model_copy(update={"flags": (NOT_REPEATED,)}) for each in rows(attacked("standard", "cw", 0.1))]
    (table,), (plain,) = (build(each).tables for each in (results, rows(attacked("standard", "cw", 0.1))))
    numbers, expected = (
        {(row.defense, key): value.number for row in each.rows for key, value in row.values.items()}
        for each in (table, plain)
    )
    assert numbers == expected and table.columns == plain.columns
    (note,) = [row.values["L∞ ε=8/255 worst"].footnotes for row in table.rows if row.defense == "pgd-at"]
    assert "2 of 3 attacks" in note and NOT_REPEATED in note


def test_a_step_is_not_compared_with_attacks_on_its_base_that_nobody_repeated():
    every = story()
    (judged,) = [each for each in build(every).tables[0].threats if each.defense == "jpeg"]
    assert judged.judgement is not None
    base = [each for each in every if each.cell.step is None and each.names.defense == "standard"]
    results = [each.model_copy(update={"flags": (NOT_REPEATED,)}) if each in base else each for each in every]
    (table,) = build(results).tables
    (summary,) = [each for each in table.threats if each.defense == "jpeg"]
    assert summary.judgement is None and "only the word of those who measured" in summary.unjudged


def test_strangers_change_no_accuracy_at_a_budget():
    near = [0.01 if right else 0.0 for right in CLEAN]

    def searched(defense, *flags, **more):
        made = result(defense, "ddn", clean=CLEAN, norm="l2", distances=near, recipe=defense, **more)
        return made.model_copy(update={"flags": flags})

    own = [searched("standard"), searched("pgd-at")]
    more = [searched("pgd-at", NOT_REPEATED, attack_params={"steps": 9}), searched("fgsm-at", NOT_REPEATED)]
    columns, marks = [], []
    for results in (own, [*own, *more]):
        (table,) = viewed(results, (), replace(View(), eps=(1,))).tables
        (column,) = [column for column in table.columns if column.kind == "budget"]
        columns.append({row.defense: row.values[column.id] for row in table.rows})
        marks.append({name: unproven(value.footnotes) for name, value in columns[-1].items()})
    assert {name: columns[1][name] for name in columns[0]} == columns[0]
    assert marks[1] == {"standard": (), "pgd-at": (), "fgsm-at": (NOT_REPEATED,)}
