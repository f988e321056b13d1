import json
import random
import re
from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.differences import differences
from bench.keys import EVALUATION_VERSION
from bench.report.comparison.compare import Counts, compare, judge
from bench.report.comparison.render import as_json, as_markdown, as_text, summary
from bench.report.comparison.seeds import MOST_SEEDS
from bench.stats import holm_mcnemar
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
        "threat: L∞ ε=8/255 against L∞ ε=31/1000",
    )
    assert compared([known], [new(norm="l2", clean=[True] * 8)]).lost[0].why == (
        "threat: L∞ ε=8/255 against L2 ε=8/255",
    )
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


def over(base_bits, head_bits, **more):
    """Results of both sides for seeds 0, 1, ... with these outcomes."""
    sides = [
        [make(clean=[True] * len(bits), adversarial=bits, seed=seed, **more) for seed, bits in enumerate(outcomes_of)]
        for make, outcomes_of in ((result, base_bits), (new, head_bits))
    ]
    return compared(*sides)


def losing(losses, n=1000):
    """Outcomes of the base, and of a head that lost so many images, a number for each seed."""
    base = [outcomes(0.5, n, seed) for seed in range(len(losses))]
    return base, [flipped(bits, loss, 0, seed) for seed, (bits, loss) in enumerate(zip(base, losses, strict=True))]


def test_a_cell_of_several_seeds_has_one_statement_over_them():
    (cell,) = over(*losing([30, 32, 31, 29])).over_seeds
    assert cell.name == "digits/small-cnn/standard/pgd/white-box L∞ ε=8/255"
    assert (cell.seeds, cell.n, cell.machines) == ((0, 1, 2, 3), 1000, ("box",))
    assert (cell.base, cell.head, cell.difference) == pytest.approx((0.5, 0.4695, -0.0305))
    assert cell.low < -0.0305 < cell.high < 0
    assert (cell.verdict, cell.equivalence) == ("regression", "different")


def test_what_one_seed_lost_is_no_loss_of_all():
    c = over(*losing([0, 90, 0]))
    assert [change.verdict for change in c.changes] == ["same", "regression", "same"]
    (cell,) = c.over_seeds
    assert cell.low < -0.1 < 0 < cell.high
    assert (cell.verdict, cell.equivalence) == ("same", "cannot tell")
    assert cell.needed == "more than 100 seeds, however many images"


def test_a_loss_that_no_seed_shows_by_itself_is_a_regression_of_all():
    c = over(*churning([14, 13, 14, 15, 13, 14, 15, 14]))
    assert {change.verdict for change in c.changes} == {"same"}
    assert c.over_seeds[0].verdict == "regression"
    assert not c.passed
    assert summary(c) == "1 cell worse over its seeds"


def churning(losses, n=1000):
    base = [outcomes(0.5, n, seed) for seed in range(len(losses))]
    heads = [flipped(bits, loss, 5, 100 + seed) for seed, (bits, loss) in enumerate(zip(base, losses, strict=True))]
    return base, heads


def test_the_tests_of_all_seeds_are_one_family():
    c = over(*churning([30, 5, 6]))
    plain = holm_mcnemar([(change.counts.lost, change.counts.gained) for change in c.changes], [c.over_seeds[0].p])
    assert [*(change.adjusted_p for change in c.changes), c.over_seeds[0].adjusted_p] == plain


def test_one_seed_has_no_statement_over_seeds_and_its_tests_are_their_own_family():
    c = over(*churning([30]))
    assert c.over_seeds == ()
    assert c.changes[0].adjusted_p == c.changes[0].p
    assert "over seeds" not in as_text(c) + as_markdown(c)


def test_seeds_of_other_images_parameters_or_labels_are_not_mixed():
    clean = [True] * 8
    sizes = [make(clean=[True] * (8 + seed), seed=seed) for make in (result, new) for seed in range(3)]
    assert compared(sizes[:3], sizes[3:]).over_seeds == ()
    steps = [make(clean=clean, seed=s, attack_params={"steps": s}) for make in (result, new) for s in range(3)]
    assert compared(steps[:3], steps[3:]).over_seeds == ()
    one = [make(clean=[True], seed=s) for make in (result, new) for s in range(3)]
    assert compared(one[:3], one[3:]).over_seeds == ()


def test_seeds_without_outcomes_are_left_out_of_the_statement():
    base, heads = losing([1, 1, 1])
    sides = [[make(clean=[True] * 1000, adversarial=b, seed=s) for s, b in enumerate(bits)] for make, bits in
             ((result, base), (new, heads))]  # fmt: skip
    sides[1][2] = sides[1][2].model_copy(update={"adversarial_bits": None})
    c = compared(*sides)
    assert c.over_seeds[0].seeds == (0, 1)
    assert len(c.lost) == 1


def test_absurd_seeds_and_a_thousand_of_them_are_compared():
    clean, seeds = [True] * 4, [0, 2**63, *range(7, 1005)]
    c = compared([result(clean=clean, seed=s) for s in seeds], [new(clean=clean, seed=s) for s in seeds])
    (cell,) = c.over_seeds
    assert len(cell.seeds) == 1000
    assert "1,000 seeds x 4 images" in as_text(c)
    assert as_text(c).count("\n") < 120


def test_each_machine_is_compared_with_itself():
    # The machines differ by far more than the runs: 40 images, against 2.
    a, b = outcomes(0.5, 1000), flipped(outcomes(0.5, 1000), 40, 0)
    clean = [True] * 1000
    base = [result(clean=clean, adversarial=a, machine="a"), result(clean=clean, adversarial=b, machine="b")]
    head = [
        new(clean=clean, adversarial=flipped(a, 2, 0), machine="a", finished="2026-11-24T10:00:00+00:00"),
        new(clean=clean, adversarial=flipped(b, 2, 0), machine="b"),
    ]
    c = compared(base, head)
    assert [change.name.rpartition(" on ")[2] for change in c.changes] == ["a", "b"]
    assert [change.counts for change in c.changes] == [Counts(2, 0, 1000)] * 2
    (cell,) = c.over_seeds
    assert cell.by_machine == pytest.approx({"a": -0.002, "b": -0.002})
    # The images are the same thousand: two machines are no two thousand.
    assert (cell.same_low, cell.same_high) == pytest.approx((c.changes[0].low, c.changes[0].high))
    assert "on a -0.20, on b -0.20" in as_text(c)
    # Where the head has one machine, it is compared with the same one of the base, not with the newest.
    (change,) = compared(base, head[:1]).changes
    assert change.counts == Counts(2, 0, 1000)
    assert " on " not in change.name


@pytest.mark.parametrize("worse", ["cpu: Xeon", "cuda: H200"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_two_devices_of_one_machine_are_compared_each_with_itself(worse, seeds):
    bits, clean, sides = outcomes(0.6, 1000), [True] * 1000, ([], [])
    for seed in range(seeds):
        for device in ("cpu: Xeon", "cuda: H200"):
            lost = flipped(bits, 45, 5) if device == worse else bits
            sides[0].append(result(clean=clean, adversarial=bits, seed=seed, device=device))
            sides[1].append(new(clean=clean, adversarial=lost, seed=seed, device=device))
    c = compared(*sides)
    marked = [change for change in c.changes if change.verdict == "regression"]
    assert [change.counts for change in marked] == [Counts(45, 5, 1000)] * seeds
    assert {change.name.rpartition(" on ")[2] for change in marked} == {f"box ({worse})"}
    assert len(c.changes) == 2 * seeds
    (cell,) = c.over_seeds
    expected = {f"box ({device})": -0.04 * (device == worse) for device in ("cpu: Xeon", "cuda: H200")}
    assert cell.by_machine == pytest.approx(expected)
    assert cell.machines == tuple(expected)
    assert f"on box ({worse}) -4.00" in as_text(c)
    # Only where the machine alone does not tell is its device named.
    others = compared([*sides[0], result(clean=clean, machine="lab")], [*sides[1], new(clean=clean, machine="lab")])
    assert {change.name.rpartition(" on ")[2] for change in others.changes} == {*expected, "lab"}


def test_another_device_of_one_machine_is_another_machine():
    clean = [True] * 1000
    c = compared([result(clean=clean, device="cpu: Xeon")], [new(clean=clean, device="cpu: EPYC")])
    said = "1 cell measured on box (cpu: Xeon) in the base and on box (cpu: EPYC) in the head: "
    assert f"{said}a difference may be one of the machines" in c.notes


def test_what_a_machine_measured_on_one_side_only_is_named():
    clean = [True] * 1000
    base = [result(clean=clean, machine=name) for name in ("a", "b")]
    head = [new(clean=clean, machine=name) for name in ("b", "c")]
    (change,) = compared(base, head).changes
    assert change.verdict == "same"
    assert compared(base, head).notes == ("measured on one side only and not compared: 1 cell on a, 1 cell on c",)
    assert compared(base, base[:1]).notes == ("measured on one side only and not compared: 1 cell on b",)
    assert compared(base, base).notes == ()


def test_machines_whose_changes_cancel_are_not_the_same():
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    sides = [], []
    for seed in range(4):
        for machine, lost, gained in (("a", 0, 30), ("b", 30, 0)):
            sides[0].append(result(clean=clean, adversarial=bits, seed=seed, machine=machine))
            sides[1].append(new(clean=clean, adversarial=flipped(bits, lost, gained), seed=seed, machine=machine))
    (cell,) = compared(*sides).over_seeds
    assert cell.difference == 0 and cell.by_machine == pytest.approx({"a": 0.03, "b": -0.03})
    assert cell.equivalence == "cannot tell"


def test_a_pair_of_two_machines_is_named():
    clean = [True] * 100
    base = [result(clean=clean, machine="a"), result(clean=clean, seed=1, machine="<b>")]
    assert not any("machines" in note for note in compared(base, [new(clean=clean, machine="a")]).notes)
    c = compared(base, [new(clean=clean, machine="a"), new(clean=clean, seed=1, machine="c")])
    said = "1 cell measured on <b> in the base and on c in the head: a difference may be one of the machines"
    assert said in c.notes
    assert "a difference may be one of the machines" in as_text(c)
    c = compared(base, [new(clean=clean, machine="d"), new(clean=clean, seed=1, machine="c")])
    assert any("2 cells measured on a in the base and on d in the head and 1 more pair: " in note for note in c.notes)


def test_of_one_key_the_newest_of_several_machines_counts_where_none_has_both():
    clean = [True] * 1000
    old = result(clean=clean, adversarial=outcomes(0.1, 1000), machine="a", finished="2026-11-20T10:00:00+00:00")
    newer = result(clean=clean, adversarial=outcomes(0.5, 1000), machine="b")
    head = new(clean=clean, adversarial=outcomes(0.5, 1000), machine="c")
    for base in ([old, newer], [newer, old]):
        assert compared(base, [head]).changes[0].counts == Counts(0, 0, 1000)


def test_seeds_on_all_machines_are_averaged_over_those_that_have_every_seed():
    base, heads = losing([10, 12, 14])
    clean = [True] * 1000
    where = [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a")]
    sides = [[make(clean=clean, adversarial=bits[s], seed=s, machine=m) for s, m in where] for make, bits in
             ((result, base), (new, heads))]  # fmt: skip
    (cell,) = compared(*sides).over_seeds
    assert (cell.machines, cell.seeds) == (("a",), (0, 1, 2))
    assert cell.difference == pytest.approx(-0.012)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "margin", "statement"),
    [
        (0, 0, 1000, 0.5, "same"),
        (0, 0, 400, 0.5, "cannot tell"),
        (0, 0, 400, 1, "same"),
        (20, 20, 1000, 0.5, "cannot tell"),
        (40, 40, 20_000, 0.5, "same"),
        (40, 2, 1000, 0.5, "different"),
        (40, 0, 10_000, 0.5, "cannot tell"),
        (0, 0, 1000, 0, "cannot tell"),
    ],
)
def test_three_statements(lost, gained, n, margin, statement):
    bits = outcomes(0.5, n)
    c = compared(
        [result(clean=[True] * n, adversarial=bits)],
        [new(clean=[True] * n, adversarial=flipped(bits, lost, gained))],
        same_within=margin,
    )
    (change,) = c.changes
    assert (change.equivalence, change.margin) == (statement, margin)
    assert change.low <= (gained - lost) / n <= change.high


def test_it_says_how_many_images_would_tell():
    few = over(*churning([5], 100))
    # 10 of 100 changed: (2 x 1.645 / 0.005)^2 x 0.1 images give a standard error with which nine in ten are found.
    assert few.changes[0].images_needed == 44_000
    assert "about 44,000 images would tell" in as_text(few)
    none = compared([result(clean=[True] * 400)], [new(clean=[True] * 400)])
    assert none.changes[0].images_needed == 600
    assert "cells without a changed image have too few: about 600 would tell" in as_text(none)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "margin", "images", "words"),
    [
        # (2 x 1.645 / 0.005)^2 x 0.1, and (2 x 1.645 / 0.001)^2 x 0.002.
        (5, 5, 100, 0.5, 44_000, "about 44,000 images"),
        (1, 1, 1000, 0.1, 22_000, "about 22,000 images"),
        # (2 x 1.645 / 0.005)^2 x 0.007 = 3,030 would be enough if as many were lost as gained.
        (55, 15, 10_000, 0.5, None, "no more if nothing changed, so that it may differ by about the margin"),
        (50, 50, 100, 0.01, None, "more than 10,000,000 images"),
        (0, 0, 1000, 0, None, "a wider margin"),
    ],
)
def test_a_cell_that_cannot_be_told_always_says_what_would_tell(lost, gained, n, margin, images, words):
    bits = outcomes(0.5, n)
    c = compared(
        [result(clean=[True] * n, adversarial=bits)],
        [new(clean=[True] * n, adversarial=flipped(bits, lost, gained))],
        same_within=margin,
    )
    (change,) = c.changes
    assert (change.equivalence, change.images_needed, change.needed) == ("cannot tell", images, words)
    said = f"needed: {words}" if images is None else f"{words} would tell"
    for form in (as_text, as_markdown):
        assert said in form(c)


def test_a_cell_that_is_told_needs_nothing():
    c = compared([result(clean=[True] * 1000)], [new(clean=[True] * 1000)])
    assert (c.changes[0].equivalence, c.changes[0].needed) == ("same", "")


def test_a_margin_that_no_number_of_images_reaches_is_no_error():
    for margin in (1e-300, 1e-160, 1e-9):
        base, heads = losing([3, 4])
        sides = [[make(clean=[True] * 1000, adversarial=b, seed=s) for s, b in enumerate(bits)] for make, bits in
                 ((result, base), (new, heads))]  # fmt: skip
        c = compared(*sides, same_within=margin)
        assert c.changes[0].images_needed is None
        assert c.over_seeds[0].needed == "a wider margin"


def test_networks_that_were_trained_again_once_are_said_to_be():
    recipes = [{"recipe": "pgd-at", "recipe_params": {"steps": steps}} for steps in (7, 10)]
    clean = [True] * 8
    c = compared([result(clean=clean, **recipes[0])], [new(clean=clean, **recipes[1])])
    assert "1 cell trained again, with one seed on each side" in c.notes[0]
    several = [
        [make(clean=clean, seed=s, **recipe) for s in (0, 1)]
        for make, recipe in zip((result, new), recipes, strict=True)
    ]
    assert compared(*several).notes == ()
    assert compared([result(clean=clean)], [new(clean=clean, code="2")]).notes == ()


def test_every_format_has_the_three_statements():
    c = over(*churning([30, 5, 6]))
    text, table, body = as_text(c), as_markdown(c), json.loads(as_json(c))
    assert "cannot tell: 2 cells, 2 of them with images that changed" in text
    assert "over seeds and machines" in text
    assert "<summary>Cannot tell: 2 cells</summary>" in table
    assert "3 seeds x 1,000 images" in table
    assert [change["equivalence"] for change in body["changes"]] == ["different", "cannot tell", "cannot tell"]
    assert body["over_seeds"][0]["seeds"] == [0, 1, 2]
    assert body["same_within"] == 0.5
    assert max(map(len, text.splitlines())) <= 120
    still = compared([result(clean=[True] * 1000)], [new(clean=[True] * 1000)])
    assert "the same within 0.5 points: 1 cell, 0 of them with images that changed" in as_text(still)
    assert "<summary>The same within 0.5 points: 1 cell</summary>" in as_markdown(still)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"epochs": 12}, ["standard: schedule.epochs 24 against 12"]),
        ({"network": "resnet18"}, ["network: small-cnn against resnet18"]),
        ({"attack": "fgsm"}, ["attack: pgd against fgsm"]),
        ({"attack": None}, ["threat: L∞ ε=8/255 against none", "attack: pgd against none"]),
        ({"attack_params": {"steps": 40}}, ["pgd: steps 20 against 40", "pgd: rule any-iterate against none"]),
        ({"step": "jpeg", "access": "white-box"}, ["step: none against jpeg"]),
        ({"access": "transfer"}, ["access: white-box against transfer"]),
        ({"image_shape": (3, 8, 8)}, ["dataset image shape", "training set image shape"]),
        ({"seed": 3}, ["attack seed: 0 against 3", "training seed: 0 against 3", "seed: 0 against 3"]),
    ],
)
def test_how_cells_differ_is_said_in_words_and_nothing_twice(changes, lines):
    old, new = (result(clean=[True] * 8, **more).cell for more in ({}, changes))
    said = list(differences(old, new))
    assert len(said) == len(lines)
    assert all(any(each.startswith(line) for each in said) for line in lines)


def test_seeds_and_machines_that_one_side_lacks_are_named_in_the_statement():
    base, heads = losing([10] * 9)
    clean = [True] * 1000
    old = [result(clean=clean, adversarial=bits, seed=s) for s, bits in enumerate(base)]
    now = [new(clean=clean, adversarial=bits, seed=s) for s, bits in enumerate(heads)]
    failing = new(clean=clean, seed=2, status="failed")
    elsewhere = result(clean=clean, adversarial=base[0], seed=0, machine="b")
    c = compared([*old[:4], elsewhere], [*now[:2], failing, *now[4:]])
    (cell,) = c.over_seeds
    assert cell.seeds == (0, 1)
    assert cell.left_out == (
        "seed 3 (only in the base)",
        "seeds 4, 5, 6, 7, 8 (only in the head)",
        "seed 2 (not tested with these)",
        "machine b (not on both sides of every seed)",
    )
    line = f"left out: {', '.join(cell.left_out)}"
    assert f"\n      {line}\n" in as_text(c)
    assert line in as_markdown(c)
    assert json.loads(as_json(c))["over_seeds"][0]["left_out"] == list(cell.left_out)
    assert over(base, heads).over_seeds[0].left_out == ()


def test_machines_that_measured_different_seeds_are_all_in_the_statement():
    base, heads = losing([10, 12])
    clean, machines = [True] * 1000, ("a", "b")
    old = [result(clean=clean, adversarial=base[s], seed=s, machine=m) for s, m in enumerate(machines)]
    now = [new(clean=clean, adversarial=heads[s], seed=s, machine=m) for s, m in enumerate(machines)]
    assert compared(old, now).over_seeds[0].left_out == ()


def test_no_p_value_is_written_as_zero():
    # 2,500 images that all changed one way: the exact value, 2 / 2^2500, is below what a number can hold.
    n = 2500
    bits = outcomes(1.0, n)
    c = over([bits] * 3, [[False] * n] * 3)
    assert "p < 0.001, Holm < 0.001" in as_text(c)
    assert "&lt; 0.001" in as_markdown(c)
    body = json.loads(as_json(c))
    assert all(0 < each["p"] <= each["adjusted_p"] < 1e-300 for each in body["changes"])
    assert all(0 < each["p"] <= each["adjusted_p"] < 0.001 for each in body["over_seeds"])


def randomly(share, n, seeds=5):
    """Both sides of seeds in which a share of the images changes, each way as likely."""
    base, rng = [outcomes(0.5, n, seed) for seed in range(seeds)], np.random.default_rng(0)
    heads = [[bool(bit) != (draw < share) for bit, draw in zip(bits, rng.random(n), strict=True)] for bits in base]
    return over(base, heads).over_seeds[0]


def test_more_seeds_than_anybody_trains_are_not_asked_for():
    few, many = randomly(0.3, 300), randomly(0.3, 100_000)
    assert few.needed == f"more than {MOST_SEEDS} seeds: take more images instead"
    # And more images do it: nothing but their changes differed between the seeds.
    assert many.equivalence == "same"
    # These seeds differ by themselves, by 50 points: as much with any number of images.
    (cell,) = over(*losing([0, 500, 0])).over_seeds
    assert cell.needed == f"more than {MOST_SEEDS} seeds, however many images"
    assert f"needed: {cell.needed}" in as_text(over(*losing([0, 500, 0])))


def test_of_every_cell_that_cannot_be_told_it_is_said_what_would_tell():
    """Losses, images and seeds at random: of what is not within the margin there is a number or a reason."""
    rng = random.Random(4)
    said = set()
    for _ in range(60):
        n, seeds = rng.choice((1000, 5000)), rng.choice((2, 3, 8))
        losses = [rng.choice((0, n // 400, n // 200)) for _ in range(seeds)]
        base = [outcomes(0.5, n, seed=7)] * seeds
        (cell,) = over(base, [flipped(bits, lost, 0) for bits, lost in zip(base, losses, strict=True)]).over_seeds
        assert bool(cell.needed) == (cell.equivalence == "cannot tell")
        said.add(re.sub(r"[\d,]*\d", "1", cell.needed))
    near = "no more if nothing changed, so that it may differ by about the margin"
    assert {"", near, "about 1 images"} <= said
    # 4 in 1,000 lost by each of eight seeds: nearer to the margin than these can tell, however alike they are.
    (cell,) = over(*losing([4] * 8)).over_seeds
    assert cell.needed == near


def test_a_machine_that_is_not_within_the_margin_is_the_reason_that_is_given():
    bits, clean, sides = outcomes(0.6, 4000), [True] * 4000, ([], [])
    for seed in range(3):
        for machine, lost in (("a", 0), ("b", 20)):
            sides[0].append(result(clean=clean, adversarial=bits, seed=seed, machine=machine))
            sides[1].append(new(clean=clean, adversarial=flipped(bits, lost, 0), seed=seed, machine=machine))
    c = compared(*sides)
    (cell,) = c.over_seeds
    # Together a quarter of a point of the half that is allowed; b by itself half a point.
    assert -0.005 < cell.same_low < cell.same_high < 0.005
    assert cell.by_machine == pytest.approx({"a": 0, "b": -0.005})
    assert (cell.equivalence, cell.needed) == ("cannot tell", "every machine within the margin, which is not so on b")
    assert f"needed: {cell.needed}\n" in as_text(c)


def test_of_two_seeds_the_statement_says_what_it_rests_on():
    still = [[True] * 100_000] * 3
    assert "points (90 % -0.00 to +0.00), if seeds differ normally\n" in as_text(over(still[:2], still[:2]))
    assert "if seeds differ normally" not in as_text(over(still, still))
