"""--changed-since: which cells a change can have touched, against full plans of both commits by other processes."""

import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from safetensors.torch import save_file

from bench.cli import main
from bench.cli.changed_since import lines
from bench.config import sections
from bench.models.build import build, network_ref
from bench.schedule import since
from bench.schedule.earlier import Table
from bench.schedule.plan import make
from bench.store import history
from bench.store.commits import commit_named
from bench.types import UsageError
from tests.schedule.small import DIGITS

ROOT = Path(__file__).parents[2]
TABLE = f"""
schema = 1
name = "own"
{DIGITS.replace("n = 140", "n = 24")}
[train]
epochs = 1
"""
ATTACK = """
from torch import Tensor

from bench.api import Target, Threat, attack
{imports}

@attack(norms=("linf",), passes="0 forwards")
def {name}(target: Target, x: Tensor, y: Tensor, threat: Threat, *, share: float = 1.0) -> Tensor:
    \"\"\"Brighter.\"\"\"
    return {value}
"""
STEP = """
from torch import nn
from bench.api import defense

@defense(kind="test-time")
class {name}:
    \"\"\"Nothing.\"\"\"

    def wrap(self, base: nn.Module) -> nn.Module:
        return {value}

    def surrogate(self, base: nn.Module) -> nn.Module:
        return base
"""
BRIGHTER = "(x + share * float(threat.eps)).clamp(0, 1)"
ENVIRONMENT = {
    **os.environ,
    **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "PYTHONPATH": str(ROOT),
}
#: Prints the name and key of every cell of a table, in a process that reads nothing else.
PLAN = """
import json, sys
from bench.config import sections
from bench.schedule.plan import make
cells = make(*sections.request(sys.argv[1], {}).parts).plan.cells
print(json.dumps({str(each.names): each.key for each in cells}))
"""


class Repository:
    """A repository with a table and methods of its own, beside the harness or with it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q")

    def git(self, *words):
        command = ["git", "-C", str(self.folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.strip()

    def write(self, **files):
        for name, text in files.items():
            path = self.folder / name.replace("__", ".")
            path.write_text(text)

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "change")

    def attack(self, name, value=BRIGHTER, imports="", comment=""):
        text = ATTACK.format(name=name, value=value, imports=imports).replace("    return", f"{comment}    return")
        self.write(**{f"{name}__py": text})

    def step(self, name, value="base"):
        self.write(**{f"{name}__py": STEP.format(name=name, value=value)})

    def table(self, rows, columns):
        """Write a table; ``columns`` are the parameters of each attack by its name."""
        steps = (f'[[defenses]]\nuse = "{name}.py:{name}"\nbase = "standard"' for name in rows)
        attacks = (f'[[attacks]]\nuse = "{name}.py:{name}"\neps = "0.1"\n{more}' for name, more in columns.items())
        self.write(table__toml="\n\n".join([TABLE, '[[defenses]]\nuse = "standard"', *steps, *attacks]))

    def planned_at(self, name, table="table.toml"):
        """Return the keys of a commit by the names of the cells: the plan of another process in a clone of its own."""
        with_it = self.folder.parent / f"at-{name.replace('~', '-')}"
        self.git("worktree", "add", "-q", "--detach", str(with_it), name)
        root = with_it if (with_it / "bench").is_dir() else ROOT
        command = [sys.executable, "-P", "-c", PLAN, table]
        environment = {**ENVIRONMENT, "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=with_it, env=environment, capture_output=True, text=True, check=True)
        self.git("worktree", "remove", "--force", str(with_it))
        return json.loads(done.stdout)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of own methods, in it as the current folder; the harness lies elsewhere."""
    own = Repository(tmp_path / "own")
    monkeypatch.chdir(own.folder)
    own.write(helper__py="def most(x):\n    return x.clamp(0, 1)\n")
    for name in ("edited", "commented", "parameter", "removed"):
        own.attack(name)
    for name in ("first", "second"):
        own.attack(name, "most(x + float(threat.eps))", "from helper import most")
    own.step("still")
    own.step("altered")
    columns = dict.fromkeys(("edited", "commented", "parameter", "removed", "first", "second"), "")
    own.table(["still", "altered"], columns)
    own.commit()
    return own


def looked_at(name="HEAD~1", what="table.toml", **options):
    work = make(*sections.request(what, {}).parts)
    return work, since.since(work, commit_named(name, "--changed-since"), Table(what, **options))


def reasons(work, known):
    """Return why by the name of each touched cell, without images and network."""
    return {
        str(each.names).split("/", 2)[2]: known.why(each.key) for each in work.requested if each.key in known.touched
    }


def test_each_kind_of_change_touches_its_own_cells(repository):
    """Edited attack and step, a comment, a helper of two, a parameter, a new and a removed column, in one commit."""
    repository.attack("edited", "(x - share * float(threat.eps)).clamp(0, 1)")
    repository.attack("commented", comment="    # Only said otherwise.\n")
    repository.attack("added")
    repository.write(helper__py="def most(x):\n    return x.clamp(0, 0.9)\n")
    repository.step("altered", "nn.Sequential(base)")
    columns = dict.fromkeys(("edited", "commented", "first", "second", "added"), "")
    repository.table(["still", "altered"], {**columns, "parameter": "share = 0.5"})
    repository.commit()
    work, known = looked_at()
    why = reasons(work, known)
    before, now = repository.planned_at("HEAD~1"), {str(each.names): each.key for each in work.requested}
    assert set(known.touched) == set(now.values()) - set(before.values())
    assert {str(each.names) for each in known.gone} == {name for name in before if "/removed/" in name}
    assert [each.key for each in known.untouched] == [key for key in now.values() if key in before.values()]
    for row, access in (("standard", "white-box"), ("still", "static"), ("still", "adaptive")):
        names = {name: name.split("/") for name in why}
        assert {parts[1]: why[name] for name, parts in names.items() if parts[::2] == [row, access]} == {
            "edited": "code of attack edited.py:edited",
            "first": "code of attack first.py:first",
            "second": "code of attack second.py:second",
            "parameter": "parameter.py:parameter: share 1.0 -> 0.5",
            "added": "new",
        }
    assert why["altered/commented/static"] == "code of step altered.py:altered"
    files = {each.text: each.files for each in chain.from_iterable(known.touched.values())}
    assert files["code of attack first.py:first"] == files["code of attack second.py:second"] == ("helper.py",)
    assert "      5  code of attack first.py:first (helper.py)" in [*lines(known)]
    needed = [str(each.names) for each in work.requested if each.key in known.needed]
    assert needed == ["digits/small-cnn/standard/clean/white-box", "digits/small-cnn/still/clean/static"]
    assert {each.key for each in since.narrowed(work, known, None).plan.cells} == set(known.touched) | known.needed
    parts = [since.narrowed(work, known, (part, 2)).plan.cells for part in (1, 2)]
    assert {each.key for part in parts for each in part} == set(known.touched) | known.needed


def test_a_changed_threat_is_said_as_tables_say_it():
    # Here, for the test of the harness copies this folder alone.
    from tests.report.fabricate import result

    old, eps, norm = (result(clean=[True] * 8, **more).cell for more in ({}, {"eps": "4/255"}, {"norm": "l2"}))
    assert [each.text for each in since._reasons(old, eps, None)] == ["threat: L∞ ε=8/255 -> L∞ ε=4/255"]
    assert [each.text for each in since._reasons(old, norm, None)] == ["threat: L∞ ε=8/255 -> L2 ε=8/255"]


def test_what_is_not_committed_counts_and_what_git_ignores_does_not(repository):
    repository.write(__gitignore="ignored\n")
    repository.commit()
    assert looked_at("HEAD")[1].touched == {}
    repository.write(ignored="1")
    assert "not in the repository" not in looked_at("HEAD")[1].notes
    repository.attack("edited", "x")
    work, known = looked_at("HEAD")
    assert set(chain(*known.touched.values())) == {("code", "code of attack edited.py:edited", ("edited.py",))}
    assert "uncommitted changes count: edited.py" in known.notes


def test_a_file_that_the_table_names_by_its_absolute_path_is_compared_too(repository):
    """The table of the commit names the file of now as well, whose keys are alike."""
    path = repository.folder / "table.toml"
    path.write_text(path.read_text().replace('"edited.py:', f'"{repository.folder}/edited.py:'))
    repository.commit()
    repository.attack("edited", "x")
    work, known = looked_at("HEAD")
    assert len(known.touched) == 5
    assert {each.files for each in chain(*known.touched.values())} == {("edited.py",)}


def test_weights_by_their_absolute_path_are_compared_too_and_what_no_key_shows_is_named(repository):
    tensors = build(network_ref("small-cnn", {}), 10, (1, 8, 8)).state_dict()
    weights, table = repository.folder / "net.safetensors", repository.folder / "table.toml"
    save_file(tensors, weights)
    more = f'[[defenses]]\nuse = "weights:{weights}"\n\n[[attacks]]'
    table.write_text(table.read_text().replace("[[attacks]]", more, 1))
    repository.write(factor__txt="1.0")
    repository.commit()
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, weights)
    repository.write(factor__txt="0.0", README__md="Twice.")
    repository.commit()
    work, known = looked_at()
    names = {str(each.names) for each in work.requested if each.key in known.touched}
    assert names == {str(each.names) for each in work.requested if "weights:" in str(each.names)} != set()
    assert {each.text for each in chain(*known.touched.values())} == {f"weights:{weights} changed"}
    (note,) = [each for each in known.notes if each.startswith("changed as well")]
    assert note.startswith("changed as well and in no key: factor.txt; if a method reads one")


def test_a_file_that_a_source_names_by_its_absolute_path_touches_its_cells(repository):
    """So does a file named beside a source that the table itself names by its absolute path."""
    top, table = repository.folder, repository.folder / "table.toml"
    reading = "(x + float(open({}).read()) * float(threat.eps)).clamp(0, 1)"
    repository.attack("edited", reading.format(f'"{top}/factor.txt"'))
    (top / "sub").mkdir()
    beside = reading.format('pathlib.Path(__file__).parent / "other.txt"')
    repository.attack("sub/own", beside, "import pathlib")
    own = top / "sub" / "own.py"
    own.write_text(own.read_text().replace("def sub/own", "def own"))
    table.write_text(table.read_text().replace('"parameter.py:parameter', f'"{own}:own'))
    repository.write(**{"factor__txt": "1", "sub/other__txt": "1"})
    repository.commit()
    assert looked_at("HEAD")[1].touched == {}
    repository.write(**{"factor__txt": "0", "sub/other__txt": "0"})
    work, known = looked_at("HEAD")
    assert len(known.touched) == 10
    assert set(chain(*known.touched.values())) == {
        ("code", "a file that attack edited.py:edited reads", ("factor.txt",)),
        ("code", f"a file that attack {own}:own reads", ("sub/other.txt",)),
    }
    assert not any("in no key" in note for note in known.notes)


def test_files_that_changed_and_are_in_no_key_are_named(repository):
    """Those that no source names, data first; not what a source names or runs, prose, tests or tables."""
    put_together = "(x * float(open('fac' + 'tor.txt').read()) + float(open('named.txt').read()))"
    repository.attack("edited", put_together)
    (repository.folder / "tests").mkdir()
    names = ["factor__txt", "named__txt", "README__md", "tests/a__txt", "test_own__py", "setup__cfg", "alone__py"]
    for text in ("1", "0"):
        repository.write(**dict.fromkeys(names, text))
        repository.write(helper__py=f"def most(x):\n    return x * {text}\n", other__toml=f"schema = {text}\n")
        repository.commit()
    notes = [note for note in looked_at()[1].notes if "in no key" in note]
    assert notes == [
        "changed as well and in no key: factor.txt, alone.py, setup.cfg; if a method reads one, name it in its source"
    ]
    for name in ("b", "c", "d"):
        repository.write(**{f"{name}__bin": "0"})
    repository.commit()
    notes = [note for note in looked_at("HEAD~2")[1].notes if "in no key" in note]
    assert notes[0].startswith("changed as well and in no key: b.bin, c.bin, d.bin and 3 more;")


def test_a_file_that_one_method_names_does_not_hide_it_for_another(repository):
    """Both read it; the note is on the one that does not name it, whose key is as before."""
    repository.attack("edited", "(x * float(open('fac' + 'tor.txt').read())).clamp(0, 1)")
    repository.attack("parameter", "(x * float(open('factor.txt').read())).clamp(0, 1)")
    repository.write(factor__txt="1")
    repository.commit()
    repository.write(factor__txt="0")
    repository.commit()
    work, known = looked_at()
    before, now = repository.planned_at("HEAD~1"), repository.planned_at("HEAD")
    assert {name.split("/")[3] for name in now if before[name] != now[name]} == {"parameter"}
    assert {name.split("/")[1] for name in reasons(work, known)} == {"parameter"}
    notes = [note for note in known.notes if note.startswith("changed as well")]
    assert notes == [
        "changed as well and in the key of some cells only: factor.txt; a method that reads one must name it"
    ]
    # Where all that may read it are touched, there is nothing to say.
    table = Path("table.toml")
    table.write_text(table.read_text().replace("n = 24", "n = 25"))
    assert not any(note.startswith("changed as well") for note in looked_at()[1].notes)


@pytest.mark.parametrize("loading", ["__import__('param' + 'eter')", "__import__('parameter')", "'a text'"])
def test_a_source_that_is_loaded_by_a_name_put_together_is_named(repository, loading):
    repository.attack("edited", f"(x * ({loading} is not None)).clamp(0, 1)")
    (repository.folder / "far").mkdir()
    repository.write(**{"far/lib__py": "SHARE = 1\n", "far/settings__yaml": "1"})
    repository.commit()
    repository.attack("parameter", "x")
    repository.write(**{"far/lib__py": "SHARE = 0\n"})
    repository.commit()
    work, known = looked_at()
    touched = {name.split("/")[1] for name in reasons(work, known)}
    notes = [note for note in known.notes if "some cells only" in note]
    assert touched == ({"parameter", "edited"} if loading == "__import__('parameter')" else {"parameter"})
    assert [": parameter.py;" in note for note in notes] == ([True] if "' + '" in loading else [])


def test_a_table_that_the_commit_lacks_or_that_cannot_be_planned_touches_all(repository):
    shutil.copy("table.toml", "other.toml")
    work, known = looked_at("HEAD", "other.toml")
    assert set(reasons(work, known).values()) == {"new"}
    assert "other.toml is not in HEAD, so every cell is new" in known.notes
    good = Path("table.toml").read_text()
    Path("table.toml").write_text(good.replace("edited.py:edited", "edited.py:nowhere"))
    repository.commit()
    Path("table.toml").write_text(good)
    work, known = looked_at("HEAD")
    assert len(known.touched) == len(work.requested) and not known.gone
    assert any("cannot be planned by this harness" in note and "nowhere" in note for note in known.notes)


@pytest.mark.parametrize("name", ["nowhere", "--upload-pack=x", "^HEAD", "HEAD~9", "a\nb"])
def test_no_such_commit_is_one_line(repository, capsys, name):
    assert main(["run", "table.toml", f"--changed-since={name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --changed-since: ") and "commit" in line


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_asks_for_a_commit(repository, capsys, name):
    assert main(["plan", "table.toml", f"--changed-since={name}"]) == 2
    assert "it needs a commit, such as HEAD~1" in capsys.readouterr().err


def test_a_repository_without_commits_is_said(tmp_path, monkeypatch):
    Repository(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="has no commits yet"):
        commit_named("HEAD", "--changed-since")


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_renamed_table_is_compared_with_what_it_was(repository, is_absolute):
    repository.attack("edited", "x")
    (repository.folder / "tables").mkdir()
    repository.git("mv", "table.toml", "tables/new.toml")
    repository.commit()
    what = str(repository.folder / "tables/new.toml") if is_absolute else "tables/new.toml"
    work, known = looked_at(what=what)
    assert {each.text for each in chain(*known.touched.values())} == {"code of attack edited.py:edited"}
    assert len(known.touched) == 5
    assert f"{what} is table.toml in HEAD~1" in known.notes


def test_a_method_in_a_submodule_is_said_to_be_why_the_table_cannot_be_planned(repository, tmp_path, caplog):
    other = Repository(tmp_path / "other")
    other.attack("lent")
    other.commit()
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other.folder), "sub")
    repository.commit()
    assert not any("submodule" in note for note in looked_at("HEAD~1")[1].notes)
    table = repository.folder / "table.toml"
    table.write_text(table.read_text().replace("edited.py:edited", "sub/lent.py:lent"))
    repository.commit()
    repository.write(helper__py="def most(x):\n    return x\n")
    work, known = looked_at("HEAD")
    (note,) = [each for each in known.notes if "cannot be planned" in each]
    assert note.endswith("sub/lent.py; sub is a submodule, which is not checked out there")
    assert len(known.touched) == len(work.requested) and not caplog.records


def test_no_repository_and_a_shallow_one(repository, tmp_path, monkeypatch):
    repository.write(helper__py="x = 1\n")
    repository.commit()
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(UsageError, match=r"^(?!.*shallow.*--unshallow.*--unshallow).*git fetch --unshallow"):
        commit_named("HEAD~1", "--changed-since")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--changed-since: git finds no repository"):
        commit_named("HEAD~1", "--changed-since")


def test_run_and_plan_do_what_is_touched_alone(repository, tmp_path, capsys, monkeypatch):
    store = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "report")]
    # The runs of this repository are those of its own commits, as in one that has the harness itself.
    monkeypatch.setattr(history, "source", lambda: (repository.git("rev-parse", "HEAD"), False))
    assert main(["run", "table.toml", "--only", "standard/", *store, "--record"]) == 0
    done = {path.stem for path in (tmp_path / "store" / "cells").iterdir()}
    capsys.readouterr()
    assert main(["train", "table.toml", "--changed-since", "HEAD", *store[:2]]) == 0
    assert capsys.readouterr().out.splitlines() == ["nothing has changed since HEAD: none of 33 cells is touched"]
    repository.attack("edited", "x")
    only = ["--changed-since", "HEAD", "--only", "standard/"]
    assert main(["plan", "table.toml", *only, *store[:2], "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    touched = {each["key"] for each in planned["since"]["touched"]}
    assert len(touched) == 1 and not touched & done
    cells = {each["key"]: each for each in planned["nodes"] if each["kind"] == "evaluate"}
    assert cells.keys() == touched | set(planned["since"]["needed"])
    assert all(each["seconds"] is not None and each["done"] is (each["key"] in done) for each in cells.values())
    assert main(["run", "table.toml", *only, *store, "--verify", "30%"]) == 0
    assert {path.stem for path in (tmp_path / "store" / "cells").iterdir()} == done | touched
    said = capsys.readouterr().out
    assert "since HEAD: 1 of 7 cells are touched, 6 not; needed with them: 1" in said
    assert "results of untouched cells: 5 from this store, 0 as recorded for HEAD" in said
    assert "verified: 2 cells computed again, 0 differ" in said
    assert main(["run", "table.toml", *only, "--store", str(tmp_path / "other"), *store[2:]]) == 0
    said = capsys.readouterr().out
    assert "results of untouched cells: 0 from this store, 5 as recorded for HEAD" in said
    rows = [line for line in said.splitlines() if line.startswith("standard ") and "white-box" in line]
    assert not any("#" in row or "failed" in row for row in rows) and "incomplete" not in said


def test_a_change_of_the_harness_is_named_and_its_methods_are_those_of_the_commit(tmp_path):
    """In a repository that has the harness itself; only what may reach a number is named."""
    own = Repository(tmp_path / "harness")
    for name in ("attacks", "defenses", "bench"):
        shutil.copytree(ROOT / name, own.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    own.write(__gitignore="__pycache__\n")
    own.commit()
    for name in ("bench/cli/run.py", "bench/models/resnet18.py", "bench/evaluation/craft.py"):
        with open(own.folder / name, "a") as file:
            file.write("\nADDED = 1\n")
    with open(own.folder / "bench" / "training" / "loop.py", "a") as file:
        file.write("# Said.\n")
    pgd = own.folder / "attacks" / "pgd.py"
    pgd.write_text(f"{pgd.read_text()}\nADDED = 1\n")
    own.commit()
    script = """
import json
from tests.schedule.test_changed_since import looked_at
work, known = looked_at("HEAD~1", "quick")
print(json.dumps([known.harness, {str(each.names): each.key for each in work.requested}, list(known.touched)]))
"""
    shutil.copytree(ROOT / "tests" / "schedule", own.folder / "tests" / "schedule")
    shutil.copy(ROOT / "tests" / "__init__.py", own.folder / "tests" / "__init__.py")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(own.folder)}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=own.folder, env=environment, capture_output=True, text=True, check=True)
    harness, now, touched = json.loads(done.stdout)
    assert harness == ["bench/evaluation"]
    before = set(own.planned_at("HEAD~1", "quick").values())
    assert set(touched) == set(now.values()) - before
    assert now["digits/small-cnn/standard/pgd/white-box"] in touched
    assert now["digits/small-cnn/standard/fgsm/white-box"] not in touched
