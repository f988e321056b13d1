"""What is uploaded: a wheel and a source archive that hold every file of the packages, and nothing else."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "bench", "defenses")
BUILD = "from setuptools import build_meta; import sys; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def built(kind: str, tree: Path, folder: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` of a tree with its own build backend, as pip does, without a network."""
    folder.mkdir()
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.iterdir()
    return archive


def checkout(folder: Path) -> Path:
    """Copy what is in git, or would be, into a new folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in listed:
        source = ROOT / name
        if name and source.is_file() and not name.startswith(("docs/", "results/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return folder


def sources(tree: Path) -> dict[str, str]:
    """Return the hash of each file of the packages in a tree."""
    paths = chain.from_iterable((tree / package).rglob("*") for package in PACKAGES)
    return {path.relative_to(tree).as_posix(): _sha(path.read_bytes()) for path in paths if path.is_file()}


def of_wheel(wheel: Path) -> dict[str, str]:
    """Return the hash of each file in a wheel that is not metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: _sha(archive.read(name)) for name in names}


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def tree(folder):
    return checkout(folder / "tree")


@pytest.fixture(scope="module")
def wheel(tree, folder):
    return built("wheel", tree, folder / "wheel")


@pytest.fixture(scope="module")
def sdist(tree, folder):
    return built("sdist", tree, folder / "sdist")


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(tree, wheel):
    assert of_wheel(wheel) == sources(tree)
    assert {Path(name).suffix for name in sources(tree)} >= {".css", ".html", ".js", ".mplstyle", ".py", ".toml"}


def test_the_source_archive_holds_them_too_and_makes_the_same_wheel(tree, wheel, sdist, folder):
    its_tree = unpacked(sdist, folder / "unpacked")
    assert sources(its_tree) == sources(tree)
    beside = {path.name for path in its_tree.iterdir()} - set(PACKAGES)
    assert beside == {
        *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml"),
        *("crossfire_bench.egg-info", "setup.cfg"),
    }
    assert of_wheel(built("wheel", its_tree, folder / "again")) == of_wheel(wheel)


def test_what_docker_copies_makes_the_same_wheel(tree, wheel, folder):
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    context = folder / "context"
    for path in tree.rglob("*"):
        name = path.relative_to(tree)
        if path.is_file() and name.parts[0] in copied:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_bytes(path.read_bytes())
    assert of_wheel(built("wheel", context, folder / "docker")) == of_wheel(wheel)


def test_a_file_that_the_wheel_would_lack_is_noticed(folder):
    tree = checkout(folder / "with-new-files")
    names = {"bench/report/figures/new.sty", "attacks/table.csv", "bench/cli/deeper/new.toml"}
    for name in names:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("new", encoding="utf-8")
    assert sources(tree).keys() - of_wheel(built("wheel", tree, folder / "wheel-of-new-files")) == names


def test_the_metadata_says_who_wrote_it_and_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_bytes(archive.read(name))
        (entry_points,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert "crossfire = bench.cli:main" in archive.read(entry_points).decode()
    assert metadata["Author"] == "The Crossfire authors"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.11"
