"""The steps of action.yml in a stranger's repository; its harness and its `gh` only write down what they are told."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.action import ACTION, REPOSITORY, ROOT, Job

# The table says how `run` ends; FAKE_COMPARE says how `compare` does. Paths are escaped as the report escapes them.
HARNESS = r"""#!/usr/bin/env bash
echo "$(git rev-parse HEAD) $*" >> "$CALLS"
printf '%s\n' "$@" > "$CALLS.arguments.$1"
if [ "$1" = run ]; then
    read -r code line < "$2" || { echo "error: no file $2" >&2; exit 2; }
    echo "a line of the log" >&2
    echo "$line" >&2
    [[ $line == *untouched* ]] || { mkdir -p "$4/cells" && touch "$4/cells/1.json"; }
    exit "$code"
fi
[ "$FAKE_COMPARE" = 2 ] || printf '### Report\n\n%s → %s. %s\n' "${2//_/\\_}" "${3//_/\\_}" "$FAKE_REPORT" > "$7"
echo "error: '$2' and '$3' have no cell in common" >&2
exit "$FAKE_COMPARE"
"""
GH = """#!/usr/bin/env bash
for last; do :; done
[[ " $* " != *"$REFUSED"* ]] || { echo "gh: Resource not accessible by integration (HTTP 403)" >&2; exit 1; }
case " $* " in
    *" --paginate "*) echo "$EXISTING" ;;
    *) cp "${last#body=@}" "$CALLS.comment"; echo "$4 $5" >> "$CALLS.gh" ;;
esac
"""


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


class Stranger:
    """A repository with a table, and programs on the PATH of the job."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin, self.bin = folder, folder / "origin", folder / "bin"
        self.origin.mkdir()
        self.bin.mkdir()
        git(self.origin, "init", "--quiet", "--initial-branch", "main")
        git(self.origin, "config", "uploadpack.allowAnySHA1InWant", "true")
        for name, text in (("crossfire", HARNESS), ("gh", GH)):
            (self.bin / name).write_text(text, encoding="utf-8")
            (self.bin / name).chmod(0o755)

    def commit(self, text: str, name: str = "table.toml") -> str:
        (self.origin / name).parent.mkdir(exist_ok=True)
        (self.origin / name).write_text(f"{text}\n", encoding="utf-8")
        git(self.origin, "add", "--all")
        git(self.origin, "commit", "--quiet", "--allow-empty", "--message", text)
        return self.commit_of("HEAD")

    def merge(self, name: str) -> str:
        git(self.origin, "merge", "--quiet", "--no-ff", "--message", f"merge {name}", name)
        return self.commit_of("HEAD")

    def commit_of(self, name: str) -> str:
        return git(self.origin, "rev-parse", f"{name}^{{commit}}").strip()

    def pull_request(self, head: str, of: str = REPOSITORY) -> dict[str, Any]:
        """Return the event: the base is `main`, as it was when the pull request was last changed."""
        its_head = {"sha": self.commit_of(head), "repo": {"full_name": of}}
        return {"pull_request": {"number": 7, "base": {"ref": "main"}, "head": its_head}}

    def checkout(self, commit: str, full: bool) -> Path:
        """Check out one commit as actions/checkout does: alone or, in full, with all branches and tags."""
        workspace = self.folder / "checkout"
        git(self.folder, "init", "--quiet", str(workspace))
        git(workspace, "remote", "add", "origin", f"file://{self.origin}")
        what = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"] if full else ["--depth=1"]
        git(workspace, "fetch", "--quiet", "--no-tags", "origin", commit, *what)
        git(workspace, "checkout", "--quiet", "--detach", commit)
        return workspace

    def job(
        self,
        inputs: dict[str, str],
        *,
        commit: str = "main",
        full: bool = False,
        event: dict[str, Any] | None = None,
        **environment: str,
    ) -> Job:
        workspace, temp = self.checkout(self.commit_of(commit), full), self.folder / "_temp"
        temp.mkdir()
        told = {"FAKE_COMPARE": "0", "FAKE_REPORT": "fine", "EXISTING": "", "REFUSED": "never"}
        paths = {"CALLS": str(self.folder / "calls"), "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin"}
        event = self.pull_request(commit) if event is None else event
        return Job(workspace, temp, {"config": "table.toml", **inputs}, event, told | paths | environment)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text(encoding="utf-8").splitlines()

    def measured(self) -> list[str]:
        """Return the commit of the head and that of the base."""
        return [call.split()[0] for call in self.calls() if call.split()[1] == "run"]


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path)


def run(job: Job) -> int:
    return job.run(skipped=("Install Crossfire",))


def errors(job: Job) -> list[str]:
    title = "::error title=Crossfire::"
    return [line.removeprefix(title) for line in job.log.splitlines() if line.startswith(title)]


def test_both_sides_are_measured_and_compared_each_in_its_own_tree(stranger):
    base, head = stranger.commit("0 of the base"), stranger.commit("0 of the head")
    setups = stranger.folder / "setups"
    inputs = {"base": base, "args": "--n 50  --set\nattacks.pgd.steps=3", "setup": 'cat table.toml >> "$SETUPS"'}
    job = stranger.job(inputs, SETUPS=str(setups))
    assert run(job) == 0, job.log
    report = job.outputs["compare"]["report"]
    work = report.removesuffix("/comparison.md")
    more = "--n 50 --set attacks.pgd.steps=3"
    assert stranger.calls() == [
        f"{head} run table.toml --store {work}/head --report {work}/head-report {more}",
        f"{base} run table.toml --store {work}/base --report {work}/base-report {more}",
        f"{head} compare {work}/base {work}/head --format md --out {report} --min-effect 0.5 --same-within 0.5",
    ]
    assert setups.read_text() == "0 of the head\n0 of the base\n"
    assert job.outputs["compare"] == {"exit-code": "0", "compared": "true", "report": report}
    assert git(job.workspace, "worktree", "list").count("\n") == 1
    assert git(job.workspace, "status", "--porcelain") == ""


def test_the_report_names_the_two_commits_and_what_was_measured(stranger):
    base, head = stranger.commit("0 of the base"), stranger.commit("0 of the head")
    job = stranger.job({"base": base, "args": "--n 50"})
    assert run(job) == 0
    assert job.summary == (
        f"### Report\n\nbase {base[:10]} → head {head[:10]}. fine\n\n"
        "Measured on both sides:\n\n    run table.toml --n 50\n"
    )
    assert Path(job.outputs["compare"]["report"]).read_text(encoding="utf-8") == job.summary


def test_a_merge_is_compared_with_what_it_was_merged_into(stranger):
    stranger.commit("0 when the pull request began")
    git(stranger.origin, "checkout", "--quiet", "-b", "change")
    change = stranger.commit("0 of the pull request", "other.toml")
    git(stranger.origin, "checkout", "--quiet", "main")
    newer = stranger.commit("0 of main, which went on")
    git(stranger.origin, "checkout", "--quiet", "--detach")
    merge = stranger.merge("change")
    job = stranger.job({}, commit=merge, event=stranger.pull_request("change"))
    assert run(job) == 0, job.log
    assert stranger.measured() == [merge, newer]
    assert f"base {newer[:10]} → head {merge[:10]} ({change[:10]} merged into the base). fine" in job.summary


@pytest.mark.parametrize(("full", "merged"), [(False, False), (False, True), (True, True)])
def test_a_head_alone_is_compared_with_where_it_left_the_base_branch(stranger, full, merged):
    left = stranger.commit("0 when the pull request began")
    git(stranger.origin, "checkout", "--quiet", "-b", "change")
    stranger.commit("0 of the pull request", "other.toml")
    git(stranger.origin, "checkout", "--quiet", "main")
    newer = stranger.commit("0 of main, which went on")
    git(stranger.origin, "checkout", "--quiet", "change")
    if merged:
        stranger.merge("main")
    head = stranger.commit("0 of the pull request, again", "other.toml")
    git(stranger.origin, "checkout", "--quiet", "main")
    stranger.commit("0 of main, which the pull request never saw")
    job = stranger.job({}, commit=head, full=full, event=stranger.pull_request("change"))
    assert run(job) == 0, job.log
    assert stranger.measured() == [head, newer if merged else left]


def test_a_base_branch_that_is_checked_out_is_no_pull_request(stranger):
    stranger.commit("0")
    git(stranger.origin, "checkout", "--quiet", "-b", "change")
    stranger.commit("0 of the pull request")
    job = stranger.job({}, commit="main", event=stranger.pull_request("change"))
    assert run(job) == 2
    assert errors(job) == ["the base branch main contains what is checked out: check out the pull request"]


@pytest.mark.parametrize("event", ["push", "merge_group"])
def test_a_push_and_a_merge_queue_are_compared_with_the_commit_before(stranger, event):
    before, head = stranger.commit("0"), stranger.commit("0 again")
    told = {"push": {"before": before}, "merge_group": {"merge_group": {"base_sha": before}}}[event]
    assert run(stranger.job({"comment": "true"}, event=told)) == 0
    assert stranger.measured() == [head, before]
    assert not (stranger.folder / "calls.gh").exists()


@pytest.mark.parametrize(("base", "full"), [("main", False), ("v1.0", False), ("main", True)])
def test_the_base_can_be_a_branch_or_a_tag(stranger, base, full):
    stranger.commit("0 of the first")
    git(stranger.origin, "tag", "--annotate", "--message", "one", "v1.0")
    stranger.commit("0 of main")
    git(stranger.origin, "checkout", "--quiet", "-b", "change")
    head = stranger.commit("0 of the head")
    job = stranger.job({"base": base}, commit="change", full=full)
    assert run(job) == 0, job.log
    assert stranger.measured() == [head, stranger.commit_of(base)]
    assert git(job.workspace, "rev-parse", "--is-shallow-repository").strip() == str(not full).lower()


def test_what_adds_the_table_has_nothing_to_compare_with_yet_and_is_green(stranger):
    base = stranger.commit("the first", "README")
    stranger.commit("0", "sub/table.toml")
    job = stranger.job({"base": base, "config": "sub/table.toml", "setup": "false"})
    assert run(job) == 0, job.log
    assert job.summary == (
        f"### Crossfire: nothing to compare with yet\n\n    the base {base[:10]} has no sub/table.toml\n"
    )
    assert job.outputs["compare"].items() >= {("exit-code", "0"), ("compared", "false")}
    assert not (stranger.folder / "calls").exists()


def test_a_table_that_no_commit_has_is_a_preset_or_a_mistake_and_is_run(stranger):
    base = stranger.commit("0")
    job = stranger.job({"base": base, "config": "no-such-table"})
    assert run(job) == 2
    assert errors(job) == ["head: error: no file no-such-table"]


def test_both_sides_are_measured_in_the_working_directory(stranger):
    base, head = stranger.commit("0 of the base", "sub/table.toml"), stranger.commit("0 of the head", "sub/table.toml")
    job = stranger.job({"base": base, "working-directory": "sub"})
    assert run(job) == 0, job.log
    assert stranger.measured() == [head, base]
    job.inputs["working-directory"] = "nowhere"
    assert run(job) == 2
    assert errors(job) == ["the input 'working-directory': there is no folder nowhere"]


def test_a_working_directory_that_is_new_has_nothing_to_compare_with_yet(stranger):
    base = stranger.commit("0")
    stranger.commit("0", "sub/other.toml")
    job = stranger.job({"base": base, "working-directory": "sub", "config": "a-preset"})
    assert run(job) == 0, job.log
    assert job.summary.endswith(f"\n    the base {base[:10]} has no folder sub/\n")


def test_arguments_are_divided_as_a_shell_divides_them_and_nothing_is_run(stranger):
    base = stranger.commit("0")
    arguments = "--set 'defenses.jpeg.quality=[50, 75]' --note \"it's $(touch ran) *\" a\\ b"
    assert run(stranger.job({"base": base, "args": arguments})) == 0
    given = (stranger.folder / "calls.arguments.run").read_text(encoding="utf-8").splitlines()
    assert given[-5:] == ["--set", "defenses.jpeg.quality=[50, 75]", "--note", "it's $(touch ran) *", "a b"]
    assert not list(stranger.folder.rglob("ran"))


def test_a_regression_fails_the_job_and_is_in_the_summary_and_the_comment(stranger):
    base = stranger.commit("0")
    stranger.commit("0 again")
    inputs = {"base": base, "comment": "true", "allow-lost": "true", "min-effect": "2", "same-within": "1"}
    job = stranger.job(inputs, FAKE_COMPARE="1", FAKE_REPORT="worse")
    assert run(job) == 1
    assert job.outputs["compare"].items() >= {("exit-code", "1"), ("compared", "true")}
    assert "worse" in job.summary
    assert stranger.calls()[-1].endswith("--min-effect 2 --same-within 1 --allow-lost")
    marker, _, comment = (stranger.folder / "calls.comment").read_text(encoding="utf-8").partition("\n")
    assert re.fullmatch("<!-- crossfire [0-9a-f]{16} -->", marker)
    assert comment == job.summary
    assert (stranger.folder / "calls.gh").read_text() == "POST repos/someone/something/issues/7/comments\n"


def test_the_next_run_replaces_its_own_comment_and_a_long_report_is_left_in_the_summary(stranger):
    base = stranger.commit("0")
    job = stranger.job({"base": base, "comment": "true"}, EXISTING="41\n42", FAKE_REPORT="long " * 20_000)
    assert run(job) == 0
    assert (stranger.folder / "calls.gh").read_text() == "PATCH repos/someone/something/issues/comments/41\n"
    comment = (stranger.folder / "calls.comment").read_text()
    assert "-->\n### Report\n\nThe report is long" in comment
    assert "(https://forge.example/someone/something/actions/runs/17)" in comment
    assert job.summary.count("long") == 20_000


def test_two_tables_of_one_job_have_a_report_and_a_comment_each(stranger):
    stranger.commit("0", "second.toml")
    base = stranger.commit("0")
    job = stranger.job({"base": base, "comment": "true"})
    markers, reports = [], []
    uses = ({}, {"config": "second.toml"}, {"args": "--n 50"}, {"args": "", "config": "table.toml"})
    for inputs in uses:
        job.inputs.update(inputs)
        assert run(job) == 0
        reports.append(Path(job.outputs["compare"]["report"]))
        markers.append((stranger.folder / "calls.comment").read_text(encoding="utf-8").splitlines()[0])
    assert len(set(reports)) == 4
    assert all(report.exists() for report in reports)
    assert len(set(markers)) == 3
    assert markers[0] == markers[3]


@pytest.mark.parametrize("refused", ["--paginate", "POST"])
def test_a_comment_that_is_refused_is_a_warning_and_the_verdict_stands(stranger, refused):
    base = stranger.commit("0")
    job = stranger.job({"base": base, "comment": "true"}, FAKE_COMPARE="1", REFUSED=refused)
    assert run(job) == 1
    assert job.outputs["compare"]["exit-code"] == "1"
    assert "::warning title=Crossfire::no comment was written: gh: Resource not accessible" in job.log


@pytest.mark.parametrize(("comment", "of"), [("false", REPOSITORY), ("true", "somebody/something")])
def test_nobody_is_told_who_did_not_ask_or_whose_token_may_not_write(stranger, comment, of):
    base = stranger.commit("0")
    assert run(stranger.job({"base": base, "comment": comment}, event=stranger.pull_request("main", of))) == 0
    assert not (stranger.folder / "calls.gh").exists()


@pytest.mark.parametrize(("base", "head", "side"), [("2 error: x", "0", "base"), ("0", "2 error: x", "head")])
def test_a_mistake_in_the_table_is_one_visible_line_and_exit_code_2(stranger, base, head, side):
    base = stranger.commit(base)
    stranger.commit(head)
    job = stranger.job({"base": base})
    assert run(job) == 2
    assert errors(job) == [f"{side}: error: x"]
    assert job.summary == f"### Crossfire: nothing was compared\n\n    {side}: error: x\n"
    assert job.outputs["compare"]["compared"] == "false"
    assert not [call for call in stranger.calls() if " compare " in call]
    assert git(job.workspace, "worktree", "list").count("\n") == 1


@pytest.mark.parametrize(
    ("base", "head", "compare", "code"),
    [("3", "0", "0", 0), ("0", "3", "0", 3), ("0", "3", "1", 1), ("137 killed", "0", "0", 137)],
)
def test_failed_cells_are_for_the_comparison_to_judge_but_never_pass_unseen(stranger, base, head, compare, code):
    base = stranger.commit(base)
    stranger.commit(head)
    assert run(stranger.job({"base": base}, FAKE_COMPARE=compare)) == code


def test_each_side_measures_what_the_other_does_not_have_alike(stranger):
    base, head = stranger.commit("0 of the base"), stranger.commit("0 of the head")
    job = stranger.job({"base": base, "changed-since": "true", "args": "--n 50"})
    assert run(job) == 0, job.log
    of_head, of_base, compare = stranger.calls()
    assert of_head.startswith(f"{head} run ") and of_head.endswith(f" --changed-since {base} --n 50")
    assert of_base.startswith(f"{base} run ") and of_base.endswith(f" --changed-since {head} --n 50")
    assert " compare " in compare
    assert job.summary.endswith("Measured on both sides, of the cells that differ:\n\n    run table.toml --n 50\n")


@pytest.mark.parametrize(
    ("base", "head", "allowed", "code", "said"),
    [
        ("0 untouched", "0 untouched", "false", 0, "nothing to compare\n\n    no cell differs from the base {}\n"),
        ("0 untouched", "0", "false", 0, "the cells that differ are new: the base {} lacks them"),
        ("0 untouched", "3", "false", 3, "the cells that differ are new: the base {} lacks them"),
        ("0", "0 untouched", "false", 1, "coverage lost: the cells that differ are gone from the head"),
        ("0", "0 untouched", "true", 0, "the cells that differ are gone from the head, which allow-lost accepts"),
    ],
)
def test_where_only_one_side_has_cells_that_differ_nothing_is_compared(stranger, base, head, allowed, code, said):
    base = stranger.commit(base)
    stranger.commit(head)
    job = stranger.job({"base": base, "changed-since": "true", "allow-lost": allowed})
    assert run(job) == code, job.log
    assert said.format(base[:10]) in job.summary
    assert job.outputs["compare"]["compared"] == "false"
    assert len(stranger.calls()) == 2


def test_changed_since_names_no_commit(stranger):
    base = stranger.commit("0")
    job = stranger.job({"base": base, "changed-since": "main"})
    assert run(job) == 2
    assert errors(job) == ["the input 'changed-since' is true or false; the commit to compare with is the input 'base'"]
    assert not (stranger.folder / "calls").exists()


def test_what_cannot_be_compared_is_said(stranger):
    base, head = stranger.commit("0"), stranger.commit("0 again")
    job = stranger.job({"base": base}, FAKE_COMPARE="2")
    assert run(job) == 2
    assert errors(job) == [f"error: 'base {base[:10]}' and 'head {head[:10]}' have no cell in common"]


@pytest.mark.parametrize(
    ("setup", "line"),
    [
        ("false\necho ok", "exit code 1"),
        ("false | true\necho ok", "exit code 1"),
        ("echo 100% wrong >&2; exit 7", "exit code 7: 100%25 wrong"),
    ],
)
def test_a_setup_stops_at_its_first_failure_as_a_step_does(stranger, setup, line):
    base = stranger.commit("0")
    job = stranger.job({"base": base, "setup": setup})
    assert run(job) == 2
    assert errors(job) == [f"head: the setup failed with {line}"]
    assert job.log.count("::group::") == job.log.count("::endgroup::") == 1
    assert not (stranger.folder / "calls").exists()


def test_what_a_setup_leaves_running_does_not_hold_the_measurement_up(stranger):
    base = stranger.commit("0")
    job = stranger.job(
        {"base": base, "setup": 'sleep 60 > /dev/null & echo $! >> "$STARTED"'}, STARTED=str(stranger.folder / "s")
    )
    start = time.monotonic()
    assert run(job) == 0
    for process in (stranger.folder / "s").read_text(encoding="utf-8").split():
        os.kill(int(process), signal.SIGTERM)  # Both are still there.
    assert time.monotonic() - start < 60


def test_what_a_setup_sets_stays_in_the_setup(stranger):
    base = stranger.commit("0")
    assert run(stranger.job({"base": base, "setup": "cd /; export FAKE_COMPARE=1; set -x"})) == 0


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({}, "no commit to compare with: give the input 'base', or run on pull_request"),
        ({"base": "12" * 20}, f"the base {'12' * 20} is neither here nor at origin"),
        ({"base": "HEAD~1"}, "the base HEAD~1 is neither here nor at origin"),
        ({"base": "HEAD", "args": "--set 'a=1"}, "the input 'args' has a quote without its end: --set 'a=1"),
    ],
)
def test_what_is_missing_before_the_first_run_is_said(stranger, inputs, line):
    stranger.commit("0")
    stranger.commit("0 again")
    job = stranger.job(inputs, event={"before": "0" * 40})
    assert run(job) == 2
    (error,) = errors(job)
    assert error.startswith(line)
    assert not (stranger.folder / "calls").exists()


def test_where_git_finds_no_repository_or_does_not_trust_it_its_reason_is_said(stranger):
    stranger.commit("0")
    job = stranger.job({"base": "main"}, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert run(job) == 2
    assert "dubious ownership" in errors(job)[0]
    assert f"git config --global --add safe.directory {job.workspace}" in errors(job)[0]
    job.log, job.workspace = "", stranger.bin
    assert run(job) == 2
    assert errors(job)[0].startswith(f"git finds no repository in {stranger.bin}: fatal: not a git repository")


def test_nothing_that_a_caller_writes_becomes_part_of_a_script():
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4
    assert not [script for script in scripts if "${{" in script]


def test_every_input_and_output_is_described_used_and_in_the_documentation():
    steps = json.dumps(ACTION["runs"]["steps"])
    page = (ROOT / "docs" / "continuous-integration.md").read_text(encoding="utf-8")
    for name, each in ACTION["inputs"].items():
        assert each["description"].strip()
        assert re.search(rf"inputs\.{name}\b", steps)
        assert f"| `{name}` |" in page
    for name in ACTION["outputs"]:
        assert f"`{name}`" in page
