"""What is measured in a repository of one's own is filed under its commits, and the harness stands beside them."""

import importlib.metadata
import subprocess
from types import SimpleNamespace

import pytest
import torch

from bench.cli import main
from bench.schedule.measuring import Measuring
from bench.store import history, provenance
from tests.report.fabricate import outcomes, result
from tests.report.test_compare import flipped

CACHED = ("_source", "own_repository", "harness", "_is_checkout", "_measured_by")


def git(folder, *words):
    env = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    env |= {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


def checkout(folder, text="1"):
    """A repository of one commit, with a table; its commit."""
    folder.mkdir(exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    (folder / "table.toml").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def forget():
    """Forget what was asked of git, as a new process has."""

    def clear():
        for name in CACHED:
            getattr(provenance, name).cache_clear()

    yield clear
    clear()


@pytest.fixture
def places(tmp_path, monkeypatch, forget):
    """A checkout of the harness and a repository of one's own, as folders with their commits; the harness is there."""
    harness, own = tmp_path / "harness", tmp_path / "own"
    commits = checkout(harness, "harness"), checkout(own, "own")
    monkeypatch.setattr(provenance, "_ROOT", harness)
    monkeypatch.chdir(own)
    forget()
    return SimpleNamespace(harness=harness, own=own, of_harness=commits[0], of_own=commits[1])


def made():
    return provenance.provenance(torch.device("cpu"))


def test_the_commit_is_that_of_ones_own_repository_and_the_harness_stands_beside_it(places, monkeypatch, forget):
    assert provenance.source() == (places.of_own, False)
    assert (made().commit, made().dirty, made().harness) == (places.of_own, False, places.of_harness)
    # Deeper down it is the same.
    (places.own / "deep").mkdir()
    monkeypatch.chdir(places.own / "deep")
    assert provenance.source() == (places.of_own, False)
    # In the checkout of the harness nothing needs to stand beside the commit.
    monkeypatch.chdir(places.harness)
    assert (made().commit, made().harness) == (places.of_harness, "")


def test_edits_on_either_side_count(places, forget):
    (places.own / "table.toml").write_text("edited")
    assert provenance.source() == (places.of_own, True)
    git(places.own, "checkout", "-q", ".")
    (places.harness / "table.toml").write_text("edited")
    forget()
    assert provenance.source() == (places.of_own, True)
    assert made().harness == f"{places.of_harness} and edits"


def test_a_worktree_of_the_harness_is_no_repository_of_ones_own(places, monkeypatch):
    git(places.harness, "worktree", "add", "-q", "-b", "other", str(places.own.parent / "tree"))
    monkeypatch.chdir(places.own.parent / "tree")
    assert provenance.source() == (places.of_harness, False)


def test_without_a_commit_or_a_repository_none_of_ones_own_is_said(places, monkeypatch, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    monkeypatch.chdir(empty)
    # It is not the harness that is measured here.
    assert provenance.source() == (None, False)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    monkeypatch.chdir(nowhere)
    assert provenance.source() == (places.of_harness, False)


def test_an_installed_harness_is_named_by_its_version(places, monkeypatch, tmp_path, forget):
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path / "site-packages")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"crossfire-bench": "1.2.3"}.get(name, "0"))
    forget()
    assert (made().commit, made().harness) == (places.of_own, "1.2.3")


def test_a_record_without_a_harness_is_as_before_and_one_with_it_reads_back():
    plain = result(clean=[True], adversarial=[True])
    named = plain.model_copy(update={"provenance": plain.provenance.model_copy(update={"harness": "1.2.3"})})
    texts = [history.serialise([each]) for each in (plain, named)]
    assert ["harness" in text for text in texts] == [False, True]
    assert [history.parse(text.encode(), "file").results for text in texts] == [[plain], [named]]


def test_runs_recorded_on_two_commits_are_two_files_that_history_and_compare_read(places, capsys, monkeypatch, forget):
    high = outcomes(0.6, 1000)
    commits = [places.of_own, checkout(places.own, "two")]
    monkeypatch.chdir(places.own)
    for commit, bits in zip(commits, (high, flipped(high, 45, 5)), strict=True):
        git(places.own, "checkout", "-q", commit)
        forget()
        cell = result(clean=[True] * 1000, adversarial=bits, commit=commit, finished="2026-11-22T10:00:00+00:00")
        file = history.write_run([cell], history.root_of_runs(places.own))
        assert file.name == f"{commit}.json"
    assert main(["history"]) == 0
    assert "2 commits, 1 line: 1 real change" in capsys.readouterr().out
    assert main(["compare", commits[0], commits[1]]) == 1
    assert "60.00 % -> 56.00 %" in capsys.readouterr().out
    # From a folder below, they lie where they are read.
    deep = places.own / "deep"
    deep.mkdir()
    assert history.root_of_runs(deep) == places.own


def test_what_is_measured_again_is_not_replaced_in_silence(places, caplog):
    cells = [result(name, clean=[True], adversarial=[True], recipe=name) for name in "abc"]
    later = {"finished": "2026-11-29T10:00:00+00:00"}
    again = [r.model_copy(update={"provenance": r.provenance.model_copy(update=later)}) for r in cells[1:]]
    history.write_run(cells, places.own)
    history.write_run(cells, places.own)
    assert caplog.messages == []
    file = history.write_run(again, places.own)
    assert caplog.messages == [f"{file} had other results of 2 cells, measured 2026-11-22: they are replaced"]
    assert len(history.read_run(file).results) == 3


def test_sources_in_no_commit_are_named_when_a_run_is_recorded(places, caplog):
    (places.own / "nets.py").write_text("")
    history.write_run([result(clean=[True], adversarial=[True])], places.own)
    said = f"recorded as of commit {places.of_own[:10]}, in which these files are not: 'nets.py'"
    assert caplog.messages == [said]


def test_why_a_clean_repository_is_recorded_with_uncommitted_changes_is_said(places, caplog, forget):
    (places.harness / "table.toml").write_text("edited")
    forget()
    file = history.write_run([result(clean=[True], adversarial=[True])], places.own)
    assert file.name == f"{places.of_own}-dirty.json"
    assert ["the checkout of Crossfire has some" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("by", "own", "expected"),
    [("", "of a fork", True), ("1.2.3", "of a fork", False), ("1.2.3", None, True)],
)
def test_bisect_takes_the_result_of_another_harness_for_none_of_the_commit(by, own, expected):
    of = result(clean=[True], adversarial=[True])
    measured = SimpleNamespace(
        commit="b" * 40, result=of.model_copy(update={"provenance": of.provenance.model_copy(update={"harness": by})})
    )
    measuring = SimpleNamespace(harness=lambda _: own, _version=lambda _: own, _is_known=lambda _: True)
    assert Measuring.is_of_its_version(measuring, measured) is expected
