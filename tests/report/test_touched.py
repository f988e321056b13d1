"""What compare says a change of methods can have touched."""

import json
from functools import partial

from bench.report.comparison.compare import compare
from bench.report.comparison.render import as_json, as_markdown, as_text
from bench.store.history import Recorded
from tests.report.fabricate import result

bits = {"clean": [True] * 8}
old, new = partial(result, **bits), partial(result, **bits, commit="b" * 40, finished="2026-11-23T10:00:00+00:00")


def compared(base, head):
    return compare(Recorded("base", base), Recorded("head", head), allow_lost=True)


def test_cells_of_other_code_or_parameters_can_have_changed_and_others_cannot():
    jpeg = {"defense": "jpeg", "step": "jpeg"}
    c = compared(
        [
            old(attack=None),
            old(),
            old(attack="fgsm"),
            old(**jpeg, attack=None, step_params={"quality": 75}),
            old(**jpeg, step_params={"quality": 75}),
            old("gone", attack="gone"),
        ],
        [
            new(attack=None),
            new(code="2"),
            new(attack="fgsm"),
            new(**jpeg, attack=None, step_params={"quality": 50}),
            new(**jpeg, step_params={"quality": 50}, code="2"),
            new("added", attack="added"),
        ],
    )
    assert c.touched == (5, 3, ("pgd",), ("jpeg",))
    line = "code of pgd and parameters of jpeg changed: 3 of 5 cells can have changed by that, 2 cannot"
    assert line in as_text(c) and line in as_markdown(c)
    assert json.loads(as_json(c))["touched"] == {
        "cells": 5, "can_have_changed": 3, "code": ["pgd"], "parameters": ["jpeg"],
    }  # fmt: skip


def test_where_nothing_has_changed_it_is_said_with_what_no_hash_holds():
    c = compared([old(), old(attack="fgsm")], [new(), new(attack="fgsm")])
    assert c.touched[:2] == (2, 0)
    beside = "(no hash holds the harness itself, torch, numpy and files that no source names)"
    assert f"none of 2 cells can have changed by that\n  {beside}" in as_text(c)


def test_a_store_that_holds_both_sides_counts_a_cell_once():
    before, after = old(attack_params={"steps": 20}), new(attack_params={"steps": 10})
    c = compared([before], [before, after])
    assert c.touched == (1, 1, (), ("pgd",))
