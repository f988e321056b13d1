from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
WRITER = PAGE.with_name("attacks_page.py")
attacks_page = runpy.run_path(str(WRITER))["attacks_page"]


def test_the_page_is_what_the_attack_files_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == attacks_page(), "run: python docs/attacks_page.py"


@pytest.mark.parametrize("name", [*registry.entries("attack"), *registry.entries("library")])
def test_every_parameter_is_explained_and_every_attack_names_its_source(name: str) -> None:
    page = attacks_page()
    kind = "attack" if name in registry.entries("attack") else "library"
    entry = registry.find(kind, name)
    section = page.split(f"# {entry.pattern}\n")[1].split("\n## ")[0]
    assert entry.summary.replace("``", "`") in section
    for parameter in entry.parameters.model_fields:
        row = next(line for line in section.splitlines() if line.startswith(f"| `{parameter}` |"))
        assert len(row.split("|")[4].strip()) > 5, parameter
    if kind == "attack":
        assert entry.meta["passes"]
    # An attack on purifiers is this project's own, unless it says otherwise; the others come from papers.
    if kind == "attack" and entry.meta.get("needs") != "nothing" and not entry.meta.get("purifiers_only"):
        assert any(year in entry.doc for year in map(str, range(2014, 2027))), "the paper's year"


def test_the_page_is_written_without_torch() -> None:
    code = f"import runpy, sys; runpy.run_path({str(WRITER)!r})['attacks_page'](); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PAGE.parents[1], check=False).returncode == 0
