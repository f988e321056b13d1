import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.keys import canonical_json, sha256_hex
from bench.report.leaderboard.tables import WORST_LABEL, build
from bench.report.render import html
from bench.report.render.export import as_json, comma_separated
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.store import history as record
from bench.store.reading import read_result
from bench.types import PlannedCell, UsageError, jsonable
from tests.report.fabricate import result, stored, story

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with two commits, as (folder, git, shas of the commits)."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "t")
        monkeypatch.setenv(f"{name}_EMAIL", "t@example.org")

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    for name in "ab":
        (tmp_path / name).write_text(name)
        git("add", name)
        git("commit", "-q", "-m", name)
    return tmp_path, git, [git("rev-parse", "HEAD~1"), git("rev-parse", "HEAD")]


def test_a_run_file_is_named_sorted_and_reads_back(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "source", lambda: ("b" * 40, False))
    monkeypatch.setattr(record.platform, "node", lambda: "my box/1")
    path = record.write_run(reversed(story(50)), tmp_path)
    assert path == tmp_path / "results" / "runs" / "my-box-1" / f"{'b' * 40}.json"
    head, *lines = path.read_text().splitlines()
    assert json.loads(head)["schema"] == 1
    names = [json.loads(line)["names"] for line in lines]
    assert len(lines) == len(story(50))
    assert names == sorted(
        names, key=lambda n: "/".join((n["dataset"], n["model"], n["defense"], n["attack"], n["access"]))
    )
    assert {r.key: r for r in record.read(path).results} == {r.key: r for r in story(50)}


def test_recording_adds_to_a_file_and_is_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "source", lambda: ("b" * 40, True))
    cells = story(50)
    path = record.write_run(cells, tmp_path)
    assert path.name.endswith("-dirty.json")
    data = path.read_bytes()
    path.unlink()
    record.write_run(cells[:5], tmp_path)
    assert record.write_run(cells[3:], tmp_path).read_bytes() == data


def test_a_file_of_schema_1_stays_readable():
    stored = record.read(FIXTURES / "run-schema-1.json").results
    assert [str(r.names) for r in stored] == [
        "digits/small-cnn/standard/clean/white-box",
        "digits/small-cnn/standard/pgd/white-box",
    ]
    assert stored[1].metrics.robust_accuracy == 0.5


def old(new, **more):
    """Return the line of a result as it was written before there was an accuracy under attack."""
    body = jsonable(new)
    del body["metrics"]["accuracy_under_attack"]
    body["metrics"] |= {"ci_low": 0.25, "ci_high": 0.75}
    body |= more
    return canonical_json({**body, "sha256": sha256_hex(canonical_json(body))})


def test_of_an_older_result_accuracy_under_attack_follows_from_its_outcomes(tmp_path):
    lucky = result(clean=[False, True, True, True, False], adversarial=[True, True, False, True, True])
    clean = result(attack=None, clean=[False, True, True, True, False])
    (tmp_path / "old.json").write_text("\n".join(['{"format":"crossfire-run","schema":1}', old(lucky), old(clean)]))
    attacked, unattacked = (each.metrics for each in record.read(tmp_path / "old.json").results)
    assert (attacked.accuracy_under_attack, attacked.robust_accuracy) == (0.8, 0.4)
    # Wilson's interval of 4 of 5.
    assert (attacked.ci_low, attacked.ci_high) == pytest.approx((0.3755, 0.9638), abs=1e-4)
    assert unattacked.accuracy_under_attack == unattacked.clean_accuracy == 0.6
    planned = PlannedCell(key=lucky.key, names=lucky.names, cell=lucky.cell)
    assert read_result(old(lucky), planned).metrics == attacked


def test_where_outcomes_were_not_kept_nothing_is_guessed(tmp_path):
    lucky = result(clean=[True] * 4, adversarial=[True, True, False, False])
    first = result(attack="fgsm", clean=[True] * 4, adversarial=[True, False, True, True])
    lines = [old(lucky, adversarial_bits=None), old(first)]
    (tmp_path / "old.json").write_text("\n".join(['{"format":"crossfire-run","schema":1}', *lines]))
    stored = record.read(tmp_path / "old.json").results
    assert (stored[0].metrics.accuracy_under_attack, stored[0].metrics.ci_low, stored[0].metrics.ci_high) == (None,) * 3
    assert stored[0].metrics.robust_accuracy == 0.5
    board = build(stored)
    (line,) = board.tables[0].rows
    (pgd, worst) = (line.values[c.id] for c in board.tables[0].columns if c.label in ("pgd", WORST_LABEL))
    assert (pgd.number, pgd.footnotes) == (None, ("only robust accuracy was kept",))
    assert (worst.number, worst.footnotes) == (0.75, ("without 1 whose outcomes were not kept",))
    assert "| 75.0 | –<sup>a</sup> | 75.0<sup>b</sup> |" in markdown(board)
    for form in (latex, comma_separated, as_json, html.render):
        assert form(board)


def test_outcomes_of_another_number_of_images_are_refused(tmp_path):
    line = old(result(clean=[True] * 4), adversarial_bits="AAAA")
    (tmp_path / "old.json").write_text('{"format":"crossfire-run","schema":1}\n' + line + "\n")
    with pytest.raises(UsageError, match="line 2: 3 bytes cannot hold exactly 4 outcomes"):
        record.read(tmp_path / "old.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no run file"),
        ("[]", "is no run file"),
        ('{"cells": []}\n', "is no run file"),
        ("\x00\x01", "is no run file"),
        ('{"format":"crossfire-run","schema":2}\n', "has schema 2, this version reads up to 1"),
        ('{"format":"crossfire-run","schema":1}\n', "holds no results"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        record.read(tmp_path / "file.json")
    assert "\n" not in str(error.value)


def test_half_a_file_is_refused_with_its_line(tmp_path):
    text = record.serialise(story(50))
    (tmp_path / "half.json").write_text(text[: len(text) // 2])
    with pytest.raises(UsageError, match=r"half.json, line \d+: "):
        record.read(tmp_path / "half.json")


def test_an_edited_number_is_refused(tmp_path):
    text = record.serialise(story(50))
    (tmp_path / "edited.json").write_text(text.replace('"robust_accuracy":0.84', '"robust_accuracy":0.99'))
    with pytest.raises(UsageError, match="line .*altered"):
        record.read(tmp_path / "edited.json")


def test_a_result_of_a_newer_schema_is_refused(tmp_path):
    body = {**jsonable(result(clean=[True])), "schema": 7}
    line = canonical_json({**body, "sha256": sha256_hex(canonical_json(body))})
    (tmp_path / "new.json").write_text('{"format":"crossfire-run","schema":1}\n' + line + "\n")
    with pytest.raises(UsageError, match="line 2: schema 7"):
        record.read(tmp_path / "new.json")


def test_a_commit_finds_its_results_in_a_later_commit_and_in_the_working_tree(repository):
    folder, git, (first, second) = repository
    runs = folder / "results" / "runs" / "box"
    runs.mkdir(parents=True)
    (runs / f"{first}.json").write_text(record.serialise([result(clean=[True] * 4)]))
    git("add", "results")
    git("commit", "-q", "-m", "results of the first")
    git("rm", "-q", "--cached", str(runs / f"{first}.json"))
    (runs / f"{second}.json").write_text(record.serialise(story(50)))
    (runs / f"{first}.json").unlink()
    assert len(record.read("HEAD~2", repository=folder).results) == 1
    assert len(record.read(first[:12], repository=folder).results) == 1
    assert len(record.read("HEAD~1", repository=folder).results) == len(story(50))
    (runs / f"{second}.json").unlink()
    (folder / "b").write_text("other code")
    git("commit", "-q", "-a", "-m", "other code")
    with pytest.raises(UsageError, match="has no results in results/runs; record some with run --record"):
        record.read("HEAD", repository=folder)


def test_results_with_uncommitted_changes_never_pass_for_the_commit(repository):
    folder, _, (_, second) = repository
    runs = folder / "results" / "runs" / "box"
    runs.mkdir(parents=True)
    (runs / f"{second}-dirty.json").write_text(record.serialise([result(clean=[True] * 4)]))
    with pytest.raises(UsageError, match="only has results with uncommitted changes"):
        record.read("HEAD", repository=folder)


class History:
    """A repository whose code and results are committed one after the other, as the handbook says."""

    def __init__(self, folder, git):
        self.folder, self.git = folder, git
        self.runs = folder / "results" / "runs" / "box"
        self.runs.mkdir(parents=True)

    def commit(self, name, text="more"):
        """Commit a file; return the commit."""
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)
        self.git("add", name)
        self.git("commit", "-q", "-m", f"change {name}")
        return self.git("rev-parse", "HEAD")

    def record(self, *results, message="Results"):
        """Do what ``run --record`` does, and commit it; return the commit of the results."""
        commit = self.git("rev-parse", "HEAD")
        (self.runs / f"{commit}.json").write_text(record.serialise(results))
        self.git("add", "results/runs")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def shares(self, base, head):
        """Return the accuracies of the two sides, and the notes."""
        sides = record.read_both(base, head, repository=self.folder)
        return [side.results[0].metrics.robust_accuracy for side in sides], [*sides[0].notes, *sides[1].notes]


def share(right):
    return result(clean=[True] * 4, adversarial=[i < right for i in range(4)])


@pytest.fixture
def history(repository):
    """Commits from old to new: code (1 of 4 right), its results, other code (2 of 4), its results."""
    folder, git, _ = repository
    recorded = History(folder, git)
    recorded.code = recorded.commit("code.py", "a")
    recorded.record(share(1))
    recorded.other = recorded.commit("code.py", "b")
    recorded.record(share(2))
    return recorded


def test_results_committed_by_themselves_belong_to_the_code_before_them(history):
    shares, notes = history.shares("HEAD~2", "HEAD")
    assert shares == [0.25, 0.5]
    head = history.git("rev-parse", "HEAD")
    assert (
        notes[1] == f"HEAD ({head[:10]}) has no results of its own; those of {history.other[:10]} are of the same code"
    )
    assert history.shares("HEAD~3", "HEAD~1") == ([0.25, 0.5], [])
    assert record.read("HEAD", repository=history.folder).commit == history.other


def test_the_three_lines_of_the_handbook_compare_with_the_run_before(history):
    shares, notes = history.shares("HEAD~1", "HEAD")
    assert shares == [0.25, 0.5]
    assert notes[0] == (
        f"'HEAD~1' and 'HEAD' mean one and the same run, that of commit {history.other[:10]}; it is compared with the "
        f"last run before it, that of commit {history.code[:10]}"
    )


def test_results_in_the_working_tree_compare_with_those_committed_before(history):
    commit = history.commit("code.py", "c")
    (history.runs / f"{commit}.json").write_text(record.serialise([share(3)]))
    assert history.shares("HEAD~1", "HEAD")[0] == [0.5, 0.75]


def test_documents_are_no_code(history):
    history.commit("docs/page.html")
    history.commit("NOTES.md")
    assert history.shares("HEAD~4", "HEAD")[0] == [0.25, 0.5]
    with pytest.raises(UsageError, match="'HEAD~1' and 'HEAD' mean one and the same run, .*: nothing to compare"):
        history.shares("HEAD~1", "HEAD")


def test_code_that_was_taken_back_has_the_results_it_had(history):
    history.commit("code.py", "a")
    assert history.shares("HEAD~1", "HEAD")[0] == [0.5, 0.25]


def test_what_was_recorded_later_for_the_same_code_is_added(history):
    head = history.record(result(attack="fgsm", clean=[True] * 4))
    for name in (head, "HEAD~1"):
        run = record.read(name, repository=history.folder)
        assert {r.names.attack for r in run.results} == {"pgd", "fgsm"}
    assert {r.names.attack for r in record.read(history.other, repository=history.folder).results} == {"pgd"}
    assert run.notes[0].endswith(f" has results; those of {history.other[:10]} are of the same code")


def test_code_that_was_never_recorded_has_no_results(history):
    history.commit("code.py", "c")
    with pytest.raises(UsageError, match="has no results in results/runs"):
        history.shares("HEAD~1", "HEAD")


def test_a_commit_is_not_compared_with_itself(history):
    for base, head in (("HEAD", "HEAD"), ("HEAD", "HEAD~1"), (history.other, "HEAD~1")):
        with pytest.raises(UsageError, match="mean one and the same run.*: nothing to compare"):
            history.shares(base, head)


def test_the_first_run_has_none_before_it(history):
    history.git("reset", "-q", "--hard", "HEAD~2")
    with pytest.raises(UsageError, match="no commit before it has results of other code"):
        history.shares("HEAD~1", "HEAD")


def test_a_dirty_run_is_nobodys_whatever_lies_beside_it(history):
    commit = history.commit("code.py", "c")
    (history.runs / f"{commit}-dirty.json").write_text(record.serialise([share(3)]))
    with pytest.raises(UsageError, match="only has results with uncommitted changes"):
        history.shares("HEAD~1", "HEAD")
    # A run of edited code on top of recorded results leaves these as they were.
    history.git("reset", "-q", "--hard", "HEAD~1")
    head = history.git("rev-parse", "HEAD")
    (history.runs / f"{head}-dirty.json").write_text(record.serialise([share(3)]))
    assert history.shares("HEAD~2", "HEAD")[0] == [0.25, 0.5]


def test_what_is_nothing_is_one_clear_line(repository):
    folder, *_ = repository
    with pytest.raises(UsageError, match="'no-such' is no commit, run file or store here"):
        record.read("no-such", repository=folder)
    with pytest.raises(UsageError, match="no store at"):
        record.read(folder / "missing")


def test_a_store_reads_and_says_which_files_are_damaged(tmp_path):
    store = stored(tmp_path / "store", story(50))
    some = sorted((tmp_path / "store" / "cells").glob("*.json"))[3]
    some.write_text(some.read_text()[:100])
    run = record.read(store.root)
    assert len(run.results) == len(story(50)) - 1
    assert run.notes == (f"1 damaged result files in {store.root} are left out: {some.stem[:12]}",)
    for path in (tmp_path / "store" / "cells").glob("*.json"):
        path.unlink()
    with pytest.raises(UsageError, match="holds no results"):
        record.read(store.root)


def test_results_are_a_tidy_frame(tmp_path):
    stored(tmp_path / "store", story(50))
    frame = bench.load_results(tmp_path / "store")
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == len(story(50))
    assert frame["key"].is_unique
    attacked = frame[frame["attack"] != "clean"]
    table = attacked.pivot(index=["defense", "access"], columns="attack", values="robust_accuracy")
    assert table.loc[("pgd-at", "white-box"), "fgsm"] == 0.88
    assert str(frame["finished"].dt.tz) == "UTC"
    assert len(bench.load_results(story(50))) == len(frame)
