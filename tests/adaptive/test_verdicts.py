"""What several results together say: flags, upper bounds and verdicts, on outcomes whose answer is known."""

import json
import random
from itertools import chain

import pytest

from bench.keys import Keys
from bench.report.leaderboard.soundness import across, unsound
from bench.report.leaderboard.tables import build
from bench.report.leaderboard.verdicts import verdict
from bench.report.render.export import as_json
from bench.report.render.markdown import markdown
from bench.stats import Interval, changed_images, holm_mcnemar, mcnemar, paired_difference
from bench.types import Earlier
from tests.report.fabricate import result
from tests.report.test_pairing import with_attack

N = 200
CLEAN = [True] * N


def first(count):
    """Return outcomes of which the first ``count`` are right."""
    return [i < count for i in range(N)]


def bare(attack, survivors, **more):
    return result("standard", attack, clean=CLEAN, adversarial=first(survivors), **more)


def stepped(attack, survivors, access="adaptive", **more):
    return result("jpeg", attack, clean=CLEAN, adversarial=first(survivors), access=access, step="jpeg", **more)


def lengths(make, attack, effort, short, long, survivors, **more):
    """Return the cells of one attack at two lengths, that leave as many."""
    return [make(attack, survivors, attack_params={effort: length}, **more) for length in (short, long)]


def full_suite(make, survivors, **more):
    """Return a suite that could deny that a step holds, and that leaves so many images."""
    cells = lengths(make, "pgd", "steps", 20, 40, survivors, **more)
    return cells + lengths(make, "square", "queries", 200, 400, survivors, **more)


def summary_of(*results, defense="jpeg"):
    (table,) = build(results).tables
    return next(each for each in table.threats if each.defense == defense)


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
    static = stepped("pgd", 180, "static", attack_params={"steps": 20})
    summary = summary_of(*full_suite(bare, base), *full_suite(stepped, survivors), static)
    assert summary.judgement.verdict == expected
    assert summary.judgement.base == "standard"
    over = summary.judgement.over_base
    both = min(survivors, base)
    wanted = paired_difference(both, survivors - both, base - both, N - max(survivors, base))
    assert (over.number, over.low, over.high) == wanted


def test_every_attack_and_access_counts_towards_the_worst_case():
    others = [i >= 100 for i in range(N)]
    static = result("jpeg", "fgsm", clean=CLEAN, adversarial=others, access="static", step="jpeg")
    summary = summary_of(bare("pgd", 40), bare("fgsm", 60), stepped("pgd", 100), static)
    assert summary.worst["adaptive"].number == 0.5
    assert summary.worst["any"].number == 0.0
    assert summary.judgement.verdict == "weaker than its base"


def test_an_attack_that_only_the_base_met_does_not_flatter_the_step():
    summary = summary_of(bare("pgd", 80), bare("autoattack", 20), stepped("pgd", 80))
    assert summary.judgement.over_base.number == 0.0
    assert summary.judgement.verdict == "broken under adaptive attack"
    none = summary_of(bare("autoattack", 20), stepped("pgd", 80))
    assert (none.judgement, none.unjudged) == (None, "no attack was run on both it and standard with the same seed")


def test_no_verdict_without_the_base_or_without_an_adaptive_attacker():
    assert summary_of(stepped("pgd", 100)).judgement is None
    assert "jpeg: no verdict, for the classifier under it was not attacked" in markdown(build([stepped("pgd", 100)]))
    assert "no verdict" not in markdown(build([stepped("pgd", 100, "static")]))
    assert summary_of(bare("pgd", 40), stepped("pgd", 100, "static")).judgement is None
    assert summary_of(bare("pgd", 40), defense="standard").judgement is None


def test_no_verdict_where_the_attack_has_no_budget():
    summary = summary_of(bare("sta", 40, eps=None, norm="flow"), stepped("sta", 120, eps=None, norm="flow"))
    assert summary.worst["adaptive"].number == 0.6
    assert summary.judgement is None


def test_a_flag_of_the_function_makes_the_figure_an_upper_bound_and_nothing_holds_on_it():
    board = build([bare("pgd", 40), stepped("pgd", 150, flags=("zero-gradient",))])
    (summary,) = (s for s in board.tables[0].threats if s.defense == "jpeg")
    assert summary.judgement.verdict == "upper bound only"
    assert "upper bound only: zero-gradient" in summary.worst["adaptive"].footnotes
    assert summary.worst["adaptive"].partial, "it is not ranked"
    text = markdown(board)
    assert "upper bound only: zero-gradient" in text
    assert "jpeg: upper bound only: zero-gradient, gradient attacks at one length only, no black-box attack at" in text
    assert "(L∞ ε=8/255: 75.0 % right when clean and under 1 attack, +55.0 points over standard, 95 % +" in text
    row = next(each for each in json.loads(as_json(board))["defenses"] if each["defense"] == "jpeg")
    assert (row["verdict"], row["base"], row["over_base"]) == ("upper bound only", "standard", pytest.approx(0.55))
    assert row["verdict_reasons"][0] == "zero-gradient"
    assert row["over_base_p"] == mcnemar(110, 0) < 0.001
    assert "upper bound only: zero-gradient" in row["notes"]


def test_a_verdict_is_one_line_over_all_threats_of_which_it_is_true():
    cells = list(chain.from_iterable(full_suite(bare, 40, eps=eps) for eps in ("1/10", "1/5", "1/2")))
    for eps, survivors in (("1/10", 120), ("1/5", 120), ("1/2", 10)):
        cells += full_suite(stepped, survivors, eps=eps)
    (table,) = build(cells).tables
    assert [line.partition(" (")[0] for line in table.verdicts] == ["jpeg: holds", "jpeg: weaker than its base"]
    assert table.verdicts[0].count("L∞") == 2


def test_a_defense_known_to_fall_falls_whatever_its_flags():
    summary = summary_of(bare("pgd", 40), stepped("pgd", 39, flags=("zero-gradient",)))
    assert summary.judgement.verdict == "broken under adaptive attack"
    assert summary_of(bare("pgd", 40), stepped("pgd", 0, flags=("zero-gradient",))).worst["adaptive"].footnotes == ()


def test_a_failed_attack_matters_only_where_none_does_better():
    assert unsound([(0.9, {"no-op"}), (0.2, set())]) == ()
    assert unsound([(0.9, {"no-op"}), (0.9, {"weaker-than-noise"})]) == ("no-op", "weaker-than-noise")
    assert unsound([(0.2, {"no-op"}), (0.2, set())]) == ()
    assert unsound([(0.9, set()), (0.2, {"ran-out-of-passes"})]) == ("ran-out-of-passes",)
    assert unsound([(0.2, set()), (0.9, {"ran-out-of-passes"})]) == ()
    assert unsound([(0.9, {"zero-gradient"}), (0.2, {"randomised"})]) == ("zero-gradient",)


def test_the_rule_at_its_edges():
    assert verdict(Interval(0.1, 0.01, 0.2), 0.04, ()) == "holds"
    assert verdict(Interval(0.1, 0.01, 0.2), 0.05, ()) == "broken under adaptive attack"
    assert verdict(Interval(0.1, 0.0, 0.2), 0.04, ()) == "broken under adaptive attack"
    assert verdict(Interval(-0.1, -0.2, 0.0), 0.04, ()) == "broken under adaptive attack"
    assert verdict(Interval(-0.1, -0.2, -0.01), 0.04, ("zero-gradient",)) == "weaker than its base"
    assert verdict(Interval(0.1, 0.01, 0.2), 0.04, ("zero-gradient",)) == "upper bound only"


def attacked_with(each, **changes):
    """Return a result whose attack differs in some fields."""
    cell = each.cell.model_copy(update={"attack": each.cell.attack.model_copy(update=changes)})
    return each.model_copy(update={"cell": cell, "key": Keys().of(cell)})


def reasons(*step_results):
    """Return why a step that keeps far more than its base does not hold; nothing where it does."""
    attacks = [r.cell.attack.attack for r in step_results]
    base = [bare(a.name, 40, attack_params=dict(a.params)) for a in attacks]
    judgement = summary_of(*base, *step_results).judgement
    assert (judgement.verdict == "holds") == (not judgement.reasons), judgement
    assert judgement.verdict in ("holds", "upper bound only")
    return judgement.reasons


GRADIENTS = lengths(stepped, "pgd", "steps", 20, 40, 120)
QUERIES = lengths(stepped, "square", "queries", 200, 400, 120)
ONE_LENGTH, NO_BLACK_BOX = "gradient attacks at one length only", "no black-box attack at two lengths"


def test_a_short_autoattack_does_not_make_a_step_hold():
    short = {"version": None, "steps": 5, "targets": 9, "queries": 20}
    jpeg = stepped("autoattack", 120, attack_params=short, flags=("autoattack-reduced",))
    summary = summary_of(bare("autoattack", 0, attack_params=short, flags=("autoattack-reduced",)), jpeg)
    assert summary.judgement.verdict == "upper bound only"
    assert summary.judgement.reasons == ("no adaptive gradient attack", NO_BLACK_BOX, "AutoAttack was shortened")
    # Nor does a suite hold under that name, whatever else is in it.
    assert reasons(*GRADIENTS, *QUERIES, jpeg) == ("AutoAttack was shortened",)


def test_a_whole_autoattack_is_one_length_of_everything():
    params = {"version": None, "steps": 100, "targets": 9, "queries": 5000}
    assert reasons(stepped("autoattack", 120, attack_params=params)) == (ONE_LENGTH, NO_BLACK_BOX)
    assert reasons(stepped("autoattack", 120, attack_params=params), *GRADIENTS, *QUERIES) == ()
    longer = stepped("autoattack", 120, attack_params={**params, "queries": 10000})
    assert reasons(stepped("autoattack", 120, attack_params=params), longer, *GRADIENTS) == (NO_BLACK_BOX,)


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ([*GRADIENTS, *QUERIES], ()),
        ([*GRADIENTS, *lengths(stepped, "rays", "queries", 200, 400, 120)], ()),
        (
            [*(stepped("apgd-ce", 120, attack_params={"steps": 10, "restarts": r}) for r in (1, 2)), *QUERIES],
            ("no gradient attack of 20 steps or more",),
        ),
        (GRADIENTS, (NO_BLACK_BOX,)),
        ([*GRADIENTS, QUERIES[1]], (NO_BLACK_BOX,)),
        ([*GRADIENTS, QUERIES[0], stepped("rays", 120, attack_params={"queries": 400})], (NO_BLACK_BOX,)),
        (QUERIES, ("no adaptive gradient attack",)),
        ([stepped("fgsm", 120, attack_params={}), *QUERIES], ("only one-step attacks",)),
        ([stepped("pgd", 120, attack_params={"steps": 1}), *QUERIES], ("only one-step attacks",)),
        ([GRADIENTS[1], stepped("apgd-ce", 120), *QUERIES], (ONE_LENGTH,)),
        ([*lengths(stepped, "pgd", "steps", 40, 41, 120), *QUERIES], (ONE_LENGTH,)),
        ([*lengths(stepped, "pgd", "steps", 2, 5, 120), *QUERIES], ("no gradient attack of 20 steps or more",)),
        (
            [*GRADIENTS, *lengths(stepped, "square", "queries", 10, 20, 120)],
            ("no black-box attack of 100 queries or more",),
        ),
        ([*GRADIENTS, *lengths(stepped, "torchattacks:Square", "n_queries", 200, 400, 120)], (NO_BLACK_BOX,)),
        ([*lengths(stepped, "torchattacks:PGD", "steps", 20, 40, 120), *QUERIES], ("no adaptive gradient attack",)),
        (
            [*full_suite(stepped, 120, access="static"), stepped("noise", 120), *GRADIENTS[:1]],
            (ONE_LENGTH, NO_BLACK_BOX),
        ),
    ],
)  # fmt: skip
def test_what_a_suite_needs_to_be_able_to_deny(suite, expected):
    assert reasons(*suite) == expected


OWN = '''
from bench.api import Count, attack


@attack(norms=("linf",), needs="scores", passes="queries forwards")
def guess(target, x, y, threat, *, queries: Count = 100):
    """Guesses."""
    return x
'''


def test_an_attack_of_ones_own_counts_as_what_it_says_it_needs(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = lengths(stepped, f"{tmp_path / 'own.py'}:guess", "queries", 200, 400, 120)
    assert reasons(*GRADIENTS, *own) == ()
    missing = lengths(stepped, f"{tmp_path / 'gone.py'}:guess", "queries", 200, 400, 120)
    assert reasons(*GRADIENTS, *missing) == (NO_BLACK_BOX,)


def test_restarts_are_a_length_too():
    restarts = [stepped("pgd", 120, attack_params={"steps": 20, "restarts": r}) for r in (1, 5)]
    queries = [stepped("square", 120, attack_params={"queries": 300, "restarts": r}) for r in (1, 2)]
    assert reasons(*restarts, *queries) == ()


def test_a_longest_run_that_gains_is_no_end():
    more = [stepped("square", left, attack_params={"queries": q}) for q, left in ((200, 120), (400, 115))]
    assert "steps-not-converged" in reasons(*GRADIENTS, *more)[0]
    more = [stepped("pgd", left, attack_params={"steps": k}) for k, left in ((20, 125), (40, 120))]
    assert reasons(*more, *QUERIES) == ("steps-not-converged",)


def test_the_answers_of_a_random_step_must_be_averaged():
    def drawn(eot, *cells):
        return [attacked_with(r, eot=eot).model_copy(update={"flags": ("randomised",)}) for r in cells]

    assert reasons(*drawn(20, *GRADIENTS, *QUERIES)) == ()
    gradients = "the gradients of a random defense were not averaged (eot = 1)"
    answers = "the answers of a random defense were not averaged in black-box attacks (eot = 1)"
    assert reasons(*drawn(1, *GRADIENTS, *QUERIES)) == (gradients, answers)
    assert reasons(*drawn(5, *GRADIENTS), *drawn(1, *QUERIES)) == (answers,)


def test_attacks_that_failed_deny_nothing():
    idle = lengths(stepped, "square", "queries", 200, 400, 120, flags=("no-op",))
    assert reasons(*GRADIENTS, *idle) == ("its black-box attacks failed",)
    # After others of its suite an attack may find nothing left to break.
    assert reasons(*in_a_suite(*GRADIENTS, *idle)) == ()
    weak = lengths(stepped, "pgd", "steps", 20, 40, 150)
    noise = stepped("noise", 120, attack_params={})
    assert reasons(noise, *weak, stepped("apgd-ce", 120), *QUERIES) == (ONE_LENGTH,), "weaker than noise"
    broken = stepped("apgd-ce", 120, attack_params={"steps": 50}, status="failed")
    assert reasons(*GRADIENTS, *QUERIES, broken) == ("1 of its attacks failed",)


def test_attacks_that_their_budget_of_passes_ended_deny_nothing():
    def ended(*cells):
        return [
            attacked_with(each, max_passes=30).model_copy(update={"flags": ("ran-out-of-passes",)}) for each in cells
        ]

    assert reasons(*ended(*GRADIENTS), *QUERIES) == ("its gradient attacks ran out of passes",)
    assert reasons(*GRADIENTS, *ended(*QUERIES)) == ("its black-box attacks ran out of passes",)
    assert reasons(*ended(GRADIENTS[0]), GRADIENTS[1], *QUERIES) == (ONE_LENGTH,)
    # Beside whole ones one that was ended does no harm, unless it leaves least.
    assert reasons(*GRADIENTS, *QUERIES, *ended(stepped("apgd-ce", 125))) == ()
    assert reasons(*GRADIENTS, *QUERIES, *ended(stepped("apgd-ce", 110))) == ("ran-out-of-passes",)


def test_every_seed_needs_the_suite():
    base = full_suite(bare, 40, seed=0) + full_suite(bare, 40, seed=1)
    step_results = full_suite(stepped, 120, seed=0) + lengths(stepped, "pgd", "steps", 20, 40, 120, seed=1)
    assert summary_of(*base, *step_results).judgement.reasons == (NO_BLACK_BOX,)
    assert (
        summary_of(*base, *full_suite(stepped, 120, seed=0), *full_suite(stepped, 120, seed=1)).judgement.verdict
        == "holds"
    )


def test_no_verdict_stands_on_noise_alone():
    noise = stepped("noise", 190, attack_params={})
    summary = summary_of(bare("noise", 190, attack_params={}), noise)
    assert (summary.judgement, summary.unjudged) == (None, "no adaptive attack but noise finished")
    summary = summary_of(bare("noise", 190, attack_params={}), noise, *full_suite(stepped, 20))
    assert (summary.judgement, summary.unjudged) == (None, "no attack on standard but noise finished")
    failed = stepped("pgd", 0, status="failed")
    summary = summary_of(bare("pgd", 40), bare("noise", 190, attack_params={}), noise, failed)
    assert summary.judgement is None
    # Whatever breaks it without knowing it breaks it, but no attacker who knows it has come to an end.
    assert summary_of(bare("pgd", 40), stepped("pgd", 10, "static"), noise).judgement is None


def test_a_base_that_was_spared_an_attack_does_not_make_its_step_look_weak():
    (table,) = build([bare("fgsm", 150, attack_params={}), stepped("fgsm", 140, attack_params={}), *GRADIENTS]).tables
    assert "jpeg: no verdict, for standard was not attacked with pgd[steps=20], pgd[steps=40]" in table.notes
    # An attack of fewer passes, or towards a class, is another one: it was not run on the base either.
    for use in ({"max_passes": 50}, {"target": 3}, {"craft_precision": "bfloat16"}):
        weaker = with_attack(stepped("pgd", 100), **use)
        weaker = weaker.model_copy(update={"key": Keys().of(weaker.cell)})
        common = [make("fgsm", 150, attack_params={}) for make in (bare, stepped)]
        (table,) = build([*common, bare("pgd", 100), weaker]).tables
        assert any(note.startswith("jpeg: no verdict, for standard was not attacked with pgd") for note in table.notes)
    kept = [bare("fgsm", 40, attack_params={}), stepped("fgsm", 140, attack_params={}), *GRADIENTS, *QUERIES]
    assert summary_of(*kept).judgement.verdict == "holds", "what only the step met makes it no stronger"


def test_a_base_whose_number_does_not_count_is_not_said_to_be_spared_the_attack():
    def said(*on_base):
        common = [make("fgsm", left, attack_params={}) for make, left in ((bare, 150), (stepped, 140))]
        return summary_of(*common, stepped("pgd", 20), stepped("cw", 30), *on_base).unjudged

    alone = {"flags": ("not-repeated",)}
    assert said() == "standard was not attacked with pgd, cw"
    of_pgd = "the numbers of standard under pgd do not count (not-repeated)"
    assert said(bare("pgd", 20, **alone)) == f"standard was not attacked with cw, and {of_pgd}"
    assert said(bare("pgd", 20, **alone), bare("cw", 20)) == of_pgd
    both = (bare("pgd", 20, **alone), bare("cw", 20, flags=("not-all-seeds",)))
    assert said(*both) == "the numbers of standard under pgd, cw do not count (not-all-seeds, not-repeated)"
    # Where nothing of the threat counts, but something of another.
    other = bare("pgd", 20, norm="l2", eps="1/2")
    summary = summary_of(other, bare("pgd", 20, **alone), stepped("pgd", 20))
    assert summary.unjudged == "attacks on the classifier under it do not count (not-repeated)"
    none = summary_of(bare("cw", 20), bare("pgd", 20, **alone), stepped("pgd", 80))
    assert none.unjudged == "no attack that counts was run on both it and standard with the same seed"
    noise = [make("noise", 150, attack_params={}) for make in (bare, stepped)]
    assert (
        summary_of(*noise, stepped("pgd", 20, **alone)).unjudged == "no adaptive attack that counts but noise finished"
    )


def test_the_verdicts_of_a_table_are_corrected_together():
    # Alone 13 against 3 images is clear, one of ten such is not.
    def step(name, keeps):
        correct = [i < 37 or 40 <= i < 40 + keeps for i in range(N)]
        return [r.model_copy(update={"names": r.names.model_copy(update={"defense": name})}) for r in [
            result(name, attack, clean=CLEAN, adversarial=correct, access="adaptive", step="jpeg",
                   step_params={"quality": name}, attack_params=params)
            for attack, params in (("pgd", {"steps": 20}), ("pgd", {"steps": 40}),
                                   ("square", {"queries": 200}), ("square", {"queries": 400}))
        ]]  # fmt: skip

    assert mcnemar(13, 3) < 0.05 < 10 * mcnemar(13, 3)
    alone = summary_of(*full_suite(bare, 40), *step("a", 13), defense="a").judgement
    assert (alone.verdict, alone.p_value) == ("holds", mcnemar(13, 3))
    many = list(chain.from_iterable(step(name, 13 if name == "a" else 5) for name in "abcdefghij"))
    (table,) = build([*full_suite(bare, 40), *many]).tables
    judgements = {s.defense: s.judgement for s in table.threats if s.judgement}
    assert len(judgements) == 10
    assert judgements["a"].over_base.low > 0, "the interval is of this one alone"
    assert judgements["a"].verdict == "broken under adaptive attack"
    expected = holm_mcnemar([(13, 3), *[(5, 3)] * 9])
    assert [judgements[name].p_value for name in "abcdefghij"] == pytest.approx(expected)


def test_the_chance_that_any_of_many_null_defenses_is_said_to_hold_is_kept():
    # Each keeps an image as often as its base does: what is said to hold holds by chance.
    rng = random.Random(5)
    runs, defenses = 400, 12
    images = 150
    together = single = 0
    for _ in range(runs):
        base = rng.getrandbits(images)
        changed = []
        for _ in range(defenses):
            step = rng.getrandbits(images)
            changed.append(((step & ~base).bit_count(), (base & ~step).bit_count()))
        advantages = [paired_difference(0, first, second, images - first - second) for first, second in changed]
        adjusted = [verdict(a, p, ()) for a, p in zip(advantages, holm_mcnemar(changed), strict=True)]
        alone = [verdict(a, mcnemar(*c), ()) for a, c in zip(advantages, changed, strict=True)]
        together += "holds" in adjusted
        single += "holds" in alone
    assert together / runs <= 0.05
    assert single / runs > 0.1


def test_over_seeds_an_image_has_one_vote():
    # Per image over three seeds: kept more often by the first, by the second, or as often.
    pairs = [(0b1100, 0b0100), (0b1100, 0b0110), (0b0100, 0b1100)]
    assert changed_images(pairs) == (1, 1)
    assert changed_images(pairs[:1]) == (1, 0)
    assert changed_images([(0, 0)]) == (0, 0) == changed_images([])
    with_seeds = []
    for seed in range(3):
        with_seeds += full_suite(bare, 40, seed=seed) + full_suite(stepped, 50, seed=seed)
    # The same ten images in each seed are ten images, not thirty.
    assert summary_of(*with_seeds).judgement.p_value == mcnemar(10, 0)


def flags_of(*results):
    flags = across(results)
    return [flags.get(each.key, ()) for each in results]


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
    runs[2] = bare("pgd", 58, attack_params={"steps": 500})
    assert flags_of(*runs) == [()] * 3, "two images of 200 are a point, not more"
    restarts = [bare("pgd", left, attack_params={"steps": 5, "restarts": r}) for r, left in ((1, 100), (5, 90))]
    assert flags_of(*restarts) == [("steps-not-converged",)] * 2


def in_a_suite(*results):
    """Return results of one function as a suite gives them: each attack after all before it."""
    suite = []
    for each in results:
        earlier = tuple(Earlier(attack=r.cell.attack.attack) for r in suite)
        suite.append(attacked_with(each, after=earlier))
    return suite


def test_in_a_suite_more_steps_get_no_blame_for_what_ran_between():
    short = bare("pgd", 150, attack_params={"steps": 20})
    other = bare("apgd-ce", 60)
    long = bare("pgd", 59, attack_params={"steps": 60})
    assert flags_of(*in_a_suite(short, other, long)) == [()] * 3
    more = bare("pgd", 40, attack_params={"steps": 60})
    assert flags_of(*in_a_suite(short, other, more)) == [("steps-not-converged",), (), ("steps-not-converged",)]


def test_a_run_that_is_hardly_shorter_hides_nothing():
    runs = [bare("pgd", left, attack_params={"steps": steps}) for steps, left in ((10, 100), (19, 81), (20, 80))]
    flagged = [("steps-not-converged",), (), ("steps-not-converged",)]
    assert flags_of(*runs) == flagged
    assert flags_of(*in_a_suite(*runs)) == flagged
    assert flags_of(*runs[1:]) == [()] * 2, "there is no shorter one to compare with"


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
    for each in table.threats:
        assert all(not value.footnotes for value in each.worst.values()), each
