"""The JSON Schema and Crossfire agree on what a configuration may say, and pages and lists show the same."""

import json
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from bench import registry
from bench.cli import main
from bench.cli.schema import schema_text
from bench.config import overlay, sections
from bench.config.schema import configuration, keys, parameters
from bench.schedule.plan import make
from bench.types import Schedule, UsageError

ROOT = Path(__file__).parents[2]
SCHEMA = configuration()
VALIDATOR = Draft7Validator(SCHEMA)
PRESETS = sorted(overlay.PRESETS.glob("*.toml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = (sections.Config, sections.DatasetConfig, sections.ModelConfig, sections.DefenseConfig)
BASE = """schema = 1
name = "small"
[dataset]
name = "digits"
[[models]]
arch = "small-cnn"
[[defenses]]
use = "jpeg"
[[attacks]]
use = "pgd"
"""


def accepted(text):
    """Whether Crossfire plans a configuration."""
    Path("small.toml").write_text(text)
    try:
        make(sections.load("small.toml"))
    except UsageError:
        return False
    return True


def test_it_is_a_schema():
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(path):
    assert list(VALIDATOR.iter_errors(tomllib.loads(path.read_text()))) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_configuration_of_the_documents_is_valid(path):
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        body = {"schema": 1, "extends": "quick", **tomllib.loads(block)}
        assert list(VALIDATOR.iter_errors(body)) == [], block


@pytest.mark.parametrize(
    ("old", "new", "is_right"),
    [
        ("", "", True),
        ('"pgd"', '"pgd"\nsteps = 5', True),
        ('"pgd"', '"pgd"\nsteps = [5, 10]', True),
        ('"pgd"', '"pgd"\neps = ["1/255", 0.5]', True),
        ('"pgd"', '"art:SquareAttack"\nmax_iter = 3', True),
        ('"jpeg"', '"pgd-at"\nsteps = 3\nepochs = 1', True),
        ('name = "small"', 'name = "small"\ntrain = { epochs = 3, trades = { weight = 3 } }', True),
        ('name = "small"', 'name = "small"\nattack = { eot = 3, cw = { eps = "1/2" } }', True),
        ('"pgd"', '"pgd"\nstepz = 5', False),
        ('"pgd"', '"pgd"\nsteps = 0', False),
        ('"pgd"', '"pgd"\nsteps = "many"', False),
        ('"pgd"', '"pgd"\nsteps = []', False),
        ('"pgd"', '"pgd"\nstep_size = 0', False),
        ('"pgd"', '"pgd"\nloss = "hinge"', False),
        ('"pgd"', '"pgd"\naccess = ["grey"]', False),
        ('"pgd"', '"pdg"', False),
        ('"jpeg"', '"jpeg"\nsteps = 3', False),
        ('"jpeg"', '"jpg"', False),
        ('"digits"', '"digits"\nn = 0', False),
        ('"digits"', '"digits"\nm = 1', False),
        ('"digits"', '"digits"\nsubset = "last"', False),
        ('"small-cnn"', '"small-cnn"\nchannels = 0', False),
        ("schema = 1", "schema = 2", False),
        ('name = "small"', 'name = "small"\nseeds = []', False),
        ('name = "small"', 'name = "small"\nrun = { device = "tpu" }', False),
        ('name = "small"', 'name = "small"\ntrain = { epoch = 3 }', False),
        ('name = "small"', 'name = "small"\nattack = { pgd = { stepz = 3 } }', False),
        ('[[attacks]]\nuse = "pgd"\n', "", False),
    ],
)
def test_it_allows_what_crossfire_allows(tmp_path, monkeypatch, old, new, is_right):
    monkeypatch.chdir(tmp_path)
    assert old in BASE
    text = BASE.replace(old, new)
    assert (VALIDATOR.is_valid(tomllib.loads(text)), accepted(text)) == (is_right, is_right)


@pytest.mark.parametrize("kind", ["attack", "recipe", "test-time", "network"])
def test_every_parameter_is_described_and_its_default_allowed(kind):
    section, named_by = {"attack": ("attacks", "use"), "network": ("models", "arch")}.get(kind, ("defenses", "use"))
    entries = Draft7Validator({**SCHEMA["definitions"][section], "definitions": SCHEMA["definitions"]})
    for entry in registry.entries(kind).values():
        described = parameters(entry)
        assert all(each.get("description") for each in described.values()), entry.name
        defaults = {name: value for name, value in entry.defaults().items() if value is not None}
        assert described.keys() == entry.defaults().keys()
        assert entries.is_valid([{named_by: entry.name, **defaults}]), entry.name
        assert not entries.is_valid([{named_by: entry.name, "no_such_parameter": 1}]), entry.name


@pytest.mark.parametrize("model", [*SECTIONS, sections.AttackConfig, sections.RunConfig, Schedule])
def test_every_key_is_described_where_it_is_declared(model):
    tables = {"dataset", "models", "defenses", "attacks", "run"}
    assert [name for name, each in keys(model).items() if name not in tables and not each.get("description")] == []


def test_the_page_and_the_schema_beside_it_are_current():
    page = runpy.run_path(str(ROOT / "docs" / "configuration_page.py"))["configuration_page"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "run: python docs/configuration_page.py"
    assert (ROOT / "docs" / "crossfire.schema.json").read_text() == schema_text()


def test_the_file_of_init_runs_and_each_of_its_examples_is_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    text = Path("my-table.toml").read_text()
    assert text.startswith("#:schema ./crossfire.schema.json\n")
    assert json.loads(Path("crossfire.schema.json").read_text()) == SCHEMA
    rows = {cell.names.defense for cell in make(sections.load("my-table.toml")).plan.cells}
    assert rows == {"standard", "pgd-at", "jpeg"}
    examples = re.findall(r"(?:^#!.*\n)+", text, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        bare = example.replace("#!", "")
        assert VALIDATOR.is_valid(tomllib.loads(text.replace(example, bare))), example
    assert main(["init"]) == 2
    assert "is there already and is not overwritten" in capsys.readouterr().err
    assert Path("my-table.toml").read_text() == text


def test_a_long_entry_shows_what_the_signature_says(capsys):
    assert main(["list", "--long", "pgd", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert [key["name"] for key in row["keys"]] == list(registry.entries("attack")["pgd"].parameters.model_fields)
    steps = row["keys"][0]
    assert (steps["values"], steps["default"]) == ("whole number ≥ 1", "20") and steps["text"]
    assert main(["list", "--long", "tpap"]) == 0
    assert 'beta: number or fraction such as "8/255" > 0, pixels in [0, 1], default "8/255"' in capsys.readouterr().out
    for arguments, says in (
        (["--long", "pdg"], "did you mean 'pgd'?"),
        (["presets", "--long", "quick"], "--long is for"),
    ):
        assert main(["list", *arguments]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("crossfire lea", {"leaderboard"}),
        ("crossfire run --prog", {"--progress"}),
        ("crossfire run qui", {"quick"}),
        ("crossfire run my", {"my.toml"}),
        ("crossfire list --long pgd --js", {"--json"}),
        ("crossfire run --device cu", {"cuda"}),
    ],
)
def test_bash_completes(tmp_path, capsys, line, completions):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "complete.sh").write_text(capsys.readouterr().out)
    (tmp_path / "my.toml").touch()
    words = line.split()
    script = f"""source ./complete.sh
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
$(complete -p crossfire | sed 's/.*-F \\([^ ]*\\) .*/\\1/') crossfire {words[-1]} {words[-2]}
printf '%s\\n' "${{COMPREPLY[@]}}\""""
    ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == completions, ran.stderr
