"""What release.yml does on a tag, as far as it can be done without publishing."""

import importlib.util
import os
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
RELEASE = WORKFLOWS["release"]["jobs"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
REPOSITORY = "https://forge.example/someone/something"


def _addresses():
    spec = importlib.util.spec_from_file_location("addresses", ROOT / ".github" / "addresses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _needed(job: str) -> set[str]:
    """Return the jobs that must have passed before a job starts."""
    needs = RELEASE[job].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*map(_needed, direct))


def test_nothing_is_published_before_everything_has_passed():
    assert _needed("publish") == {"audit", "build", "site", "test"}
    assert _needed("pages") == {*_needed("publish"), "publish"}
    # The weekly audit stops there: what the others need is skipped, and so are they.
    assert {name for name, job in RELEASE.items() if "if" not in job and not job.get("needs")} == {"audit"}
    assert {RELEASE[name]["if"] for name in ("test", "site")} == {"github.ref_type == 'tag'"}


def test_only_the_jobs_that_publish_may_identify_themselves():
    identified = {name for name, job in RELEASE.items() if job.get("permissions", {}).get("id-token") == "write"}
    assert identified == {"publish", "pages"}
    assert RELEASE["publish"]["environment"]["name"] == "pypi"
    assert RELEASE["pages"]["environment"]["name"] == "github-pages"
    assert WORKFLOWS["release"]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("tag", [f"v{VERSION}", f"v{VERSION}.post1", "v9", VERSION])
def test_a_tag_of_another_version_is_refused(tag):
    (step,) = [step for step in RELEASE["audit"]["steps"] if "GITHUB_REF_NAME" in step.get("run", "")]
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag}, capture_output=True, text=True)
    assert (done.returncode == 0) == (tag == f"v{VERSION}")
    assert ("::error::" in done.stdout) == (tag != f"v{VERSION}")


AUDIT = """#!/bin/sh
case "$*" in *--format*) ;; *) exit 2 ;; esac
echo "| torch | 1.0 | an advisory |"
exit "$FOUND"
"""


@pytest.mark.parametrize(
    ("reference", "found", "code", "warned"), [("tag", 1, 0, True), ("tag", 0, 0, False), ("branch", 1, 1, False)]
)
def test_a_known_vulnerability_is_reported_and_fails_only_the_audit_of_the_week(
    tmp_path, reference, found, code, warned
):
    (step,) = [step for step in RELEASE["audit"]["steps"] if "--disable-pip" in step.get("run", "")]
    (tmp_path / "fresh" / "bin").mkdir(parents=True)
    for path, text in (("fresh/bin/pip", "#!/bin/sh\n"), ("pip-audit", AUDIT)):
        (tmp_path / path).write_text(text, encoding="utf-8")
        (tmp_path / path).chmod(0o755)
    told = {"GITHUB_REF_TYPE": reference, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "FOUND": str(found)}
    environment = {**os.environ, **told, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].replace("/tmp/", f"{tmp_path}/")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("::warning::" in done.stdout) == warned
    assert (tmp_path / "summary").read_text(encoding="utf-8") == "| torch | 1.0 | an advisory |\n"


def test_the_index_says_how_to_install_and_names_the_command_that_is_then_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = _addresses().installed(text, REPOSITORY, "v1")
    first = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert [line.partition("  ")[0] for line in first[1].splitlines()] == [
        "pip install crossfire-bench",
        "crossfire run quick",
    ]
    # What still names the script installs the checkout first, or lists its files.
    left = [line for line in page.splitlines() if "run_bench.py" in line]
    assert left
    assert not [line for line in left if "pip install -e ." not in line and not line.startswith("run_bench.py ")]
    assert (
        page.count("\ncrossfire compare HEAD~1 HEAD ") == text.count("\npython run_bench.py compare HEAD~1 HEAD ") > 0
    )
    # The repository does not say what is true only from the release on.
    assert "pip install crossfire-bench\n" not in text


def test_a_readme_without_a_place_for_it_ends_the_release():
    with pytest.raises(ValueError, match="has no section '## Two commands'"):
        _addresses().installed("# Crossfire\n", REPOSITORY, "v1")


def test_every_link_and_picture_of_the_readme_leads_to_the_repository_where_the_index_shows_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not re.match("[a-z]+:|#", target)]
    assert relative
    assert not [target for target in relative if not (ROOT / target.partition("#")[0]).exists()]
    absolute = _addresses().readme(text, REPOSITORY, "v1")
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", absolute) if not re.match("https:|#", target)]
    assert f"]({REPOSITORY}/blob/v1/docs/paper.md)" in absolute
    assert f"![The leaderboard of the quick preset]({REPOSITORY}/raw/v1/docs/pictures/leaderboard.png)" in absolute
    # Links apart nothing changes.
    assert re.sub(r"\]\([^)]+\)", "", absolute) == re.sub(r"\]\([^)]+\)", "", text)


def test_the_package_gets_the_addresses_of_the_repository_that_releases():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text + _addresses().urls(REPOSITORY, "v1", "https://pages.example"))["project"]
    assert project["urls"] == {
        "Homepage": REPOSITORY,
        "Documentation": "https://pages.example",
        "Changelog": f"{REPOSITORY}/blob/v1/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    }
    assert project["name"] == "crossfire-bench"


def test_what_runs_beside_the_right_to_identify_itself_is_pinned_to_a_commit():
    steps = chain.from_iterable(RELEASE[job]["steps"] for job in ("publish", "pages"))
    used = [step["uses"] for step in steps if "uses" in step]
    assert len(used) == 3
    assert not [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each)]


def test_the_summary_says_that_the_package_is_published_whatever_becomes_of_the_site():
    publish = RELEASE["publish"]["steps"]
    (index,) = [i for i, step in enumerate(publish) if "gh-action-pypi-publish" in step.get("uses", "")]
    assert "is in the package index" in publish[index + 1]["run"]
    assert "GITHUB_STEP_SUMMARY" in publish[index + 1]["run"]


def test_every_action_is_pinned_to_a_major_version_or_a_commit():
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    jobs = [action["runs"], *chain.from_iterable(workflow["jobs"].values() for workflow in WORKFLOWS.values())]
    steps = chain.from_iterable(job["steps"] for job in jobs)
    used = {step["uses"] for step in steps if "uses" in step}
    assert "./" in used
    assert not [each for each in used - {"./"} if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", each)]


def test_the_newest_version_in_the_changelog_is_that_of_the_package_and_of_the_documentation():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)(?: \((\d{4}-\d\d-\d\d)\))?$", text, re.MULTILINE)
    released = [heading for heading in headings if heading[0] != "Unreleased"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == (VERSION, str(citation["date-released"]))
    assert len(headings) - len(released) <= 1  # One heading for what comes next, at the top.
    assert ("Unreleased", "") not in headings[1:]
    page = (ROOT / "docs" / "continuous-integration.md").read_text(encoding="utf-8")
    assert set(re.findall(r"OWNER/REPOSITORY@(\S+)", page)) == {f"v{VERSION}"}
