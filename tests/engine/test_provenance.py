"""A result records its commit, and an installed package contains every file that it reads."""

import fnmatch
import subprocess
import tomllib
from pathlib import Path

import pytest

from bench.store.provenance import source

ROOT = Path(__file__).parents[2]


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout")
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_edits_are_noticed():
    edited = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results/runs")
    assert source() == (git("rev-parse", "HEAD"), edited != "")


def test_the_package_data_names_every_file_that_is_no_python():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"][
        "bench"
    ]
    files = [name.removeprefix("bench/") for name in git("ls-files", "bench").splitlines() if not name.endswith(".py")]
    assert {"py.typed", "report/figures/crossfire.mplstyle", "report/render/templates/leaderboard.js"} <= set(files)
    assert not [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert not [pattern for pattern in patterns if not any(fnmatch.fnmatch(name, pattern) for name in files)]
