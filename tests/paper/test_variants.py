"""Variants: one configuration, laid over by the tables that a flag names, and never without a trace."""

import pytest

from bench import axes, config
from bench.cli import main
from bench.types import UsageError

PLAIN = """
schema = 1
name = "plain"
[dataset]
name = "digits"
n = 50
[[models]]
arch = "small-cnn"
[train]
epochs = 9
[[defenses]]
use = "mart"
[[defenses]]
use = "tpap"
[[attacks]]
use = "ddn"
[[attacks]]
use = "fgsm"
[attack.ddn]
gamma = 0.1
[variants.protocol.tpap]
attack.preset = "tpap"
train.mart.preset = "tpap"
[variants.protocol.sound]
attack.preset = "reference"
[variants.scale.full]
[variants.scale.tiny]
dataset.n = 3
attack.ddn.steps = 2
models = [{ arch = "small-cnn", channels = [2] }]
"""


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.toml"
    path.write_text(PLAIN)
    return str(path)


def ddn(chosen):
    return next(attack.method.params for attack in axes.attacks(chosen) if attack.method.name == "ddn")


def test_the_first_variant_of_each_kind_is_the_default(plain):
    assert config.load(plain) == config.load(plain, {"protocol": "tpap", "scale": "full"}).model_copy(
        update={"name": "plain"}
    )


def test_a_variant_is_laid_over_what_it_names_and_leaves_the_rest(plain):
    full, tiny = config.load(plain), config.load(plain, {"scale": "tiny", "protocol": "sound"})
    assert (full.dataset.n, full.dataset.name) == (50, "digits") and (tiny.dataset.n, tiny.dataset.name) == (
        3,
        "digits",
    )
    assert (ddn(full)["levels"], ddn(full)["steps"], ddn(full)["gamma"]) == (16, 20, 0.1)
    assert (ddn(tiny)["levels"], ddn(tiny)["steps"], ddn(tiny)["gamma"]) == (256, 2, 0.1)
    assert [model.params for model in tiny.models] == [{"channels": [2]}]


def test_what_was_asked_for_is_in_the_name(plain):
    assert config.request(plain).name == "plain"
    asked = config.request(plain, {"protocol": "sound", "scale": "tiny"}, epochs=150)
    assert asked.name == "plain.sound.tiny.150-epochs"
    assert all(row.base.schedule.epochs == 150 for row in axes.defenses(asked.parts[0]))


def test_a_preset_stands_beside_the_name_where_it_says_something(plain):
    paper, sound = config.load(plain), config.load(plain, {"protocol": "sound"})
    assert {attack.label for attack in axes.attacks(paper)} == {"ddn[preset=tpap]", "fgsm"}
    assert {attack.label for attack in axes.attacks(sound)} == {"ddn[preset=reference]", "fgsm"}
    assert [row.label for row in axes.defenses(paper)] == ["mart[preset=tpap]", "tpap"]
    assert [row.label for row in axes.defenses(sound)] == ["mart", "tpap"]


def test_a_file_extends_another(plain, tmp_path):
    text = 'name = "more"\ndataset.n = 7\n[[attacks]]\nuse = "pgd"\n[variants.scale.tiny]\nseeds = [5]\n'
    (tmp_path / "more.toml").write_text(f'extends = "{plain}"\n{text}')
    more = config.load(str(tmp_path / "more.toml"), {"scale": "tiny"})
    assert (more.dataset.n, more.dataset.name, more.seeds) == (3, "digits", [5])
    assert [attack.use for attack in more.attacks] == ["pgd"]


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ({"scale": "tiney"}, "plain.toml: unknown scale 'tiney'; did you mean 'tiny'?"),
        ({"protocol": "x"}, "plain.toml: unknown protocol 'x'; there are: sound, tpap"),
        ({"size": "tiny"}, "plain.toml: unknown size 'tiny'; there is none"),
    ],
)
def test_an_unknown_variant_gets_one_line(plain, variants, says):
    with pytest.raises(UsageError) as caught:
        config.load(plain, variants)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plan", "paper-cifar10", "--scale", "huge"], "unknown scale 'huge'; there are: full, small, tiny"),
        (["run", "quick", "--protocol", "sound"], "quick.toml: unknown protocol 'sound'; there is none"),
        (["plan", "paper-cifar10", "--epochs", "-1"], "--epochs -1"),
    ],
)
def test_on_the_command_line_too(words, says, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_shared_settings_of_attacks_are_checked(plain, tmp_path):
    for text, says in (
        ("[attack.ddm]\nsteps = 3\n", "[attack.ddm]: unknown attack 'ddm'"),
        ("[attack]\nstepps = 3\n", "[attack]: unknown key 'stepps'; did you mean 'steps'?"),
        ("[attack.fgsm]\nsteps = 3\n", "steps"),
    ):
        (tmp_path / "t.toml").write_text(PLAIN.replace("[attack.ddn]\ngamma = 0.1\n", text))
        with pytest.raises(UsageError) as caught:
            axes.attacks(config.load(str(tmp_path / "t.toml")))
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cannot_extend_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(UsageError, match="a.toml extends itself: a.toml -> b.toml -> a.toml"):
        config.load("a.toml")


def test_a_collection_must_run_as_its_parts_do(plain, tmp_path):
    (tmp_path / "two.toml").write_text(PLAIN.replace('"plain"', '"two"') + '[run]\ndevice = "cpu"\n')
    (tmp_path / "all.toml").write_text(f'schema = 1\nname = "all"\ninclude = ["{plain}", "{tmp_path}/two.toml"]\n')
    with pytest.raises(UsageError, match="all.toml includes two, whose .run. differs"):
        config.request(str(tmp_path / "all.toml"))
