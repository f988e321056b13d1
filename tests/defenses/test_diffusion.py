"""Diffusion purification: its closed forms, its gradient, its memory, and what an adaptive attacker makes of it."""

import json
import math

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.cli import main
from bench.evaluation.chunks import read_chunk
from bench.evaluation.device_cache import DeviceCache
from bench.evaluation.measure import Measure
from bench.keys import attack_key, training_key
from bench.registry import entries
from bench.store.working_store import Store
from bench.training.step import RecipeStep
from bench.types import PlannedCell
from defenses._diffusion import diffused, reverse_times
from tests.defenses.scores import score_network


class GaussianScore(nn.Module):
    """The best predictor of noise where pixels are independent and normal, in the scale of the diffusion."""

    def __init__(self, alpha_bar, mean, std):
        super().__init__()
        self.register_buffer("alpha_bar", alpha_bar)
        self.mean, self.std = mean, std

    def forward(self, x, t):
        signal = self.alpha_bar[t][:, None, None, None].to(x)
        variance = signal * self.std**2 + 1 - signal
        return (1 - signal).sqrt() * (x - signal.sqrt() * self.mean) / variance


def signal_of(schedule, steps):
    """Return alpha_bar as the papers define it, number by number."""
    signal = [1.0]
    for t in range(1, steps + 1):
        beta = 1e-4 + (0.02 - 1e-4) * (t - 1) / (steps - 1)
        if schedule == "cosine":
            now, before = (math.cos((each / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for each in (t, t - 1))
            beta = min(1 - now / before, 0.999)
        signal.append(signal[-1] * (1 - beta))
    return torch.tensor(signal, dtype=torch.float64)


def purifier(base, score, **params):
    step = entries("test-time")["diffusion"].load()(**params)
    step.use_score(score)
    step.draws.begin(1)
    return step, step.wrap(base).eval()


def gradient_of(step, deployed, x):
    step.draws.begin(1)
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(deployed(leaf).logsumexp(1).sum(), leaf)[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_noise_schedule_is_that_of_its_paper(schedule):
    assert torch.allclose(
        score_network(1, noise_schedule=schedule).alpha_bar.double(), signal_of(schedule, 1000), atol=1e-6
    )


def test_the_forward_process_has_its_mean_and_variance(x):
    many, signal = x[:1].double().repeat(20_000, 1, 1, 1)[..., :4, :4], 0.37
    generator = torch.Generator().manual_seed(0)
    x_t = diffused(many, torch.randn(many.shape, generator=generator, dtype=torch.float64), signal)
    assert torch.allclose(x_t.mean(0), math.sqrt(signal) * many[0], atol=5 * math.sqrt((1 - signal) / 20_000))
    assert torch.allclose(x_t.var(0), torch.tensor(1 - signal, dtype=torch.float64), rtol=0.06)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_perfect_denoiser_samples_the_data(sampler):
    score = GaussianScore(signal_of("linear", 1000), mean=0.1, std=0.3)
    # In fewer steps the posterior of DDPM, that of a single image, is narrower than the data.
    _, deployed = purifier(nn.Identity(), score, t_star=1.0, steps=500, sampler=sampler)
    with torch.no_grad():
        sampled = 2 * deployed(torch.rand(600, 1, 4, 4)) - 1
    assert sampled.mean().item() == pytest.approx(0.1, abs=0.01)
    assert sampled.std().item() == pytest.approx(0.3, rel=0.03)


def test_without_noise_images_stay_as_they_are(x):
    step, deployed = purifier(nn.Identity(), score_network(3), t_star=0.0)
    assert torch.equal(deployed(x), x)
    assert step.draws.calls == 0


def test_reverse_times_end_at_zero_and_fall():
    assert reverse_times(100, 4) == [100, 75, 50, 25, 0]
    assert reverse_times(3, 10) == [3, 2, 1, 0]
    assert reverse_times(0, 10) == [0]


def test_draws_are_those_of_the_seed(x):
    step, deployed = purifier(nn.Identity(), score_network(3))
    first = deployed(x)
    step.draws.begin(1)
    assert torch.equal(deployed(x), first)
    assert not torch.equal(deployed(x), first), "it draws again"
    step.draws.begin(2)
    assert not torch.equal(deployed(x), first)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_checkpoints_change_no_bit_of_the_gradient(base, x, sampler, monkeypatch):
    step, deployed = purifier(base, score_network(3), steps=3, sampler=sampler)
    actual = gradient_of(step, deployed, x)
    monkeypatch.setitem(type(step)._purify.__globals__, "checkpoint", lambda call, *args, **_: call(*args))
    assert torch.equal(gradient_of(step, deployed, x), actual)
    assert bool((actual != 0).any())


def test_the_gradient_is_that_of_finite_differences():
    score = score_network(1).double()
    weight = torch.rand(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    received = []

    def base(x):
        received.append(x)
        return x.flatten(1) @ weight.T

    step, deployed = purifier(base, score, t_star=0.05, steps=3)

    def purified(x):
        step.draws.begin(1)
        return deployed(x)

    images = (0.4 + 0.2 * torch.rand(2, 1, 4, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(purified, images, fast_mode=True)
    assert all(bool(((x > 0) & (x < 1)).all()) for x in received), "none is clamped, where the true gradient is zero"


def test_clamped_pixels_keep_their_gradient(x):
    step, deployed = purifier(nn.Flatten(), score_network(3), t_star=0.5)
    grad = gradient_of(step, deployed, x)
    assert bool(((deployed(x) == 0) | (deployed(x) == 1)).any())
    assert bool((grad != 0).all())


class Kept(TorchDispatchMode):
    """Knows the memory of every tensor that is made in it, and how much of it is still in use."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.storages[StorageWeakRef(storage)] = storage.nbytes()
        return made

    @property
    def bytes(self):
        return sum(size for storage, size in self.storages.items() if not storage.expired())


def test_memory_grows_by_one_batch_of_images_a_step(base, x):
    def kept(steps):
        _, deployed = purifier(base, score_network(3), steps=steps)
        with Kept() as memory:
            logits = deployed(x.clone().requires_grad_())
        assert logits.requires_grad
        return memory.bytes

    assert kept(12) - kept(4) <= 8 * x.nbytes


def test_the_recipe_is_the_error_of_the_predicted_noise(x):
    net, received = score_network(3).requires_grad_(True).train(), []
    net.register_forward_pre_hook(lambda _, inputs: received.append(inputs))
    step = RecipeStep(net, 5)
    step.begin(torch.arange(len(x)), lambda call: call, torch.tensor(0.0))
    loss = entries("score-recipe")["denoiser"].load()(step, x, torch.zeros(len(x), dtype=torch.int64))
    (x_t, t), signal = received[0], signal_of("cosine", 1000).float()
    signal = signal[t][:, None, None, None]
    noise = (x_t - signal.sqrt() * (2 * x - 1)) / (1 - signal).sqrt()
    assert bool(((t >= 1) & (t <= 1000)).all())
    assert loss.item() == pytest.approx(((net(x_t, t) - noise) ** 2).mean().item(), rel=1e-3)
    assert step.logits is None, "noise has no accuracy"


CONFIG = """
schema = 1
name = "diffusion"
[dataset]
name = "digits"
n = 30
train_n = 800
[[models]]
arch = "small-cnn"
channels = 8
hidden = 32
[[defenses]]
use = "diffusion"
t_star = 0.25
steps = 4
score_network = {arch = "unet", channels = 8}
[[attacks]]
use = "pgd"
eps = "0.2"
step_size = "0.05"
steps = 6
eot = 2
rule = "last-iterate"
[train]
epochs = 12
batch = 32
lr = 0.1
schedule = "one-cycle"
measure_every = 100
[train.denoiser]
epochs = 8
batch = 64
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    (folder / "this.toml").write_text(CONFIG)
    assert (
        main(["run", str(folder / "this.toml"), "--store", str(folder / "store"), "--report", str(folder / "r")]) == 0
    )
    return Store(folder / "store")


def test_both_attackers_break_most_images(store):
    by_access = {r.names.access: r for r in store.results() if r.cell.attack}
    static, adaptive = (by_access[access].metrics for access in ("static", "adaptive"))
    # Which of the two breaks more of so few images depends on the processor that trains so small a network.
    for each in (static, adaptive):
        assert each.robust_accuracy < 0.5 * each.clean_accuracy
    assert static.protocol == adaptive.protocol == "majority-of-5"
    assert adaptive.robust_worst <= adaptive.robust_mean


def test_the_score_is_trained_as_other_weights_are(store):
    cards = [json.loads(path.read_text()) for path in (store.root / "train").glob("*/card.json")]
    (card,) = (card for card in cards if card["training"]["recipe"]["name"] == "denoiser")
    assert card["log"][-1]["loss"] < 0.6 * card["log"][0]["loss"]
    assert all(row["train_accuracy"] is None and not {"train", "test"} & row.keys() for row in card["log"])
    clean = next(r for r in store.results() if not r.cell.attack)
    assert clean.cell.step.score.network.name == "unet"
    bare = sum(each["params"] for each in cards)
    assert clean.defense_cost.params == bare


def test_flops_are_those_of_both_networks(store):
    clean = next(r for r in store.results() if not r.cell.attack)
    cards = {card["network"]["name"]: card for card in map(_card, (store.root / "train").glob("*/card.json"))}
    forward = {name: card["log"][0]["flops"] / 3 / card["images_per_epoch"] for name, card in cards.items()}
    assert clean.defense_cost.test_flops == pytest.approx(forward["small-cnn"] + 4 * forward["unet"], rel=0.05)


def _card(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ('use = "denoiser"', "'denoiser' is a recipe of a score network, which classifies nothing, not a defense"),
        ('use = "diffusion"\nbase = "denoiser"', "not a base"),
        ('use = "diffusion"\nscore = "standard"', "'standard' is a training recipe, not a score"),
        ('use = "jpeg"\nscore = "denoiser"', "score belongs to a diffusion purifier; 'jpeg' has no score"),
        ('use = "diffusion"\nscore_network = "small-cnn"', "'small-cnn' is a network, not a score network"),
        (
            'use = "diffusion"\nscore_network = {channels = 4}',
            "neither the name of a network nor a table with its arch",
        ),
        ('use = "diffusion"\nscore_network = {arch = "unet", channel = 4}', "did you mean 'channels'?"),
        ('use = "diffusion"\nscore_train = {holdout = 5}', "leave it at 0"),
        ('use = "diffusion"\nscore = "weights:nowhere.safetensors"', "nowhere.safetensors"),
        ('use = "diffusion"\nt_star = 2', "less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, entry, line):
    before, _, after = CONFIG.partition("[[defenses]]")
    rest = after.partition("[[attacks]]")[2]
    (tmp_path / "this.toml").write_text(f"{before}[[defenses]]\n{entry}\n[[attacks]]{rest}")
    assert main(["plan", str(tmp_path / "this.toml"), "--store", str(tmp_path / "store")]) == 2
    assert line in capsys.readouterr().err


def test_a_part_of_a_cell_has_the_outcomes_of_the_whole(store):
    whole = next(r for r in store.results() if r.names.access == "adaptive" and r.cell.attack)
    cell, all_of_them = whole.cell, slice(0, whole.cell.data.n)
    cache = DeviceCache(torch.device("cpu"), None)

    def weights(model):
        return lambda: store.training(training_key(model)) / "weights.safetensors"

    classifier = cache.classifier(cell.model, cell.data, weights(cell.model))
    score = cache.score(cell.step.score, cell.data, weights(cell.step.score))
    (path,) = store.adversarial(attack_key(cell.attack)).glob("*.safetensors")
    chunk = read_chunk(path, cache.test(cell.data).part(all_of_them)[0], cell.attack.threat)
    planned = PlannedCell(key=whole.key, names=whole.names, cell=cell)
    measure = Measure(store, cache, lambda: None, lambda _: 64)
    assert measure.outcomes(planned, classifier, [(all_of_them, chunk)], score) == whole.outcomes_under_attack
