"""What `init leaderboard` writes, as a repository lives with it: its workflow's shell steps, run as a runner does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.cli import main
from bench.store.history import serialise
from tests.report.fabricate import story
from tests.report.test_receipts import folder, forged, receipt  # noqa: F401

ROOT = Path(__file__).parents[2]


def git(repository, *arguments):
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", *settings, *arguments]
    return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout


class Leaderboard:
    """A repository that `init leaderboard` made, on the branch main, and workspaces of its jobs."""

    def __init__(self, root):
        self.root, self.repository = root, root / "repository"
        self.repository.mkdir()
        assert main(["init", "leaderboard", str(self.repository)]) == 0
        git(self.repository, "init", "--quiet", "--initial-branch=main")
        self.commit()
        self.workflow = yaml.safe_load((self.repository / ".github/workflows/leaderboard.yml").read_text("utf-8"))
        (root / "bin").mkdir()
        harness = root / "bin" / "crossfire"
        harness.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/run_bench.py" "$@"\n', encoding="utf-8")
        harness.chmod(0o755)

    @property
    def submissions(self):
        return self.repository / "submissions"

    def commit(self):
        git(self.repository, "add", "--all")
        git(self.repository, "commit", "--quiet", "--message", "change")

    def pull_request(self, change):
        """Return the exit code and the log of the check of a branch that `change` makes; the branch stays unmerged."""
        git(self.repository, "checkout", "--quiet", "-B", "theirs", "main")
        change(self.submissions)
        self.commit()
        git(self.repository, "checkout", "--quiet", "-B", "merge", "main")
        git(self.repository, "merge", "--quiet", "--no-ff", "--no-edit", "theirs")
        code, log, _ = self.job("check")
        git(self.repository, "checkout", "--quiet", "main")
        return code, log

    def merge(self):
        git(self.repository, "merge", "--quiet", "--ff-only", "theirs")

    def job(self, name):
        """Run the shell steps of a job on what is checked out; return its exit code, its log and its workspace."""
        workspace = self.root / "workspace"
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        (depth,) = [
            step["with"]["fetch-depth"]
            for step in self.workflow["jobs"][name]["steps"]
            if "with" in step and "fetch-depth" in step["with"]
        ]
        # As the action takes it, 0 is all of the history.
        cut = ("--depth", str(depth)) if depth else ()
        git(workspace, "clone", "--quiet", *cut, f"file://{self.repository}", "leaderboard")
        environment = {
            **self.workflow["env"],
            **os.environ,
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        log = ""
        for step in self.workflow["jobs"][name]["steps"]:
            if "run" not in step or step["name"] == "Install Crossfire":
                continue
            # Nothing of a pull request is filled into a script.
            assert "${{" not in step["run"]
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
            log += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, log, workspace
        return 0, log, workspace


@pytest.fixture
def leaderboard(tmp_path):
    return Leaderboard(tmp_path)


def submission(name, who, *files):
    """Return what adds a submission: paths of receipts, or pairs of a receipt and how it is forged."""

    def change(submissions):
        (submissions / name).mkdir(exist_ok=True)
        (submissions / name / "submission.toml").write_text(f'who = "{who}"\n', encoding="utf-8")
        for index, file in enumerate(files):
            path, claims = file if isinstance(file, tuple) else (file, lambda body: None)
            forged(path, submissions / name / f"{len(list(submissions.glob(f'{name}/*')))}-{index}.receipt", claims)

    return change


def later(body):
    body["result"]["cost"]["seconds_per_example"] *= 1.5
    body["result"]["provenance"]["finished"] = "2026-01-02T00:00:00+00:00"


def flattered(body):
    body["result"]["metrics"]["mean_l2"] = 4.5


def test_a_leaderboard_lives_from_pull_requests(folder, leaderboard):  # noqa: F811
    source = receipt(folder, "standard-fgsm-white-box")
    code, log = leaderboard.pull_request(submission("ada", "Ada", source))
    assert code == 0, log
    leaderboard.merge()
    code, log = leaderboard.pull_request(submission("mallory", "Mallory", (source, flattered)))
    assert code == 1 and "refused  mallory/1-0.receipt: it says mean_l2 = 4.5" in log
    # What is merged all the same is not shown.
    leaderboard.merge()
    submission("bob", "Bob", (source, later))(leaderboard.submissions)
    leaderboard.commit()
    code, log, workspace = leaderboard.job("build")
    page = (workspace / "site" / "index.html").read_text(encoding="utf-8")
    assert code == 0 and "refused  mallory/1-0.receipt" in log
    assert re.search(r'class="by"><bdi>(Ada, Bob|Bob, Ada) · not repeated', page)
    assert "mallory/1-0.receipt: it says mean_l2" in re.sub(r"<[^>]+>", "", page)


def test_the_attacks_that_a_row_needs_are_named_in_the_workflow(folder, leaderboard):  # noqa: F811
    submission("ada", "Ada", receipt(folder, "standard-fgsm-white-box"))(leaderboard.submissions)
    leaderboard.commit()
    for required, lacking in ((" fgsm L*\r\n\n", []), ("fgsm\nautoattack\n", ["autoattack"]), ("", [])):
        leaderboard.workflow["env"]["REQUIRE"] = required
        code, log, workspace = leaderboard.job("build")
        page = (workspace / "site" / "index.html").read_text(encoding="utf-8")
        assert code == 0, log
        assert re.findall("note: --require (.*): no result is of such an attack", log) == lacking
        assert re.findall("no row is ranked: a row needs an attack (.*?), and none here", page) == lacking


def test_who_copies_a_result_that_was_merged_does_not_get_it(folder, leaderboard):  # noqa: F811
    source = receipt(folder, "standard-fgsm-white-box")
    assert leaderboard.pull_request(submission("zoe", "Zoe", source))[0] == 0
    leaderboard.merge()
    # By name it is first, and its receipt says whose it is.
    copy = (source, lambda body: body.update(by="Aaron"))
    code, log = leaderboard.pull_request(submission("aaron", "Aaron", copy))
    assert code == 0 and "left out: aaron/1-0.receipt" in log and "the same measurement as zoe/1-0.receipt" in log
    leaderboard.merge()
    code, _, workspace = leaderboard.job("build")
    page = (workspace / "site" / "index.html").read_text(encoding="utf-8")
    assert code == 0 and re.search(r'class="by"><bdi>Zoe · not repeated', page)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: (s / ".." / "README.md").write_text("x", "utf-8"), "README.md: a pull request changes submissions/"),
        (lambda s: (s / ".." / ".github/workflows/leaderboard.yml").write_text("x", "utf-8"), "changes submissions/"),
        (lambda s: (s / "withdrawn.toml").unlink(), "what was withdrawn stays withdrawn"),
        (lambda s: (s / "withdrawn.toml").write_text("# none\n", "utf-8"), "what was withdrawn stays withdrawn"),
        (lambda s: (s / "ada" / "a.json").write_text("{}", "utf-8"), "a result that is there stays"),
        (lambda s: (s / "ada" / "a.json").rename(s / "ada" / "b.json"), "a result that is there stays"),
        (lambda s: (s / "ada" / "run.py").write_text("x", "utf-8"), "it is no .receipt"),
        (lambda s: (s / "ada" / "a\n::set-output name=x::y.json").write_text("", "utf-8"), "in names of letters"),
    ],
)
def test_a_pull_request_that_changes_anything_else_fails_before_it_is_read(leaderboard, change, why):
    (leaderboard.submissions / "ada").mkdir()
    (leaderboard.submissions / "ada" / "a.json").write_text("", "utf-8")
    leaderboard.commit()
    code, log = leaderboard.pull_request(change)
    assert code == 1 and log.startswith("::error::") and why in log
    assert all(line.startswith(("::error::", "::warning::")) for line in log.splitlines() if line.startswith("::"))


def test_withdrawing_more_and_saying_otherwise_who_it_was_pass_and_both_are_warned_of(leaderboard):
    (leaderboard.submissions / "ada").mkdir()
    (leaderboard.submissions / "ada" / "submission.toml").write_text('who = "Ada"\n', "utf-8")
    (leaderboard.submissions / "ada" / "run.json").write_text(serialise(story()), "utf-8")
    leaderboard.commit()

    def change(submissions):
        (submissions / "ada" / "submission.toml").write_text('who = "Mallory"\n', "utf-8")
        with open(submissions / "withdrawn.toml", "a", encoding="utf-8") as file:
            file.write(f'[[withdrawn]]\nsha256 = "{"0" * 64}"\nreason = "a mistake"\ndate = 2026-11-28\n')

    code, log = leaderboard.pull_request(change)
    assert code == 0, log
    assert log.startswith("::warning::submissions/ada/submission.toml changes a submission that is there")
    assert "::warning::submissions/withdrawn.toml takes back results" in log and log.count("::warning::") == 2
    # Where nothing else is changed, no result that is there is verified again.
    assert "holds  ada/run.json" in log and "note  withdrawn.toml: " in log
    leaderboard.merge()
    more = f'[[withdrawn]]\nsha256 = "{"1" * 64}"\nreason = "a mistake"\ndate = 2026-11-28\n'
    withdrawn = leaderboard.submissions / "withdrawn.toml"
    code, log = leaderboard.pull_request(lambda _: withdrawn.write_text(withdrawn.read_text("utf-8") + more, "utf-8"))
    assert code == 0 and "holds  ada/" not in log and f"note  withdrawn.toml: SHA-256 {'1' * 64}" in log, log


@pytest.mark.parametrize("quote", ["'''", '"""'])
def test_a_withdrawal_is_not_undone_by_lines_that_are_added(leaderboard, quote):
    (leaderboard.submissions / "ada").mkdir()
    (leaderboard.submissions / "ada" / "run.json").write_text(serialise(story()), "utf-8")
    withdrawn = leaderboard.submissions / "withdrawn.toml"
    before = withdrawn.read_text("utf-8")
    old = f"[[withdrawn]]\nsha256 = '{'1' * 64}'\nreason = 'a mistake'\ndate = 2026-11-28\n"
    withdrawn.write_text(before + old, "utf-8")
    leaderboard.commit()
    new = f"[[withdrawn]]\nsha256 = '{'2' * 64}'\ndate = 2026-11-28\nreason = {quote}\n"
    code, log = leaderboard.pull_request(lambda _: withdrawn.write_text(f"{before}{new}{old}{quote}\n", "utf-8"))
    assert code == 2 and "reason of entry 1 of withdrawn: it has more than one line" in log, log


def test_a_result_in_a_submission_that_is_there_is_warned_of(leaderboard):
    def add(name):
        def change(submissions):
            (submissions / "ada").mkdir(exist_ok=True)
            (submissions / "ada" / f"{name}.json").write_text(serialise(story()), "utf-8")

        return change

    assert "::warning::" not in leaderboard.pull_request(add("first"))[1]
    leaderboard.merge()
    code, log = leaderboard.pull_request(add("second"))
    assert code == 0 and log.startswith("::warning::submissions/ada/second.json changes a submission that is there")
    # Whose they are may also be said by a file that was not there.
    name = "submission.toml"
    code, log = leaderboard.pull_request(lambda submissions: (submissions / "ada" / name).write_text('who = "M"\n'))
    assert code == 0 and log.startswith(f"::warning::submissions/ada/{name} changes a submission that is there")


def test_no_job_that_reads_pull_requests_may_write_or_knows_a_secret(leaderboard):
    text = (leaderboard.repository / ".github/workflows/leaderboard.yml").read_text("utf-8")
    # YAML reads `on` as true.
    assert set(leaderboard.workflow[True]) == {"pull_request", "push", "workflow_dispatch"}
    assert leaderboard.workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    jobs = leaderboard.workflow["jobs"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]
    for name in ("check", "build"):
        steps = [step.get("uses", step.get("name", "")).partition("@")[0] for step in jobs[name]["steps"]]
        assert steps.index("Install Crossfire") < steps.index("actions/checkout")
    checkouts = [step for job in jobs.values() for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False, False]


def test_nothing_that_is_there_is_overwritten(leaderboard, capsys):
    assert main(["init", "leaderboard", str(leaderboard.repository)]) == 2
    assert "README.md is there already" in capsys.readouterr().err
    guide = (leaderboard.repository / "CONTRIBUTING.md").read_text("utf-8")
    assert len(re.findall(r"^\d+\. ", guide, re.MULTILINE)) == 10
