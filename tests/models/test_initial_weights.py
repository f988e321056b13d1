"""Networks that begin with weights from files: the files are in the key, and zero epochs leave them as they are."""

import pytest
import torch
from PIL import Image

from bench.cli import main
from bench.config.sections import load
from bench.models.build import build, network_ref
from bench.report.render.outside import named_by
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import UsageError

SHAPE = (3, 8, 8)
FILE = """
from torch import nn
def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
"""
TABLE = """
schema = 1
name = "t"
dataset = {{ name = "folder:{folder}/images" }}
train = {{ epochs = {epochs} }}
defenses = [{{ use = "standard" }}]
attacks = [{{ use = "fgsm", eps = "0.1" }}]
models = [{{ {entry} }}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A network, two files of weights for it, and images of two grey levels with no training split."""
    (tmp_path / "mine.py").write_text(FILE)
    # The lighter an image, the more it is of class 1; the second file says the opposite, and half as sure.
    for name, slope in (("a.pt", 1.0), ("b.pt", -0.5)):
        weight = torch.stack([torch.zeros(192), torch.full((192,), slope)])
        torch.save({"state_dict": {"1.weight": weight, "1.bias": torch.tensor([0.0, -96 * slope])}}, tmp_path / name)
    for label, level in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (level + index,) * 3).save(tmp_path / "images" / label / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def config(folder, entry, epochs=0):
    (folder / "t.toml").write_text(TABLE.format(folder=folder, entry=entry, epochs=epochs))
    return folder / "t.toml"


def clean_accuracy(folder, entry):
    store = folder / "store"
    arguments = ["run", str(config(folder, entry)), "--store", str(store), "--report", str(folder / "report")]
    assert main(arguments) == 0
    (accuracy,) = {r.metrics.clean_accuracy for r in Store(store).results()}
    return accuracy


def test_a_file_is_measured_as_it_is_without_training_images(folder):
    assert clean_accuracy(folder, 'arch = "mine.py:linear", initial_weights = "a.pt"') == 1.0


def test_the_other_file_says_the_opposite(folder):
    assert clean_accuracy(folder, 'arch = "mine.py:linear", initial_weights = "b.pt"') == 0.0


def test_each_member_has_its_file(folder):
    entry = 'arch = ["mine.py:linear", "mine.py:linear"], initial_weights = ["a.pt", "b.pt"]'
    assert clean_accuracy(folder, entry) == 1.0
    (ref,) = {planned.cell.model.network for planned in make(load("t.toml")).plan.cells}
    x = torch.rand(4, *SHAPE)
    logits = torch.stack([torch.zeros(4), (1 - 0.5) / 2 * (x.flatten(1).sum(1) - 96)], 1)
    torch.testing.assert_close(build(ref, 2, SHAPE).eval()(x), logits, rtol=1e-4, atol=1e-4)


def test_they_fit_a_network_with_something_around_it(folder):
    around = {"initial.weights": "a.pt", "input.mean": "0.5", "input.std": "0.5"}
    x = torch.rand(4, *SHAPE)
    net = build(network_ref("mine.py:linear", around), 2, SHAPE).eval()
    torch.testing.assert_close(net(x)[:, 1], ((x - 0.5) / 0.5).flatten(1).sum(1) - 96)


def test_one_of_several_state_dicts_is_named(folder):
    states = {name: torch.load(folder / f"{file}.pt")["state_dict"] for name, file in (("model", "a"), ("ema", "b"))}
    torch.save(states, folder / "both.pt")
    x = torch.rand(4, *SHAPE)
    for key, file in (("model", "a.pt"), ("ema", "b.pt")):
        chosen = network_ref("mine.py:linear", {"initial.weights": "both.pt", "initial.key": key})
        alone = network_ref("mine.py:linear", {"initial.weights": file})
        torch.testing.assert_close(build(chosen, 2, SHAPE).eval()(x), build(alone, 2, SHAPE).eval()(x))
    with pytest.raises(UsageError, match=r"with initial_key as key.*both.pt holds 2 state dicts"):
        build(network_ref("mine.py:linear", {"initial.weights": "both.pt"}), 2, SHAPE)


def test_the_contents_are_in_the_key_and_looked_at_again(folder):
    before = network_ref("mine.py:linear", {"initial.weights": "a.pt"})
    assert named_by(before.model_copy(update={"name": "small-cnn"})) == "a.pt"
    (folder / "b.pt").rename(folder / "a.pt")
    after = network_ref("mine.py:linear", {"initial.weights": "a.pt"})
    assert before.params != after.params and before.code_sha == after.code_sha
    with pytest.raises(UsageError, match="a.pt has changed since the plan was made"):
        build(before, 2, SHAPE)


WRONG = {
    "no file": ('arch = "mine.py:linear", initial_weights = "c.pt"', "initial_weights: c.pt: no file"),
    "one for two": (
        'arch = ["mine.py:linear", "mine.py:linear"], initial_weights = "a.pt"',
        "a file for each of its 2",
    ),
    "three for two": (
        'arch = ["mine.py:linear", "mine.py:linear"], initial_weights = ["a.pt", "b.pt", "a.pt"]',
        "a file for each of its 2",
    ),
    "two for one": ('arch = "mine.py:linear", initial_weights = ["a.pt", "b.pt"]', "belongs to an ensemble"),
    "no name": (
        'arch = "mine.py:linear", initial_weights = ""',
        "models.0.initial_weights: '' is neither the name of a",
    ),
    "a key alone": ('arch = "mine.py:linear", initial_key = "ema"', "initial_weights, which it lacks"),
    "another name": (
        'arch = ["mine.py:linear", "mine.py:linear"], weights = ["a.pt", "b.pt"]',
        "are initial_weights",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_line(folder, case):
    entry, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as caught:
        make(load(str(config(folder, entry))))
    assert "\n" not in str(caught.value)


def test_training_needs_training_images(folder):
    with pytest.raises(UsageError, match="has no train images"):
        make(load(str(config(folder, 'arch = "mine.py:linear", initial_weights = "a.pt"', epochs=1))))


def test_weights_of_another_network_are_one_line(folder):
    ref = network_ref("small-cnn", {"initial.weights": "a.pt"})
    with pytest.raises(UsageError, match="network 'small-cnn': initial_weights .*: a.pt") as caught:
        build(ref, 2, SHAPE)
    assert "\n" not in str(caught.value)
