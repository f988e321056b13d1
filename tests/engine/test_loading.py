"""The hashed sources are the ones that run, even if other modules shadow them or the files change later."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.store.working_store import Store
from bench.types import UsageError
from tests.schedule import small

ROOT = Path(registry.__file__).parents[1]
ATTACK = '''
from bench.api import attack
{imports}

@attack(norms=("linf",), passes="1 forwards")
def mine(target, x, y, threat):
    """One line."""
    return {value}
'''


def attack(folder, imports="", value="1", name="mine.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(ATTACK.format(imports=imports, value=value))
    return registry.find("attack", f"{folder / name}:mine")


def answer(entry):
    return entry.load()(None, None, None, None)


def stranger(folder):
    """Write packages with the names of ours, whose modules do nothing or fail."""
    for name in ("attacks/__init__.py", "defenses/__init__.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    (folder / "attacks" / "pgd.py").write_text("def pgd(target, x, y, threat, **parameters):\n    return x\n")
    for name in ("attacks/_steps.py", "defenses/_gradients.py", "defenses/tpap.py", "defenses/fgsm_at.py"):
        (folder / name).write_text("raise RuntimeError('not ours')\n")
    return folder


def test_a_stranger_on_the_path_of_python_changes_no_number(tmp_path):
    text = small.CONFIG.replace("n = 140", "n = 30")
    command = [sys.executable, "-c", "import sys; from bench.cli import main; sys.exit(main(sys.argv[1:]))"]
    outcomes = []
    for name, first in (("plain", []), ("strange", [str(stranger(tmp_path / "other"))])):
        folder = tmp_path / name
        folder.mkdir()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([*first, str(ROOT)])}
        argv = small.command_line(folder, "--report", str(folder / "report"), text=text)
        done = subprocess.run([*command, *argv], cwd=folder, env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        outcomes.append(small.outcome(folder))
        assert all(result.metrics is not None for result in Store(folder / "store").results())
    plain, strange = outcomes
    assert plain == strange


def python(code, *path, cwd):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "before",
    [
        "import attacks.pgd",
        "import sys, types\nsys.modules['attacks'] = types.ModuleType('attacks')",
        "import sys, types\nsys.modules['attacks._steps'] = types.ModuleType('attacks._steps')",
    ],
)
def test_a_stranger_that_is_imported_already_does_not_run(tmp_path, before):
    code = (
        f"{before}\nimport sys\nfrom bench import registry\n"
        "method = registry.find('attack', 'pgd').load()\n"
        "print(sys.modules[method.__module__].__file__, sys.modules['attacks._steps'].__file__, sep='\\n')\n"
    )
    paths = python(code, stranger(tmp_path / "other"), ROOT, cwd=tmp_path).split()
    assert paths == [str(ROOT / "attacks" / "pgd.py"), str(ROOT / "attacks" / "_steps.py")]


@pytest.mark.parametrize(
    ("imports", "value"),
    [
        ("from helper import number", "number"),
        ("import helper", "helper.number"),
        ("from .helper import number", "number"),
        ("from . import helper", "helper.number"),
        ("import parts.deep", "parts.deep.number"),
        ("from parts import deep", "deep.number"),
        ("from parts.deep import number", "number"),
        ("def late():\n    from helper import number\n    return number", "late()"),
        ("from chain import number", "number"),
    ],
)
def test_files_of_one_name_have_their_own_helpers(tmp_path, imports, value):
    attacks = []
    for folder, number in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        (folder / "parts").mkdir(parents=True)
        for name in ("helper.py", "parts/deep.py"):
            (folder / name).write_text(f"number = {number}\n")
        (folder / "chain.py").write_text("from helper import number\n")
        attacks.append(attack(folder, imports, value))
    first, second = attacks
    assert [answer(first), answer(second), answer(first)] == [1, 2, 1]
    assert first.code_sha != second.code_sha


def test_a_helper_beside_the_file_comes_before_one_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "helper.py").write_text("number = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helper.py").write_text("number = 1\n")
    assert answer(attack(tmp_path / "own", "from helper import number", "number")) == 1


def test_a_file_by_the_name_of_a_package_imports_the_package(tmp_path):
    entry = attack(tmp_path, "import sklearn, json", "(sklearn.__version__, json.dumps(1))", name="sklearn.py")
    assert answer(entry)[1] == "1"
    (tmp_path / "json.py").write_text("raise RuntimeError('the standard library comes first')\n")
    assert answer(attack(tmp_path, "import json", "json.dumps(2)")) == "2"


def test_a_users_file_may_use_the_helpers_of_the_harness(tmp_path):
    entry = attack(tmp_path, "from attacks._steps import margin", "margin.__module__")
    assert answer(entry) == "attacks._steps"
    assert ROOT / "attacks" / "_steps.py" in entry.code.texts


def test_what_was_hashed_runs_though_the_file_was_edited_since(tmp_path):
    (tmp_path / "helper.py").write_text("number = 1\n")
    before = attack(tmp_path, "from helper import number", "number")
    ref = before.ref({})
    (tmp_path / "helper.py").write_text("number = 2\n")
    assert answer(before) == 1
    after = registry.find("attack", ref.name)
    assert (answer(after), answer(before)) == (2, 1)
    # The reference means the code that it was built from.
    assert answer(registry.entry_of(ref)) == 1
    assert answer(registry.entry_of(after.ref({}))) == 2


def test_an_import_that_no_key_can_know_is_refused(tmp_path):
    (tmp_path / "helper_1.py").write_text("number = 1\n")
    imports = "import importlib\nhelper = importlib.import_module(f'.helper_{1}', __package__)"
    with pytest.raises(UsageError, match="is in no key: name it in a plain import statement"):
        attack(tmp_path, imports, "helper.number").load()


def test_a_module_that_only_the_file_itself_makes_findable_is_refused(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "hidden_number.py").write_text("number = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    imports = f"import sys\nsys.path.append({str(tmp_path / 'lib')!r})\nfrom hidden_number import number"
    with pytest.raises(UsageError, match="hidden_number is found only once the file has run"):
        attack(tmp_path, imports, "number").load()
    assert answer(attack(tmp_path, "try:\n    import no_such_thing\nexcept ImportError:\n    pass", "5")) == 5


def test_an_edit_of_the_harness_while_it_runs_is_never_mixed_in(tmp_path):
    for name in ("bench", "attacks", "defenses"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
from pathlib import Path
from bench import registry
from bench.types import MethodError
pgd, cw, ddn = (registry.find("attack", name) for name in ("pgd", "cw", "ddn"))
pgd.code, cw.code
steps = Path("attacks/_steps.py")
text = steps.read_text()
steps.write_text("raise RuntimeError('edited')")
pgd.load(), cw.load()
try:
    ddn.load()
except MethodError as error:
    print(error)
registry.find("attack", "ddn")
steps.write_text("# a comment" + chr(10) + text)
registry.find("attack", "rays").load()
"""
    assert "_steps.py was edited while this ran; run again" in python(code, tmp_path, cwd=tmp_path)


DATA = '''
import torch
from bench.api import attack

CALLS = []

@attack(norms=("linf",), passes="1 forwards")
def saved(target, x, y, threat, *, images: str):
    """Adds the number in a file, and changes the file in its second call."""
    CALLS.append(1)
    if len(CALLS) == 2:
        open(images, "w").write("0.1")
    return (x + float(open(images).read())).clamp(0.0, 1.0)
'''


def test_a_file_edited_while_an_attack_reads_it_fails_the_cell(tmp_path):
    (tmp_path / "saved.py").write_text(DATA)
    (tmp_path / "add.txt").write_text("0.05")
    head, _, _ = small.CONFIG.partition("[[defenses]]")
    text = head + (
        f'[[defenses]]\nuse = "standard"\n\n[[attacks]]\nuse = "{tmp_path}/saved.py:saved"\neps = "0.3"\n'
        f'images = "{tmp_path}/add.txt"\n'
    )
    assert small.run(tmp_path, text=text) == 3
    (failed,) = [result for result in Store(tmp_path / "store").results() if result.status == "failed"]
    assert "or a file that it reads, was edited while this ran; run again" in failed.error.message
    # The first chunk was crafted with the old file and stays under its key.
    assert small.run(tmp_path, text=text) == 0
    (done,) = [r for r in Store(tmp_path / "store").results() if r.status == "done" and r.cell.attack is not None]
    assert done.metrics.mean_linf == pytest.approx(0.1, abs=1e-6)
