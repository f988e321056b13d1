"""What must not be read as one line over time: another machine or protocol between, and unrelated branches."""

import csv
import io
import json
import random
import re

import pytest

from bench.report.timeline.build import build
from bench.report.timeline.page import render
from bench.report.timeline.render import FORMATS
from bench.store.runs import Run
from tests.report.fabricate import outcomes
from tests.report.test_compare import flipped
from tests.report.test_timeline import N, at, commit, committed, day, git, only_line, repository, timeline, verdicts

__all__ = ["repository"]

HIGH = outcomes(0.6, N)
LOW = flipped(HIGH, 45, 5)
OTHER = outcomes(0.3, N, seed=3)


def small_lines(t):
    """The small lines of the text, with what stands behind each."""
    found = re.findall(r"^([▁▂▃▄▅▆▇█│ ]+?) +(\d+\.\d\d %)  (.+)$", FORMATS["text"](t), re.MULTILINE)
    return [(picture.rstrip(), now, about) for picture, now, about in found]


def test_a_machine_that_takes_over_for_a_while_has_a_small_line_of_its_own(tmp_path):
    lab = range(3, 6)
    t = timeline([at(i, OTHER, machine="lab") if i in lab else at(i, HIGH) for i in range(9)], tmp_path)
    first, second = small_lines(t)
    assert first[:2] == ("███   ███", "60.00 %")
    assert first[2].endswith(", on box")
    assert second == ("   ▁▁▁", "30.00 %", f"beside it from {commit(3)[:10]}: other machine: lab, cpu: Xeon")
    # No bar is drawn, and none is explained.
    assert "│" not in FORMATS["text"](t)


@pytest.mark.parametrize("other", [{"machine": "lab"}, {"version": 1}, {"rows": "others"}])
def test_a_bar_in_the_small_line_stands_between_what_is_not_compared_and_hides_nothing(tmp_path, other):
    t = timeline([at(i, HIGH) if i < 3 else at(i, OTHER, **other) for i in range(4)], tmp_path)
    assert [each[:2] for each in small_lines(t)] == [("███│▁", "30.00 %")]
    text = FORMATS["text"](t)
    assert "│ in a small line is a break" in text
    assert f"│ from {commit(3)[:10]}" in text


def test_no_small_line_runs_from_one_machine_to_another(tmp_path):
    """Each machine has an accuracy of its own, so neighbours without a bar must be equal letters."""
    rng = random.Random(5)
    bits = {"a": outcomes(0.2, N), "b": outcomes(0.5, N), "c": outcomes(0.9, N)}
    for commits in (9, 40, 130):
        who = [rng.choice("abc") for _ in range(commits)]
        who[:3] = "abc"
        if commits > 100:
            who = ["abc"[i // 45] for i in range(commits)]
        lines = small_lines(timeline([at(i, bits[name], machine=name) for i, name in enumerate(who)], tmp_path))
        assert {letter for picture, _, _ in lines for letter in picture} - {" ", "│"} == set("▁▄█")
        for picture, _, _ in lines:
            assert all(len(set(part) - {" "}) == 1 for part in picture.split("│"))


def test_unrelated_branches_are_parted_by_a_bar_and_those_of_one_fork_too(repository):
    root = committed(repository, "root", 0)
    git(repository, "checkout", "-q", "-b", "side")
    side = [committed(repository, f"side {i}", i) for i in (1, 2)]
    git(repository, "checkout", "-q", "main")
    main = [committed(repository, f"main {i}", i) for i in (3, 4)]
    results = [at(i, HIGH, commit=name) for i, name in enumerate(side)]
    results += [at(9 + i, LOW, commit=name) for i, name in enumerate(main)]
    line = only_line(results, repository)
    # The fork has no result: nothing that main was built on was measured.
    assert verdicts(line) == ["first", "no change", "first", "no change"]
    assert [told.follows for _, told in line.points] == [None, 0, None, 2]
    t = timeline(results, repository)
    assert small_lines(t)[0][0] == "██│▁▁"
    assert "no commit that it was built on has a result here: compared with none" in FORMATS["csv"](t)
    with_fork = timeline([at(0, HIGH, commit=root), *results], repository)
    assert [told.judged.verdict for _, _, told in with_fork.points].count("worse") == 1
    assert small_lines(with_fork)[0][0] == "███│▁▁"


@pytest.mark.parametrize("seed", range(4))
def test_only_an_ancestor_is_ever_compared_with_says_git(repository, seed):
    rng = random.Random(seed)
    tree = git(repository, "write-tree")
    names = []
    for i in range(24):
        parents = rng.sample(names[-6:], min(len(names[-6:]), rng.choice([0, 1, 1, 1, 2])))
        options = [word for name in parents for word in ("-p", name)]
        names.append(git(repository, "commit-tree", tree, "-m", f"change {i}", *options))
    measured = rng.sample(names, 14)
    bits = [HIGH, LOW, OTHER]
    line = only_line([at(i, rng.choice(bits), commit=name) for i, name in enumerate(measured)], repository)
    is_ancestor = {}
    for new in measured:
        ancestors = git(repository, "rev-list", new).split()[1:]
        is_ancestor |= {(old, new): old in ancestors for old in measured}
    for lane, told in line.points:
        name = told.place.origin.commit
        if told.judged.test is not None:
            assert is_ancestor[lane.points[told.judged.test.against].place.origin.commit, name]
        # What has a measured ancestor is compared, and what has none is the first of its own.
        assert (told.follows is not None) == any(is_ancestor[old, name] for old in measured)
    assert sum(told.judged.test is not None for _, told in line.points) >= 3


def test_a_known_commit_still_follows_unknown_ones_by_time(repository):
    known = committed(repository, "the only one of a shallow clone", 0)
    line = only_line([at(0, HIGH), at(1, HIGH), at(2, LOW, commit=known)], repository)
    assert verdicts(line) == ["first", "no change", "worse"]


def test_a_changed_parameter_is_said_against_what_the_commit_was_built_on(repository):
    root = committed(repository, "root", 0)
    git(repository, "checkout", "-q", "-b", "side")
    side = committed(repository, "side", 1)
    git(repository, "checkout", "-q", "main")
    main = committed(repository, "main", 2)
    steps = {root: 20, side: 40, main: 20}
    results = [
        at(i, HIGH, commit=name, attack_params={"steps": count}) for i, (name, count) in enumerate(steps.items())
    ]
    told = {told.place.origin.commit: told.remarks for _, told in only_line(results, repository).points}
    assert told == {root: (), side: ("pgd: steps 20 -> 40",), main: ()}


def test_a_change_names_its_machine_where_there_are_several(tmp_path):
    runs = [at(i, HIGH if i < 3 else LOW, machine="lab") for i in range(5)]
    alone = timeline(runs, tmp_path)
    assert " on lab" not in FORMATS["text"](alone)
    t = timeline([*runs, *(at(i, OTHER, machine="box") for i in range(5))], tmp_path)
    said = "60.00 % -> 56.00 % (-4.00) on lab, 45 lost and 5 gained"
    assert said in FORMATS["text"](t)
    assert "(-4.00) on lab, 45 lost and 5 gained" in FORMATS["md"](t)
    page = render(t).replace("\N{NO-BREAK SPACE}", " ").replace("→", "->")
    # In the list of changes, at its line and at its mark.
    assert page.count(said) >= 3
    devices = [*runs, *(at(i, OTHER, machine="lab", device="cuda: H200") for i in range(5))]
    assert "(-4.00) on cpu: Xeon, 45 lost" in FORMATS["text"](timeline(devices, tmp_path))
    both = [*devices, *(at(i, OTHER, machine="box") for i in range(5))]
    text = FORMATS["text"](timeline(both, tmp_path))
    assert "(-4.00) on lab (cpu: Xeon), 45 lost" in text
    assert "box (cpu" not in text


def test_a_failure_and_a_cost_that_changed_name_their_machine(tmp_path):
    both = [at(i, HIGH, machine=name, forwards=20.0) for i in range(2) for name in ("box", "lab")]
    failed = at(2, HIGH, machine="lab", status="failed")
    costly = at(2, HIGH, machine="box", forwards=40.0)
    text = FORMATS["text"](timeline([*both, failed, costly], tmp_path))
    assert "fails on lab: " in text
    assert "forward passes per image 20 -> 40, backward passes per image 20 -> 40" in text
    assert re.search(r"FLOPs per image 60 M -> 120 M on box$", text, re.MULTILINE)


def lines_of(page):
    """For each lane of the first picture its class, and how often its line begins anew."""
    return [
        (look, path.count("M"))
        for look, path in re.findall(
            r'<g class="(c\d)"><path class="band" d="[^"]*"/><path class="line" d="([^"]*)"', page
        )
    ]


def test_on_the_page_no_line_is_drawn_past_the_result_of_another_machine_or_protocol(tmp_path):
    for other in ({"machine": "lab"}, {"version": 1}):
        runs = [at(i, OTHER, **other) if i in (3, 4) else at(i, HIGH) for i in range(9)]
        assert lines_of(render(timeline(runs, tmp_path))) == [("c0", 2), ("c1", 1)]
    # Where both measured every commit, nothing stands between.
    both = [at(i, bits, machine=name) for i in range(5) for name, bits in (("box", HIGH), ("lab", OTHER))]
    assert lines_of(render(timeline(both, tmp_path))) == [("c0", 1), ("c1", 1)]


def legend(page):
    return re.findall(r'<i class="key (c\d)"></i>([^<]*)</span>', page)


def test_no_two_entries_of_a_legend_look_alike(tmp_path):
    machines = [at(i, HIGH, machine=f"m{i // 2}") for i in range(24)]
    entries = legend(render(timeline(machines, tmp_path)))
    assert len(entries) == 9
    assert entries[-1] == ("c8", "and 4 more")
    assert len({look for look, _ in entries}) == len({label for _, label in entries}) == 9
    # What has the same machine and protocol is told by the commit at which it begins, and by why.
    images = [at(i, HIGH, rows=f"list {i // 2}") for i in range(6)]
    labels = [label for _, label in legend(render(timeline(images, tmp_path)))]
    assert len(set(labels)) == 3
    assert labels[1].startswith(f"from {commit(2)[:10]}: other example lists")


def recorded(names, versions):
    """The runs that --record writes of commits in their order, given for each the version of the code of each cell.

    A version that an earlier commit had is not measured again: its result is in the file of the later commit too.
    """
    kept = {}
    runs = []
    for i, (name, of_cells) in enumerate(zip(names, versions, strict=True)):
        for attack, version in of_cells.items():
            bits = [image >= 50 * version for image in range(N)]
            kept.setdefault((attack, version), at(i, bits, commit=name, attack=attack, code=str(version)))
        runs.append(Run(f"{name}.json", [kept[each] for each in of_cells.items()], name))
    return runs


def changes(t):
    """The marked changes, and against which commit, lost and gained."""
    return {
        (line.line.attack, told.place.origin.commit): (
            lane.points[told.judged.test.against].place.origin.commit,
            told.judged.test.lost,
            told.judged.test.gained,
        )
        for line in t.lines
        for lane, told in line.changes
    }


@pytest.mark.parametrize("seed", range(6))
def test_a_shallow_clone_marks_the_changes_of_the_whole_one(repository, tmp_path, seed):
    """Of the known commits git says the order; where it knows fewer, or none, nothing else may come out."""
    rng = random.Random(seed)
    names = [committed(repository, f"change {i}", i) for i in range(10)]
    state, versions = {"fgsm": 0, "pgd": 0, "square": 0}, []
    for i in range(10):
        # Every commit changes one cell, so that each has a result of its own.
        state = state | {rng.choice(sorted(state)): i}
        versions.append(state)
    runs = recorded(names, versions)
    whole = build(runs, repository)
    assert len(changes(whole)) >= 8
    for depth in (1, 4):
        shallow = tmp_path / f"shallow-{depth}"
        git(tmp_path, "clone", "-q", "--depth", str(depth), f"file://{repository}", str(shallow))
        rng.shuffle(runs)
        t = build(runs, shallow)
        assert [place.origin.commit for place in t.places] == names
        assert changes(t) == changes(whole)
    assert changes(build(runs, tmp_path)) == changes(whole)


@pytest.mark.parametrize("seed", range(6))
def test_among_unknown_commits_none_is_compared_with_a_later_one(tmp_path, seed):
    """Some change nothing, and some go back to old code, so that all their results are of other commits."""
    rng = random.Random(seed)
    names = rng.sample([commit(i) for i in range(100, 200)], 14)
    versions = [{"fgsm": rng.randrange(4), "pgd": rng.randrange(4)} for _ in names]
    t = build(recorded(names, versions), tmp_path)
    tested = 0
    for _, lane, told in t.points:
        if told.judged.test is not None:
            against = lane.points[told.judged.test.against].place.origin.commit
            assert names.index(against) < names.index(told.place.origin.commit)
            tested += 1
    assert tested >= len(names)


def test_a_commit_that_only_repeats_results_is_no_change_wherever_it_was(tmp_path):
    names = [commit(i) for i in (5, 9, 1, 3)]
    # The last but one goes back to the first; its hash would put it before all others.
    t = build(recorded(names, [{"pgd": 0}, {"pgd": 1}, {"pgd": 0}, {"pgd": 3}]), tmp_path)
    (line,) = t.lines
    told = {told.place.origin.commit: told for _, told in line.points}
    assert told[names[2]].judged.verdict == "same measurement"
    assert "nothing was measured at it" in told[names[2]].place.remark
    assert "nothing is compared with them later: 1 commit of these\n" in FORMATS["text"](t)
    assert {name for _, name in changes(t)} == {names[1], names[3]}
    assert changes(t)["pgd", names[3]] == (names[1], 100, 0)


def test_an_amended_commit_stands_beside_the_old_one_and_not_behind_later_ones(repository):
    amended, later = (committed(repository, subject, i) for i, subject in enumerate(("amended", "later")))
    runs = recorded([commit(0xF), amended, later], [{"pgd": 0}, {"pgd": 0}, {"pgd": 2}])
    t = build(runs, repository)
    assert [place.origin.commit for place in t.places] == [commit(0xF), amended, later]
    assert verdicts(t.lines[0]) == ["first", "same measurement", "worse"]
    assert small_lines(t)[0][0] == "██▁"


def test_of_commits_with_one_time_none_is_compared_with_another(tmp_path):
    runs = [at(0, HIGH), at(1, LOW), at(2, OTHER, finished=day(1)), at(3, HIGH)]
    for results in (runs, runs[::-1]):
        t = timeline(results, tmp_path)
        told = {told.place.origin.commit: (lane, told) for lane, told in t.lines[0].points}
        # Each is compared with the one that is surely before it, and of the two nobody knows which is before the next.
        against = [
            lane.points[each.follows].place.origin.commit if each.follows is not None else None
            for lane, each in (told[commit(i)] for i in range(4))
        ]
        assert against == [None, commit(0), commit(0), None]
        assert "which result came before it is not known: compared with none" in FORMATS["csv"](t)
        assert small_lines(t)[0][0].count("│") == 2


def test_commits_with_one_time_and_one_result_go_on_in_one_line(tmp_path):
    t = timeline([at(0, HIGH), at(1, LOW), at(2, LOW, finished=day(1)), at(3, OTHER)], tmp_path)
    assert verdicts(t.lines[0]) == ["first", "worse", "no change", "worse"]


def test_what_only_selects_cells_moves_no_commit(tmp_path):
    runs = recorded([commit(i) for i in (7, 2, 5)], [{"fgsm": 0, "pgd": i} for i in range(3)])
    t = build(runs, tmp_path, only="*/fgsm/*")
    assert [place.origin.commit for place in t.places] == [commit(i) for i in (7, 2, 5)]
    assert verdicts(t.lines[0]) == ["first", "same measurement", "same measurement"]
    assert not any(place.only_repeats for place in t.places)


def plain(page):
    """The text of a page as it is read, without its scripts."""
    body = page.partition("<main>")[2].partition("<script")[0].replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body)).replace("→", "->")


def test_every_point_lane_and_change_names_the_budget_it_was_measured_with(tmp_path):
    budgets = ["16/255", "16/255", "16/255", "4/255", "4/255", "8/255"]
    results = [at(i, LOW if i == 1 else HIGH, eps=eps) for i, eps in enumerate(budgets)]
    t = timeline(results, tmp_path)
    name = "digits/small-cnn/standard/pgd/white-box"
    of_commit = {commit(i): f"L∞ ε={eps}" for i, eps in enumerate(budgets)}
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](t))))
    assert {row["commit"]: row["threat"] for row in rows} == of_commit
    assert all(row["line"] == f"{name} {row['threat']}" for row in rows)
    (line,) = json.loads(FORMATS["json"](t))["lines"]
    assert line["threat"] == "L∞ ε=8/255"
    for lane in line["lanes"]:
        assert {of_commit[point["commit"]] for point in lane["points"]} == {lane["threat"]}
        assert lane["line"] == f"{name} {lane['threat']}"
    text = FORMATS["text"](t)
    assert f"    - {name} L∞ ε=16/255\n        60.00 % -> 56.00 %" in text
    # The small line is called by what its last number was measured with.
    assert small_lines(t)[0][1:] == ("60.00 %", f"{name} L∞ ε=8/255")
    markdown = FORMATS["md"](t)
    assert f"- {name} L∞ ε=16/255: 60.00 % -&gt; 56.00 %" in markdown
    of_rows = re.findall(rf"^\| {name} (\S+ \S+) \| (\w+)", markdown, re.MULTILINE)
    assert of_rows == [(threat, label[:10]) for label, threat in of_commit.items()]
    page = render(t)
    said = plain(page)
    assert f"{name} L∞ ε=16/255 60.00 % -> 56.00 %" in said
    assert f"{commit(1)[:10]} 2026-01-02: under L∞ ε=16/255, 60.00 % -> 56.00 %" in said
    assert "under L∞ ε=8/255" not in said
    assert [label for _, label in legend(page)] == ["L∞ ε=16/255", "L∞ ε=4/255", "L∞ ε=8/255"]
    read = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["lines"][0]
    assert [(lane["about"].partition(",")[0], lane["at"]) for lane in read] == [
        ("L∞ ε=16/255", [0, 1, 2]),
        ("L∞ ε=4/255", [3, 4]),
        ("L∞ ε=8/255", [5]),
    ]


def test_no_lane_of_another_line_has_the_same_name(tmp_path):
    # Two lists of images at one commit are two lines of one name; one of them had another budget before.
    results = [at(0, HIGH, eps="4/255", rows="others"), at(1, HIGH, rows="others"), at(1, HIGH), at(2, HIGH)]
    results += [at(3, HIGH, eps="4/255"), at(3, HIGH, eps="4/255", rows="others")]
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](timeline(results, tmp_path)))))
    lines = {}
    for row in rows:
        lines.setdefault(row["line"], set()).add((row["threat"], row["lane"]))
    assert len(rows) == 6
    assert all(len({threat for threat, _ in lanes}) == 1 for lanes in lines.values())
    at_3 = [row["line"] for row in rows if row["commit"] == commit(3)]
    assert len(set(at_3)) == 2


def test_uncommitted_changes_have_no_subject_and_leave_no_colon_or_point_alone(repository):
    name = committed(repository, "a subject", 0)
    page = plain(render(timeline([at(0, HIGH, commit=name), at(1, LOW, commit=name, dirty=True)], repository)))
    assert f"{name[:10]} + uncommitted changes 2026-06-01: 60.00 % -> 56.00 %" in page
    alone = plain(render(timeline([at(1, LOW, commit=name, dirty=True)], repository)))
    assert f"All of it is of {name[:10]} + uncommitted changes (2026-06-01). " in alone
    for text in (page, alone):
        assert not re.search(r" [:.;,](\s|$)", text)
    other = committed(repository, "a change", 1)
    page = plain(render(timeline([at(0, HIGH, commit=name), at(1, LOW, commit=other)], repository)))
    assert f"{other[:10]} 2026-06-02 a change: 60.00 % -> 56.00 %" in page
