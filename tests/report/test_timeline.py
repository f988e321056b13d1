"""Lines over commits: where changes are real, what is never joined, in which order commits stand, and every format."""

import csv
import io
import json
import random
import subprocess
from datetime import date, timedelta

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.cli import main
from bench.keys import cell_key
from bench.outcomes import Outcomes
from bench.report.timeline.build import build
from bench.report.timeline.changes import judge
from bench.report.timeline.lines import Lane, Point
from bench.report.timeline.page import render
from bench.report.timeline.parents import failures_begun
from bench.report.timeline.places import Origin, Place
from bench.report.timeline.render import FORMATS
from bench.report.timeline.words import remarks_of
from bench.store.ancestry import commit_pages, known_commits
from bench.store.history import serialise
from bench.store.runs import Run, RunReader
from bench.types import ModelRef, UsageError, WeightsRef
from tests.report.fabricate import method, outcomes, result, stored
from tests.report.test_compare import flipped
from tests.report.test_hostile_text import KINDS, Tags, assert_harmless, everywhere

N = 1000


def commit(i):
    return f"{i:040x}"


def day(i):
    return f"{date(2026, 1, 1) + timedelta(days=i)}T10:00:00+00:00"


def at(i, bits, **more):
    """One result, measured at the i-th of commits that no repository knows, so that they stand by time."""
    return result(clean=[True] * len(bits), adversarial=bits, **{"commit": commit(i), "finished": day(i), **more})


def timeline(results, repository, **more):
    return build([Run("file", list(results))], repository, **more)


def only_line(results, repository, **more):
    (line,) = timeline(results, repository, **more).lines
    return line


def verdicts(line):
    return [told.judged.verdict for _, told in line.points]


def test_a_step_is_marked_at_its_commit_and_what_stays_there_is_no_further_change(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    line = only_line([at(i, high if i < 3 else low) for i in range(6)], tmp_path)
    assert verdicts(line) == ["first", "no change", "no change", "worse", "no change", "no change"]
    ((_, told),) = line.changes
    assert (told.judged.test.against, told.judged.test.lost, told.judged.test.gained) == (2, 45, 5)
    assert told.judged.test.p == pytest.approx(binomtest(5, 50).pvalue)
    # Between the first commit and those since the step the same images differ, and each of these pairs is a test too.
    assert told.judged.test.adjusted == pytest.approx(4 * binomtest(5, 50).pvalue)
    assert not told.judged.drifted


def test_each_pair_of_results_is_one_test(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    t = timeline([at(i, high if i < 3 else low) for i in range(6)], tmp_path)
    # Each with the one before it, with the first, and with the first since the mark at 3, whose next has one test.
    pairs = {(i - 1, i) for i in range(1, 6)} | {(0, i) for i in range(1, 6)} | {(3, i) for i in (4, 5)}
    assert t.tests == len(pairs) == 10
    assert "10 tests (exact McNemar" in render(t)


def test_what_returns_is_a_change_back(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    line = only_line([at(i, low if i == 1 else high) for i in range(4)], tmp_path)
    assert verdicts(line) == ["first", "worse", "better", "no change"]


def test_slow_drift_is_found_though_no_step_is(tmp_path):
    bits = outcomes(0.6, N)
    runs = [bits]
    for i in range(12):
        runs.append(flipped(runs[-1], 3, 0, seed=i))
    line = only_line([at(i, run) for i, run in enumerate(runs)], tmp_path)
    (first, *_), marked = line.changes[0][1].judged, [told for _, told in line.changes]
    assert first == "worse"
    assert all(told.judged.drifted for told in marked)
    told = marked[0]
    # The earliest commit at which 3, 6, 9, ... images lost and none gained could be beyond chance.
    assert told.judged.test.against == 0
    assert told.judged.test.lost == 3 * told.point.place
    assert binomtest(0, told.judged.test.lost).pvalue < 0.05
    # Each stretch begins at the change before it.
    assert [told.judged.test.against for told in marked[1:]] == [told.point.place for told in marked[:-1]]


def test_drift_in_every_line_is_found_in_few_rounds():
    # Each mark gives what follows another first one, and so further tests: 20 lines with many marks each.
    places = [Place(Origin(commit(i), False), i, (1 << i) - 1, (1 << i) - 1, True, "", "", None) for i in range(60)]
    lanes = []
    for _ in range(20):
        lane = Lane("box", "cpu", "2", None, None)
        for i in range(60):
            right = Outcomes((1 << (N - 5 * i)) - 1, N)
            lane.points.append(Point(i, right.share, 0, 1, right, N, None, None, 1, "", "", None))
        lanes.append(lane)
    changes = judge(lanes, places)
    for lane in changes.judged:
        marked = [index for index, each in enumerate(lane) if each.is_change]
        # 5 images a commit, none gained: a sum of 25 has p = 2 / 2**25, which is clear among some 3,000 tests.
        assert [b - a for a, b in zip([0, *marked], marked, strict=False)] == [marked[0]] * len(marked)
        assert 3 <= marked[0] <= 6
        assert all(lane[index].test.p <= lane[index].test.adjusted < 0.05 for index in marked)


def merging(*runs):
    """A lane of ROOT, MAIN (on ROOT), SIDE (on ROOT) and their MERGE, whose first parent is MAIN."""
    ancestors, mainline = (0b0, 0b1, 0b1, 0b111), (0b0, 0b1, 0b1, 0b11)
    pairs = zip(ancestors, mainline, strict=True)
    places = [Place(Origin(commit(i), False), i, *bits, True, "", "", None) for i, bits in enumerate(pairs)]
    lane = Lane("box", "cpu", "2", None, None)
    for i, bits in enumerate(runs):
        right = Outcomes.of(bits)
        lane.points.append(Point(i, right.share, 0, 1, right, N, None, None, 1, "", "", None))
    return [lane], places


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        # Root, main, side, merge: "old" and "new" differ by 200 images.
        (("old", "new", "old", "old"), ["first", "better", "no change", "worse"]),
        (("old", "new", "old", "new"), ["first", "better", "no change", "no change"]),
        (("old", "old", "new", "new"), ["first", "no change", "better", "no change"]),
        (("old", "old", "new", "old"), ["first", "no change", "better", "no change"]),
        (("old", "old", "old", "new"), ["first", "no change", "no change", "better"]),
        (("old", "new", "new", "old"), ["first", "better", "better", "worse"]),
        # The side lost other images than those that main gained, and the merge has both.
        (("old", "new", "low", "both"), ["first", "better", "worse", "no change"]),
        # Beside what the side lost, the merge lost as much again.
        (("old", "old", "low", "lower"), ["first", "no change", "worse", "worse"]),
    ],
)
def test_a_merge_is_marked_for_what_its_first_parent_loses_or_gains_and_no_other_parent_is_marked_for(which, expected):
    old = [i < 500 for i in range(N)]
    runs = {
        "old": old,
        "new": [i < 700 for i in range(N)],
        "low": [100 <= i < 500 for i in range(N)],
        "both": [100 <= i < 700 for i in range(N)],
        "lower": [200 <= i < 500 for i in range(N)],
    }
    (lane,) = judge(*merging(*(runs[name] for name in which))).judged
    assert [each.verdict for each in lane] == expected
    # At a merge only what another parent brought names it.
    brought = which[3] != which[1] and expected[3] == "no change"
    assert lane[3].brought_by == (2 if brought else None)


def test_what_is_smaller_than_the_least_effect_is_not_marked(tmp_path):
    bits = outcomes(0.6, N)
    runs = [at(0, bits), at(1, flipped(bits, 15, 0))]
    assert verdicts(only_line(runs, tmp_path)) == ["first", "worse"]
    assert verdicts(only_line(runs, tmp_path, min_effect=2)) == ["first", "no change"]


def by_chance(rng, lanes, commits, churn):
    """Lanes in which nothing changes, but that each image is another one than its truth by chance."""
    places = [
        Place(Origin(commit(i), False), i, (1 << i) - 1, (1 << i) - 1, True, "", "", None) for i in range(commits)
    ]
    made = []
    for _ in range(lanes):
        truth = rng.random(N) < 0.5
        seen = truth ^ (rng.random((commits, N)) < churn)
        lane = Lane("box", "cpu", "2", None, None)
        for i, row in enumerate(np.packbits(seen, axis=1)):
            right = Outcomes(int.from_bytes(row.tobytes(), "big"), N)
            lane.points.append(Point(i, right.share, 0, 1, right, N, None, None, 1, "", "", None))
        made.append(lane)
    return made, places


def test_forty_commits_of_nothing_but_chance_have_a_mark_on_at_most_5_percent_of_pages():
    rng, pages = np.random.default_rng(0), 300
    marked = 0
    for _ in range(pages):
        changes = judge(*by_chance(rng, 5, 40, 0.004), min_effect=0)
        marked += any(each.is_change for lane in changes.judged for each in lane)
    assert marked <= 0.05 * pages


def test_a_change_of_two_points_is_found_among_a_hundred_lines():
    rng = np.random.default_rng(1)
    lanes, places = by_chance(rng, 100, 40, 0.004)
    for at_place, point in enumerate(lanes[7].points):
        if at_place >= 20:
            lost = Outcomes(point.outcomes.bits & ~((1 << 60) - 1), N)
            lanes[7].points[at_place] = point._replace(outcomes=lost)
    changes = judge(lanes, places)
    found = {(n, i) for n, lane in enumerate(changes.judged) for i, each in enumerate(lane) if each.is_change}
    assert found == {(7, 20)}
    assert changes.judged[7][20].verdict == "worse"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"machine": "lab"}, "other machine: lab"),
        ({"device": "cuda: H200"}, "other machine: box, cuda: H200"),
        ({"version": 1}, "protocol 2 against 1"),
        ({"rows": "others"}, "other example lists"),
        ({"eps": "4/255"}, "threat: L∞ ε=8/255 against L∞ ε=4/255"),
    ],
)
def test_other_conditions_are_a_break_that_says_why(tmp_path, other, words):
    high, low = outcomes(0.9, N), outcomes(0.2, N)
    line = only_line([at(i, high) if i < 2 else at(i, low, **other) for i in range(4)], tmp_path)
    assert verdicts(line) == ["first", "no change", "first", "no change"]
    first, second = line.lanes
    assert (first.lane.words, second.lane.is_beside) == ((), False)
    assert words in "; ".join(second.lane.words)


def with_weights(r, sha):
    model = ModelRef(network=method("network", "small-cnn"), weights=WeightsRef(name="net.pth", sha256=sha))
    attack = r.cell.attack.model_copy(update={"model": model})
    return r.model_copy(update={"cell": r.cell.model_copy(update={"model": model, "attack": attack}), "key": sha})


def test_another_file_of_weights_is_a_break(tmp_path):
    line = only_line([with_weights(at(i, outcomes(0.9, N)), ("a" if i < 2 else "b") * 64) for i in range(4)], tmp_path)
    assert verdicts(line) == ["first", "no change", "first", "no change"]
    assert line.lanes[1].lane.words[0] == f"net.pth: file #{'a' * 16} against #{'b' * 16}"


def test_two_machines_at_a_time_stand_beside_each_other_and_are_not_compared(tmp_path):
    high, low = outcomes(0.9, N), outcomes(0.2, N)
    runs = [at(i, bits, machine=name) for i in range(3) for name, bits in (("box", high), ("lab", low))]
    line = only_line(runs, tmp_path)
    assert [len(lane.points) for lane in line.lanes] == [3, 3]
    assert line.changes == []
    assert line.lanes[1].lane.is_beside


def test_a_changed_parameter_is_joined_and_tested(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    line = only_line(
        [at(0, high, attack_params={"steps": 20}), at(1, low, attack_params={"steps": 40}, forwards=40.0)], tmp_path
    )
    assert verdicts(line) == ["first", "worse"]
    ((_, told),) = line.changes
    assert told.remarks == ("pgd: steps 20 -> 40",)
    assert [(each.field, each.old, each.new) for each in told.costs] == [
        ("forwards_per_example", 20, 40),
        ("backwards_per_example", 20, 40),
        ("flops_per_example", 6e7, 1.2e8),
    ]


def test_what_a_defense_costs_by_itself_stands_at_its_clean_cell(tmp_path):
    bits = [True] * N
    dear = at(1, bits).defense_cost.model_copy(update={"test_flops": 4e6})
    runs = [at(i, bits, attack=attack) for i in range(2) for attack in (None, "pgd")]
    runs = [r.model_copy(update={"defense_cost": dear}) if r.provenance.commit == commit(1) else r for r in runs]
    costs = {line.line.attack: line.cost_changes for line in timeline(runs, tmp_path).lines}
    ((_, told),) = costs["clean"]
    assert [(each.field, each.old, each.new) for each in told.costs] == [("test_flops", 1e6, 4e6)]
    assert costs["pgd"] == []


def test_passes_of_an_attack_that_stops_early_are_not_judged(tmp_path):
    bits = outcomes(0.6, N)
    assert only_line([at(0, bits, forwards=20.5), at(1, bits, forwards=24.25)], tmp_path).cost_changes == []


def test_a_parameter_that_is_changed_and_changed_back_stays_in_its_line(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    jpeg = {"defense": "jpeg", "step": "jpeg"}
    runs = [at(i, low if i == 2 else high, **jpeg, step_params={"quality": 2 if i == 2 else 75}) for i in range(4)]
    line = only_line(runs, tmp_path)
    assert verdicts(line) == ["first", "no change", "worse", "better"]
    assert [told.remarks for _, told in line.changes] == [("jpeg: quality 75 -> 2",), ("jpeg: quality 2 -> 75",)]


def test_a_renamed_attack_goes_on_in_its_line(tmp_path):
    high = outcomes(0.6, N)
    old = at(0, high, attack_params={"steps": 20})
    attack = old.cell.attack.attack.model_copy(update={"name": "pgd-linf"})
    cell = old.cell.model_copy(update={"attack": old.cell.attack.model_copy(update={"attack": attack})})
    names = old.names.model_copy(update={"attack": "pgd-linf"})
    new = at(1, flipped(high, 45, 5)).model_copy(update={"cell": cell, "names": names, "key": cell_key(cell)})
    line = only_line([old, new], tmp_path)
    assert verdicts(line) == ["first", "worse"]
    assert line.changes[0][1].remarks == ("attack renamed: pgd -> pgd-linf",)


def test_two_cells_of_one_name_at_a_time_are_two_lines(tmp_path):
    bits = outcomes(0.9, N)
    t = timeline([at(i, bits, eps=eps) for i in range(2) for eps in ("8/255", "4/255")], tmp_path)
    assert len({line.line.name for line in t.lines}) == len(t.lines) == 2
    assert [len(line.lanes) for line in t.lines] == [1, 1]


def test_a_cell_that_fails_is_said_and_the_next_is_compared_with_the_last_before(tmp_path):
    bits = outcomes(0.6, N)
    line = only_line([at(0, bits), at(1, bits, status="failed"), at(2, bits, status="failed"), at(3, bits)], tmp_path)
    assert verdicts(line) == ["first", "failed", "failed", "no change"]
    assert [told.point.place for _, told in line.changes] == [1]


@pytest.mark.parametrize(
    ("failing", "begins"),
    [
        # Commits: 0 root; 1, 3, 5 main; 2, 4 side; 6 the merge of the side into main.
        ({1, 3, 5, 6}, [1]),
        ({3, 5, 6}, [3]),
        ({2, 4, 6}, [2]),
        ({2, 4}, [2]),
        ({1, 2, 3, 4, 5, 6}, [1, 2]),
        ({6}, [6]),
        ({1, 5}, [1, 5]),
        ({0, 1, 2, 3, 4, 5, 6}, []),
    ],
)
def test_beside_a_parallel_branch_a_cell_begins_to_fail_once(failing, begins):
    parents = {0: (), 1: (0,), 2: (0,), 3: (1,), 4: (2,), 5: (3,), 6: (5, 4)}
    ancestors, mainline = {}, {}
    for i, own in parents.items():
        ancestors[i] = mainline[i] = 0
        for parent in own:
            ancestors[i] |= ancestors[parent] | 1 << parent
        for parent in own[:1]:
            mainline[i] = mainline[parent] | 1 << parent
    places = [Place(Origin(commit(i), False), i, ancestors[i], mainline[i], True, "", "", None) for i in parents]
    lane = Lane("box", "cpu", "2", None, None)
    right = Outcomes.of([True] * N)
    for i in parents:
        outcome = (None, "ValueError: no") if i in failing else (right, "")
        lane.points.append(Point(i, 1.0, 0, 1, outcome[0], N, None, None, 1, "", outcome[1], None))
    assert [i for i, begun in enumerate(failures_begun(lane, places)) if begun] == begins


def git(folder, *words, when=None):
    env = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    env |= {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env |= {"GIT_COMMITTER_DATE": when} if when else {}
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


def committed(folder, subject, days):
    when = f"{date(2026, 6, 1) + timedelta(days=days)}T10:00:00Z"
    git(folder, "commit", "-q", "--allow-empty", "-m", subject, when=when)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_commits_stand_by_ancestry_whatever_their_dates_and_those_of_results(repository):
    names = [committed(repository, f"change {i}", days=-i) for i in range(4)]
    bits = outcomes(0.6, N)
    results = [at(10 - i, bits, commit=name) for i, name in enumerate(names)]
    random.Random(0).shuffle(results)
    t = timeline(results, repository)
    assert [place.origin.commit for place in t.places] == names
    assert [place.subject for place in t.places] == [f"change {i}" for i in range(4)]
    assert t.places[1].day == "2026-05-31"


def test_a_commit_is_compared_with_its_own_ancestor_and_not_with_one_of_another_branch(repository):
    root = committed(repository, "root", 0)
    git(repository, "checkout", "-q", "-b", "side")
    side = committed(repository, "side", 1)
    git(repository, "checkout", "-q", "main")
    ahead = committed(repository, "ahead", 2)
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    line = only_line([at(0, high, commit=root), at(1, low, commit=side), at(2, high, commit=ahead)], repository)
    told = {told.place.origin.commit: told for _, told in line.points}
    assert told[side].judged.verdict == "worse"
    assert told[ahead].judged.verdict == "no change"
    assert {told[side].follows, told[ahead].follows} == {0}


def merge_of(repository, root, side, main, merge):
    """The line of a root, a commit on a side branch, one on main, and the merge of the side into main."""
    names = [committed(repository, "root", 0)]
    git(repository, "checkout", "-q", "-b", "side")
    names.append(committed(repository, "side", 1))
    git(repository, "checkout", "-q", "main")
    names.append(committed(repository, "main", 2))
    git(repository, "merge", "-q", "--no-edit", "side", when="2026-06-04T10:00:00Z")
    names.append(git(repository, "rev-parse", "HEAD"))
    results = [
        at(i, bits, commit=name) for i, (name, bits) in enumerate(zip(names, (root, side, main, merge), strict=True))
    ]
    line = only_line(results, repository)
    told = {told.place.origin.commit: (lane, told) for lane, told in line.points}
    return [told[name] for name in names]


HIGH = outcomes(0.6, N)
LOW = flipped(HIGH, 45, 5)


@pytest.mark.parametrize(
    ("root", "side", "main", "merge", "marks"),
    [
        pytest.param(LOW, LOW, HIGH, LOW, ["no change", "better", "worse"], id="undoes a fix on main"),
        pytest.param(HIGH, LOW, HIGH, HIGH, ["worse", "no change", "no change"], id="leaves a change of the side out"),
        pytest.param(HIGH, LOW, HIGH, LOW, ["worse", "no change", "no change"], id="brings a marked change"),
        pytest.param(HIGH, HIGH, HIGH, LOW, ["no change", "no change", "worse"], id="makes a change itself"),
        pytest.param(LOW, LOW, HIGH, HIGH, ["no change", "better", "no change"], id="keeps a fix on main"),
    ],
)
def test_a_merge_is_marked_where_it_is_not_what_its_parents_make(repository, root, side, main, merge, marks):
    told = merge_of(repository, root, side, main, merge)
    assert [each.judged.verdict for _, each in told[1:]] == marks
    lane, of_merge = told[3]
    assert lane.points[of_merge.follows].place.origin.commit == told[2][1].place.origin.commit
    # Every commit has a result.
    assert not any("without a result" in remark for remark in remarks_of(lane, of_merge))


def test_a_merge_says_which_change_it_brought(repository):
    told = merge_of(repository, HIGH, LOW, HIGH, LOW)
    assert remarks_of(*told[3]) == [f"a merge brought the change of {told[1][1].place.label}"]


def test_a_merge_that_brings_a_marked_change_and_loses_more_is_marked(repository):
    told = merge_of(repository, HIGH, LOW, HIGH, flipped(LOW, 45, 5, seed=1))
    assert told[3][1].judged.verdict == "worse"


@pytest.mark.parametrize("name", ["main", "v1 dirty", "abc1234", "A" * 40, "0" * 41])
def test_a_commit_that_is_no_hash_is_not_taken_for_an_unknown_one(repository, name):
    known = committed(repository, "a commit", 0)
    bits = outcomes(0.6, N)
    t = timeline([at(0, bits, commit=known), at(1, bits, commit=name), at(2, bits, commit=commit(2))], repository)
    wrong = f"{name!r} is no full hash of a commit"
    text = FORMATS["text"](t)
    assert f"note: file: {wrong}; placed by the time of its results" in text
    assert "1 commit that this repository does not know" in text
    assert [place.remark for place in t.places][1] == f"{wrong}: placed by the time of its results"


def test_an_empty_commit_is_said_to_be_empty(repository):
    assert "file: the commit is empty" in FORMATS["text"](timeline([at(0, [True] * N, commit="")], repository))


def test_an_unknown_commit_goes_by_time_and_says_so(repository):
    known = [committed(repository, f"change {i}", i) for i in range(3)]
    bits = outcomes(0.6, N)
    results = [at(10 * i, bits, commit=name) for i, name in enumerate(known)] + [at(15, bits)]
    t = timeline(results, repository)
    assert [place.origin.commit for place in t.places] == [known[0], known[1], commit(15), known[2]]
    assert "placed by the time" in FORMATS["text"](t)
    assert "does not know the commit" in t.places[2].remark
    # It leads nowhere: the next known commit follows its ancestor.
    assert [told.follows for _, told in t.lines[0].points] == [None, 0, 1, 1]


def test_uncommitted_changes_are_marked_and_nothing_follows_them(repository):
    names = [committed(repository, f"change {i}", i) for i in range(2)]
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    results = [at(0, high, commit=names[0]), at(1, low, commit=names[0], dirty=True), at(2, high, commit=names[1])]
    t = timeline(results, repository)
    assert [place.label for place in t.places] == [
        names[0][:10],
        f"{names[0][:10]} + uncommitted changes",
        names[1][:10],
    ]
    assert [place.subject for place in t.places] == ["change 0", "", "change 1"]
    assert verdicts(t.lines[0]) == ["first", "worse", "no change"]
    assert t.lines[0].lanes[0].points[2].judged.test.against == 0
    assert 'class="hole"' in render(t)


def test_a_parameter_that_only_uncommitted_changes_have_is_no_change_of_the_next_commit(repository):
    names = [committed(repository, f"change {i}", i) for i in range(2)]
    bits = outcomes(0.6, N)
    jpeg = {"defense": "jpeg", "step": "jpeg"}
    line = only_line(
        [
            at(0, bits, commit=names[0], **jpeg, step_params={"quality": 75}),
            at(1, bits, commit=names[0], dirty=True, **jpeg, step_params={"quality": 5}),
            at(2, bits, commit=names[1], **jpeg, step_params={"quality": 75}),
        ],
        repository,
    )
    assert [told.remarks for _, told in line.points] == [(), ("jpeg: quality 75 -> 5",), ()]


def test_a_file_of_a_commit_carries_what_earlier_ones_measured(repository):
    names = [committed(repository, f"change {i}", i) for i in range(3)]
    bits = outcomes(0.6, N)
    old, new = at(0, bits, commit=names[0]), at(2, bits, commit=names[2], code="2")
    runs = [Run("a", [old], names[0]), Run("b", [old], names[1]), Run("c", [new], names[2])]
    (line,) = build(runs, repository).lines
    assert verdicts(line) == ["first", "same measurement", "no change"]
    assert line.lanes[0].points[1].point.carried_from.commit == names[0]


def test_a_file_of_uncommitted_changes_carries_what_its_commit_measured(repository):
    name, high = committed(repository, "change", 0), outcomes(0.6, N)
    low = flipped(high, 45, 5)
    own = [at(0, high, commit=name, attack=attack) for attack in ("pgd", "fgsm")]
    edited = at(1, low, commit=name, attack="fgsm", code="2", dirty=True)
    write(repository, own)
    file = repository / "results" / "runs" / "box" / f"{name}-dirty.json"
    file.write_text(serialise([own[0], edited]))
    t = build(RunReader(repository).recorded(), repository)
    assert [(place.origin.commit, place.origin.dirty) for place in t.places] == [(name, False), (name, True)]
    lines = {line.line.attack: line for line in t.lines}
    assert verdicts(lines["fgsm"]) == ["first", "worse"]
    assert verdicts(lines["pgd"]) == ["first", "same measurement"]
    assert lines["pgd"].lanes[0].points[1].point.carried_from.commit == name
    assert t.measurements == 3


def test_commits_between_are_those_that_stand_on_the_page(repository):
    names = [committed(repository, f"change {i}", i) for i in range(5)]
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    # Of the second there are uncommitted changes alone, of the third nothing; the fourth has a result of another cell.
    results = [
        at(0, high, commit=names[0]),
        at(1, high, commit=names[1], dirty=True),
        at(3, high, commit=names[3], attack="fgsm"),
        at(4, low, commit=names[4]),
    ]
    lines = {line.line.attack: line for line in timeline(results, repository).lines}
    assert verdicts(lines["pgd"]) == ["first", "no change", "worse"]
    ((lane, told),) = lines["pgd"].changes
    assert remarks_of(lane, told) == ["1 commit between the two without a result here"]
    ((lane, told),) = only_line([each for each in results if each.names.attack == "pgd"], repository).changes
    assert remarks_of(lane, told) == []


def without_outcomes(r):
    return r.model_copy(update={"clean_bits": None, "adversarial_bits": None})


def test_results_without_outcomes_are_said_to_be_compared_with_none(tmp_path):
    runs = [without_outcomes(at(i, outcomes(0.6, N))) for i in range(3)]
    t = timeline(runs, tmp_path)
    text = FORMATS["text"](t)
    assert (t.tests, verdicts(t.lines[0])) == (0, ["not tested"] * 3)
    assert "Every line has one point" not in text
    assert "No two results of a lane can be compared: outcomes of images were not kept\n" in text
    assert "note: 3 results without outcomes of images: drawn, and compared with none\n" in text
    assert "│ in a small line is a break" in text and "kept no outcomes of images" in text
    said = [row["remarks"] for row in csv.DictReader(io.StringIO(FORMATS["csv"](t)))]
    assert all("the outcomes of its images were not kept: compared with none" in each for each in said)
    # One of them among others does not keep these apart.
    mixed = timeline([at(0, outcomes(0.6, N)), runs[1], at(2, outcomes(0.6, N))], tmp_path)
    assert (mixed.tests, verdicts(mixed.lines[0])) == (1, ["first", "not tested", "no change"])


def test_failed_cells_are_no_lane_of_one_point(tmp_path):
    t = timeline([at(0, outcomes(0.6, N)), at(1, outcomes(0.6, N), status="failed")], tmp_path)
    assert "No two results of a lane can be compared: cells failed\n" in FORMATS["text"](t)


@pytest.mark.parametrize("where", ["inside", "outside", "store"])
def test_no_note_names_a_folder_of_this_machine(repository, tmp_path, where):
    committed(repository, "change", 0)
    folder = repository if where == "inside" else tmp_path / "elsewhere"
    if where == "store":
        store = stored(folder, [at(0, outcomes(0.6, N), commit="main"), at(1, outcomes(0.6, N))])
        next(iter((folder / "cells").rglob("*.json"))).write_text("{}")
        stored(store.root, [at(2, outcomes(0.3, N), commit="main", seed=1)])
    else:
        write(folder, [at(i, outcomes(0.6, N), commit=name) for i, name in enumerate(("main", commit(1)))])
        (folder / "results" / "runs" / "box" / "damaged.json").write_text("{}")
    reader = RunReader(repository)
    t = build(reader.of(folder), repository)
    notes = [*reader.notes, *t.notes]
    assert len(notes) == 2
    assert all(str(tmp_path) not in note for note in notes)
    named = {"inside": "results/runs/box/", "outside": "", "store": ""}[where]
    assert any(f"{named}damaged.json" in note or "elsewhere" in note for note in notes)


def test_a_key_that_stands_for_two_cells_counts_once(tmp_path):
    bits = outcomes(0.6, N)
    other = at(1, bits, eps="1/255").model_copy(update={"key": at(0, bits).key})
    t = timeline([at(0, bits), other], tmp_path)
    assert (t.measurements, len(t.notes)) == (1, 1)
    assert "key is that of another cell" in t.notes[0]


def test_known_commits_are_those_of_the_repository_alone(repository):
    name = committed(repository, "one", 0)
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    known = known_commits(repository, [name, tree, "f" * 40, "--output=x", "HEAD", name[:10]])
    assert known.order == (name,)
    assert known_commits(repository.parent, [name]).order == ()


def test_a_subject_is_one_visible_line(repository):
    name = committed(repository, "<em>\u202eevil\x1b[31m</em>" + "x" * 500, 0)
    t = timeline([at(0, outcomes(0.6, N), commit=name)], repository)
    assert len(t.places[0].subject) <= 120
    assert_harmless(t.places[0].subject)
    assert "<em>" not in render(t).partition("<main>")[2].partition("<script")[0]


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b/commit/"),
        ("https://github.com/a/b/", "https://github.com/a/b/commit/"),
        ("https://me:secret@github.com/a/b", "https://github.com/a/b/commit/"),
        ("https://token@GitHub.com/a/b", "https://github.com/a/b/commit/"),
        ("https://gitlab.example.org/g/s/b.git", "https://gitlab.example.org/g/s/b/-/commit/"),
        ("https://bitbucket.org/a/b", "https://bitbucket.org/a/b/commits/"),
        ("git@github.com:a/b.git", "https://github.com/a/b/commit/"),
        ("ssh://git@gitlab.com/a/b.git", "https://gitlab.com/a/b/-/commit/"),
        ("javascript:alert(1)//github.com/a/b", None),
        ("https://github.com/a/b?token=secret", None),
        ("https://github.com/a/b#secret", None),
        ('https://github.com/a/"><script>', None),
        ("https://github.com/../..", None),
        ("https://github.com/a", None),
        ("http://github.com/a/b", None),
        ("https://user:pass@evil.example@github.com/a/b", None),
        ("https://example.org/a/b", None),
        ("/home/me/github.com/a/b", None),
        ("file:///github.com/a/b", None),
    ],
)
def test_pages_of_commits_come_from_a_known_host_and_carry_no_password(repository, address, page):
    git(repository, "remote", "add", "origin", address)
    assert commit_pages(repository) == page


def test_no_remote_has_no_pages(repository, tmp_path):
    assert commit_pages(repository) is None
    assert commit_pages(tmp_path) is None


def test_no_password_of_a_remote_reaches_any_format(repository):
    git(repository, "remote", "add", "origin", "https://me:secret@github.com/a/b")
    name = committed(repository, "one", 0)
    t = timeline([at(0, outcomes(0.6, N), commit=name)], repository)
    assert f'href="https://github.com/a/b/commit/{name}"' in render(t)
    for text in (render(t), *(make(t) for make in FORMATS.values())):
        assert "secret" not in text


class Links(Tags):
    def __init__(self, page):
        self.links = []
        super().__init__(page)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.links += [value for name, value in attrs if name in ("href", "src")]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_steer_a_page_or_a_terminal_reach_none(tmp_path, kind):
    # A changed machine makes a break, whose words hold its name.
    results = [*everywhere(KINDS[kind]), *(r for r in everywhere("plain") if r.names.attack == "plain")]
    t = timeline(results, tmp_path)
    for make in (render, *FORMATS.values()):
        assert_harmless(make(t))
    page = Links(render(t))
    assert page.scripts == 2
    assert page.links
    assert all(link.startswith(("#", "data:,")) for link in page.links)
    for row in csv.reader(io.StringIO(FORMATS["csv"](t))):
        assert not any(cell.strip().startswith(("=", "@", "+")) for cell in row)


def test_csv_and_json_say_the_same(tmp_path):
    high = outcomes(0.6, N)
    low = flipped(high, 45, 5)
    results = [at(i, high if i < 2 else low, defense=name, recipe=name) for i in range(4) for name in ("a", "b")]
    results.append(at(4, high, machine="lab", defense="b", recipe="b", status="failed"))
    t = timeline(results, tmp_path)
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](t))))
    document = json.loads(FORMATS["json"](t))
    assert document["schema"] == 1
    points = [
        {**{key: line[key] for key in ("line", "seed")}, **lane, **point}
        for line in document["lines"]
        for lane in line["lanes"]
        for point in lane["points"]
    ]
    assert len(points) == len(rows) == 9
    for point, row in zip(points, rows, strict=True):
        for name in row.keys() & point.keys():
            assert row[name] == ("" if point[name] is None else str(point[name])), name
        assert document["commits"][point["place"]]["commit"] == row["commit"]
    assert {row["verdict"] for row in rows} == {"first", "no change", "worse", "failed"}


def test_markdown_has_a_row_for_each_line_and_commit(tmp_path):
    t = timeline([at(i, outcomes(0.6, N)) for i in range(3)], tmp_path)
    rows = [line for line in FORMATS["md"](t).splitlines() if line.startswith("| digits")]
    assert [row.split(" | ")[1] for row in rows] == [commit(i)[:10] for i in range(3)]


def write(folder, results):
    by_commit = {}
    for r in results:
        by_commit.setdefault(r.provenance.commit, []).append(r)
    for name, group in by_commit.items():
        path = folder / "results" / "runs" / "box" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(serialise(group))


def test_the_verb_reads_the_working_tree_and_what_only_head_holds(repository, monkeypatch, capsys):
    names = [committed(repository, f"change {i}", i) for i in range(3)]
    high = outcomes(0.6, N)
    write(repository, [at(i, flipped(high, 45, 5) if i == 2 else high, commit=name) for i, name in enumerate(names)])
    git(repository, "add", "-A")
    committed(repository, "results", 4)
    (repository / "results" / "runs" / "box" / f"{names[0]}.json").unlink()
    (repository / "results" / "runs" / "box" / "damaged.json").write_text("{}")
    monkeypatch.chdir(repository)
    assert main(["history"]) == 0
    out, err = capsys.readouterr()
    assert "3 commits, 1 line: 1 real change" in out
    assert f"{names[2][:10]}  2026-06-03  change 2" in out
    note = "1 file left out: results/runs/box/damaged.json is no run file of Crossfire"
    assert f"note: {note}" in out
    assert err == ""
    # What is read elsewhere says so too, and names no folder of this machine.
    for name in ("page.html", "page.md", "page.json", "page.csv"):
        assert main(["history", "--out", name]) == 0
        text = (repository / name).read_text()
        assert (note in text.replace("\\", "")) == (not name.endswith(".csv"))
        assert str(repository) not in text
        assert note in capsys.readouterr().err
    assert "<title>Crossfire over time</title>" in (repository / "page.html").read_text()
    assert main(["history", "--only", "nothing"]) == 2
    assert "no result matches --only nothing" in capsys.readouterr().err


def test_where_all_files_are_damaged_the_reasons_are_given(repository, monkeypatch, capsys):
    folder = repository / "results" / "runs" / "box"
    folder.mkdir(parents=True)
    (folder / "damaged.json").write_text("{}")
    monkeypatch.chdir(repository)
    for sources in ([], ["results/runs"]):
        assert main(["history", *sources]) == 2
        error = capsys.readouterr().err
        assert "holds no run file that can be read: 1 file left out" in error
        assert "damaged.json is no run file of Crossfire" in error and error.count("\n") == 1


def test_one_commit_is_said_to_be_nothing_to_compare_yet(repository, monkeypatch, capsys):
    write(repository, [at(0, outcomes(0.6, N), commit=committed(repository, "one", 0))])
    monkeypatch.chdir(repository)
    assert main(["history"]) == 0
    out = capsys.readouterr().out
    assert "1 commit, 1 line: nothing to compare yet" in out
    assert "run --record on further commits" in out


@pytest.mark.parametrize("words", [[], ["missing.json"], ["."], ["text.json"]])
def test_what_holds_no_runs_is_one_line(tmp_path, monkeypatch, capsys, words):
    (tmp_path / "text.json").write_text("no run file")
    monkeypatch.chdir(tmp_path)
    assert main(["history", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_a_format_against_the_name_of_the_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["history", "--format", "csv", "--out", "page.html"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_a_store_a_file_and_a_folder_are_sources(tmp_path):
    bits = outcomes(0.6, N)
    store = stored(tmp_path / "store", [at(0, bits)])
    write(tmp_path, [at(1, bits), at(2, bits)])
    reader = RunReader(tmp_path)
    one = list(reader.of(tmp_path / "results" / "runs" / "box" / f"{commit(2)}.json"))
    runs = [*reader.of(store.root), *reader.of(tmp_path / "results"), *one]
    t = build(runs, tmp_path)
    # The file that the folder also holds counts once.
    assert (len(t.places), t.measurements, reader.notes) == (3, 3, [])
    with pytest.raises(UsageError, match="no run file, store or folder"):
        list(reader.of(tmp_path / "none"))
