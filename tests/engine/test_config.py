"""What a configuration means, and the one line that a wrong one gets."""

import re
from fractions import Fraction

import pytest

from bench.config import expand, overlay, sections
from bench.registry import find
from bench.types import UsageError

HEAD = """
schema = 1
name = "t"
[dataset]
name = "digits"
[[models]]
arch = "small-cnn"
"""
BODY = """
[[defenses]]
use = "standard"
[[attacks]]
use = "pgd"
"""


def load(tmp_path, text):
    path = tmp_path / "t.toml"
    path.write_text(text)
    return sections.load(str(path))


def rows(tmp_path, text):
    chosen = load(tmp_path, HEAD + text)
    return expand.defenses(chosen), expand.attacks(chosen)


def test_every_preset_is_valid():
    for name in overlay.presets():
        request = sections.request(name)
        assert request.name == name and overlay.presets()[name]
        assert all(expand.defenses(part) and expand.attacks(part) for part in request.parts)


def test_a_list_sweeps_and_the_swept_parameter_names_the_row(tmp_path):
    defenses, _ = rows(tmp_path, BODY + '[[defenses]]\nuse = "jpeg"\nquality = [50, 75]\n')
    assert [row.label for row in defenses] == ["standard", "jpeg[quality=50]", "jpeg[quality=75]"]
    assert [row.step.params["quality"] for row in defenses[1:]] == [50, 75]


def test_a_swept_budget_is_named_as_the_field_writes_it(tmp_path):
    defenses, _ = rows(tmp_path, BODY + '[[defenses]]\nuse = "tpap"\nbeta = ["12/255", 0.25]\n')
    assert [row.label for row in defenses[1:]] == ["tpap[beta=12/255]", "tpap[beta=1/4]"]


def test_a_step_on_another_base_says_so(tmp_path):
    text = BODY + '[[defenses]]\nuse = "jpeg"\nbase = "pgd-at"\n[[defenses]]\nuse = "tpap"\n'
    defenses, _ = rows(tmp_path, text)
    assert [row.label for row in defenses] == ["standard", "jpeg@pgd-at", "tpap"]
    assert [row.base.recipe.name for row in defenses] == ["standard", "pgd-at", "fgsm-at"]


def test_shared_training_settings_reach_the_recipes_that_have_them(tmp_path):
    text = BODY + '[[defenses]]\nuse = "fgsm-at"\n[defenses.train]\nlr = 0.5\n[train]\nepochs = 3\neps = "12/255"\n'
    defenses, _ = rows(tmp_path, text)
    standard, fgsm_at = (row.base for row in defenses)
    assert (standard.schedule.epochs, fgsm_at.schedule.epochs) == (3, 3)
    assert "eps" not in standard.recipe.params and fgsm_at.recipe.params["eps"] == "4/85"
    assert fgsm_at.schedule.lr == 0.5 != standard.schedule.lr


def test_eps_is_exact(tmp_path):
    _, attacks = rows(tmp_path, BODY + 'eps = ["8/255", 0.031]\n')
    assert {str(attack.threat.eps) for attack in attacks} == {"8/255", "31/1000"}


def test_both_accesses_are_the_default(tmp_path):
    _, attacks = rows(tmp_path, BODY)
    assert [attack.access for attack in attacks] == ["static", "adaptive"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BODY.replace("pgd", "pdg"), "unknown attack 'pdg'; did you mean 'pgd'?"),
        (BODY.replace("standard", "standart"), "unknown defense 'standart'; did you mean 'standard'?"),
        (BODY + "steps = 0\n", "greater than or equal to 1"),
        (BODY + "stepps = 3\n", "unknown key 'stepps'; did you mean 'steps'?"),
        (BODY + "eps = 8\n", "did you mean '8/255'?"),
        (BODY + 'eps = "eight"\n', "not a number"),
        (BODY + "eps = -0.1\n", "negative"),
        (BODY + 'norm = "l7"\n', "norm"),
        (BODY + 'access = ["blackbox"]\n', "access"),
        (BODY + 'preset = "tap"\n', "did you mean 'tpap'?"),
        (BODY.replace('"standard"', '"jpeg"\nquality = 200'), "quality"),
        (BODY + "[run]\ndevise = 'cpu'\n", "unknown key 'devise'; did you mean 'device'?"),
        (BODY + "[train]\nepochz = 3\n", "unknown key 'epochz'; did you mean 'epochs'?"),
        (BODY + "[train]\nepochs = -3\n", "epochs"),
        (BODY + "[train.fgsmat]\neps = 0.1\n", "did you mean 'fgsm-at'?"),
        ('[[attacks]]\nuse = "pgd"\n', "defenses"),
        (BODY + "speed = [\n", "TOML"),
        (BODY.replace("standard", "weights:gone.safetensors"), None),
    ],
)
def test_one_clear_line(tmp_path, text, says):
    if says is None:
        from bench.schedule.plan import make

        with pytest.raises(UsageError, match="no file .*gone.safetensors"):
            make(load(tmp_path, HEAD + text))
        return
    with pytest.raises(UsageError) as caught:
        rows(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (BODY.replace("pgd", "pdg"), r"attacks\[0\]"),
        (BODY.replace('"standard"', '"at"\ninner = "pdg"'), r"defenses\[0\] \(at\)"),
    ],
)
def test_a_method_that_does_not_exist_is_named_with_its_place(tmp_path, text, where):
    with pytest.raises(UsageError, match=rf"\.toml: {where}.*unknown attack 'pdg'; did you mean 'pgd'"):
        rows(tmp_path, text)


def test_no_budget_is_proposed_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="eps = 3/2 is above 1$"):
        rows(tmp_path, BODY + "eps = 1.5\n")


def test_a_newer_schema_is_refused(tmp_path):
    with pytest.raises(UsageError, match="schema"):
        load(tmp_path, (HEAD + BODY).replace("schema = 1", "schema = 2"))


def test_no_such_preset():
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        sections.load("quik")


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        ('use = "foolbox:L1FMNAttack"', ("l1", None)),
        ('use = "foolbox:HopSkipJumpAttack"\nnorm = "linf"', ("linf", None)),
        ('use = "foolbox:L2FMNAttack"\nnorm = "l2"\neps = "1/4"', ("l2", Fraction(1, 4))),
        ('use = "art:DeepFool"\neps = "1/4"', ("linf", Fraction(1, 4))),
        ('use = "foolbox:L0FMNAttack"\nnorm = "l0"\neps = 12', ("l0", Fraction(12))),
        ('use = "foolbox:LinfPGD"', ("linf", Fraction(8, 255))),
    ],
)
def test_an_attack_of_a_library_that_minimises_a_norm_has_no_budget_unless_it_is_set(tmp_path, attack, threat):
    if not find("library", attack.partition('"')[2].partition(":")[0]).available:
        pytest.skip("the library is not installed")
    _, attacks = rows(tmp_path, f'[[defenses]]\nuse = "standard"\n[[attacks]]\n{attack}\naccess = ["static"]\n')
    assert [(each.threat.norm, each.threat.eps) for each in attacks] == [threat]


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        ('use = "art:DeepFool"\nnorm = "linf"', "without eps, art:DeepFool minimises l2, not linf: set eps or norm"),
        (
            'use = "art:ProjectedGradientDescent"\nnorm = "l0"',
            "art:ProjectedGradientDescent has no default budget in l0",
        ),
        ('use = "art:DeepFool"\nnorm = "flow"', "norm 'flow' is not one that art keeps to: linf, l2, l1, l0"),
        ('use = "pgd"\nnorm = "l0"', "norm 'l0' is not one that pgd keeps to: linf, l2, l1"),
    ],
)
def test_a_norm_that_an_attack_has_not_is_one_line(tmp_path, attack, why):
    with pytest.raises(UsageError, match=re.escape(why)):
        rows(tmp_path, f'[[defenses]]\nuse = "standard"\n[[attacks]]\n{attack}\n')
