"""``--set`` is an edit of the file: it plans what the edited file plans. A wrong one is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.config import sections
from bench.config.overrides import setting
from bench.schedule.plan import make

FILE = """
schema = 1
name = "edited"
seeds = [0]
[dataset]
name = "digits"
n = 100
[[models]]
arch = "small-cnn"
[[defenses]]
use = "jpeg"
quality = 75
[[attacks]]
use = "pgd"
steps = 20
[[attacks]]
use = "fgsm"
[[attacks]]
use = "pgd"
steps = 5
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(FILE)
    return "my.toml"


@pytest.mark.parametrize(
    ("settings", "edits"),
    [
        (["attacks.pgd.steps=50"], [("steps = 20", "steps = 50"), ("steps = 5\n", "steps = 50\n")]),
        (["attacks.2.steps=7"], [("steps = 5\n", "steps = 7\n")]),
        (["attacks.pgd.steps=50", "attacks.0.steps=7"], [("steps = 20", "steps = 7"), ("steps = 5\n", "steps = 50\n")]),
        (["dataset.n=1_000", "seeds=[1, 2]"], [("n = 100", "n = 1000"), ("seeds = [0]", "seeds = [1, 2]")]),
        (["run.device=cpu"], [('name = "edited"', 'name = "edited"\nrun = { device = "cpu" }')]),
        (["defenses.jpeg.quality=[50,75]"], [("quality = 75", "quality = [50, 75]")]),
        (['models."small-cnn".hidden=9'], [('"small-cnn"', '"small-cnn"\nhidden = 9')]),
        (['attacks.fgsm.eps="2/255"'], [('"fgsm"', '"fgsm"\neps = "2/255"')]),
        (["attacks.fgsm.eps=2/255"], [('"fgsm"', '"fgsm"\neps = "2/255"')]),
        (["attack.eot=3"], [('name = "edited"', 'name = "edited"\nattack = { eot = 3 }')]),
    ],
)
def test_a_setting_is_an_edit(file, settings, edits):
    edited = FILE
    for old, new in edits:
        assert old in edited
        edited = edited.replace(old, new)
    Path("edited.toml").write_text(edited)
    wanted = sections.request("edited.toml").parts
    assert sections.request(file, settings=[setting(each) for each in settings]).parts == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("attacks.pdg.steps=3", "unknown entry of attacks 'pdg'; did you mean 'pgd'?"),
        ("attacks.pgd.stepz=3", "my.toml with --set attacks.pgd.stepz=3: attacks[0] (pgd)"),
        ("attacks.9.steps=3", "attacks has 3 entries, numbered from 0"),
        ("attacks.pgd=3", "as in attacks.pgd.KEY=VALUE"),
        ("datset.n=3", "unknown key 'datset'; did you mean 'dataset'?"),
        ("dataset.n=many", "my.toml (from --set dataset.n=many): dataset.n: "),
        ("dataset.n=true", "true is not a number"),
        ("dataset.name.x=3", "name is 'digits', not a table"),
        ("steps", "KEY=VALUE is needed"),
        ("=3", "KEY=VALUE is needed"),
        ("attacks..steps=3", "KEY=VALUE is needed"),
        ("seeds=1979-01-01", "is a date or time"),
        ("name=" + "[" * 5000, "at most 4,000 characters"),
        ("name=\x1b[31m", "has a control character"),
        ("seeds=99999999999999999999", "is too large"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(file, capsys, text, says):
    assert main(["plan", file, "--set", text]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert says in captured.err


def test_one_thing_is_said_once(file, capsys):
    assert main(["plan", file, "--set", "dataset.n=3", "--n", "4"]) == 2
    assert "--n and --set dataset.n say the same" in capsys.readouterr().err


def test_of_several_files_each_that_has_the_entry_is_changed(file):
    Path("other.toml").write_text(FILE.replace("edited", "other").replace("fgsm", "mi-fgsm"))
    Path("both.toml").write_text('schema = 1\nname = "both"\ninclude = ["my.toml", "other.toml"]\n')
    settings = [setting("attacks.fgsm.eps=1/255"), setting("run.batch=8")]
    first, second = sections.request("both.toml", settings=settings).parts
    assert first.attacks[1].eps == "1/255" and second.attacks[1].eps is None
    assert (first.run.batch, second.run.batch) == (8, 8)


def test_keys_change_with_a_setting_and_names_do_not(file):
    def planned(*settings):
        parts = sections.request(file, settings=[setting(each) for each in settings]).parts
        return {cell.names: cell.key for cell in make(*parts).plan.cells}

    before, after = planned(), planned("attacks.fgsm.eps=1/255")
    assert before.keys() == after.keys()
    assert {names.attack for names in before if before[names] != after[names]} == {"fgsm"}


@pytest.mark.parametrize(("program", "shown"), [("run_bench.py", "run_bench.py"), ("crossfire", "crossfire")])
def test_a_message_names_the_command_as_it_was_started(program, shown, tmp_path):
    script = "import sys; from bench.cli import main; sys.argv[0] = sys.argv.pop(1); sys.exit(main())"
    for line in (["--n", "5", "plan"], ["plan", "--nn"], ["-h"]):
        ran = subprocess.run([sys.executable, "-c", script, f"/bin/{program}", *line], capture_output=True, text=True)
        said = ran.stdout + ran.stderr
        assert shown in said and ({"run_bench.py", "crossfire"} - {shown}).pop() not in said
    ran = subprocess.run([sys.executable, "-c", script, program, "--version"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith("crossfire 0.")
