"""The documents build as a site, without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install crossfire-bench[docs])")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    assert not re.search("WARNING|ERROR", done.stderr), done.stderr
    built = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert built >= {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
