"""Names, versions and dependencies that stand in several files agree, with each other and with the code."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml
from trove_classifiers import classifiers

ROOT = Path(__file__).parents[2]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# The names that pip knows of packages that are imported under another.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "adv_lib": "adv-lib",
    "art": "adversarial-robustness-toolbox",
    "huggingface_hub": "transformers",  # It asks for this one, of its own version.
    "pydantic_core": "pydantic",  # Likewise.
    "secmlt": "secml-torch",
    "sklearn": "scikit-learn",
}
# No extra can give these. What the first two ask for is not built by current tools (the message that names them says
# --no-deps), the third is in no package index, and IPython is there wherever a notebook is.
BY_HAND = {"adv-lib", "torchattacks", "robustbench", "IPython"}
# Imported under the first of two names that is there (attacks/_official.py).
BY_ANOTHER_NAME = {"pyautoattack"}


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement)[0]


DECLARED = {distribution(each) for each in PROJECT["dependencies"]}
EXTRAS = {name: {distribution(each) for each in those} for name, those in PROJECT["optional-dependencies"].items()}
FOR_DEVELOPERS = ("dev", "docs", "test")
OPTIONAL = set().union(*(those for name, those in EXTRAS.items() if name not in FOR_DEVELOPERS))


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level name of each import in a file, also those that are calls with the name in the text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name))],
            ):
                yield name.partition(".")[0]


@cache
def imported() -> dict[str, set[str]]:
    """Return the packages of others that the harness and its methods import, with the files that do."""
    found: dict[str, set[str]] = {}
    for package in ("attacks", "bench", "defenses"):
        for path in (ROOT / package).rglob("*.py"):
            for name in set(imports(path)) - sys.stdlib_module_names - {"attacks", "bench", "defenses"}:
                found.setdefault(DISTRIBUTIONS.get(name, name), set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_every_package_that_is_imported_is_declared():
    lacking = {name: files for name, files in imported().items() if name not in DECLARED | OPTIONAL | BY_HAND}
    assert not lacking


def test_every_package_that_is_declared_is_imported():
    used = imported().keys() | BY_ANOTHER_NAME
    assert used >= DECLARED
    assert used >= OPTIONAL
    assert used >= BY_HAND


def test_every_dependency_has_a_floor():
    assert not [each for each in PROJECT["dependencies"] if ">=" not in each]


def test_messages_name_extras_that_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    text += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bench").rglob("*.py"))
    named = set(re.findall(r"crossfire-bench\[(\w+)\]", text))
    assert "ray" in named
    assert named <= EXTRAS.keys()


def test_the_classifiers_are_known_to_the_package_index():
    assert PROJECT["classifiers"]
    assert set(PROJECT["classifiers"]) <= classifiers
    assert not [each for each in PROJECT["classifiers"] if each.startswith("License")]  # The licence has its own field.


def test_the_citation_and_the_package_agree():
    assert CITATION["version"] == PROJECT["version"]
    assert [each["name"] for each in CITATION["authors"]] == [each["name"] for each in PROJECT["authors"]]
    assert CITATION["keywords"] == PROJECT["keywords"]
    assert CITATION["license"] == PROJECT["license"]
