"""A row averages the seeds of one submission, known equally well, whoever adds seeds, names, copies or weights."""

from datetime import date
from math import sqrt

import numpy as np
import pytest

from bench.keys import sha256_hex, training_key
from bench.report.leaderboard.required import Policy
from bench.report.leaderboard.tables import build
from bench.report.submissions import known, merge, remarks, render
from bench.report.submissions.form import Submission, Withdrawal
from bench.report.submissions.read import Entry, Submissions
from tests.report.fabricate import outcomes, result

CLEAN = outcomes(0.9, 100)


def measured(who, seed, share, *, state="repeated", weights="", attack="pgd", arrival=1.0, recipe="standard", **more):
    """Return an entry by somebody, on weights of their own making or those of somebody else."""
    right = None if attack is None else [a and b for a, b in zip(CLEAN, outcomes(share, 100, seed + 5), strict=True)]
    passes = 1.0 if attack == "fgsm" else 20.0
    made = result(
        recipe, attack, clean=CLEAN, adversarial=right, seed=seed, recipe=recipe, **{"forwards": passes} | more
    )
    name = f"{who}/{recipe}-{attack}-{seed}.receipt"
    fingerprint = sha256_hex(weights or who, str(seed), recipe)
    trained = ((training_key(made.cell.model), fingerprint),)
    sha256 = sha256_hex(name, state, str(more))
    return Entry(made, who, Submission(), name, sha256, sha256, state, state, trained, arrival=arrival, folder=who)


def tables(*entries):
    merged = merge.merged(Submissions(list(entries), (), []))
    return build(merged.ranked, policy=Policy((), merged.survivors)).tables, merged


def pgd(*entries):
    """Return the number under PGD of the only row, and who counts and who does not."""
    (table,), merged = tables(*entries)
    (row,) = table.rows
    (column,) = [column.id for column in table.columns if column.label == "pgd"]
    counting = {entry.who for own in merged.sources.values() for entry in own}
    return row.values[column], counting, [(each.entry.who, each.why) for each in merged.differing]


ADA = [measured("Ada", seed, share, seconds=0.001 * (seed + 1)) for seed, share in enumerate((0.5, 0.4, 0.3))]
COUNT = [sum(entry.result.outcomes_under_attack) for entry in ADA]


@pytest.mark.parametrize("state", ["repeated", "repeated in half", "consistent", "outcomes only"])
def test_a_seed_by_somebody_else_is_listed_and_does_not_count(state):
    before, _, _ = pgd(*ADA)
    forged = measured("Sam", 7, 0.0, state=state, arrival=9.0)
    after, counting, differing = pgd(*ADA, forged)
    assert before == after and counting == {"Ada"} and after.footnotes == ()
    assert differing == [("Sam", "another seed (7) of the same recipe, by Sam; a row averages those of Ada in Ada")]


def test_a_seed_in_another_folder_under_the_same_name_is_listed_and_does_not_count():
    before, _, _ = pgd(*ADA)
    after, _, differing = pgd(*ADA, measured("Sam", 7, 0.0)._replace(who="ada"))
    assert before == after
    assert differing == [("ada", "another seed (7) of the same recipe, by ada; a row averages those of Ada in Ada")]
    # Receipts that are of no submission are those of whom they name.
    plain = [entry._replace(folder="") for entry in (*ADA, measured("Ada", 7, 0.0))]
    value, _, differing = pgd(*plain)
    assert value.number == pytest.approx(sum(COUNT) / 400) and not differing


def test_the_number_is_the_mean_of_the_seeds_of_one_person():
    value, _, _ = pgd(*ADA, measured("Sam", 7, 0.0))
    mean = sum(COUNT) / 300
    assert value.number == pytest.approx(mean, abs=1e-12)
    assert value.spread == pytest.approx(sqrt(sum((each / 100 - mean) ** 2 for each in COUNT) / 2), abs=1e-12)


def test_who_copies_all_seeds_and_adds_one_does_not_get_the_row():
    copies = [
        measured("Sam", seed, share, weights="Ada", seconds=0.1 + seed, arrival=2.0)
        for seed, share in enumerate((0.5, 0.4, 0.3))
    ]
    before, _, _ = pgd(*ADA)
    after, counting, differing = pgd(*ADA, *copies, measured("Sam", 7, 0.0, arrival=2.0))
    assert (after.number, after.spread) == (before.number, before.spread) and counting == {"Ada", "Sam"}
    assert [who for who, _ in differing] == ["Sam"]


def test_a_person_of_whom_less_is_known_counts_as_the_only_one():
    value, counting, _ = pgd(*(entry._replace(state="consistent") for entry in ADA))
    assert counting == {"Ada"} and value.number == pytest.approx(sum(COUNT) / 300) and "not-repeated" in value.footnotes


def test_a_seed_of_the_same_submission_of_which_less_is_known_is_listed():
    before, _, _ = pgd(*ADA)
    after, _, differing = pgd(*ADA, measured(" ada ", 7, 0.0, state="consistent")._replace(folder="Ada"))
    assert before == after
    assert differing == [(" ada ", "another seed (7) of the same recipe, of which less is known")]


def test_two_people_with_three_seeds_each_have_the_numbers_of_one_store():
    """Each has rows of their own and all have the weights verified; nothing is marked, and all is as in one store."""
    honest = []
    for who, recipe in (("Ada", "standard"), ("Bob", "pgd-at")):
        for seed in range(3):
            for attack in (None, "pgd", "fgsm"):
                share = 0.3 + 0.1 * seed + 0.05 * (attack == "fgsm")
                honest.append(measured(who, seed, share, attack=attack, recipe=recipe, seconds=0.001 * (seed + 1)))
    # Bob also measures what Ada has, on her weights.
    honest += [measured("Bob", seed, 0.3 + 0.1 * seed, weights="Ada", seconds=0.01 * (seed + 1)) for seed in range(3)]
    (table,), merged = tables(*honest)
    (plain,) = build(entry.result for entry in honest[:18]).tables
    assert not merged.differing and not merged.superseded and not merged.remarks
    assert [(row.defense, row.access, row.values) for row in table.rows] == [
        (row.defense, row.access, row.values) for row in plain.rows
    ]
    assert table.ranking == plain.ranking and table.ranking is not None and table.columns == plain.columns
    for row in table.rows:
        own = [
            e.result for e in honest[:18] if e.result.names.defense == row.defense and e.result.names.attack == "pgd"
        ]
        counts = [sum(each.outcomes_under_attack) for each in own]
        (column,) = [column.id for column in table.columns if column.label == "pgd"]
        assert row.values[column].number == pytest.approx(sum(counts) / 300, abs=1e-12)


def test_two_people_with_seeds_and_weights_of_their_own_are_not_mixed():
    bob = [measured("Bob", seed, 0.8, seconds=0.01 * (seed + 1), arrival=2.0) for seed in (1, 2, 3)]
    before, _, _ = pgd(*ADA)
    after, counting, differing = pgd(*ADA, *bob)
    assert before == after and counting == {"Ada"}
    whys = dict(zip((1, 2, 3), (why for _, why in sorted(differing, key=lambda each: "seed" in each[1])), strict=True))
    assert [why.partition(" (")[0] for why in whys.values()] == [
        "other weights of the same recipe",
        "other weights of the same recipe",
        "another seed",
    ]
    # Another network says nothing of this one, so it marks nothing.
    assert after.footnotes == ()
    # More results cost nothing, so nobody gets the row by them.
    more = [measured("Bob", seed, 0.8, attack=name, arrival=2.0) for seed in (1, 2, 3) for name in ("fgsm", "ddn")]
    assert pgd(*ADA, *bob, *more)[1] == {"Ada"}
    # What nobody repeated was not first.
    early = [measured("Eve", seed, 0.8, state="consistent", arrival=-1.0) for seed in (0, 1, 2)]
    assert pgd(*ADA, *early)[1] == {"Ada"}


def test_seeds_of_an_attack_on_one_file_of_weights_are_of_one_person():
    from bench.types import WeightsRef

    def on_file(entry):
        weights = WeightsRef(name="weights:net.safetensors", sha256="ab" * 32)
        cell = entry.result.cell
        model = cell.model.model_copy(update={"weights": weights})
        cell = cell.model_copy(update={"model": model, "attack": cell.attack.model_copy(update={"model": model})})
        return entry._replace(result=entry.result.model_copy(update={"cell": cell}), trained=())

    own = [*map(on_file, ADA)]
    before, _, _ = pgd(*own)
    after, counting, differing = pgd(*own, on_file(measured("Sam", 7, 0.0)))
    assert before == after and counting == {"Ada"} and [who for who, _ in differing] == ["Sam"]


def test_a_row_that_somebody_lacks_may_have_seeds_of_another():
    steps = [
        measured("Bob", seed, 0.2, step="jpeg", access="adaptive", recipe="standard", seconds=0.1 + seed)
        for seed in (4, 5)
    ]
    (table,), merged = tables(*ADA, *steps)
    assert not merged.differing and len(table.rows) == 2
    # Not even for a step: two networks of one seed would be compared as if they were one.
    same = [measured("Bob", 1, 0.2, step="jpeg", access="adaptive", recipe="standard")]
    (table,), merged = tables(*ADA, *same)
    assert len(table.rows) == 1 and merged.differing[0].why.startswith("other weights of the same recipe")


def test_the_page_lists_seeds_of_others_with_their_number():
    merged = tables(*ADA, measured("Sam", 7, 0.0))[1]
    people = render.contributions(Submissions(ADA, (), []), merged)
    (listed,) = [each for each in people.lists if each.title == "Measured differently"]
    (item,) = listed.items
    assert item.what.endswith(", 0.0 %") and item.who == "Sam" and item.why.startswith("another seed (7)")


@pytest.mark.parametrize(("linf", "eps", "flags"), [(0.0, "8/255", ("no-op",)), (0.01, "8/255", ()), (0.0, "0", ())])
def test_an_attack_that_changed_nothing_is_called_so(linf, eps, flags):
    entry = measured("Ada", 0, 0.9, eps=eps)
    metrics = entry.result.metrics.model_copy(update={"mean_linf": linf, "mean_l2": linf})
    entry = entry._replace(result=entry.result.model_copy(update={"metrics": metrics}))
    ((ranked,), _) = merge.merged(Submissions([entry], (), []))[:2]
    assert ranked.flags == flags


def test_a_second_folder_under_one_name_with_images_that_nobody_attacked_changes_nothing():
    (first, *others) = ADA
    again = measured("Ada", 0, 0.9, seconds=0.5, arrival=9.0, finished="2026-11-29T10:00:00+00:00")
    metrics = again.result.metrics.model_copy(update={"mean_linf": 0.0, "mean_l2": 0.0})
    again = again._replace(
        who="ADA", folder="ada2", file="ada2/z.receipt", result=again.result.model_copy(update={"metrics": metrics})
    )
    before, _, _ = pgd(first, *others)
    after, _, ((who, why),) = pgd(first, *others, again)
    assert before == after and who == "ADA" and why.endswith("images attacked and 0 clean, and changed no image")


def test_who_has_a_result_in_two_folders_is_named_once():
    again = measured("Ada", 0, 0.5, seconds=0.5, arrival=9.0)
    again = again._replace(who="ADA", folder="ada2", file="ada2/z.receipt")
    merged = merge.merged(Submissions([ADA[0], again], (), []))
    people = render.contributions(Submissions([ADA[0], again], (), []), merged)
    ((first, second),) = people.sources.values()
    assert first.person == second.person and (first.file, second.file) == (ADA[0].file, "ada2/z.receipt")


def test_ends_of_an_interval_are_those_of_counts():
    entry = measured("Ada", 0, 1.0)
    metrics = entry.result.metrics.model_copy(
        update={"accuracy_under_attack": 1 - 1e-9, "ci_high": 0.9999999999999998, "robust_accuracy": 1.0}
    )
    entry = entry._replace(result=entry.result.model_copy(update={"metrics": metrics}))
    ((ranked,), _) = merge.merged(Submissions([entry], (), []))[:2]
    assert (ranked.metrics.accuracy_under_attack, ranked.metrics.ci_high) == (1.0, 1.0)


def test_passes_that_cannot_be_do_not_take_the_place_of_an_honest_number(monkeypatch):
    monkeypatch.setattr(known.passes, "remark", lambda made: None if made.cost.forwards_per_example else "too few")
    entry = measured("Ada", 0, 0.5)
    claimed = measured("Eve", 0, 0.1, weights="Ada", forwards=0.0)
    value, _, differing = pgd(entry, claimed)
    assert value.number == entry.result.metrics.accuracy_under_attack and [who for who, _ in differing] == ["Eve"]
    assert value.footnotes == ()


def below(*entries):
    """Return what stands below the only table about networks and measurements under several names."""
    merged = merge.merged(Submissions(list(entries), (), []))
    (table,) = remarks.said_below(build(merged.ranked), merged).tables
    return [
        note
        for note in table.notes
        if note.startswith("one network") or " are one network" in note or "one mea" in note
    ]


def test_one_file_of_weights_under_two_recipes_is_said():
    def laundered(entry):
        ((key, _),) = entry.trained
        return entry._replace(trained=((key, ADA[0].trained[0][1]),))

    assert below(*ADA, measured("Bob", 0, 0.9, recipe="pgd-at")) == []
    digits = ADA[0].trained[0][1][:8]
    line = f"one network under 2 recipes: pgd-at{{}}, standard are of the same weights {digits}"
    assert below(*ADA, laundered(measured("Bob", 0, 0.9, recipe="pgd-at"))) == [line.format("")]
    unproven = laundered(measured("Bob", 0, 0.9, recipe="pgd-at", state="consistent"))
    assert below(*ADA, unproven) == [line.format(" (as is said)")]
    # A step on a network is of its weights.
    assert below(*ADA, measured("Bob", 0, 0.2, weights="Ada", step="jpeg", access="adaptive")) == []
    assert below(ADA[0], laundered(ADA[1])) == [f"standard: seeds 0, 1 are one network, of the same weights {digits}"]


@pytest.mark.parametrize(
    ("first", "second", "is_said"),
    [
        ({}, {"eps": "4/255"}, True),
        ({}, {"attack": "fgsm", "attack_params": {}}, True),
        ({}, {"attack": "square", "attack_params": {"queries": 9}, "weights": "Ada", "who": "Bob"}, True),
        # Every image broke at once, so that more steps change nothing.
        ({"share": 0.0}, {"share": 0.0, "attack_params": {"steps": 40, "rule": "any-iterate"}}, False),
        ({"share": 0.0}, {"share": 0.0, "eps": "4/255"}, True),
        # The nearest wrong image is one, whatever the bound on it.
        ({"attack": "ddn", "norm": "l2", "eps": "1"}, {"attack": "ddn", "norm": "l2", "eps": "2"}, False),
        # Images that were made for the network alone, and the network with a step.
        ({}, {"step": "jpeg", "access": "static"}, False),
        ({}, {"eps": "4/255", "images": "b"}, False),
    ],
)
def test_the_same_images_under_two_attacks_are_said(first, second, is_said):
    entries = []
    for given in (first, second):
        more = {"who": "Ada", "seed": 0, "share": 0.5, "images": "a"} | given
        images = more.pop("images") * 64
        entries.append(measured(more.pop("who"), more.pop("seed"), more.pop("share"), **more)._replace(images=images))
    lines = below(*entries)
    assert len(lines) == is_said
    if is_said:
        assert lines[0].startswith("standard, white-box: one measurement, with the same adversarial images: ")
    # What was not changed at all has a flag of its own.
    unchanged = []
    for entry in entries:
        metrics = entry.result.metrics.model_copy(update={"mean_linf": 0.0})
        unchanged.append(entry._replace(result=entry.result.model_copy(update={"metrics": metrics})))
    assert below(*unchanged) == []


def taken(*entries, only=False):
    """Return what is withdrawn, and who counts, where the first entry is withdrawn."""
    withdrawal = Withdrawal(sha256=entries[0].sha256, reason="a slip", date=date(2026, 11, 28), only=only)
    merged = merge.merged(Submissions(list(entries), (withdrawal,), []))
    counting = {entry.who for own in merged.sources.values() for entry in own}
    return [each.entry.who for each in merged.withdrawn], counting, [each.file for each in merged.like_withdrawn]


@pytest.mark.parametrize(
    ("mine", "theirs", "only", "is_struck"),
    [
        ("consistent", "repeated", False, False),
        ("consistent", "consistent", False, True),
        ("repeated", "repeated", False, True),
        # A fraud that was repeated does not come back as a copy without weights.
        ("repeated", "consistent", False, True),
        ("consistent", "consistent", True, False),
        ("consistent", "consistent", "Cem", False),
        ("consistent", "repeated", True, False),
    ],
)
def test_who_withdraws_a_copy_that_was_merged_first_strikes_nothing_that_is_known_better(mine, theirs, only, is_struck):
    copy = measured("Cem", 0, 0.5, state=mine, arrival=1.0)
    original = measured("Ada", 0, 0.5, state=theirs, arrival=2.0)
    names, counting, like = taken(copy, original, only=only)
    assert names == (["Cem", "Ada"] if is_struck else ["Cem"]) and counting == (set() if is_struck else {"Ada"})
    # Whoever keeps the leaderboard sees what is like a fraud that was withdrawn.
    assert like == ([] if is_struck else [original.file])


def test_of_one_file_in_two_folders_the_one_that_is_named_is_taken_back():
    copy, original = measured("Cem", 0, 0.5), measured("Ada", 0, 0.5, arrival=2.0)
    copy = copy._replace(sha256=original.sha256, file_sha256=original.sha256)
    assert taken(copy, original)[0] == ["Cem", "Ada"] and taken(copy, original, only=True)[0] == ["Cem", "Ada"]
    assert taken(copy, original, only="Cem")[:2] == (["Cem"], {"Ada"})
    assert taken(copy, original, only="Ada")[:2] == (["Ada"], {"Cem"})


def test_a_copy_without_weights_that_was_merged_first_does_not_displace_the_original():
    copy = measured("Cem", 0, 0.5, state="consistent", weights="none", arrival=1.0)
    value, counting, _ = pgd(copy, measured("Ada", 0, 0.5, arrival=2.0))
    assert counting == {"Ada"} and value.footnotes == ()


def test_what_was_merged_before_its_copy_is_not_called_one():
    copy, original = measured("Cem", 0, 0.5, arrival=2.0), measured("Ada", 0, 0.5, arrival=1.0)
    withdrawal = Withdrawal(sha256=copy.sha256, reason="a slip", date=date(2026, 11, 28))
    (line,) = merge.merged(Submissions([copy, original], (withdrawal,), [])).like_withdrawn
    assert line.why == f"has the outcomes of {copy.file}, which was withdrawn, and counts: it was merged first"


@pytest.mark.parametrize("is_last", [True, False])
def test_costs_of_a_row_are_those_of_whose_results_came_first(is_last):
    more = measured("Bob", 0, 0.1, weights="Ada", attack="apgd-ce", arrival=9.0)
    cost = more.result.defense_cost.model_copy(update={"train_seconds_per_epoch": 1e-9})
    more = more._replace(result=more.result.model_copy(update={"defense_cost": cost}))
    (table,), _ = tables(*([ADA[0], more] if is_last else [more, ADA[0]]))
    assert table.rows[0].values["train_seconds"].number == ADA[0].result.defense_cost.train_seconds_per_epoch


def test_an_attack_that_somebody_adds_for_some_seeds_counts_for_nothing_else():
    def of_two_attacks(who, recipe):
        passes = (("pgd", 0.5), ("fgsm", 0.6))
        return [measured(who, s, share, attack=name, recipe=recipe) for name, share in passes for s in range(3)]

    own = [*of_two_attacks("Ada", "standard"), *of_two_attacks("Zoe", "pgd-at")]
    added = [measured("Bob", seed, 0.1, weights="Ada", attack="apgd-ce", arrival=9.0) for seed in range(3)]

    def ranked(*entries):
        (table,), _ = tables(*entries)
        (row,) = [row for row in table.rows if row.defense == "standard"]
        values = {column.label: row.values.get(column.id) for column in table.columns}
        return values["robust accuracy, worst case"], values.get("apgd-ce"), table.ranking and len(table.ranking.ranks)

    before, _, ranks = ranked(*own)
    worst, shown, ranks_after = ranked(*own, *added[:2])
    assert worst == before and ranks == ranks_after == 2
    assert shown.number is not None and shown.partial and "not-all-seeds" in shown.footnotes
    # For all seeds it breaks what it breaks, and asks nothing of the other row.
    worst, shown, ranks_after = ranked(*own, *added)
    assert worst.number < before.number and shown.footnotes == ("by-others",) and ranks_after == 2
    # Who has the row may leave seeds out too, or would choose which are averaged.
    worst, shown, _ = ranked(*own, measured("Ada", 0, 0.1, attack="apgd-ce"))
    assert worst == before and shown.partial and "not-all-seeds" in shown.footnotes


def flagged(entry, *flags):
    return entry._replace(result=entry.result.model_copy(update={"flags": flags}))


@pytest.mark.parametrize(
    "flags",
    [
        ("not-repeated",),
        ("images-not-compared", "not-plausible"),
        ("not-all-seeds", "measured-differently"),
        ("zero-gradient", "not-deterministic"),
    ],
)
def test_marks_that_a_file_states_say_nothing_of_the_row_of_somebody_else(flags):
    before, _, _ = pgd(*ADA)
    # One image fewer.
    lower = measured("Mallory", 2, 0.29, weights="Ada", arrival=5.0)
    after, counting, differing = pgd(*ADA, flagged(lower, *flags))
    assert counting == {"Ada"} and after == before and [who for who, _ in differing] == ["Mallory"]
    # Those that tables give are not believed of anybody, so nobody hides a seed.
    assert pgd(*ADA[:2], flagged(ADA[2], "not-repeated"))[0] == before


def test_that_gradients_mislead_is_said_by_those_whose_row_it_is():
    (table,), _ = tables(*ADA[:2], flagged(ADA[2], "zero-gradient"))
    (column,) = [column.id for column in table.columns if column.label == "pgd"]
    assert "zero-gradient in 1 of 3 seeds" in table.rows[0].values[column].footnotes


def replacing(entry, *others, **more):
    return entry._replace(said=Submission(replaces=tuple(each.sha256 for each in others)), **more)


def test_only_a_result_of_the_same_question_replaces_another():
    old = measured("Ada", 0, 0.5)
    fgsm = measured("Ada", 0, 0.6, attack="fgsm")
    new = measured("Ada", 0, 0.4, recipe="pgd-at", state="consistent")
    own = [replacing(each, old) for each in (old, fgsm, new)]
    merged = merge.merged(Submissions(own, (), []))
    # More is known of the old one, whatever else is in the folder.
    assert merged.superseded == [] and old.sha256 in {each.sha256 for own in merged.sources.values() for each in own}
    assert "of which more is known" in merged.unreplaced[0].why
    own = [replacing(each, old) for each in (old, fgsm, new._replace(state="repeated"))]
    (superseded,) = merge.merged(Submissions(own, (), [])).superseded
    assert (superseded.entry.sha256, superseded.by.sha256) == (old.sha256, new.sha256)
    own = [replacing(each, old) for each in (old, fgsm)]
    merged = merge.merged(Submissions(own, (), []))
    assert merged.superseded == [] and "has no result of that attack" in merged.unreplaced[0].why


def test_two_that_are_to_be_replaced_do_not_strike_each_other():
    old, other = measured("Ada", 0, 0.5), measured("Ada", 0, 0.3, recipe="pgd-at")
    merged = merge.merged(Submissions([replacing(each, old, other) for each in (old, other)], (), []))
    assert merged.superseded == [] and len(merged.ranked) == 2


def test_a_run_file_with_what_was_replaced_does_not_bring_it_back():
    old, new = measured("Ada", 0, 0.5), measured("Ada", 0, 0.4, recipe="pgd-at")
    run = old._replace(file="Ada/run.json", sha256="f" * 64, file_sha256="f" * 64, state="outcomes only")
    merged = merge.merged(Submissions([replacing(each, old) for each in (old, run, new)], (), []))
    assert {each.entry.file for each in merged.superseded} == {old.file, run.file}
    assert len(merged.ranked) == 1


def test_a_withdrawn_result_with_another_outcome_and_the_same_seconds_is_named():
    old = measured("Ada", 0, 0.3)
    forged = measured("Ada", 0, 0.31)._replace(file="Ada/again.receipt", sha256="e" * 64, file_sha256="e" * 64)
    withdrawal = Withdrawal(sha256=old.sha256, reason="trained on the test images", date=date(2026, 11, 1))
    (line,) = merge.merged(Submissions([old, forged], (withdrawal,), [])).like_withdrawn
    assert line.file == forged.file and "has the seconds of Ada/" in line.why


def right(entry):
    """Return which images an entry has right, clean and under its attack."""
    result = entry.result
    return np.array(list(result.clean_outcomes)) & np.array(list(result.outcomes_under_attack))


def jpeg(who, share, access, **more):
    """Return an entry on JPEG over one network of Ada's, attacked by somebody."""
    return measured(who, 0, share, weights="Ada", step="jpeg", access=access, **more)


def test_nobody_else_makes_the_gap_of_a_row_smaller_by_images_of_an_attacker_who_sees_more():
    own = [jpeg("Ada", 0.6, "static"), jpeg("Ada", 0.2, "adaptive")]
    (table,), _ = tables(*own)
    (gap,) = [column.id for column in table.columns if column.kind == "gap"]
    before = [row.values[gap].number for row in table.rows if gap in row.values]
    other = jpeg("Sam", 0.2, "static", arrival=2.0)
    (table,), merged = tables(*own, other)
    assert [row.values[gap].number for row in table.rows if gap in row.values] == before and before[0] > 0.3
    assert [each.entry.who for each in merged.differing] == ["Sam"] and merged.survivors == {}
    # Where the attacker sees the whole defense, what others broke counts, whoever did, also by an attack of their own.
    for more in ({}, {"attack": "apgd-ce"}):
        lower = jpeg("Sam", 0.1, "adaptive", arrival=2.0, **more)
        (table,), merged = tables(*own, lower)
        (worst,) = [column.id for column in table.columns if column.kind == "worst"]
        values = {row.access: row.values[worst].number for row in table.rows}
        alive = np.logical_and.reduce([right(each) for each in (own[1], lower)])
        assert values["adaptive"] == alive.mean() and len(merged.survivors) == 1
    # Nor by a static attack of their own.
    other = jpeg("Sam", 0.1, "static", arrival=2.0, attack="apgd-ce")
    (table,), _ = tables(*own, other)
    assert [row.values[gap].number for row in table.rows if gap in row.values] == before


def test_nobody_else_changes_the_verdict_on_a_step():
    own = [measured("Ada", 0, 0.1), jpeg("Ada", 0.8, "static"), jpeg("Ada", 0.7, "adaptive")]

    def said(*entries):
        (table,), _ = tables(*entries)
        verdicts = [threat.judgement for threat in table.threats if threat.judgement]
        settled = [each for each in table.answers if each.kind == "verdict"]
        return [(each.verdict, each.over_base.number, each.reasons) for each in verdicts], settled

    before = said(*own)
    assert len(before[0]) == 1 and before[0][0][1] > 0.4
    # Stronger ones, weaker ones and others on the step, and others on its base.
    for other in (
        jpeg("Sam", 0.0, "adaptive", arrival=2.0),
        jpeg("Sam", 0.0, "adaptive", attack="apgd-ce", arrival=2.0),
        jpeg("Sam", 0.9, "static", attack="apgd-ce", arrival=2.0),
        measured("Sam", 0, 0.0, weights="Ada", attack="apgd-ce", arrival=2.0),
    ):
        assert said(*own, other) == before


def test_images_of_both_accesses_are_said_to_be_one_measurement():
    static, adaptive = (
        entry._replace(images="a" * 64) for entry in (jpeg("Ada", 0.2, "static"), jpeg("Ada", 0.2, "adaptive"))
    )
    merged = merge.merged(Submissions([static, adaptive], (), []))
    (table,) = remarks.said_below(build(merged.ranked), merged).tables
    said = "standard, adaptive and static: one measurement, with the same adversarial images: pgd L∞ ε=8/255"
    assert [line for line in table.notes if "one measurement" in line] == [said]


@pytest.mark.parametrize(
    ("flag", "is_said"),
    [("masked-gradients", False), ("zero-gradient", False), ("weaker-than-noise", False), ("autoattack-reduced", True)],
)
def test_of_an_attack_on_somebody_elses_row_only_how_it_was_run_is_believed(flag, is_said):
    own = [measured("Ada", 0, 0.5)]
    other = measured("Sam", 0, 0.4, weights="Ada", attack="fgsm", arrival=2.0)
    flagged = other._replace(result=other.result.model_copy(update={"flags": (flag,)}))
    merged = merge.merged(Submissions([*own, flagged], (), []))
    (theirs,) = [each for each in merged.ranked if each.names.attack == "fgsm"]
    assert (flag in theirs.flags) == is_said
    mine = own[0]._replace(result=own[0].result.model_copy(update={"flags": (flag,)}))
    (ranked,) = merge.merged(Submissions([mine], (), [])).ranked
    assert flag in ranked.flags
