"""A commit in a folder of its own is removed whatever happens; the user's worktrees and hooks stay out of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.process.ending import Control, Stop
from bench.schedule.at_commit import CellAt, cells_at, command_in
from bench.store.worktree import commit_of, scratch, worktree
from bench.types import UsageError

ROOT = Path(__file__).parents[2]


class Repository:
    """A repository with two commits of one file, a hook that would leave a trace, and a worktree of its user."""

    def __init__(self, folder):
        self.path = folder / "repository"
        self.path.mkdir()
        self.git("init", "-q")
        for text in ("first", "second"):
            self.commit("file.txt", text)
        hook = self.path / ".git" / "hooks" / "post-checkout"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho >> '{folder}/hooked'\n")
        hook.chmod(0o755)
        self.git("-c", "core.hooksPath=/dev/null", "worktree", "add", "-q", "--detach", str(folder / "crossfire"))

    def git(self, *arguments):
        who = ["-c", "user.name=N", "-c", "user.email=e@example.org"]
        done = subprocess.run(["git", *who, *arguments], cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, name, text):
        (self.path / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)

    @property
    def worktrees(self):
        return self.git("worktree", "list", "--porcelain").count("worktree ")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def is_clean(repository):
    """Say whether nothing but the two worktrees of the user is left."""
    left = [each.name for each in (repository.path / ".git" / "crossfire").iterdir()]
    return repository.worktrees == 2 and left == ["lock"]


def test_a_commit_is_checked_out_and_removed(repository):
    (repository.path / "file.txt").write_text("changed")
    with worktree(repository.path, "HEAD~1") as tree:
        assert (tree.path / "file.txt").read_text() == "first"
        assert tree.commit == repository.git("rev-parse", "HEAD~1")
        (tree.path / "new").mkdir()
        (tree.path / "new" / "file").write_text("untracked")
    assert is_clean(repository)
    assert not (repository.path.parent / "hooked").exists()
    assert (repository.path / "file.txt").read_text() == "changed"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
def test_it_is_removed_after_any_exception(repository, error):
    with pytest.raises(error), worktree(repository.path, "HEAD"):
        raise error
    assert is_clean(repository)


def test_git_that_ctrl_c_ends_is_an_interrupt(repository, tmp_path, monkeypatch):
    """Both get the signal of a terminal, and git may be first."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    own = tmp_path / "bin" / "git"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\ncase "$*" in *"worktree add"*) kill -INT $$ ;; esac\nexec {real} "$@"\n')
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
    with pytest.raises(KeyboardInterrupt), worktree(repository.path, "HEAD"):
        pass
    assert is_clean(repository)


def test_it_is_removed_where_the_run_is_ended_by_a_signal(repository):
    def work():
        with worktree(repository.path, "HEAD"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    control = Control()
    assert control.watch(work) is None
    assert control.code == 143
    assert is_clean(repository)


def test_what_a_killed_process_left_is_removed_later_and_what_is_in_use_stays(repository):
    script = (
        "import sys, time; from pathlib import Path; from bench.store.worktree import worktree\n"
        "with worktree(Path(sys.argv[1]), 'HEAD') as tree: print(tree.path, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(repository.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        left = Path(process.stdout.readline().strip())
        with worktree(repository.path, "HEAD"):
            assert (left / "file.txt").exists()
        process.kill()
    assert (left / "file.txt").exists()
    # A folder that was half removed, and one that git never heard of.
    (left / ".git").unlink()
    (left.parent / ("0" * 16)).mkdir()
    with worktree(repository.path, "HEAD"):
        assert not left.exists()
    assert is_clean(repository)


def test_a_scratch_folder_of_a_killed_process_is_removed_later(repository):
    script = (
        "import sys, time; from pathlib import Path; from bench.store.worktree import scratch\n"
        "with scratch(Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(repository.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        left = Path(process.stdout.readline().strip())
        with scratch(repository.path) as other:
            assert left.is_dir() and other.is_dir() and other != left
        process.kill()
    assert left.is_dir() and not other.exists()
    with scratch(repository.path):
        assert not left.exists()
    assert is_clean(repository)


@pytest.mark.parametrize("name", ["-f", "--detach", "", "nothing", "a\0b", "HEAD..HEAD", "^HEAD"])
def test_what_is_no_commit_is_refused(repository, name):
    with pytest.raises(UsageError, match="no name of a commit|is no commit of"):
        commit_of(repository.path, name)


def test_a_folder_without_a_repository_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no repository"), worktree(tmp_path, "HEAD"):
        pass


def test_a_folder_with_a_harness_of_its_own_starts_that_one(tmp_path):
    assert command_in(tmp_path)[1] == str(ROOT / "run_bench.py")
    (tmp_path / "bench" / "cli").mkdir(parents=True)
    (tmp_path / "bench" / "cli" / "__init__.py").touch()
    (tmp_path / "run_bench.py").write_text("print('[]')")
    assert command_in(tmp_path)[1] == str(tmp_path / "run_bench.py")


HARNESS = """
import json, os, sys
if "broken" in sys.argv:
    sys.exit("error: no such\\x1b[31m table")
assert sys.argv[1:3] == ["plan", "my table.toml"] and "--json" in sys.argv and os.path.exists("here.txt")
print(json.dumps([{"kind": "train", "key": "a" * 64, "what": "train b"},
                  {"kind": "evaluate", "key": "c" * 64, "what": "evaluate d/e/f/g/h", "new": 1}]))
"""


@pytest.fixture
def harnessed(repository):
    (repository.path / "bench" / "cli").mkdir(parents=True)
    (repository.path / "inside").mkdir()
    for name, text in (("bench/cli/__init__.py", "#"), ("inside/here.txt", "x"), ("run_bench.py", HARNESS)):
        repository.commit(name, text)
    return repository


def test_cells_are_those_that_the_harness_of_the_commit_plans(harnessed, tmp_path, monkeypatch):
    # So does git where a hook starts the harness.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    with worktree(harnessed.path, "HEAD") as tree:
        assert cells_at(tree, ["my table.toml"], inside=Path("inside")) == [CellAt("c" * 64, "d/e/f/g/h")]


def test_a_commit_whose_harness_cannot_plan_says_why_in_one_line(harnessed):
    with worktree(harnessed.path, "HEAD") as tree, pytest.raises(UsageError) as caught:
        cells_at(tree, ["broken"])
    assert str(caught.value) == f"the commit {tree.commit[:10]} cannot plan it: no such\\x1b[31m table"
    with worktree(harnessed.path, "HEAD") as tree, pytest.raises(UsageError, match="has no folder 'outside'"):
        cells_at(tree, [], inside=Path("outside"))
