"""What several results together say: flags, upper bounds and verdicts, on outcomes whose answer is known."""

import json

import pytest

from bench.checks import across, unsound, verdict
from bench.report.board import build
from bench.report.formats import as_json, markdown
from bench.stats import Interval, paired_difference
from bench.types import Earlier
from tests.report.fabricate import result

N = 200
CLEAN = [True] * N


def first(count):
    """Return outcomes of which the first ``count`` are right."""
    return [i < count for i in range(N)]


def bare(attack, survivors, **more):
    return result("standard", attack, clean=CLEAN, adversarial=first(survivors), **more)


def stepped(attack, survivors, access="adaptive", **more):
    return result("jpeg", attack, clean=CLEAN, adversarial=first(survivors), access=access, step="jpeg", **more)


def standing(*results, defense="jpeg"):
    (table,) = build(results).tables
    return next(each for each in table.standings if each.defense == defense)


@pytest.mark.parametrize(
    ("survivors", "base", "expected"),
    [
        (120, 40, "holds"),
        (42, 40, "broken under adaptive attack"),
        (40, 40, "broken under adaptive attack"),
        (0, 0, "broken under adaptive attack"),
        (38, 40, "broken under adaptive attack"),
        (10, 80, "weaker than its base"),
    ],
)
def test_a_step_is_judged_by_its_worst_case_over_that_of_its_base(survivors, base, expected):
    found = standing(bare("pgd", base), stepped("pgd", survivors), stepped("pgd", 180, "static"))
    assert found.judgement.verdict == expected
    assert found.judgement.base == "standard"
    over = found.judgement.over_base
    both = min(survivors, base)
    wanted = paired_difference(both, survivors - both, base - both, N - max(survivors, base))
    assert (over.number, over.low, over.high) == wanted


def test_every_attack_and_access_counts_towards_the_worst_case():
    others = [i >= 100 for i in range(N)]
    static = result("jpeg", "fgsm", clean=CLEAN, adversarial=others, access="static", step="jpeg")
    found = standing(bare("pgd", 40), bare("fgsm", 60), stepped("pgd", 100), static)
    assert found.worst["adaptive"].number == 0.5
    assert found.worst["any"].number == 0.0
    assert found.judgement.verdict == "weaker than its base"


def test_an_attack_that_only_the_base_met_does_not_flatter_the_step():
    found = standing(bare("pgd", 80), bare("autoattack", 20), stepped("pgd", 80))
    assert found.judgement.over_base.number == 0.0
    assert found.judgement.verdict == "broken under adaptive attack"
    assert standing(bare("autoattack", 20), stepped("pgd", 80)).judgement is None


def test_no_verdict_without_the_base_or_without_an_adaptive_attacker():
    assert standing(stepped("pgd", 100)).judgement is None
    assert "jpeg: no verdict, for the classifier under it was not attacked" in markdown(build([stepped("pgd", 100)]))
    assert "no verdict" not in markdown(build([stepped("pgd", 100, "static")]))
    assert standing(bare("pgd", 40), stepped("pgd", 100, "static")).judgement is None
    assert standing(bare("pgd", 40), defense="standard").judgement is None


def test_no_verdict_where_the_attack_has_no_budget():
    found = standing(bare("sta", 40, eps=None, norm="flow"), stepped("sta", 120, eps=None, norm="flow"))
    assert found.worst["adaptive"].number == 0.6
    assert found.judgement is None


def test_a_flag_of_the_function_makes_the_figure_an_upper_bound_and_nothing_holds_on_it():
    board = build([bare("pgd", 40), stepped("pgd", 150, flags=("zero-gradient",))])
    (found,) = (s for s in board.tables[0].standings if s.defense == "jpeg")
    assert found.judgement.verdict == "upper bound only"
    assert "upper bound only: zero-gradient" in found.worst["adaptive"].marks
    assert found.worst["adaptive"].partial, "it is not ranked"
    text = markdown(board)
    assert "upper bound only: zero-gradient" in text
    assert "jpeg: upper bound only (Linf 8/255: 75.0 % survive 1 attack, +55.0 points over standard, 95 % +" in text
    row = next(each for each in json.loads(as_json(board))["defenses"] if each["defense"] == "jpeg")
    assert (row["verdict"], row["base"], row["over_base"]) == ("upper bound only", "standard", pytest.approx(0.55))
    assert "upper bound only: zero-gradient" in row["notes"]


def test_a_verdict_is_one_line_over_all_threats_of_which_it_is_true():
    held = [bare("pgd", 40, eps=eps) for eps in ("1/10", "1/5", "1/2")]
    held += [stepped("pgd", left, eps=eps) for eps, left in (("1/10", 120), ("1/5", 120), ("1/2", 20))]
    (table,) = build(held).tables
    assert [line.partition(" (")[0] for line in table.verdicts] == ["jpeg: holds", "jpeg: weaker than its base"]
    assert table.verdicts[0].count("Linf") == 2


def test_a_defense_known_to_fall_falls_whatever_its_flags():
    found = standing(bare("pgd", 40), stepped("pgd", 39, flags=("zero-gradient",)))
    assert found.judgement.verdict == "broken under adaptive attack"
    assert standing(bare("pgd", 40), stepped("pgd", 0, flags=("zero-gradient",))).worst["adaptive"].marks == ()


def test_a_failed_attack_matters_only_where_none_does_better():
    assert unsound([(0.9, {"no-op"}), (0.2, set())]) == ()
    assert unsound([(0.9, {"no-op"}), (0.9, {"weaker-than-noise"})]) == ("no-op", "weaker-than-noise")
    assert unsound([(0.2, {"no-op"}), (0.2, set())]) == ()
    assert unsound([(0.9, {"zero-gradient"}), (0.2, {"randomised"})]) == ("zero-gradient",)


def test_the_rule_at_its_edges():
    assert verdict(Interval(0.1, 0.01, 0.2), ()) == "holds"
    assert verdict(Interval(0.1, 0.0, 0.2), ()) == "broken under adaptive attack"
    assert verdict(Interval(-0.1, -0.2, 0.0), ()) == "broken under adaptive attack"
    assert verdict(Interval(-0.1, -0.2, -0.01), ("zero-gradient",)) == "weaker than its base"


def flags_of(*results):
    found = across(results)
    return [found.get(each.key, ()) for each in results]


def test_a_black_box_attack_that_beats_gradients_is_flagged_beyond_chance():
    assert flags_of(bare("pgd", 100), bare("square", 90)) == [("black-box-beats-gradient",)] * 2
    assert flags_of(bare("pgd", 100), bare("square", 99)) == [()] * 2
    assert flags_of(bare("pgd", 100), bare("apgd-ce", 80), bare("square", 90)) == [()] * 3


def test_black_box_extra_counts_though_it_is_weaker_on_the_whole():
    weaker = result("standard", "square", clean=CLEAN, adversarial=[i >= 10 for i in range(N)])
    assert flags_of(bare("pgd", 50), weaker) == [("black-box-beats-gradient",)] * 2


def test_images_of_another_function_that_beat_the_adaptive_attack_are_flagged():
    flagged = [("transfer-beats-adaptive",)] * 2
    assert flags_of(stepped("pgd", 150), stepped("pgd", 100, "static")) == flagged
    assert flags_of(stepped("pgd", 150), stepped("apgd-ce", 100, "transfer")) == flagged
    assert flags_of(stepped("pgd", 100), stepped("pgd", 150, "static")) == [()] * 2
    assert flags_of(stepped("pgd", 100), stepped("pgd", 97, "static")) == [()] * 2


def test_noise_is_the_floor():
    assert flags_of(bare("fgsm", 190), bare("noise", 150)) == [("weaker-than-noise",), ()]
    assert flags_of(bare("fgsm", 150), bare("noise", 190)) == [(), ()]


def test_only_the_longest_runs_need_have_converged():
    runs = [bare("pgd", left, attack_params={"steps": steps}) for steps, left in ((5, 150), (50, 60), (500, 59))]
    assert flags_of(*runs) == [()] * 3
    runs[2] = bare("pgd", 40, attack_params={"steps": 500})
    assert flags_of(*runs) == [(), ("steps-not-converged",), ("steps-not-converged",)]
    restarts = [bare("pgd", left, attack_params={"steps": 5, "restarts": r}) for r, left in ((1, 100), (5, 90))]
    assert flags_of(*restarts) == [("steps-not-converged",)] * 2


def in_a_suite(*results):
    """Return results of one function as a suite gives them: each attack after all before it."""
    found = []
    for each in results:
        before = tuple(Earlier(attack=r.cell.attack.attack) for r in found)
        attack = each.cell.attack.model_copy(update={"after": before})
        found.append(each.model_copy(update={"cell": each.cell.model_copy(update={"attack": attack})}))
    return found


def test_in_a_suite_more_steps_get_no_blame_for_what_ran_between():
    short, other, long = (
        bare("pgd", 150, attack_params={"steps": 20}),
        bare("apgd-ce", 60),
        bare("pgd", 59, attack_params={"steps": 60}),
    )
    assert flags_of(*in_a_suite(short, other, long)) == [()] * 3
    more = bare("pgd", 40, attack_params={"steps": 60})
    assert flags_of(*in_a_suite(short, other, more)) == [("steps-not-converged",), (), ("steps-not-converged",)]


def test_half_the_range_must_break_everything():
    small, huge = bare("pgd", 100), bare("pgd", 60, eps="128/255")
    assert flags_of(small, huge) == [("survives-any-eps",)] * 2
    assert flags_of(small, bare("pgd", 20, eps="128/255")) == [()] * 2, "that is chance"
    assert flags_of(small, huge, bare("apgd-ce", 0, eps="128/255")) == [()] * 3, "another attack does it"


def test_functions_do_not_share_flags():
    other = stepped("square", 10)
    assert flags_of(bare("pgd", 100), other) == [(), ()]


def test_attacks_on_purifiers_and_transfers_are_not_missed_elsewhere():
    purifier = {"step": "tpap", "recipe": "fgsm-at", "clean": CLEAN, "adversarial": first(20)}
    cells = [
        bare("pgd", 40),
        result("tpap", "pgd", access="adaptive", **purifier),
        result("tpap", "label-aware-apgd", access="adaptive", **purifier),
        result("tpap", "pgd", access="transfer", label="pgd from standard", **purifier),
    ]
    (table,) = build(cells).tables
    for each in table.standings:
        assert all(not value.marks for value in each.worst.values()), each
