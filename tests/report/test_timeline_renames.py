"""A renamed method goes on in its line, and every break of its line stays one."""

import random

import pytest

from bench.keys import cell_key
from bench.types import WeightsRef
from tests.report.fabricate import outcomes
from tests.report.test_compare import flipped
from tests.report.test_timeline import N, at, commit, only_line, timeline, verdicts

HIGH = outcomes(0.6, N)
#: What may be other at a commit, beside the name of the attack: these four are breaks, and the parameter is none.
BREAKS = {"eps": ("8/255", "4/255"), "rows": ("first", "others"), "version": (2, 1), "weights": ("a" * 64, "b" * 64)}
STEPS = (20, 40)


def measured(i, state, bits=HIGH, **more):
    """One result of an attack whose name, and nothing else of its code, may be another; of a file of weights."""
    options = {name: state[name] for name in ("eps", "rows", "version")}
    r = at(i, bits, attack_params={"steps": state["steps"]}, **options, **more)
    model = r.cell.model.model_copy(update={"weights": WeightsRef(name="net.pth", sha256=state["weights"])})
    attack = r.cell.attack.attack.model_copy(update={"name": state["attack"]})
    attack_ref = r.cell.attack.model_copy(update={"attack": attack, "model": model})
    cell = r.cell.model_copy(update={"attack": attack_ref, "model": model})
    key = cell_key(cell) if state["version"] == 2 else r.key
    names = r.names.model_copy(update={"attack": state["attack"]})
    return r.model_copy(update={"cell": cell, "names": names, "key": key})


FIRST = {**{name: values[0] for name, values in BREAKS.items()}, "steps": STEPS[0], "attack": "pgd"}


@pytest.mark.parametrize("name", BREAKS)
def test_after_a_rename_a_break_is_still_a_break(tmp_path, name):
    after = FIRST | {"attack": "pgd-linf"}
    other = after | {name: BREAKS[name][1]}
    runs = [measured(i, state) for i, state in enumerate([FIRST, after, other, other])]
    line = only_line(runs, tmp_path)
    assert verdicts(line) == ["first", "no change", "first", "no change"]
    assert [len(lane.points) for lane in line.lanes] == [2, 2]
    # Each lane is called by the budget that it was measured with.
    names = [line.line.name_of(lane.lane) for lane in line.lanes]
    budgets = ["L∞ ε=8/255", f"L∞ ε={'4' if name == 'eps' else '8'}/255"]
    assert names == [f"digits/small-cnn/standard/pgd-linf/white-box {budget}" for budget in budgets]


def test_what_follows_a_rename_by_parameters_alone_stays_joined(tmp_path):
    states = [FIRST, FIRST | {"attack": "pgd-linf"}, FIRST | {"attack": "pgd-linf", "steps": 40}]
    line = only_line([measured(i, state) for i, state in enumerate(states)], tmp_path)
    assert verdicts(line) == ["first", "no change", "no change"]


def conditions(state):
    return {name: state[name] for name in BREAKS}


def pairs_of(t):
    """For each test that was made the commits of its two sides, the earlier first."""
    for _, lane, told in t.points:
        if told.judged.test is not None:
            yield lane.points[told.judged.test.against].place.origin.commit, told.place.origin.commit


@pytest.mark.parametrize("seed", range(12))
def test_in_random_histories_no_pair_is_tested_across_a_break(tmp_path, seed):
    """Several cells in a history, of which some are not measured at a commit; names come, go and come back."""
    rng = random.Random(seed)
    states, runs = {}, []
    state = dict(FIRST)
    for i in range(14):
        for name, values in (BREAKS | {"steps": STEPS, "attack": ("pgd", "pgd-linf", "pgd-b")}).items():
            if rng.random() < 0.2:
                state[name] = rng.choice(values)
        for machine in ("box", "lab"):
            if rng.random() < 0.75:
                bits = outcomes(rng.choice((0.3, 0.6)), N, seed=i)
                runs.append(measured(i, state, bits, machine=machine))
        states[commit(i)] = dict(state)
    pairs = list(pairs_of(timeline(runs, tmp_path)))
    assert pairs
    for old, new in pairs:
        assert conditions(states[old]) == conditions(states[new])


@pytest.mark.parametrize("seed", range(8))
def test_in_random_histories_of_one_change_at_a_time_all_between_two_breaks_is_joined(tmp_path, seed):
    """A change of name or parameters is tested, and a change of anything else begins a lane: no more and no fewer."""
    rng = random.Random(seed)
    state, runs, expected = dict(FIRST), [], set()
    for i in range(12):
        # Another value than any before, so that no lane goes on behind a break.
        fresh = {"attack": f"pgd-{i}", "steps": 20 + i, "eps": f"{i + 1}/255", "rows": f"list {i}"}
        name = rng.choice(list(fresh))
        if i:
            state[name] = fresh[name]
            if name not in BREAKS:
                expected.add((commit(i - 1), commit(i)))
        runs.append(measured(i, state))
    assert set(pairs_of(timeline(runs, tmp_path))) == expected


def lines_of(runs, folder):
    """The verdicts of each line that runs give, of which each is (commit, attack, whether 100 are lost, more)."""
    low = flipped(HIGH, 100, 0)
    results = [measured(i, FIRST | {"attack": name}, low if lost else HIGH, **more) for i, name, lost, more in runs]
    return sorted(verdicts(line) for line in timeline(results, folder).lines)


def test_a_method_that_is_renamed_back_stays_in_its_line(tmp_path):
    runs = [(i, "pgx" if i in (2, 3) else "pgd", i in (2, 3), {}) for i in range(6)]
    # `compare` of commits 1 and 2 pairs the two names and finds 100 images lost; of 3 and 4, 100 gained.
    assert lines_of(runs, tmp_path) == [["first", "no change", "worse", "no change", "better", "no change"]]


def test_an_old_name_that_another_method_takes_begins_a_line_of_its_own(tmp_path):
    runs = [(i, "pgx" if i > 1 else "pgd", i > 1, {}) for i in range(6)]
    runs += [(i, "pgd", False, {"code": "9"}) for i in (4, 5)]
    assert lines_of(runs, tmp_path) == [
        ["first", "no change"],
        ["first", "no change", "worse", "no change", "no change", "no change"],
    ]


def test_uncommitted_changes_under_the_new_name_do_not_hide_a_rename(tmp_path):
    runs = [(i, "pgx" if i > 2 else "pgd", i > 2, {}) for i in range(5)]
    early = (1, "pgx", False, {"dirty": True})
    expected = ["first", "no change", "no change", "no change", "worse", "no change"]
    assert lines_of([*runs, early], tmp_path) == [expected]
    # Uncommitted changes that have both names: one of the two results stands in a line of its own.
    both = (1, "pgd", False, {"dirty": True})
    assert lines_of([*runs, early, both], tmp_path) == [["first"], expected]
    # Nor do those under the old name, after it: they are tested where the line ends, as the method renamed back.
    late = (4, "pgd", False, {"dirty": True})
    assert lines_of([*runs, late], tmp_path) == [["first", "no change", "no change", "worse", "no change", "better"]]
