"""Which commit changed a cell: searched where the answer is known, by the harness itself in this process."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from bench.cli import main
from bench.config import sections
from bench.differences import changes
from bench.process.ending import Stop
from bench.schedule import at_commit, bisection, measuring
from bench.schedule.at_commit import NotMeasurable, PlanAt, read_plan
from bench.schedule.bisection import Bisection
from bench.schedule.measuring import Measuring, Question, carry
from bench.schedule.plan import make
from bench.store.lineage import History
from bench.store.working_store import Store
from bench.store.worktree import worktree
from bench.types import UsageError

NETWORK = """
from torch import nn

def linear(num_classes: int):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""
ATTACK = '''
"""An attack."""
import os

from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.api import Target, Threat, attack


@attack(norms=("linf",), passes="1 forward + 1 backward")
def mine(target: Target, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """One step."""
    share = 1.0 * float(os.environ.get("HARNESS", "1"))
    ascent = target.gradient(x, lambda logits, labels: cross_entropy(logits, labels, reduction="none"), y).grad
    return (x + share * float(threat.eps) * ascent.sign()).clamp(0, 1)
'''
TABLE = """
schema = 1
name = "mine"
dataset = { name = "digits", n = 60 }
models = [{ arch = "net.py:linear" }]
defenses = [{ use = "weights:WEIGHTS" }]
attacks = [{ use = "attack.py:mine", eps = "0.2" }]
"""
CELL = "digits/net.py:linear/weights:fitted.safetensors/mine/white-box"


class Repository:
    """A repository of one attack, a network and a table; commits are edits of these files."""

    def __init__(self, folder, weights):
        self.path, self.commits = folder, []
        self.git("init", "-q")
        table = TABLE.replace("WEIGHTS", str(weights))
        for name, text in {"net.py": NETWORK, "attack.py": ATTACK, "table.toml": table}.items():
            (folder / name).write_text(text)
        self.commit("start")

    def git(self, *arguments):
        who = ["-c", "user.name=N", "-c", "user.email=e@example.org"]
        done = subprocess.run(["git", *who, *arguments], cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message):
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        self.commits.append(self.git("rev-parse", "HEAD"))
        return self.commits[-1]

    def edit(self, message, old, new, name="attack.py"):
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new))
        return self.commit(message)

    def harness(self, message, strength):
        """Commit a harness of the repository's own; its strength is in no key."""
        for name, text in {"run_bench.py": "", "bench/cli/__init__.py": "", "bench/strength": strength}.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
        return self.commit(message)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the network, fitted by least squares."""
    digits = load_digits()
    x = np.hstack([digits.data / 16, np.ones((len(digits.data), 1))])
    fitted = np.linalg.lstsq(x, np.eye(10)[digits.target], rcond=None)[0].astype("float32").T
    path = tmp_path_factory.mktemp("weights") / "fitted.safetensors"
    tensors = {"1.weight": torch.tensor(fitted[:, :-1]).contiguous(), "1.bias": torch.tensor(fitted[:, -1])}
    save_file(tensors, path)
    return path


@pytest.fixture
def repository(tmp_path, weights):
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository", weights)


@pytest.fixture
def runs(monkeypatch):
    """The commits that were run; the harness works in this process, which has loaded torch already."""
    done = []

    def called(tree, verb, arguments, inside):
        strength = tree.path / "bench" / "strength"
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, contextlib.chdir(tree.path / inside):
            patch.setenv("HARNESS", strength.read_text() if strength.exists() else "1")
            patch.setenv(at_commit.FILES_BELOW, str(tree.path.resolve()))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([verb, *arguments, "--quiet"])
        return code, out.getvalue(), err.getvalue()

    def plan_at(tree, arguments, *, inside=Path()):
        code, out, err = called(tree, "plan", [*arguments, "--json"], inside)
        if code not in (0, 3):
            raise NotMeasurable(f"the commit {tree.commit[:10]} cannot plan it: {err.strip()}")
        return read_plan(out)

    def run_at(tree, arguments, *, inside=Path()):
        done.append(tree.commit)
        code, _, err = called(tree, "run", arguments, inside)
        return code, err

    monkeypatch.setattr(measuring, "plan_at", plan_at)
    monkeypatch.setattr(measuring, "run_at", run_at)
    return done


TEXTS = ("digits", "net.py:linear", "attack.py:mine")


def find(
    repository,
    good,
    bad,
    cell=CELL,
    said=lambda _: None,
    store="store",
    options=(),
    retry=False,
    images=False,
    texts=TEXTS,
):
    folder = repository.path
    configuration = folder.parent / "table.toml"
    configuration.write_bytes((folder / "table.toml").read_bytes())
    own, options = Path("table.toml"), ("--device=cpu", *options)
    asked = (cell, options, folder.parent / store, retry, texts)
    question = Question(folder, Path(), str(configuration), own, *asked)
    return Bisection(History(folder), Measuring(question), 0.5, said, images).find(good, bad)


WEAKER = ("share = 1.0", "share = 0.1")


def test_the_commit_is_found_among_edits_that_only_look_like_one(repository, runs):
    good = repository.commits[0]
    repository.edit("a comment", "    share", "    # all of the budget\n    share")
    repository.edit("a docstring", "One step.", "A single step.")
    repository.edit("a variable", "ascent", "slope")
    culprit = repository.edit("simpler \x1b[31m steps", *WEAKER)
    repository.commit("empty")
    bad = repository.edit("another comment", "    # all", "    # most")
    lines = []
    finding = find(repository, good, bad, said=lines.append)
    assert (finding.verdict, finding.after.commit, finding.possible) == ("found", culprit, (culprit,))
    assert finding.step.is_real and finding.step.gained > finding.step.lost and finding.further is None
    # One run for each of the two keys, whatever number of commits was looked at.
    assert len(runs) == 2
    # The same command again finds all that it needs.
    assert find(repository, good, bad).after.commit == culprit and len(runs) == 2
    assert any("commits may be it" in line for line in lines)


def test_where_nothing_changed_that_is_said_after_no_run_or_one(repository, runs):
    good = repository.commits[0]
    bad = repository.edit("a comment", "    share", "    # all of the budget\n    share")
    finding = find(repository, good, bad)
    assert finding.verdict == "not reproducible" and len(runs) == 1
    assert (finding.ends.lost, finding.ends.gained, finding.ends.p) == (0, 0, 1)


def test_the_report_shows_what_was_found_and_no_escape_of_a_subject(repository, runs, monkeypatch, capsys):
    culprit = repository.edit("weaker\x1b[31m", *WEAKER)
    monkeypatch.chdir(repository.path)
    command = ["bisect", repository.commits[0], "HEAD", "table.toml", "--cell", CELL, "--store", "../store", "--quiet"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"{culprit[:10]} (" in text and "weaker\\x1b[31m" in text and "\x1b" not in text
    assert "code of attack.py:mine changed" in text and "commits: 1; runs: 2, without a run: 0, skipped: 0" in text
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["verdict"], found["commit"]["sha"], found["runs"]) == (1, "found", culprit, 0)
    assert found["step"]["n"] == 60 and found["step"]["is_real"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_search_that_is_out_of_time_is_unfinished_and_has_found_nothing(repository, monkeypatch, capsys, as_json):
    bad = repository.edit("weaker", *WEAKER)
    monkeypatch.chdir(repository.path)
    command = ["bisect", repository.commits[0], bad, "table.toml", "--cell", CELL, "--time-budget", "0.01s"]
    assert main([*command, *(["--json"] if as_json else [])]) == 3
    text = capsys.readouterr().out
    if as_json:
        said = json.loads(text)
        assert (said["schema"], said["verdict"]) == (1, "unfinished")
        text = said["why"]
    assert text.strip() == "time budget used; the same command continues from here."


@pytest.mark.parametrize("as_json", [True, False])
def test_an_unfinished_search_says_what_it_knows(repository, runs, monkeypatch, capsys, as_json):
    good, middle = repository.commits[0], repository.commit("empty")
    bad = repository.edit("weaker", *WEAKER)
    both = find(repository, good, bad)
    measure = measuring.plan_at

    def ended(tree, *arguments, **options):
        if tree.commit == middle:
            os.kill(os.getpid(), signal.SIGINT)
            raise Stop
        return measure(tree, *arguments, **options)

    monkeypatch.setattr(measuring, "plan_at", ended)
    monkeypatch.chdir(repository.path)
    command = ["bisect", good, bad, "table.toml", "--cell", CELL, "--store", "../store", "--device", "cpu", "--quiet"]
    assert main([*command, *(["--json"] if as_json else [])]) == 130
    text = capsys.readouterr().out
    if as_json:
        said = json.loads(text)
        assert (said["verdict"], said["left"], said["after"]["sha"]) == ("unfinished", 2, bad)
        assert not said["no_further"]
        assert said["good"]["accuracy_under_attack"] == said["before"]["accuracy_under_attack"] == accuracy(both.good)
    else:
        assert f"GOOD {good[:10]}: {100 * accuracy(both.good):.2f} % right\nBAD {bad[:10]}: " in text
        assert " right): 2 commits may be it\ninterrupted; the same" in text
        assert "no further" not in text
        assert main(command) == 130
        assert "it came no further than the last time: " in capsys.readouterr().out


def test_commits_that_do_not_run_leave_a_range_and_do_not_stop_the_search(repository, runs):
    good = repository.commits[0]
    broken = [
        repository.edit("broken", "import os\n", "import os\nimport nowhere_at_all\n"),
        repository.edit("weaker and broken", *WEAKER),
    ]
    culprit = repository.edit("mended", "import nowhere_at_all\n", "")
    bad = repository.commit("empty")
    finding = find(repository, good, bad)
    assert finding.verdict == "range" and finding.after.commit == culprit
    assert finding.possible == (*broken, culprit)
    assert {each.commit for each in finding.skipped} == set(broken)
    assert all("nowhere_at_all" in each.why for each in finding.skipped)


def test_a_broken_stretch_is_left_by_halving_and_what_was_not_tried_is_said(repository, runs, monkeypatch, capsys):
    good = repository.commits[0]
    stretch = [repository.edit("broken", "import os\n", "import os\nimport nowhere_at_all\n")]
    stretch += [repository.commit("empty") for _ in range(5)]
    stretch += [repository.edit("weaker and broken", *WEAKER), *(repository.commit("empty") for _ in range(5))]
    mended = repository.edit("mended", "import nowhere_at_all\n", "")
    bad = repository.commit("empty")
    lines = []
    finding = find(repository, good, bad, said=lines.append)
    assert finding.verdict == "range" and finding.possible == (*stretch, mended) and finding.before.commit == good
    failed = {each.commit for each in finding.skipped}
    # Both ends of the stretch, the middle, and about two for each halving.
    assert {stretch[0], stretch[-1]} <= failed and len(failed) <= 8
    assert failed.isdisjoint(finding.untried) and failed.union(finding.untried) == set(stretch)
    # Started again, the search runs none of them.
    before = len(runs)
    assert find(repository, good, bad, said=lines.append).skipped == finding.skipped and len(runs) == before
    assert any("without a new try" in line and "nowhere_at_all" in line for line in lines)
    monkeypatch.chdir(repository.path)
    command = ["bisect", good, bad, "table.toml", "--cell", CELL, "--store", "../store", "--device", "cpu", "--quiet"]
    assert main([*command, "--images"]) == 3
    text = capsys.readouterr().out
    assert f"{len(failed)} fail and {len(finding.untried)}, between two that fail alike, were not tried" in text
    assert "\n  code of attack.py:mine changed\n" in text
    assert "3 more before" in text and "--retry tries them" in text
    assert str(repository.path / ".git") not in text and "attack.py cannot be imported" in text


def test_the_report_of_a_commit_that_was_found_names_those_skipped(repository, runs, monkeypatch, capsys):
    repository.edit("broken", "import os\n", "import os\nimport nowhere_at_all\n")
    middle = [repository.commit("empty") for _ in range(2)]
    repository.edit("mended", "import nowhere_at_all\n", "")
    culprit = repository.edit("weaker", *WEAKER)
    monkeypatch.chdir(repository.path)
    command = ["bisect", repository.commits[0], culprit, "table.toml", "--cell", CELL, "--store", "../store", "--quiet"]
    assert main([*command, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert f"  {culprit[:10]} (" in text
    assert any(f"skipped: {each[:10]}: " in text for each in middle)


def test_failed_commits_are_remembered_for_the_same_search_only(repository, runs):
    good = repository.commits[0]
    repository.edit("broken", "    share =", "    raise RuntimeError('of no use')\n    share =")
    broken = repository.edit("weaker", *WEAKER)
    bad = repository.edit("mended", "    raise RuntimeError('of no use')\n", "")
    assert "of no use" in find(repository, good, bad).skipped[0].why and broken in runs
    runs.clear()
    assert len(find(repository, good, bad).skipped) == 2 and not runs
    # The ends of a search are always tried.
    with pytest.raises(UsageError, match="of no use"):
        find(repository, good, broken)
    assert runs == [broken]
    runs.clear()
    find(repository, good, bad, retry=True)
    assert broken in runs
    runs.clear()
    find(repository, good, bad, options=["--n=50"])
    assert broken in runs


@pytest.mark.parametrize(("seconds", "is_long"), [(1, False), (599, False), (601, True)])
def test_a_commit_that_was_not_finished_is_named_and_where_it_took_long_what_would_skip_it(
    repository, monkeypatch, seconds, is_long
):
    began = bisection.time.monotonic()

    def ended(*_arguments, **_options):
        monkeypatch.setattr(bisection.time, "monotonic", lambda: began + seconds)
        raise Stop

    monkeypatch.setattr(measuring, "plan_at", ended)
    lines, bad = [], repository.commit("empty")
    with pytest.raises(Stop):
        find(repository, repository.commits[0], bad, said=lines.append)
    assert lines[-1].startswith(f"{bad[:10]} was not finished")
    assert ("--set run.timeout=10m" in lines[-1]) is is_long


def test_what_one_side_alone_has_and_near_names_are_said(repository, runs, monkeypatch):
    good = repository.commits[0]
    more = '\n[[attacks]]\nuse = "attack.py:another"\neps = "0.2"\n'
    text = (repository.path / "attack.py").read_text()
    (repository.path / "attack.py").write_text(text + text[text.index("@attack") :].replace("def mine", "def another"))
    table = (repository.path / "table.toml").read_text()
    table = table.replace('attacks = [{ use = "attack.py:mine", eps = "0.2" }]', "") + more
    (repository.path / "table.toml").write_text(table)
    bad = repository.commit("another")
    with pytest.raises(UsageError, match=r"^GOOD: .*BAD \(.*\) has it: it was added or renamed between them$"):
        find(repository, good, bad, cell="linear/weights:fitted.safetensors/another/white-box")
    with pytest.raises(UsageError) as error:
        find(repository, good, bad, cell=CELL.replace("mine", "anothr"))
    assert f"did you mean {CELL.replace('mine', 'another')}?" in str(error.value)
    assert str(repository.path) not in str(error.value)


def test_losses_and_gains_that_cancel_are_said_and_searched_by_images(repository, runs, monkeypatch, capsys):
    sign = "ascent.sign()"
    masked = [f"{sign} * (y % 2 == {each}).float()[:, None, None, None]" for each in (0, 1)]
    good = repository.edit("even", sign, masked[0])
    repository.commit("empty")
    culprit = repository.edit("odd", *masked)
    bad = repository.commit("empty")
    finding = find(repository, good, bad)
    assert finding.verdict == "not reproducible" and finding.ends.cancels
    assert finding.ends.lost > 10 and finding.ends.gained > 10
    by_images = find(repository, good, bad, images=True)
    assert by_images.after.commit == culprit and by_images.step.counts and not by_images.step.is_real
    monkeypatch.chdir(repository.path)
    command = ["bisect", good, bad, "table.toml", "--cell", CELL, "--store", "../store", "--device", "cpu", "--quiet"]
    assert main(command) == 3
    text = capsys.readouterr().out
    assert main([*command, "--images", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["mode"], said["step"]["counts"], said["step"]["is_real"]) == ("images", True, False)
    assert f"{finding.ends.changed} of 60 images have another outcome, but losses and gains balance: --images" in text


def test_of_two_changes_the_first_is_found_and_the_further_one_said(repository, runs):
    good = repository.commits[0]
    first = repository.edit("half", "share = 1.0", "share = 0.15")
    repository.commit("empty")
    bad = repository.edit("none", "share = 0.15", "share = 0.0")
    finding = find(repository, good, bad)
    assert finding.after.commit == first and finding.before.commit == good
    assert finding.further is not None and finding.further.is_real


@pytest.mark.parametrize("again", ["share = 1.0", "share = 2.0 / 2"])
def test_a_change_that_was_taken_back_is_not_the_one_that_lasts(repository, runs, again):
    good = repository.commits[0]
    repository.commit("empty")
    repository.commit("empty")
    # Around the middle, which is measured first.
    for_a_while = repository.edit("for a while", *WEAKER)
    repository.commit("empty")
    repository.commit("empty")
    back = repository.edit("taken back", WEAKER[1], again)
    lasting = repository.edit("less", again, "share = 0.15")
    finding = find(repository, good, repository.commit("empty"))
    # By git alone: what is left of the three edits is the last one.
    diff = repository.git("diff", good, "HEAD", "--", "attack.py")
    assert "share = 0.15" in diff and "share = 0.1 " not in diff
    assert (finding.verdict, finding.after.commit, finding.before.commit) == ("found", lasting, back)
    (note,) = finding.notes
    assert note.startswith(f"a change was taken back at {back[:10]}, and the search went on from there: ")
    assert f"{for_a_while[:10]} for a while" in note
    # Of GOOD, the change for a while, and the one that lasts; and of the same in other words.
    assert len(runs) == (3 if again == "share = 1.0" else 4)


def test_a_change_that_goes_on_later_was_not_taken_back(repository, runs):
    good = repository.commits[0]
    first = repository.edit("weaker", *WEAKER)
    repository.edit("more", "share = 0.1", "share = 0.11")
    bad = repository.edit("less", "share = 0.11", "share = 0.09")
    finding = find(repository, good, bad)
    assert finding.after.commit == first and not finding.notes
    # Each commit at the most.
    assert len(runs) == len(set(runs)) <= 4


def test_without_the_files_behind_a_key_those_of_the_table_count(repository, runs, monkeypatch):
    """So it is with the harness of a commit that is too old to name them."""
    monkeypatch.setattr(at_commit, "_behind", lambda node: None)
    (repository.path / "named.txt").write_text("1.0")
    (repository.path / "share.txt").write_text("1.0")
    repository.edit("names a file", "import os\n", "import os\nNAMED = 'named.txt'\n")
    good = repository.edit("reads a file", *READS)
    (repository.path / "named.txt").write_text("2.0")
    culprit = hidden(repository, "0.1")
    finding = find(repository, good, repository.commit("empty"))
    assert finding.after.commit == culprit
    assert not any("named.txt" in note for note in finding.notes) and "share.txt" in finding.notes[0]


def test_a_change_of_the_threat_is_no_change_of_weights(repository, runs):
    good = repository.commits[0]
    table = (repository.path / "table.toml").read_text()
    (repository.path / "base.toml").write_text(table)
    (repository.path / "table.toml").write_text('schema = 1\nname = "above"\nextends = "base.toml"\n')
    good = repository.commit("extends")
    culprit = repository.edit("smaller", 'eps = "0.2"', 'eps = "0.02"', "base.toml")
    finding = find(repository, good, culprit)
    assert finding.after.commit == culprit and finding.changed == ["threat: L∞ ε=1/5 -> L∞ ε=1/50"]


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("eot", 3, "attack.py:mine: eot 1 -> 3"),
        ("max_passes", 100, "attack.py:mine: max_passes none -> 100"),
        ("target", 3, "attack.py:mine: target none -> 3"),
        ("craft_precision", "bf16", "attack.py:mine: craft_precision auto -> bf16"),
        ("access", "black-box", "access: white-box -> black-box"),
        ("seed", 1, "seed: 0 -> 1"),
    ],
)
def test_how_an_attack_is_used_is_named_where_it_changed(repository, field, value, line):
    with contextlib.chdir(repository.path):
        work = make(*sections.request("table.toml", {}).parts)
    (old,) = [each.cell for each in work.plan.cells if each.cell.attack is not None]
    new = {field: value}
    if field not in ("access", "seed"):
        new = {"attack": old.attack.model_copy(update=new)}
    assert list(changes(old, old.model_copy(update=new))) == [line]
    assert list(changes(old, old)) == []


def test_a_change_on_a_merged_branch_is_found_there(repository, runs):
    good = repository.commits[0]
    branch = repository.git("branch", "--show-current")
    repository.git("switch", "-q", "-c", "a-branch")
    culprit = repository.edit("weaker", *WEAKER)
    repository.git("switch", "-q", branch)
    for number in range(3):
        (repository.path / "notes.txt").write_text(str(number))
        repository.commit("notes")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "a-branch")
    finding = find(repository, good, repository.git("rev-parse", "HEAD"))
    assert (finding.after.commit, finding.before.commit) == (culprit, good)


def test_a_renamed_attack_is_the_same_cell(repository, runs):
    good = repository.commits[0]
    culprit = repository.edit("weaker", *WEAKER)
    code = repository.path / "attack.py"
    code.write_text(code.read_text().replace("def mine", "def my"))
    bad = repository.edit("renamed", "attack.py:mine", "attack.py:my", "table.toml")
    finding = find(repository, good, bad, cell="digits/net.py:linear/weights:fitted.safetensors/my/white-box")
    assert (finding.after.commit, finding.before.name) == (culprit, CELL)
    assert finding.before.own_file and not finding.bad.own_file


def test_a_change_of_the_harness_that_no_key_holds_is_found(repository, runs):
    good = repository.harness("a harness", "1")
    repository.edit("a docstring", "One step.", "A single step.")
    culprit = repository.harness("faster", "0.1")
    bad = repository.edit("a comment", "    share", "    # all of the budget\n    share")
    finding = find(repository, good, bad)
    assert finding.good.result.key == finding.bad.result.key
    assert finding.after.commit == culprit
    assert "keys do not hold the harness" in finding.notes[0]


def test_a_change_of_the_harness_is_not_blamed_on_a_method(repository, runs):
    good = repository.harness("a harness", "1")
    culprit = repository.harness("faster", "0.1")
    old, new = "x + share * float(threat.eps)", "x + float(threat.eps) * share"
    bystander = repository.edit("other code, same numbers", old, new)
    bad = repository.commit("empty")
    finding = find(repository, good, bad)
    assert finding.after.commit == culprit != bystander
    assert any("another version of the harness (bench/): all is measured again" in note for note in finding.notes)


def accuracy(measured):
    return measured.result.outcomes_under_attack.share


@pytest.mark.parametrize("order", ["code first", "harness first"])
def test_of_a_change_of_code_and_one_of_the_harness_each_has_its_own_number(repository, runs, order):
    good = repository.harness("a harness", "1")
    changes = [lambda: repository.edit("weaker", "share = 1.0", "share = 0.15"), lambda: repository.harness("h", "0.2")]
    first = changes[order != "code first"]()
    repository.commit("empty")
    bad = changes[order == "code first"]()
    finding = find(repository, good, bad)
    assert (finding.after.commit, finding.before.commit) == (first, good)
    # One step has 0.15 or 0.2 of its size after the first change, and 0.03 after both.
    repository.git("switch", "-q", "--detach", good)
    expected = repository.edit("once", "share = 1.0", f"share = {0.15 if order == 'code first' else 0.2}")
    at_first = find(repository, good, expected, store="another").bad
    assert accuracy(finding.after) == accuracy(at_first) != accuracy(finding.bad)
    assert finding.further.gained > 0


READS = ("share = 1.0", "share = float(open('sha' + 're.txt').read())")


def hidden(repository, share):
    (repository.path / "share.txt").write_text(share)
    return repository.commit(f"share {share}")


def test_a_file_that_no_key_holds_is_found_and_no_innocent_commit_is_blamed(repository, runs):
    (repository.path / "share.txt").write_text("1.0")
    good = repository.edit("reads a file", *READS)
    culprit = hidden(repository, "0.1")
    repository.commit("empty")
    bystander = repository.edit("other code, same numbers", "import os\n", "import os\nUNUSED = 1\n")
    finding = find(repository, good, bystander)
    assert (finding.after.commit, finding.before.commit) == (culprit, good)
    assert finding.changed[-1] == "share.txt, in no key, changed"
    assert "changed as well and in no key: share.txt; if a method reads one, name it in its source" in finding.notes


def test_a_file_that_another_method_names_is_not_hidden_by_it(repository, runs):
    """The cell reads it without naming it; another attack of the same table names it."""
    (repository.path / "share.txt").write_text("1.0")
    text = (repository.path / "attack.py").read_text()
    other = text.replace("def mine", "def other").replace("share = 1.0", "share = float(open('share.txt').read())")
    (repository.path / "other.py").write_text(other)
    table = (repository.path / "table.toml").read_text()
    more = '{ use = "attack.py:mine", eps = "0.2" }, { use = "other.py:other", eps = "0.2" }'
    (repository.path / "table.toml").write_text(table.replace('{ use = "attack.py:mine", eps = "0.2" }', more))
    good = repository.edit("reads a file", *READS)
    repository.commit("empty")
    culprit = hidden(repository, "0.1")
    finding = find(repository, good, repository.commit("empty"), texts=(*TEXTS, "other.py:other"))
    assert (finding.verdict, finding.after.commit) == ("found", culprit)
    # The same with the number in the source, where a key holds it.
    repository.git("switch", "-q", "--detach", good)
    written = repository.edit("written out", READS[1], "share = 0.1")
    assert accuracy(finding.bad) == accuracy(find(repository, good, written, store="another").bad)


def test_sources_of_another_method_are_no_reason_to_measure_again(repository, runs):
    (repository.path / "other.py").write_text((repository.path / "attack.py").read_text().replace("mine", "other"))
    table = (repository.path / "table.toml").read_text()
    more = '{ use = "attack.py:mine", eps = "0.2" }, { use = "other.py:other", eps = "0.2" }'
    (repository.path / "table.toml").write_text(table.replace('{ use = "attack.py:mine", eps = "0.2" }', more))
    good = repository.commit("two attacks")
    repository.edit("another attack", *WEAKER, name="other.py")
    culprit = repository.edit("weaker", *WEAKER)
    finding = find(repository, good, culprit, texts=(*TEXTS, "other.py:other"))
    assert finding.after.commit == culprit and not finding.notes and len(runs) == 2


@pytest.mark.parametrize("loading", ["importlib.import_module('li' + 'b')", "pkgutil.resolve_name('lib')"])
def test_a_source_that_is_loaded_by_a_name_put_together_is_measured_afresh(repository, runs, loading, monkeypatch):
    """Its module is forgotten before each run here, as each is a process of its own otherwise."""
    (repository.path / "far").mkdir()
    (repository.path / "far" / "lib.py").write_text("SHARE = 1.0\n")
    more = "import os\nimport sys\nimport importlib, pkgutil\nsys.path.insert(0, 'far')\nsys.modules.pop('lib', None)\n"
    repository.edit("imports", "import os\n", more)
    good = repository.edit("loads", "share = 1.0", f"importlib.invalidate_caches(); share = {loading}.SHARE")
    culprit = repository.edit("hidden", "1.0", "0.125", "far/lib.py")
    bystander = repository.edit("other code, same numbers", "import os\n", "import os\nUNUSED = 1\n")
    finding = find(repository, good, bystander)
    assert finding.after.commit == culprit != bystander
    assert finding.changed[-1] == "far/lib.py, in no key, changed"


def test_other_sources_that_changed_are_named_where_a_key_did_not_and_cost_no_run(
    repository, runs, monkeypatch, capsys
):
    for name in ("far", "methods"):
        (repository.path / name).mkdir()
    (repository.path / "far" / "lib.py").write_text("SHARE = 1.0\n")
    repository.git("mv", "attack.py", "net.py", "methods")
    table = (repository.path / "table.toml").read_text()
    for name in ("attack", "net"):
        table = table.replace(f"{name}.py", f"methods/{name}.py")
    (repository.path / "table.toml").write_text(table)
    good = repository.commit("a library")
    bad = repository.edit("another", "1.0", "0.1", "far/lib.py")
    monkeypatch.chdir(repository.path)
    command = [
        "bisect",
        good,
        bad,
        "table.toml",
        "--cell",
        "mine/white-box",
        "--store",
        "../store",
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main(command) == 3 and len(runs) == 1
    text = capsys.readouterr().out
    assert "both have one key, in which these are not, though they changed: far/lib.py\n" in text
    assert "one measurement" not in text
    assert main([*command, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["changed_elsewhere"] == ["far/lib.py"]


def test_the_file_of_a_method_before_it_was_renamed_is_its_own_code(repository, runs):
    good = repository.commits[0]
    repository.git("mv", "attack.py", "renamed.py")
    culprit = repository.edit("renamed", "attack.py:mine", "renamed.py:mine", "table.toml")
    bad = repository.edit("weaker", *WEAKER, name="renamed.py")
    finding = find(repository, good, bad, texts=(*TEXTS[:-1], "renamed.py:mine"))
    assert finding.after.commit == bad != culprit and finding.good.own_file
    assert not any("attack.py" in note for note in finding.notes)


def test_hashes_of_files_are_those_of_git_whatever_these_are_called(repository):
    names = ["da\nta '\".txt", "\u00e9 -.txt", "attack.py"]
    (repository.path / "sub").mkdir()
    for name in names[:2]:
        (repository.path / name).write_text(name)
        (repository.path / "sub" / name).write_text("another")
    repository.commit("odd names")
    hashes = {name: repository.git("hash-object", "--", name) for name in names}
    with contextlib.chdir(repository.path / "sub"):
        assert History(Path.cwd()).hashes_of("HEAD", [*names, "nowhere.txt"]) == hashes


def test_equal_keys_are_no_one_measurement_where_a_file_in_no_key_changed(repository, runs):
    (repository.path / "share.txt").write_text("1.0")
    good = repository.edit("reads a file", *READS)
    culprit = hidden(repository, "0.1")
    finding = find(repository, good, repository.commit("empty"))
    assert finding.verdict == "found" and finding.after.commit == culprit
    assert finding.good.result.key == finding.bad.result.key


@pytest.mark.parametrize("name", ["named.txt", "notes.md", "docs/figure.npy"])
def test_files_that_a_key_holds_or_no_method_reads_cost_no_run_and_no_line(repository, runs, name):
    (repository.path / "docs").mkdir()
    (repository.path / name).write_text("1.0")
    good = repository.edit("reads a file", "share = 1.0", "share = float(open('named.txt').read()) if False else 1.0")
    (repository.path / name).write_text("0.9")
    repository.commit("another")
    culprit = repository.edit("weaker", "else 1.0", "else 0.1")
    finding = find(repository, good, culprit)
    assert finding.after.commit == culprit and not finding.notes
    assert len(runs) == (3 if name == "named.txt" else 2)


def test_records_that_were_cut_short_are_made_again(repository, runs):
    good, bad = repository.commits[0], repository.edit("weaker", *WEAKER)
    find(repository, good, bad)
    kept = repository.path / ".git" / "crossfire" / "bisect" / "common" / "records"
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    runs.clear()
    assert find(repository, good, bad).after.commit == bad and sorted(runs) == sorted([good, bad])


def test_finished_work_of_the_store_is_used_and_nothing_is_written_there(repository, runs, monkeypatch):
    store = repository.path.parent / "store"
    monkeypatch.chdir(repository.path)
    options = ["--store", str(store), "--report", str(repository.path.parent / "report"), "--quiet"]
    assert main(["run", "table.toml", *options]) == 0
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    culprit = repository.edit("weaker", *WEAKER)
    finding = find(repository, repository.commits[0], culprit)
    assert finding.after.commit == culprit and runs == [culprit]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_training_and_a_set_are_carried_once_and_no_links(tmp_path):
    source, target, key = Store(tmp_path / "a"), Store(tmp_path / "b"), "0" * 64
    for folder, names in ((source.training(key), ("card.json", "log.jsonl")), (source.adversarial(key), ())):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(name)
    (source.training(key) / "weights.safetensors").write_bytes(b"weights")
    # Of another training a part lies elsewhere, so nothing is carried.
    (source.training("1" * 64)).mkdir()
    (source.training("1" * 64) / "card.json").write_text("card")
    (source.training("1" * 64) / "weights.safetensors").symlink_to("/etc/hostname")
    (source.adversarial(key) / "000000-000060.safetensors").write_bytes(b"images")
    (source.adversarial(key) / "notes.txt").write_text("mine")
    plan = PlanAt([], [key, "1" * 64], [key, "1" * 64])
    for _ in range(2):
        carry(source, target, plan)
        found = sorted(target.name(path) for path in target.root.rglob("*") if path.is_file())
        training = [f"train/{key}/{name}" for name in ("card.json", "log.jsonl", "weights.safetensors")]
        assert found == [f"attack/{key}/000000-000060.safetensors", *training]


def test_a_run_at_a_commit_writes_results_and_no_page(repository, monkeypatch, tmp_path, capsys):
    with worktree(repository.path, "HEAD") as tree:
        assert at_commit.ONLY_RESULTS in at_commit._environment(tree)
    monkeypatch.setenv(at_commit.ONLY_RESULTS, "1")
    monkeypatch.chdir(repository.path)
    where = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "report"), "--device", "cpu"]
    assert main(["run", "table.toml", *where, "--quiet"]) == 0
    assert list((tmp_path / "store" / "cells").iterdir()) and not (tmp_path / "report").exists()
    assert capsys.readouterr().out == ""


def test_what_is_no_commit_here_is_said_with_what_helps(repository, tmp_path, monkeypatch, capsys):
    good = repository.commits[0]
    repository.commit("empty")
    for name, options in {"bare": ["--bare"], "shallow": ["--depth=1"]}.items():
        repository.git("clone", "-q", *options, f"file://{repository.path}", str(tmp_path / name))
    said = {
        "bare": f"the repository in {tmp_path / 'bare'} is bare, nothing is checked out: work in a clone of it",
        "shallow": "git fetch --unshallow brings the rest (in a job, fetch-depth: 0 of actions/checkout)",
    }
    for name, end in said.items():
        monkeypatch.chdir(tmp_path / name)
        assert main(["bisect", good, "HEAD", "--cell", CELL]) == 2
        assert capsys.readouterr().err.endswith(f"{end}\n")
    assert main(["bisect", good, "HEAD", "--cell", " "]) == 2
    assert "it is empty; give the name of a cell" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["use", "extends", "set"])
def test_an_absolute_path_to_a_file_of_the_repository_is_refused(repository, monkeypatch, capsys, kind):
    bad = repository.edit("weaker", *WEAKER)
    monkeypatch.chdir(repository.path)
    table, there = repository.path.parent / "table.toml", str(repository.path / "attack.py")
    text = (repository.path / "table.toml").read_text()
    more = []
    if kind == "set":
        more = ["--set", f'attacks.0.use="{there}:mine"']
    else:
        assert '"attack.py:' in text
        text = text.replace('"attack.py:', f'"{there}:')
    if kind == "extends":
        (repository.path.parent / "base.toml").write_text(text)
        text = f'schema = 1\nname = "above"\nextends = "{repository.path.parent / "base.toml"}"\n'
    table.write_text(text)
    code = main(["bisect", repository.commits[0], bad, str(table), "--cell", CELL, "--device", "cpu", *more])
    error = capsys.readouterr().err
    assert code == 2 and "absolute path into the repository" in error and there in error


def test_a_path_of_the_checkout_in_code_or_of_a_file_that_git_kept_once(repository, runs, monkeypatch, capsys):
    weights = repository.path / "old.safetensors"
    weights.write_bytes(b"")
    good = repository.commit("weights")
    (repository.path / ".gitignore").write_text("*.safetensors\n")
    repository.git("rm", "-q", "--cached", "old.safetensors")
    bad = repository.commit("no weights")
    monkeypatch.chdir(repository.path)
    command = ["bisect", good, bad, "table.toml", "--device", "cpu", "--store", "../store", "--quiet", "--cell", CELL]
    assert main([*command, "--set", f'defenses.0.use="weights:{weights}"']) == 2
    assert "absolute path into the repository" in capsys.readouterr().err
    (repository.path / "far.py").write_text(f"# /elsewhere{repository.path}/notes.txt")
    bad = repository.edit("a path", "import os\n", f"import os\nFILE = '{repository.path}/notes.txt'\n")
    assert main([*command[:2], bad, *command[3:]]) == 3
    line = f"attack.py: the path {repository.path}/ stands in the code: what is read by it is the same at every commit"
    assert f"warning: {line}" in capsys.readouterr().err


@pytest.mark.parametrize("is_given", [False, True])
def test_a_folder_of_the_repository_that_python_searches_is_warned_of(repository, runs, monkeypatch, capsys, is_given):
    bad = repository.commit("empty")
    monkeypatch.chdir(repository.path)
    monkeypatch.setattr("sys.path", [*sys.path, str(repository.path)])
    monkeypatch.setenv("PYTHONPATH", str(repository.path) if is_given else "")
    options = ["--cell", CELL, "--device", "cpu", "--store", "store", "--quiet"]
    assert main(["bisect", repository.commits[0], bad, "table.toml", *options]) == 3
    warned = [each for each in capsys.readouterr().err.splitlines() if f"Python searches {repository.path}" in each]
    assert len(warned) == (0 if is_given else 1)


def test_a_folder_of_the_repository_in_pythonpath_is_that_of_the_commit(repository, monkeypatch):
    path = repository.path
    (path / "lib").mkdir()
    (path / "lib" / "mine.py").write_text("old")
    first = repository.commit("a library")
    (path / "lib" / "mine.py").write_text("new")
    outside = str(path.parent / "elsewhere")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path / "lib"), outside, "relative"]))
    with worktree(path, first) as tree:
        library, *rest = at_commit._environment(tree)["PYTHONPATH"].split(os.pathsep)
        assert (Path(library) / "mine.py").read_text() == "old"
    assert rest == [outside, "relative"]
