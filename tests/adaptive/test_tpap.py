"""The smallest trained TPAP: the adaptive suite finds what the static protocol hides."""

import pytest
import torch

from bench import registry
from bench.draws import Draws
from bench.evaluation.defense import deploy
from bench.evaluation.predict import predict
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.isolation import frozen
from bench.stats import wilson
from bench.types import Threat
from tests.adaptive.conftest import board_of

N = 40
SUITE = ("apgd-ce", "apgd-dlr", "label-aware-apgd", "second-order-apgd", "inverse-purification", "square", "rays")


@pytest.fixture(scope="module")
def results(run):
    """TPAP on a network that FGSM training has overfitted, as the quick preset has it, with fewer epochs."""
    body = f"""
[dataset]
name = "digits"
n = {N}
image_size = 16
interpolation = "nearest"

[[models]]
arch = "small-cnn"

[train]
epochs = 10
batch = 64
lr = 0.05
weight_decay = 0.0
drops = [0.6, 0.85]
augment = "none"
eps = "0.25"

[[defenses]]
use = "fgsm-at"

[[defenses]]
use = "tpap"
beta = "0.25"

[[attacks]]
use = "pgd"
eps = "0.05"
steps = 20
"""
    costs = {
        "label-aware-apgd": "steps = 40\ntargets = 3",
        "second-order-apgd": "steps = 20\nwidths = 2",
        "inverse-purification": "steps = 20\ninversions = 10",
        "square": "queries = 100",
        "rays": "queries = 100",
        "apgd-ce": "steps = 20",
        "apgd-dlr": "steps = 20",
    }
    for attack in SUITE:
        body += f'[[attacks]]\nuse = "{attack}"\neps = "0.05"\naccess = ["adaptive"]\n{costs[attack]}\n'
    code, run_results = run(body)
    assert code == 0
    return run_results


def tpap(results, *attacks):
    return next(s for s in board_of(results, *attacks).threats if s.defense == "tpap")


def test_the_suite_finds_at_least_what_bpda_pgd_finds_and_strictly_more_than_static(results):
    pgd, suite = tpap(results, "pgd"), tpap(results, "pgd", *SUITE)
    assert suite.worst["adaptive"].number < pgd.worst["adaptive"].number, "each attack is there for something"
    low = wilson(round(pgd.worst["static"].number * N), N).low
    assert suite.worst["adaptive"].number < low
    assert suite.judgement.base == "fgsm-at"


def test_knowing_both_branches_finds_at_least_what_any_attack_by_bpda_finds(results):
    bpda = min(tpap(results, attack).worst["adaptive"].number for attack in ("pgd", "apgd-ce", "apgd-dlr"))
    # But for one image: the least of three attacks has had three random starts.
    assert tpap(results, "label-aware-apgd").worst["adaptive"].number <= bpda + 1 / N


def test_purification_alone_does_not_protect(results):
    step = tpap(results, "pgd", *SUITE)
    assert step.judgement.verdict in ("broken under adaptive attack", "weaker than its base")
    assert not any("randomised" in mark or "zero-gradient" in mark for mark in step.worst["adaptive"].footnotes)


def test_attacks_on_purification_leave_other_defenses_out(results):
    bare = [each.names.attack for each in results if each.names.defense == "fgsm-at"]
    assert "apgd-ce" in bare
    assert not {"label-aware-apgd", "second-order-apgd", "inverse-purification"} & set(bare)


class Curved(torch.nn.Module):
    """A small network with second derivatives, unlike one of ReLUs."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)
            )
            for layer in (self.layers[1], self.layers[3]):
                layer.weight.data *= 4

    def forward(self, x):
        return self.layers(x)


def attacked(name, base, x, y, *, step="tpap", eps="1/10", stochastic_eot=5, **params):
    """Return the images of an attack on a step on a network, its notes, and which are still right."""
    arguments = {"tpap": {"beta": "1/10"}, "hedge": {"steps": 2}}.get(step, {})
    entry = registry.find("attack", name)
    defense = deploy(base, registry.find("test-time", step).ref(arguments))
    defense.seed("attack")
    with frozen(base), Meter(base, len(x)) as meter:
        target = NetworkTarget(
            defense.surrogate, meter, torch.arange(len(x)), base=base, smooth=defense.smooth, seed=0, num_classes=10,
            batch=64, draws=defense.draws, draws_averaged=1 if defense.draws is None else stochastic_eot,
        )  # fmt: skip
        x_adv = entry.load()(target, x, y, Threat(eps=eps), **entry.arguments(params))
    labels = predict(defense, base, x_adv, y, 64, seed=("judge",)).labels
    return x_adv, target.notes, (labels == y).float().mean(0) > 0.5


@pytest.fixture(scope="module")
def curved():
    """A curved network, images, and the labels that TPAP gives them, so that all are right when clean."""
    base, x = Curved().eval(), torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    defense = deploy(base, registry.find("test-time", "tpap").ref({"beta": "1/10"}))
    with torch.no_grad():
        return base, x, defense.deployed(x).argmax(1)


def test_every_width_and_branch_is_an_attack_of_its_own(curved):
    base, x, y = curved
    survives = {
        "bpda": attacked("apgd-dlr", base, x, y, steps=15)[2],
        **{f"tau {t}": attacked("second-order-apgd", base, x, y, steps=15, tau=t, widths=1)[2] for t in (10.0, 0.1)},
        **{
            branch: attacked("label-aware-apgd", base, x, y, steps=15, branch=branch)[2]
            for branch in ("right-before", "wrong-before", "both-at-once")
        },
    }
    assert all(float(mask.float().mean()) < 0.8 for mask in survives.values()), survives
    all_branches = attacked("label-aware-apgd", base, x, y, steps=15)[2]
    assert int(all_branches.sum()) <= min(int(survives[f"{label}-before"].sum()) for label in ("right", "wrong")) + 1


def test_the_inverse_of_a_purification_reaches_beyond_the_budget(curved):
    base, x, y = curved
    x_adv, _, survives = attacked("inverse-purification", base, x, y)
    purified = deploy(base, registry.find("test-time", "tpap").ref({"beta": "1/10"})).deployed
    base_inputs = []
    handle = base.register_forward_pre_hook(lambda _, inputs: base_inputs.append(inputs[0]))
    with torch.no_grad():
        purified(x_adv)
    handle.remove()
    moved = (base_inputs[-1] - x).abs().flatten(1).amax(1)
    assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    assert float(moved[~survives].max()) > 0.15
    assert float(survives.float().mean()) < 0.8


def test_autoattack_says_that_tpap_is_dynamic_and_that_hedge_is_random(curved):
    base, x, y = curved
    _, notes, _ = attacked("autoattack", base, x[:4], y[:4], eps="1/2")
    assert "autoattack-dynamic" in notes
    assert "autoattack-randomised" not in notes
    _, notes, _ = attacked("autoattack", base, x[:4], y[:4], eps="1/2", step="hedge", version="standard")
    assert {"autoattack-randomised", "autoattack-dynamic"} <= set(notes)


def test_a_shortened_autoattack_costs_less_and_says_so(curved):
    base, x, y = curved
    _, notes, _ = attacked("autoattack", base, x[:4], y[:4], eps="1/50", steps=5, targets=2, queries=20)
    assert "autoattack-reduced" in notes
    _, notes, _ = attacked("autoattack", base, x[:4], y[:4], eps="1/2")
    assert "autoattack-reduced" not in notes


def test_autoattack_attacks_a_random_step_by_its_own_version(curved, monkeypatch):
    package = pytest.importorskip("pyautoattack")
    versions = []
    original = package.AutoAttack.__init__
    monkeypatch.setattr(
        package.AutoAttack, "__init__", lambda s, *a, **k: versions.append(k["version"]) or original(s, *a, **k)
    )
    base, x, y = curved
    attacked("autoattack", base, x[:2], y[:2], eps="1/2", step="hedge")
    attacked("autoattack", base, x[:2], y[:2], eps="1/2")
    assert versions == ["rand", "standard"]


def test_one_lucky_answer_does_not_end_an_attack():
    class Coin(torch.nn.Module):
        """Wrong one time in ten, and more often the brighter the image gets."""

        def __init__(self):
            super().__init__()
            self.draws = Draws()

        def chance(self, images):
            return (0.1 + 10 * (images - x[: len(images)]).mean((1, 2, 3))).clamp(0.1, 0.9)

        def forward(self, images):
            wrong = self.draws.uniform(images[:, 0, 0, 0]) < self.chance(images)
            return torch.nn.functional.one_hot(wrong.long(), 3).float()

    x, y = torch.full((30, 1, 8, 8), 0.5), torch.zeros(30, dtype=torch.int64)
    coin, entry = Coin().eval(), registry.find("attack", "square")
    chances = []
    for believes_one in (True, False):
        with frozen(coin), Meter(coin, 30) as meter:
            target = NetworkTarget(
                coin, meter, torch.arange(30), seed=0, num_classes=3, batch=64,
                draws=None if believes_one else coin.draws, draws_averaged=1 if believes_one else 20,
            )  # fmt: skip
            x_adv = entry.load()(target, x, y, Threat(eps="1/10"), queries=400)
        chances.append(float(coin.chance(x_adv).mean()))
    assert chances[0] < 0.4, "it stopped at the first lucky answer"
    assert chances[1] > 0.5


def test_rays_finds_the_nearest_boundary_of_a_linear_network():
    """The distance to a plane in Linf is the margin over the sum of absolute weights."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, generator=generator)
    x = torch.rand(20, 1, 4, 4, generator=generator) * 0.4 + 0.3
    middle = x.flatten(1) @ weight

    class Plane(torch.nn.Module):
        def forward(self, images):
            side = images.flatten(1) @ weight - middle.mean()
            return torch.stack((-side, side), 1)

    plane = Plane().eval()
    y = plane(x).argmax(1)
    distance = (middle - middle.mean()).abs() / weight.abs().sum()
    entry = registry.find("attack", "rays")
    for factor, expected in ((0.97, 0), (1.06, 1)):
        for i in range(len(x)):
            eps = float(distance[i]) * factor
            if not 0.005 < eps < 0.25:
                continue
            with frozen(plane), Meter(plane, 1) as meter:
                target = NetworkTarget(plane, meter, torch.arange(1), seed=0, num_classes=2, batch=1)
                one = x[i : i + 1]
                x_adv = entry.load()(target, one, y[i : i + 1], Threat(eps=eps), queries=400)
            assert int((x_adv != one).any()) == expected, (i, eps)
