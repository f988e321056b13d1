"""A cell that a stranger names is called what it is: the names of its own plan hold, and those of any other do not."""

from types import SimpleNamespace

import pytest

from bench.config import sections
from bench.report.receipts.methods import impossible
from bench.report.receipts.names import beside_presets, misnamed
from bench.schedule.plan import make
from bench.types import ModelRef, WeightsRef
from tests.report.fabricate import result

HEAD = """
schema = 1
name = "names"
[dataset]
name = "digits"
n = 20
[train]
epochs = 2
"""
#: Whatever a configuration may put into a name: sweeps, presets, targets, sources, ensembles, bfloat16, lists.
EVERYTHING = f"""{HEAD}
[[models]]
arch = "small-cnn"
hidden = [8, 16]
[[models]]
arch = [{{arch = "small-cnn", hidden = 4}}, "small-cnn"]
[[defenses]]
use = "standard"
epochs = [1, 2]
lr = "0.05"
[[defenses]]
use = "standard"
drops = [[0.5], [0.5, 0.6]]
[[defenses]]
use = "pgd-at"
eps = ["8/255", 0.1]
preset = "tpap"
[[defenses]]
use = "jpeg"
base = ["standard", "fgsm-at"]
quality = [50, 75]
[[defenses]]
use = "tpap"
base = "at"
train = {{inner = "ddn[steps=10, levels=8]", bounded = false, norm = "l2"}}
steps = [1, 2]
[[attacks]]
use = "fgsm"
eps = ["8/255", 0.1]
norm = "l2"
[[attacks]]
use = "fgsm"
access = ["static", "adaptive", "transfer"]
source = ["standard", "fgsm-at"]
source_seed = 5
source_train = {{epochs = 4}}
[[attacks]]
use = "pgd"
access = ["static", "adaptive"]
rule = "any-iterate"
[[attacks]]
use = "pgd"
access = ["static", "adaptive"]
steps = 7
rule = "last-iterate"
target = ["least-likely", 3, "4"]
[[attacks]]
use = "pgd"
preset = "tpap"
craft_precision = "bf16"
max_passes = 10
[[attacks]]
use = "mi-fgsm"
[[attacks]]
use = "mi-fgsm"
craft_precision = "float32"
[[attacks]]
use = "ddn"
[[attacks]]
use = "sigma-zero"
[[attacks]]
use = "corruption"
kind = ["fog", "snow"]
severity = [1, 5]
[[attacks]]
use = "cw"
preset = "tpap"
"""
#: One in which every name says all by which its cell differs from the others.
TOLD = f"""{HEAD}
[[models]]
arch = "small-cnn"
hidden = [8, 16]
[[defenses]]
use = "standard"
epochs = [1, 2]
[[defenses]]
use = "jpeg"
quality = [50, 75]
[[attacks]]
use = "fgsm"
eps = ["8/255", "16/255"]
[[attacks]]
use = "pgd"
steps = [5, 1000]
[[attacks]]
use = "pgd"
steps = 7
target = ["second", 3, 4]
"""


def measured(attack):
    return result("standard", attack, clean=[True, True, False, True], adversarial=[True, False, False, False])


def planned(tmp_path, text):
    file = tmp_path / "names.toml"
    file.write_text(text)
    return make(sections.load(str(file))).plan.cells


def test_every_name_of_a_plan_is_that_of_its_cell(tmp_path):
    cells = planned(tmp_path, EVERYTHING)
    names = {name for cell in cells for name in (cell.names.model, cell.names.defense, cell.names.attack)}
    assert {
        "fgsm from fgsm-at epochs 4 seed 5",
        "pgd to class 3",
        "2 x small-cnn",
        "pgd bf16[preset=tpap]",
        "mi-fgsm[craft_precision=float32]",
    } <= names
    assert [why for cell in cells for why in misnamed(cell)] == []


def test_names_of_another_cell_are_refused(tmp_path):
    cells = {cell.names: cell for cell in planned(tmp_path, TOLD)}
    assert len(cells) == 2 * (2 * 8 + 2 * 15)
    for own, cell in cells.items():
        others = [each for each in cells if each.access == own.access]
        wrong = [each for each in others if next(misnamed(SimpleNamespace(names=each, cell=cell.cell)), None)]
        assert wrong == [each for each in others if each != own]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"attack": "pgd[eps=8/255,norm=linf,steps=1000]"}, "and its steps is 20"),
        ({"attack": "pgd[eps=16/255]"}, "and its eps is 8/255"),
        ({"attack": "pgd[norm=l2]"}, "and its norm is linf"),
        ({"attack": "pgd[strength=99]"}, "and pgd has no strength"),
        ({"attack": "pgd[max_passes=5000]"}, "and pgd has no max_passes"),
        ({"attack": "pgd[steps=2 0]"}, "and its steps is 20"),
        ({"attack": "pgd[]"}, "and pgd has no parameter without a name"),
        ({"attack": "pgd[steps=20,preset=everything]"}, "and its preset is "),
        ({"attack": "pgd: autoattack-1000"}, "and pgd was measured"),
        ({"attack": "pgd from standard"}, "and pgd was measured"),
        ({"attack": "pgd bf16"}, "and pgd was measured"),
        ({"attack": "pgd to class 3"}, "and pgd was measured"),
        ({"attack": "pgd[file=pgd-1000]"}, "and pgd has no file"),
        ({"defense": "standard@300"}, "and standard was measured"),
        ({"defense": "standard[epochs=300]"}, "and its epochs is 24"),
        ({"defense": "standard[ema=0.999]"}, "and its ema is 0.0"),
        ({"defense": "standard[seed=5]"}, "and standard has no seed"),
        ({"defense": "standard: holds against everything, 99 %"}, "and standard was measured"),
        ({"model": "wrn-70-16+small-cnn"}, "and its network is small-cnn"),
        ({"model": "small-cnn[hidden=4096]"}, "and small-cnn has no hidden"),
    ],
)
def test_a_name_that_states_what_was_not_measured_is_refused_with_what_was(names, why):
    honest = measured("pgd")
    assert list(misnamed(honest)) == []
    params = {"steps": 20}
    attack = honest.cell.attack.model_copy(
        update={"attack": honest.cell.attack.attack.model_copy(update={"params": params})}
    )
    cell = honest.cell.model_copy(update={"attack": attack})
    forged = honest.model_copy(update={"names": honest.names.model_copy(update=names), "cell": cell})
    (line,) = misnamed(forged)
    assert line.startswith("it is called ") and why in line


@pytest.mark.parametrize(
    ("word", "is_right"),
    [
        ("3", True),
        # Nothing here knows the names of the classes, so any may be.
        ("truck", True),
        ("tench, Tinca tinca", True),
        ("great white shark (T-shirt/top)", True),
        ("4", False),
        ("3 bf16", False),
        ("3 from standard", False),
        ("truck from standard", False),
        ("truck bf16", False),
        ("3 of the strongest attack", False),
        ("truck autoattack", False),
        ("truck: holds", False),
        ("truck, 99 %", False),
        ("", False),
    ],
)
def test_the_name_of_a_class_is_no_place_for_other_claims(tmp_path, word, is_right):
    cell = next(each for each in planned(tmp_path, TOLD) if "class 3" in each.names.attack)
    named = SimpleNamespace(names=cell.names.model_copy(update={"attack": f"pgd to class {word}"}), cell=cell.cell)
    assert (list(misnamed(named)) == []) == is_right
    # Where the images are said to have other names, it is one of these.
    data = cell.cell.data.model_copy(update={"classes": tuple("abcdefghij")})
    attack = cell.cell.attack.model_copy(update={"data": data})
    named.cell = cell.cell.model_copy(update={"data": data, "attack": attack})
    assert (list(misnamed(named)) == []) == (word == "3")
    named.names = named.names.model_copy(update={"attack": "pgd to class d"})
    assert list(misnamed(named)) == []


def test_a_preset_that_was_changed_is_said(tmp_path):
    # Of the paper's PGD the docstring says 20 steps.
    cells = planned(
        tmp_path,
        plain(
            '[[attacks]]\nuse = "pgd"\npreset = "tpap"\n[[attacks]]\nuse = "pgd"\npreset = "tpap"\nsteps = 1\n'
            '[[attacks]]\nuse = "pgd"\npreset = "tpap"\nsteps = 1\nstep_size = "1/100"\n'
        ),
    )
    attacked = [cell for cell in cells if cell.cell.attack is not None]
    assert (
        all("preset=tpap" in cell.names.attack for cell in attacked) and [*map(list, map(misnamed, cells))] == [[]] * 4
    )
    # Its name says the steps, as the other has others.
    assert [list(beside_presets(cell)) for cell in attacked] == [[], [], []]
    whole, hidden, _ = attacked
    named = SimpleNamespace(names=whole.names.model_copy(update={"attack": "pgd[preset=tpap]"}), cell=hidden.cell)
    assert list(misnamed(named)) == []
    assert list(beside_presets(named)) == ["tpap of pgd has steps = 20 here, and steps = 1 was measured"]


def test_equal_numbers_are_one_however_they_are_written(tmp_path):
    cell = next(each for each in planned(tmp_path, TOLD) if each.names.attack == "fgsm[eps=8/255]")
    for text, is_right in (("8/255", True), ("16/510", True), ("0.0313725490196", False), ("0.1", False)):
        named = SimpleNamespace(names=cell.names.model_copy(update={"attack": f"fgsm[eps={text}]"}), cell=cell.cell)
        assert (list(misnamed(named)) == []) == is_right


@pytest.mark.parametrize(
    ("weights", "defense", "is_right"),
    [
        ("weights:/nets/mine.pt", "weights:mine.pt", True),
        ("weights:/nets/mine.pt", "weights:wrn-70-16.pt", False),
        # A file that is called so in every folder goes by that; a receipt does not say which.
        ("weights:/nets/mine/model.safetensors", "weights:mine", True),
        ("weights:/nets/mine/model.safetensors", "weights:other", False),
        ("weights:model.safetensors", "weights:mine", True),
        ("weights:model.safetensors", "weights:small-cnn", True),
        ("weights:model.safetensors", "weights:resnet18", False),
        ("weights:model.safetensors", "weights:mine[ema=0.999]", False),
        ("weights:model.safetensors", "weights:holds: 99 %", False),
    ],
)
def test_a_file_of_weights_goes_by_its_own_name(weights, defense, is_right):
    honest = measured("fgsm")
    model = ModelRef(network=honest.cell.model.network, weights=WeightsRef(name=weights, sha256="0" * 64))
    cell = honest.cell.model_copy(update={"model": model})
    names = honest.names.model_copy(update={"defense": defense})
    assert (list(misnamed(SimpleNamespace(names=names, cell=cell))) == []) == is_right


#: Of each attack the norms that its docstring, and the paper that it comes from, has.
@pytest.mark.parametrize(
    ("use", "norm", "eps", "right"),
    [
        ("fgsm", "linf", "8/255", True),
        ("fgsm", "l2", "1/2", True),
        ("fgsm", "l1", "12", False),
        ("fgsm", "l0", "64", False),
        ("fgsm", "flow", "1/10", False),
        ("fgsm", "wasserstein", "1/10", False),
        ("fgsm", "corruption", None, False),
        ("fgsm", "linf", None, False),
        ("sigma-zero", "l0", None, True),
        ("sigma-zero", "l2", None, False),
        ("sta", "flow", None, True),
        ("fwa", "wasserstein", "1/200", True),
    ],
)
def test_a_norm_that_an_attack_cannot_have_is_impossible(tmp_path, use, norm, eps, right):
    first = "" if norm == "corruption" else f'norm = "{norm}"\n' + (f'eps = "{eps}"\n' if eps else "")
    default = f'[[attacks]]\nuse = "{use}"\n'
    (cell,) = (each.cell for each in planned(tmp_path, plain(default)) if each.cell.attack is not None)
    threat = type(cell.attack.threat)(norm=norm, eps=eps)
    attack = cell.attack.model_copy(update={"threat": threat})
    lines = list(impossible(SimpleNamespace(cell=cell.model_copy(update={"attack": attack}), metrics=None)))
    assert (lines == []) == right and all("a run here would refuse its attack" in line for line in lines)
    if right:
        # So says a run, too.
        assert planned(tmp_path, plain(default + first))[-1].cell.attack.threat == threat


def plain(attacks):
    return f'{HEAD}\n[[models]]\narch = "small-cnn"\n[[defenses]]\nuse = "standard"\n{attacks}'


@pytest.mark.parametrize(
    ("threat", "means", "why"),
    [
        (("linf", "8/255"), (0.03, 0.2), None),
        (("linf", "8/255"), (0.04, 0.2), "mean_linf = 0.04, and images within linf 8/255 have at most 0.03137"),
        (("l2", "1/2"), (0.4, 0.5), None),
        (("l2", "1/2"), (0.4, 0.6), "mean_l2 = 0.6"),
        (("l1", "2"), (0.4, 2.1), "mean_l2 = 2.1"),
        # Nine values that change by 1 are 3 apart in L2; fewer than one value is none.
        (("l0", "9"), (1.0, 3.0), None),
        (("l0", "9"), (1.0, 3.1), "mean_l2 = 3.1, and images within l0 9 have at most 3"),
        (("l0", "8/255"), (0.03, 0.2), "mean_l2 = 0.2, and images within l0 8/255 have at most 0"),
        (("l0", "8/255"), (0.0, 0.0), None),
    ],
)
def test_mean_distances_of_a_run_file_are_within_its_budget(threat, means, why):
    norm, eps = threat
    honest = measured("pgd")
    attack = honest.cell.attack.model_copy(update={"threat": type(honest.cell.attack.threat)(norm=norm, eps=eps)})
    metrics = honest.metrics.model_copy(update=dict(zip(("mean_linf", "mean_l2"), means, strict=True)))
    forged = honest.model_copy(update={"cell": honest.cell.model_copy(update={"attack": attack}), "metrics": metrics})
    lines = [line for line in impossible(forged) if line.startswith("mean_")]
    assert lines == ([] if why is None else [line for line in lines if line.startswith(why)]) and len(lines) == (
        why is not None
    )


def test_gradients_are_averaged_only_where_an_attack_sees_a_step(tmp_path):
    honest = next(
        each for each in planned(tmp_path, TOLD) if each.names.defense.startswith("standard") and each.cell.attack
    )
    assert list(impossible(SimpleNamespace(cell=honest.cell, metrics=None))) == []
    attack = honest.cell.attack.model_copy(update={"eot": 20})
    (line,) = impossible(SimpleNamespace(cell=honest.cell.model_copy(update={"attack": attack}), metrics=None))
    assert line.startswith("its attack averages 20 gradients (eot)")
