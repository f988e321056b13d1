"""Which answers count as right: ties, majorities, precision, and adversarial examples at the boundary."""

from math import comb
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench import registry
from bench.cli import main
from bench.evaluation.chunks import Records, majority
from bench.evaluation.craft import Crafted, craft
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.predict import predict
from bench.keys import DRAWS
from bench.models.logits import Precise, judged, round_off
from bench.process.isolation import frozen
from bench.store.working_store import Store
from bench.types import AttackRef, DataRef, ModelRef, Threat, WeightsRef
from tests.engine import tiny

FILE = Path(__file__).with_name("judged.py")


def step_of(name, base, **params):
    return deploy(base, registry.find("test-time", f"{FILE}:{name}").ref(params))


# Ties.


@given(st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=6), st.data())
def test_an_answer_is_right_only_above_all_others(rows, data):
    y = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    labels, margins = judged(torch.tensor(rows, dtype=torch.float32), torch.tensor(y))
    for row, true, label, margin in zip(rows, y, labels.tolist(), margins.tolist(), strict=True):
        others = [value for k, value in enumerate(row) if k != true]
        assert margin == row[true] - max(others)
        assert (label == true) == (row[true] > max(others))
        assert row[label] == max(row)


class Uniform(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 3) * x.flatten(1)[:, :1]


def test_a_network_that_answers_all_alike_is_never_right():
    x, y = torch.rand(9, 1, 2, 2), torch.arange(9) % 3
    net = Uniform().eval()
    answer = predict(DeployedDefense(net, net), net, x, y, 4, seed=("it",))
    assert not (answer.labels == y).any() and not answer.margins.any()


# Random defenses.


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(0, 3))
def test_the_majority_is_more_than_half(answers, true):
    (label,) = majority(torch.tensor(answers)[:, None], torch.tensor([true])).tolist()
    assert (label == true) == (answers.count(true) * 2 > len(answers))
    if label != true:
        assert all(answers.count(label) >= answers.count(k) for k in range(4) if k != true)


@pytest.mark.parametrize("chance", [0.3, 0.5, 0.8])
def test_a_random_defense_is_judged_by_the_majority_of_its_draws(chance):
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    y = torch.arange(3000) % 3
    x = torch.zeros(3000, 1, 2, 2)
    x[:, 0, 0, 0] = y / 255
    answer = predict(step_of("Coin", base, chance=chance), base, x, y, 128, seed=("coin",))
    assert answer.labels.shape == (DRAWS, 3000)
    records = Records()
    records.add(answer, y, x, Crafted(x, torch.zeros(3000), torch.zeros(3000), 0.0, [], 128))
    share = torch.tensor(records.column("share"))
    expected = sum(comb(5, k) * chance**k * (1 - chance) ** (5 - k) for k in (3, 4, 5))
    assert float((share > 0.5).float().mean()) == pytest.approx(expected, abs=0.03)
    assert float(share.mean()) == pytest.approx(chance, abs=0.02)
    assert float((share == 1).float().mean()) == pytest.approx(chance**5, abs=0.03)
    assert torch.equal(torch.tensor(records.column("labels")) == y, share > 0.5)


# Precision.


def run(folder, arch, extra="", defense="fgsm-at"):
    folder.mkdir(exist_ok=True)
    text = tiny.CONFIG.replace('arch = "small-cnn"\nchannels = 4\nhidden = 16', f'arch = "{FILE}:{arch}"\n{extra}')
    (folder / "this.toml").write_text(text.replace("fgsm-at", defense))
    code = main(["run", str(folder / "this.toml"), "--store", str(folder / "store"), "--report", str(folder / "r")])
    return code, {f"{r.names.defense}/{r.names.attack}/{r.names.access}": r for r in Store(folder / "store").results()}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_logits_of_few_bits_are_judged_and_attacked_in_float32(tmp_path, precision):
    code, results = run(tmp_path / "a", "rounded", f'returned = "{precision}"')
    # The same numbers, rounded by the network itself and returned as float32.
    _, wanted = run(tmp_path / "b", "rounded", f'through = "{precision}"')
    assert code == 0 and len(results) == 8 and results.keys() == wanted.keys()
    for name, result in results.items():
        if "pgd" not in name:  # Its random start belongs to its network, by name and parameters.
            assert result.metrics == wanted[name].metrics, name
            assert result.adversarial_bits == wanted[name].adversarial_bits, name


def test_double_logits_are_judged_in_float32_too(tmp_path):
    code, results = run(tmp_path, "rounded", 'returned = "float64"')
    assert code == 0 and all(result.status == "done" for result in results.values())


def test_a_network_of_half_weights_that_takes_no_float32_is_one_line(tmp_path, capsys):
    run(tmp_path, "halved")
    captured = capsys.readouterr()
    assert "images are float32, weights torch.float16" in " ".join((captured.out + captured.err).split())


def test_a_step_that_returns_half_precision_is_judged_in_float32():
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    answer = predict(step_of("Halves", base), base, torch.rand(5, 1, 2, 2), torch.zeros(5).long(), 8, seed=("it",))
    assert answer.margins.dtype == torch.float32


def test_what_a_step_does_to_its_images_it_does_to_its_own_copy():
    base = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(5, 1, 2, 2)
    before = x.clone()
    predict(step_of("Alters", base), base, x, torch.zeros(5).long(), 8, seed=("it",))
    assert torch.equal(x, before)


# Successes at the boundary.


class ByBatch(nn.Module):
    """A linear network whose last digits depend on the batch size, as with real kernels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(36, 4)

    def forward(self, x):
        logits = 10 * self.linear(x.flatten(1) - 0.5)
        generator = torch.Generator().manual_seed(len(x))
        return logits + 1e-6 * torch.randn(logits.shape[1], generator=generator)


@pytest.mark.parametrize(
    ("attack", "params"), [("ddn", {"levels": None, "steps": 60}), ("cw", {"searches": 6}), (f"{FILE}:bisect", {})]
)
def test_what_an_attack_calls_a_success_is_one_when_it_is_judged(monkeypatch, attack, params):
    net = ByBatch().eval().requires_grad_(False)
    x = torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    ref = AttackRef(
        model=ModelRef(network=registry.find("network", "small-cnn").ref({}), weights=WeightsRef(name="w", sha256="0")),
        step=None,
        attack=registry.find("attack", attack).ref(params),
        threat=Threat(norm="l2", eps=None),
        data=DataRef(
            name="d", split="test", n=120, image_shape=(1, 6, 6), num_classes=4, indices_sha="0", data_sha="0"
        ),
        seed=0,
    )

    def returned():
        """Count the adversarial examples that are right again in batches of another size."""
        crafted = craft(ref, net, x, y, torch.arange(120), key="it", batch=50)
        broken = (crafted.images != x).flatten(1).any(1)
        assert int(broken.sum()) > 80
        back = torch.zeros(120, dtype=torch.bool)
        for batch in (1, 17, 120):
            with frozen(net):
                back |= predict(DeployedDefense(net, net), net, crafted.images, y, batch, seed=("it",)).labels[0] == y
        return int((back & broken).sum()), crafted.images

    lost, images = returned()
    assert lost == 0
    monkeypatch.setattr("bench.evaluation.craft.round_off", lambda base, device: 0.0)
    without, nearer = returned()
    if attack.endswith("bisect"):
        assert without > 0, "else the margin does nothing here"
    farther = (images - x).flatten(1).norm(dim=1).sum() / (nearer - x).flatten(1).norm(dim=1).sum()
    assert float(farther) < 1.01, "it costs next to nothing"


def test_round_off_is_that_of_the_coarsest_format():
    net, cpu = nn.Identity(), torch.device("cpu")
    assert round_off(net, cpu) == 2.0**-17
    assert round_off(Precise(net, torch.bfloat16), cpu) == torch.finfo(torch.bfloat16).eps
    assert round_off(net, torch.device("cuda")) == 2.0**-10
