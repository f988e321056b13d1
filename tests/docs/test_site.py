"""The documents build as a site, without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench.api

ROOT = Path(__file__).parents[2]


def test_the_site_builds_without_warnings(tmp_path):
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install crossfire-bench[docs])")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    assert not re.search("WARNING|ERROR", done.stderr), done.stderr
    built = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert built >= {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert not (tmp_path / "site" / "attacks_page.py").exists()
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    members = {"load_results": bench.load_results, **{name: getattr(bench.api, name) for name in bench.api.__all__}}
    own = {name for name, value in members.items() if getattr(value, "__module__", "").startswith("bench.")}
    assert not [name for name in sorted(own) if not re.search(rf'id="bench\.(?:[\w.]+\.)?{name}"', reference)]
