"""The steps of action.yml in a stranger's repository; its harness and its `gh` only write down what they are told."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.action import ACTION, REPOSITORY, ROOT, Job

# The table says how `run` ends; FAKE_COMPARE says how `compare` does.
HARNESS = """#!/usr/bin/env bash
echo "$(git rev-parse HEAD) $*" >> "$CALLS"
if [ "$1" = run ]; then
    read -r code line < "$2" || { echo "error: no file $2" >&2; exit 2; }
    echo "a line of the log" >&2
    echo "$line" >&2
    exit "$code"
fi
[ "$FAKE_COMPARE" = 2 ] || printf '### Report\\n\\n%s\\n' "$FAKE_REPORT" > "$7"
echo "error: nothing to compare" >&2
exit "$FAKE_COMPARE"
"""
GH = """#!/usr/bin/env bash
for last; do :; done
case " $* " in
    *" --paginate "*) echo "$EXISTING" ;;
    *) cp "${last#body=@}" "$CALLS.comment"; echo "$4 $5" >> "$CALLS.gh" ;;
esac
"""


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


class Stranger:
    """A repository with a table, the pull request that is its last commit, and programs on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin, self.bin = folder, folder / "origin", folder / "bin"
        self.origin.mkdir()
        self.bin.mkdir()
        git(self.origin, "init", "--quiet", "--initial-branch", "main")
        for name, text in (("crossfire", HARNESS), ("gh", GH)):
            (self.bin / name).write_text(text, encoding="utf-8")
            (self.bin / name).chmod(0o755)

    def commit(self, table: str) -> str:
        (self.origin / "table.toml").write_text(f"{table}\n", encoding="utf-8")
        git(self.origin, "add", "--all")
        git(self.origin, "commit", "--quiet", "--allow-empty", "--message", table)
        return git(self.origin, "rev-parse", "HEAD").strip()

    def job(self, base: str, inputs: dict[str, str], fork: str = "", **environment: str) -> Job:
        """Check out the last commit alone, as actions/checkout does."""
        git(self.folder, "clone", "--quiet", "--depth", "1", f"file://{self.origin}", "checkout")
        git(self.origin, "config", "uploadpack.allowAnySHA1InWant", "true")
        told = {"CALLS": str(self.folder / "calls"), "FAKE_COMPARE": "0", "FAKE_REPORT": "fine", "EXISTING": ""}
        path = {"PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin"}
        head = {"repo": {"full_name": fork or REPOSITORY}}
        event = {"pull_request": {"number": 7, "base": {"sha": base}, "head": head}} if base else {"before": "0" * 40}
        temp = self.folder / "temp"
        temp.mkdir()
        job = Job(self.folder / "checkout", temp, {"config": "table.toml", **inputs}, event, told | path | environment)
        return job

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path)


def run(job: Job) -> int:
    return job.run(skipped=("Install Crossfire",))


def test_both_sides_are_measured_and_compared_each_in_its_own_tree(stranger):
    base, head = stranger.commit("0 of the base"), stranger.commit("0 of the head")
    job = stranger.job(base, {"args": "--n 50  --set\nattacks.pgd.steps=3", "setup": "cat table.toml >> ../../setups"})
    assert run(job) == 0, job.log
    work = job.temp / "crossfire"
    more = "--n 50 --set attacks.pgd.steps=3"
    assert stranger.calls() == [
        f"{head} run table.toml --store {work}/head --report {work}/head-report {more}",
        f"{base} run table.toml --store {work}/base --report {work}/base-report {more}",
        f"{head} compare {work}/base {work}/head --format md --out {work}/comparison.md --min-effect 0.5",
    ]
    assert job.summary == "### Report\n\nfine\n"
    assert job.outputs["compare"] == {"exit-code": "0", "report": f"{work}/comparison.md"}
    assert git(job.workspace, "worktree", "list").count("\n") == 1
    assert git(job.workspace, "status", "--porcelain") == ""


def test_a_regression_fails_the_job_and_is_in_the_summary_and_the_comment(stranger):
    base = stranger.commit("0")
    stranger.commit("0 again")
    inputs = {"comment": "true", "allow-lost": "true", "min-effect": "2"}
    job = stranger.job(base, inputs, FAKE_COMPARE="1", FAKE_REPORT="worse")
    assert run(job) == 1
    assert job.outputs["compare"]["exit-code"] == "1"
    assert job.summary == "### Report\n\nworse\n"
    assert stranger.calls()[-1].endswith("--min-effect 2 --allow-lost")
    assert (stranger.folder / "calls.comment").read_text() == "<!-- crossfire -->\n### Report\n\nworse\n"
    assert (stranger.folder / "calls.gh").read_text() == "POST repos/someone/something/issues/7/comments\n"


def test_the_next_run_replaces_its_own_comment_and_a_long_report_is_left_in_the_summary(stranger):
    base = stranger.commit("0")
    job = stranger.job(base, {"comment": "true"}, EXISTING="41\n42", FAKE_REPORT="long " * 20_000)
    assert run(job) == 0
    assert (stranger.folder / "calls.gh").read_text() == "PATCH repos/someone/something/issues/comments/41\n"
    comment = (stranger.folder / "calls.comment").read_text()
    assert comment.startswith("<!-- crossfire -->\n### Report\n\nThe report is long")
    assert "(https://forge.example/someone/something/actions/runs/17)" in comment
    assert job.summary.count("long") == 20_000


def test_a_push_is_compared_with_the_input_base_and_nobody_is_told(stranger):
    base = stranger.commit("0")
    job = stranger.job("", {"comment": "true", "base": base})
    assert run(job) == 0
    assert not (stranger.folder / "calls.gh").exists()


@pytest.mark.parametrize(("comment", "fork"), [("false", ""), ("true", "somebody/something")])
def test_nobody_is_told_who_did_not_ask_or_whose_token_may_not_write(stranger, comment, fork):
    base = stranger.commit("0")
    assert run(stranger.job(base, {"comment": comment}, fork)) == 0
    assert not (stranger.folder / "calls.gh").exists()


@pytest.mark.parametrize(("base", "head", "side"), [("2 error: x", "0", "base"), ("0", "2 error: x", "head")])
def test_a_mistake_in_the_table_is_one_visible_line_and_exit_code_2(stranger, base, head, side):
    base = stranger.commit(base)
    stranger.commit(head)
    job = stranger.job(base, {})
    assert run(job) == 2
    assert f"::error title=Crossfire::{side}: error: x" in job.log.splitlines()
    assert job.summary == f"### Crossfire: nothing was compared\n\n    {side}: error: x\n"
    assert not [call for call in stranger.calls() if " compare " in call]
    assert git(job.workspace, "worktree", "list").count("\n") == 1


@pytest.mark.parametrize(
    ("base", "head", "compare", "code"),
    [("3", "0", "0", 0), ("0", "3", "0", 3), ("0", "3", "1", 1), ("137 killed", "0", "0", 137)],
)
def test_failed_cells_are_for_the_comparison_to_judge_but_never_pass_unseen(stranger, base, head, compare, code):
    base = stranger.commit(base)
    stranger.commit(head)
    assert run(stranger.job(base, {}, FAKE_COMPARE=compare)) == code


def test_what_cannot_be_compared_is_said(stranger):
    base = stranger.commit("0")
    job = stranger.job(base, {}, FAKE_COMPARE="2")
    assert run(job) == 2
    assert job.summary.endswith("\n    error: nothing to compare\n")


@pytest.mark.parametrize(
    ("base", "setup", "line"),
    [
        ("", "", "no commit to compare with: give the input 'base', or run on pull_request"),
        ("12" * 20, "", f"the base {'12' * 20} is not in the repository"),
        ("HEAD", "echo no such package >&2; false", "head: the setup failed: no such package"),
    ],
)
def test_what_is_missing_before_the_first_run_is_said(stranger, base, setup, line):
    stranger.commit("0")
    job = stranger.job(base, {"setup": setup})
    assert run(job) == 2
    assert f"::error title=Crossfire::{line}" in job.log.splitlines()
    assert not (stranger.folder / "calls").exists()


def test_nothing_that_a_caller_writes_becomes_part_of_a_script():
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4
    assert not [script for script in scripts if "${{" in script]


def test_every_input_is_described_used_and_in_the_documentation():
    steps = json.dumps(ACTION["runs"]["steps"])
    page = (ROOT / "docs" / "continuous-integration.md").read_text(encoding="utf-8")
    for name, each in ACTION["inputs"].items():
        assert each["description"].strip()
        assert re.search(rf"inputs\.{name}\b", steps)
        assert f"| `{name}` |" in page
