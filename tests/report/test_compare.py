import json
import random
from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.keys import EVALUATION_VERSION
from bench.report.comparison.compare import Counts, compare, judge
from bench.report.comparison.render import as_json, as_markdown, as_text, summary
from bench.store.history import Recorded
from tests.report.fabricate import outcomes, result, story

LATER = "2026-11-23T10:00:00+00:00"
new = partial(result, finished=LATER, commit="b" * 40)


def compared(base, head, **more):
    return compare(Recorded("base", list(base)), Recorded("head", list(head)), **more)


def flipped(bits, lost, gained, seed=0):
    rng = random.Random(seed)
    down = rng.sample([i for i, bit in enumerate(bits) if bit], lost)
    up = rng.sample([i for i, bit in enumerate(bits) if not bit], gained)
    return [bit if i not in {*down, *up} else not bit for i, bit in enumerate(bits)]


def test_a_loss_of_two_points_in_1000_images_is_caught():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    c = compared([result(clean=clean, adversarial=bits)], [new(clean=clean, adversarial=flipped(bits, 25, 5))])
    (change,) = c.changes
    assert change.verdict == "regression"
    assert (change.base, change.head) == (0.5, 0.48)
    assert change.counts == Counts(25, 5, 1000)
    assert change.p == pytest.approx(binomtest(5, 30).pvalue)
    assert c.regressed


def test_what_is_compared_is_accuracy_under_attack():
    # A step that spoils the clean answers of 100 images: the base is right on them under attack, the head is not.
    clean = [False] * 100 + [True] * 100
    c = compared(
        [result(clean=clean, adversarial=[True] * 150 + [False] * 50)],
        [new(clean=clean, adversarial=[False] * 100 + [True] * 50 + [False] * 50)],
    )
    (change,) = c.changes
    assert (change.base, change.head, change.counts) == (0.75, 0.25, Counts(100, 0, 200))
    assert change.verdict == "regression"


def test_as_many_gained_as_lost_is_no_change():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    c = compared([result(clean=clean, adversarial=bits)], [new(clean=clean, adversarial=flipped(bits, 60, 60))])
    assert c.changes[0].verdict == "same"
    assert not c.regressed


def test_an_improvement_is_no_regression():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    c = compared([result(clean=clean, adversarial=bits)], [new(clean=clean, adversarial=flipped(bits, 0, 40))])
    assert c.changes[0].verdict == "improvement"
    assert not c.regressed


def test_a_clear_change_below_the_least_effect_does_not_count():
    counts = Counts(lost=40, gained=0, n=10_000)
    assert judge([counts])[0][0] == "same"
    assert judge([counts], min_effect=0.4)[0][0] == "regression"
    assert judge([Counts(5, 0, 1000)], min_effect=0.5)[0][0] == "same"
    assert judge([Counts(50, 0, 10_000)], min_effect=0.5)[0][0] == "regression"


def test_the_correction_is_over_all_cells_that_could_be_clear():
    one, busy = Counts(12, 2, 1000), Counts(7, 7, 1000)
    assert judge([one])[0][0] == "regression"
    assert judge([one, *[Counts(1, 1, 1000)] * 19])[0][0] == "regression"
    assert judge([one, *[busy] * 19])[0][0] == "same"


def churned(rng, churn, cells, repeats, loss=0.0):
    """Comparisons of 1,000 images a cell, ``churn`` of which change sides by chance; the first cell also loses some."""
    lost, gained = rng.binomial(1000, churn / 2, (2, repeats, cells))
    lost[:, 0] = rng.binomial(1000, churn / 2 + loss, repeats)
    return [
        [Counts(a, b, 1000) for a, b in zip(*row, strict=True)]
        for row in zip(lost.tolist(), gained.tolist(), strict=True)
    ]


@pytest.mark.parametrize("churn", [0.004, 0.01, 0.02, 0.2])
@pytest.mark.parametrize("cells", [1, 20])
def test_false_alarms_are_at_most_5_percent_of_comparisons(churn, cells):
    # The bound itself is shown without chance in tests/test_stats.py; here two standard errors are allowed for.
    repeats = 1500
    verdicts = [judge(row) for row in churned(np.random.default_rng(0), churn, cells, repeats)]
    alarms = np.mean([any(verdict != "same" for verdict, _, _ in row) for row in verdicts])
    assert alarms <= 0.05 + 2 * (0.05 * 0.95 / repeats) ** 0.5


@pytest.mark.parametrize(("cells", "churn"), [(1, 0.0), (1, 0.01), (20, 0.0), (20, 0.004), (200, 0.0), (200, 0.004)])
def test_power_for_a_loss_of_two_points_is_at_least_90_percent(cells, churn):
    rows = churned(np.random.default_rng(1), churn, cells, 1500 if cells < 200 else 300, loss=0.02)
    assert np.mean([judge(row)[0][0] == "regression" for row in rows]) >= 0.9


def test_one_measurement_in_both_is_not_tested():
    c = compared(story(50), story(50))
    assert c.identical == len(story(50))
    assert c.changes == ()
    assert "no regression" in as_text(c)


def test_a_cell_that_the_head_measured_by_both_defaults_is_counted_once():
    def jpeg(make, quality):
        return make("jpeg", step="jpeg", step_params={"quality": quality}, clean=[True] * 8)

    old, changed = jpeg(result, 75), jpeg(new, 10)
    c = compared([old], [old, changed])
    assert [str(each) for change in c.changes for each in change.changed_parameters] == ["jpeg: quality 75 -> 10"]
    assert c.identical == 0
    assert "no regression in 1 cell" in as_text(c)


def test_changed_code_is_paired_and_said():
    c = compared([result(clean=[True] * 8)], [new(clean=[True] * 8, code="2")])
    assert c.changes[0].verdict == "same"
    assert c.changes[0].notes == ("code of pgd changed",)


def test_other_example_lists_are_lost_coverage():
    c = compared([result(clean=[True] * 8)], [new(clean=[True] * 8, rows="others")])
    assert c.changes == ()
    assert c.lost[0].why[0].startswith("other example lists: first 8 (#")
    assert not c.compared
    c = compared([result(clean=[True] * 8)], [new(clean=[True] * 9)])
    assert "first 8 (#" in c.lost[0].why[0]
    assert "against first 9 (#" in c.lost[0].why[0]


def test_another_budget_norm_or_protocol_is_lost_coverage():
    known = result(eps="8/255", clean=[True] * 8)
    assert compared([known], [new(eps="31/1000", clean=[True] * 8)]).lost[0].why == (
        "attack.threat.eps: 8/255 against 31/1000",
    )
    assert compared([known], [new(norm="l2", clean=[True] * 8)]).lost[0].why == ("attack.threat.norm: linf against l2",)
    c = compared([result(clean=[True] * 8, version=1)], [new(clean=[True] * 8)])
    assert c.lost[0].why == (f"protocol 1 against {EVALUATION_VERSION}",)
    assert not c.compared


def test_outcomes_that_were_not_kept_are_lost_coverage():
    bare = new(clean=[True] * 8).model_copy(update={"adversarial_bits": None})
    c = compared([result(clean=[True] * 8), result(attack="fgsm", clean=[True] * 8)], [bare])
    assert [each.why for each in c.lost] == [(), ("head: the outcomes of its images were not kept",)]


def test_a_cell_that_now_fails_is_a_regression_and_one_that_always_did_is_not():
    works, fails = result(clean=[True] * 8), new(clean=[True] * 8, status="failed")
    c = compared([works], [fails])
    assert c.regressed
    assert "head failed: MethodError: pgd returned NaN" in c.changes[0].notes[0]
    assert not compared([result(clean=[True] * 8, status="failed")], [fails]).regressed


def test_a_base_cell_without_a_partner_is_lost_coverage_and_fails():
    clean = result(attack=None, clean=[True] * 8)
    fgsm, pgd = result(attack="fgsm", clean=[True] * 8), new(attack="pgd", clean=[True] * 8)
    c = compared([clean, fgsm], [clean, pgd])
    assert [(each.name, each.base, each.why) for each in c.lost] == [
        ("digits/small-cnn/standard/fgsm/white-box L∞ ε=8/255", 1.0, ())
    ]
    assert c.only_base == ("digits/small-cnn/standard/fgsm/white-box L∞ ε=8/255",)
    assert c.only_head == ("digits/small-cnn/standard/pgd/white-box L∞ ε=8/255",)
    assert summary(c) == "coverage lost: 1 cell of the base not tested"
    assert not c.passed
    accepted = compared([clean, fgsm], [clean, pgd], allow_lost=True)
    assert accepted.passed
    assert summary(accepted) == ("no regression in 1 cell; 1 cell of the base not tested, which --allow-lost accepts")


def test_to_accept_lost_coverage_accepts_no_regression():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    base = [result(clean=clean, adversarial=bits), result(attack="fgsm", clean=clean)]
    c = compared(base, [new(clean=clean, adversarial=flipped(bits, 40, 5))], allow_lost=True)
    assert not c.passed
    assert summary(c) == "1 regression; 1 cell of the base not tested, which --allow-lost accepts"


def test_what_failed_in_the_base_was_no_coverage():
    clean = result(attack=None, clean=[True] * 8)
    c = compared([clean, result(clean=[True] * 8, status="failed")], [clean])
    assert c.lost == ()
    assert c.passed
    assert summary(c) == "no regression in 1 cell; 1 cell failed in the base"


def test_a_changed_default_is_tested_image_by_image():
    # The same 200 images: 120 right at quality 75; at quality 10 30 of these are lost and 4 others are gained.
    clean, bits = [True] * 200, outcomes(0.6, 200)
    head_bits = flipped(bits, 30, 4)
    jpeg = {"step": "jpeg", "clean": clean}
    c = compared(
        [result("jpeg", step_params={"quality": 75}, adversarial=bits, **jpeg)],
        [new("jpeg", step_params={"quality": 10}, adversarial=head_bits, **jpeg)],
    )
    (change,) = c.changes
    assert [str(each) for each in change.changed_parameters] == ["jpeg: quality 75 -> 10"]
    assert change.counts == Counts(30, 4, 200)
    assert (change.base, change.head) == (0.6, 0.47)
    assert change.p == pytest.approx(binomtest(4, 34).pvalue)
    assert change.verdict == "regression"
    assert (c.lost, c.only_head) == ((), ())
    assert "jpeg: quality 75 -> 10 (1 cell)" in as_text(c)
    assert "jpeg: quality 75 -&gt; 10 (1 cell)" in as_markdown(c)
    (parameter,) = json.loads(as_json(c))["changes"][0]["changed_parameters"]
    assert parameter == {"part": "step", "method": "jpeg", "parameter": "quality", "base": 75, "head": 10}


def test_a_weaker_attack_is_no_better_defense():
    clean, bits = [True] * 200, outcomes(0.5, 200)
    c = compared(
        [result(attack_params={"steps": 20}, clean=clean, adversarial=bits)],
        [new(attack_params={"steps": 1}, clean=clean, adversarial=flipped(bits, 0, 60), forwards=40)],
    )
    assert c.changes[0].verdict == "improvement"
    assert "may be its weakness" in c.changes[0].notes[0]
    # Its passes are what was asked for, and no cost of the defense; its time is not that of the same work.
    assert not any(cost.regression for cost in c.costs)
    assert c.times == ()


def test_passes_are_compared_exactly():
    clean = [True] * 8
    c = compared([result(clean=clean)], [new(clean=clean, forwards=20.125)])
    assert {(cost.what, cost.regression) for cost in c.costs} == {
        ("forwards_per_example", True),
        ("backwards_per_example", True),
        ("flops_per_example", True),
    }
    assert c.regressed
    fewer = compared([result(clean=clean)], [new(clean=clean, forwards=19.0)])
    assert len(fewer.costs) == 3
    assert not fewer.regressed


def test_more_passes_for_other_outcomes_are_told_but_no_regression():
    c = compared(
        [result(clean=[True] * 8, adversarial=[False] * 8)],
        [new(clean=[True] * 8, adversarial=[True] + [False] * 7, forwards=22)],
    )
    assert len(c.costs) == 3
    assert not c.regressed


def test_an_attack_that_stops_early_may_spend_more_by_chance():
    c = compared([result(clean=[True] * 8, forwards=4.125)], [new(clean=[True] * 8, forwards=4.25)])
    assert len(c.costs) == 3
    assert not c.regressed


def test_time_is_compared_on_one_machine_and_device_only():
    clean = [True] * 8
    base = [result(clean=clean, seed=s, seconds=0.002) for s in range(3)]
    c = compared(base, [new(clean=clean, seed=s, seconds=0.002 * (2 + s)) for s in range(3)])
    (time,) = c.times
    assert (time.low, time.high, time.repeats) == (pytest.approx(2), pytest.approx(4), 3)
    assert time.ratio == pytest.approx(24 ** (1 / 3))
    assert not c.regressed
    for other in ({"machine": "another"}, {"device": "cuda: H100"}):
        assert compared(base, [new(clean=clean, seed=s, **other) for s in range(3)]).times == ()


def test_every_format_tells_the_story():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    c = compared(
        [result("a|b", clean=clean, adversarial=bits), result("other", attack="fgsm", clean=clean)],
        [
            new("a|b", clean=clean, adversarial=flipped(bits, 40, 5), code="2"),
            new("other", attack="fgsm", clean=clean, rows="x"),
        ],
    )
    text, table, body = as_text(c), as_markdown(c), json.loads(as_json(c))
    assert "1 regression" in text.splitlines()[0]
    assert "50.00 % -> 46.50 % (-3.50), 40 lost and 5 gained of 1,000" in text
    assert "code of pgd changed" in text
    assert r"a\|b" in table
    assert "❌" in table
    assert "**Coverage lost: 1 cell of the base not tested**" in table
    assert "other example lists" in table.partition("<details>")[0]
    assert "coverage lost: 1 cell of the base not tested" in text
    assert "other example lists" in text
    assert (body["regressed"], body["passed"]) == (True, False)
    assert [each["name"] for each in body["lost"]] == ["digits/small-cnn/other/fgsm/white-box L∞ ε=8/255"]
    assert body["changes"][0]["counts"] == {"lost": 40, "gained": 5, "n": 1000}
    assert max(len(line) for line in text.splitlines() if not line.startswith("time")) <= 120


def test_costs_are_a_list_of_lists_in_markdown():
    dear = new(clean=[True] * 8)
    assert dear.defense_cost
    dear = dear.model_copy(
        update={"defense_cost": dear.defense_cost.model_copy(update={"test_flops": 2 * dear.defense_cost.test_flops})}
    )
    lines = as_markdown(compared([result(clean=[True] * 8)], [dear])).splitlines()
    start = lines.index("- costs, counted")
    assert lines[start + 1] == "  - 🔻 digits/small-cnn/standard"
    assert lines[start + 2].startswith("    - test flops 1e+06 -&gt; 2e+06")
