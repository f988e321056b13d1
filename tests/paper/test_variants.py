"""Variants: one configuration, overlaid by the tables that a flag names, and never without a trace."""

import pytest

from bench.cli import main
from bench.config import expand, sections
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
[default]
protocol = "tpap"
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


def ddn_params(config):
    return next(attack.method.params for attack in expand.attacks(config) if attack.method.name == "ddn")


def write_config(folder, text, name="t"):
    (folder / f"{name}.toml").write_text(text)
    return str(folder / f"{name}.toml")


#: A file with variants that names no default.
BARE = """
schema = 1
name = "bare"
dataset = { name = "digits", n = 64 }
models = [{ arch = "small-cnn" }]
defenses = [{ use = "standard" }]
attacks = [{ use = "fgsm" }]
[variants.scale.tiny]
dataset.n = 8
train.epochs = 1
[variants.scale.small]
dataset.n = 16
"""


def test_a_variant_that_nobody_asked_for_does_not_count(tmp_path):
    path = write_config(tmp_path, BARE)
    assert sections.load(path).dataset.n == 64 and sections.load(path).train == {}
    assert sections.request(path).variants == ()
    assert sections.load(path, {"scale": "tiny"}).dataset.n == 8
    assert sections.load(path, {"scale": "small"}).dataset.n == 16
    assert sections.request(path, {"scale": "small"}).variants == ("scale small",)


def test_a_default_counts_until_a_flag_says_otherwise(tmp_path, plain):
    path = write_config(tmp_path, 'default = { scale = "tiny" }' + BARE)
    assert (sections.load(path).name, sections.load(path).dataset.n) == ("bare", 8)
    assert sections.load(path, {"scale": "small"}).dataset.n == 16
    assert sections.load(path, {"scale": "small"}).train == {}
    assert sections.load(plain) == sections.load(plain, {"protocol": "tpap", "scale": "full"}).model_copy(
        update={"name": "plain"}
    )
    assert sections.request(plain, {"scale": "tiny"}).variants == ("protocol tpap", "scale tiny")


@pytest.mark.parametrize(
    ("toml", "flags", "n", "epochs"),
    [
        ("", {}, 8, 1),
        # What the file itself says lies over the default of what it extends.
        ("dataset.n = 5", {}, 5, 1),
        ("dataset.n = 5", {"scale": "small"}, 16, None),
        # Its own default replaces the other one, and lies over the file that names it.
        ('dataset.n = 5\ndefault.scale = "small"', {}, 16, None),
        ('dataset.n = 5\ndefault.scale = "tiny"', {}, 8, 1),
        # What it adds to a variant counts with it.
        ("[variants.scale.tiny]\ntrain.epochs = 3", {}, 8, 3),
        ("dataset.n = 5\n[variants.scale.tiny]\ntrain.epochs = 3", {}, 5, 3),
        ("dataset.n = 5\n[variants.scale.tiny]\ntrain.epochs = 3", {"scale": "tiny"}, 8, 3),
        ("default.scale = 'none'\ndataset.n = 5\n[variants.scale.none]", {}, 5, None),
        ("default.size = 'wide'\n[variants.size.wide]\ntrain.epochs = 7", {}, 8, 7),
    ],
)
def test_a_file_inherits_the_default_of_the_one_that_it_extends(tmp_path, toml, flags, n, epochs):
    base_path = write_config(tmp_path, 'default = { scale = "tiny" }' + BARE, "under")
    config = sections.load(write_config(tmp_path, f'extends = "{base_path}"\n{toml}\n'), flags)
    assert (config.dataset.n, config.train.get("epochs")) == (n, epochs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('default = { scale = "tinny" }' + BARE, "t.toml: default: unknown scale 'tinny'; did you mean 'tiny'?"),
        (
            'default = { size = "tiny" }' + BARE,
            "default: unknown size 'tiny'; there is none; 'tiny' is a scale",
        ),
        ('default = "tiny"' + BARE, "t.toml: default names variants"),
        ("default = { scale = 3 }" + BARE, "t.toml: default names variants"),
        (BARE + "[variants]\nsize = 3\n", "t.toml: variants are tables"),
        (BARE.replace("[variants.scale.small]\ndataset.n", "[variants.scale]\nn"), "t.toml: variants are tables"),
        ('schema = 1\nname = "all"\ninclude = ["quick"]\n[variants.scale.tiny]\n', "t.toml includes others"),
        ('schema = 1\nname = "all"\ninclude = ["quick"]\ndefault.scale = "tiny"\n', "t.toml includes others"),
    ],
)
def test_a_wrong_default_gets_one_line(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        sections.request(write_config(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


#: Images, epochs and settings of every preset that has variants, by the flags.
SIZES = {
    ("paper-cifar10", None): (1000, 100, "tpap"),
    ("paper-cifar10", "small"): (200, 20, "tpap"),
    ("paper-cifar10", "tiny"): (20, 1, "tpap"),
    ("paper-cifar100", None): (1000, 150, "tpap"),
    ("paper-cifar100", "tiny"): (20, 1, "tpap"),
    ("paper-svhn", None): (1000, 100, "tpap"),
    ("paper-svhn", "tiny"): (20, 1, "tpap"),
    ("paper-tiny-imagenet", None): (1000, 100, "tpap"),
    ("paper-tiny-imagenet", "tiny"): (20, 1, "tpap"),
    ("paper-caltech101", None): (300, 100, "tpap"),
    ("paper-caltech101", "small"): (50, 10, "tpap"),
    ("paper-caltech101", "tiny"): (20, 1, "tpap"),
    ("paper-motivation", None): (10000, 100, "tpap"),
    ("paper-motivation", "small"): (1000, 20, "tpap"),
    ("paper-motivation", "tiny"): (20, 1, "tpap"),
    ("paper-ablation", None): (1000, 100, "tpap"),
    ("paper-ablation", "tiny"): (20, 1, "tpap"),
    ("paper-substitution", None): (1000, 100, "tpap"),
    ("paper-preprocessing", None): (1000, 100, "tpap"),
    ("paper-overfitting", None): (1000, 100, "tpap"),
    ("paper-cost", None): (10000, 100, "tpap"),
    ("paper-cost", "few"): (8, 1, "tpap"),
    ("paper-cost", "tiny"): (20, 1, "tpap"),
    ("paper-as-shipped", None): (64, None, None),
    ("paper-as-shipped", "tiny"): (2, None, None),
}


@pytest.mark.parametrize(("name", "scale"), SIZES)
def test_presets_are_of_the_size_that_is_asked_for(name, scale):
    config = sections.load(name, {"scale": scale} if scale else {})
    size_and_preset = config.dataset.n, config.train.get("epochs"), config.attack.get("preset")
    assert size_and_preset == SIZES[name, scale]


def test_what_lies_over_a_configuration_is_said(tmp_path, capsys):
    path = write_config(tmp_path, 'default = { scale = "tiny" }' + BARE)
    assert main(["plan", path, "--store", str(tmp_path / "store")]) == 0
    assert "variants that lie over the configuration: scale tiny\n" in capsys.readouterr().out


def test_a_variant_is_laid_over_what_it_names_and_leaves_the_rest(plain):
    full, tiny = sections.load(plain), sections.load(plain, {"scale": "tiny", "protocol": "sound"})
    assert (full.dataset.n, full.dataset.name) == (50, "digits") and (tiny.dataset.n, tiny.dataset.name) == (
        3,
        "digits",
    )
    assert (ddn_params(full)["levels"], ddn_params(full)["steps"], ddn_params(full)["gamma"]) == (16, 20, 0.1)
    assert (ddn_params(tiny)["levels"], ddn_params(tiny)["steps"], ddn_params(tiny)["gamma"]) == (256, 2, 0.1)
    assert [model.params for model in tiny.models] == [{"channels": [2]}]


def test_what_was_asked_for_is_in_the_name(plain):
    assert sections.request(plain).name == "plain"
    request = sections.request(plain, {"protocol": "sound", "scale": "tiny"}, epochs=150)
    assert request.name == "plain.sound.tiny.150-epochs"
    assert all(row.base.schedule.epochs == 150 for row in expand.defenses(request.parts[0]))


def test_a_preset_stands_beside_the_name_where_it_says_something(plain):
    paper, sound = sections.load(plain), sections.load(plain, {"protocol": "sound"})
    assert {attack.label for attack in expand.attacks(paper)} == {"ddn[preset=tpap]", "fgsm"}
    assert {attack.label for attack in expand.attacks(sound)} == {"ddn[preset=reference]", "fgsm"}
    assert [row.label for row in expand.defenses(paper)] == ["mart[preset=tpap]", "tpap"]
    assert [row.label for row in expand.defenses(sound)] == ["mart", "tpap"]


def test_a_file_extends_another(plain, tmp_path):
    text = 'name = "more"\ndataset.n = 7\n[[attacks]]\nuse = "pgd"\n[variants.scale.tiny]\nseeds = [5]\n'
    (tmp_path / "more.toml").write_text(f'extends = "{plain}"\n{text}')
    extended = sections.load(str(tmp_path / "more.toml"), {"scale": "tiny"})
    assert (extended.dataset.n, extended.dataset.name, extended.seeds) == (3, "digits", [5])
    assert [attack.use for attack in extended.attacks] == ["pgd"]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"scale": "tiney"}, "plain.toml: unknown scale 'tiney'; did you mean 'tiny'?"),
        ({"protocol": "x"}, "plain.toml: unknown protocol 'x'; there are: sound, tpap"),
        ({"size": "tiny"}, "plain.toml: unknown size 'tiny'; there is none; 'tiny' is a scale"),
    ],
)
def test_an_unknown_variant_gets_one_line(plain, variants, message):
    with pytest.raises(UsageError) as caught:
        sections.load(plain, variants)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "paper-cifar10", "--scale", "huge"], "unknown scale 'huge'; there are: full, small, tiny"),
        (["run", "quick", "--protocol", "sound"], "quick.toml: unknown protocol 'sound'; there is none"),
        (["plan", "paper-cifar10", "--epochs", "-1"], "--epochs -1"),
    ],
)
def test_on_the_command_line_too(arguments, message, capsys):
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.count("\n") == 1


def test_shared_settings_of_attacks_are_checked(plain, tmp_path):
    for text, message in (
        ("[attack.ddm]\nsteps = 3\n", "[attack.ddm]: unknown attack 'ddm'"),
        ("[attack]\nstepps = 3\n", "[attack]: unknown key 'stepps'; did you mean 'steps'?"),
        ("[attack.fgsm]\nsteps = 3\n", "steps"),
    ):
        (tmp_path / "t.toml").write_text(PLAIN.replace("[attack.ddn]\ngamma = 0.1\n", text))
        with pytest.raises(UsageError) as caught:
            expand.attacks(sections.load(str(tmp_path / "t.toml")))
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cannot_extend_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(UsageError, match="a.toml extends itself: a.toml -> b.toml -> a.toml"):
        sections.load("a.toml")


def test_a_collection_must_run_as_its_parts_do(plain, tmp_path):
    (tmp_path / "two.toml").write_text(PLAIN.replace('"plain"', '"two"') + '[run]\ndevice = "cpu"\n')
    (tmp_path / "all.toml").write_text(f'schema = 1\nname = "all"\ninclude = ["{plain}", "{tmp_path}/two.toml"]\n')
    with pytest.raises(UsageError, match="all.toml includes two, whose .run. differs"):
        sections.request(str(tmp_path / "all.toml"))
