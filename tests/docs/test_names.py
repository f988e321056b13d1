"""Every module, file and function of the harness that a page names exists."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = {path.stem for path in (ROOT / "bench").iterdir()} - {"__init__", "__pycache__", "py"}


def exists(dotted: str) -> bool:
    """Say whether ``bench.x.y`` is a module, or leads to something in one: a function, a class, a method, a field."""
    module, *rest = dotted.split(".")
    value = importlib.import_module(module)
    for name in rest:
        fields = {**getattr(value, "model_fields", {}), **getattr(value, "__dataclass_fields__", {})}
        if name in fields:
            return name == rest[-1]
        module = f"{module}.{name}"
        if not hasattr(value, name):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        value = getattr(value, name)
    return True


@cache
def classes() -> dict[str, set[str]]:
    """Return what the classes of the harness define, by the name of the class."""
    members: dict[str, set[str]] = {}
    for path in (ROOT / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                fields = {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
                members.setdefault(node.name, set()).update(methods | fields)
    return members


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_and_functions_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w.])bench\.[a-z_]\w*(?:\.[A-Za-z_]\w*)*", text))
    # `schedule.plan.make` stands for `bench.schedule.plan.make`.
    short = re.findall(r"`(\w+(?:\.\w+)+)(?:\([^`]*)?`", text)
    named |= {f"bench.{name}" for name in short if name.partition(".")[0] in PACKAGES and not name.endswith(".py")}
    assert not [name for name in sorted(named) if not exists(name)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist_in_code_and_diagrams_too(document):
    files = set(re.findall(r"\b(?:bench|attacks|defenses|tests)/[\w/]*\w\.\w+", document.read_text(encoding="utf-8")))
    written = set(re.findall(r"^# (\S+\.py)$", "\n".join(path.read_text("utf-8") for path in DOCUMENTS), re.MULTILINE))
    assert not [name for name in sorted(files - written) if not (ROOT / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_methods_of_classes_that_are_named_exist(document):
    named = re.findall(r"`(?:[\w.]+\.)?([A-Z]\w*[a-z]\w*)\.(\w+)(?:\([^`]*)?`", document.read_text(encoding="utf-8"))
    assert not [f"{owner}.{name}" for owner, name in named if name not in classes().get(owner, ())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document):
    file = ROOT
    for path, test in re.findall(r"`(?:tests/)?([\w/]*\.py)?::(\w+)`", document.read_text(encoding="utf-8")):
        file = ROOT / "tests" / path if path else file
        assert f"def {test}(" in file.read_text(encoding="utf-8"), f"{path}::{test}"
