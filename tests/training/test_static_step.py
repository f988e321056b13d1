"""The optimiser step on tensors that stay in place: against a plain loop, and recorded as a (simulated) graph."""

import copy
import os
import random
import tempfile
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.keys import derive_seed
from bench.models.bf16 import Bf16
from bench.models.build import build, network_ref
from bench.process import capture
from bench.process.capture import HostReads
from bench.registry import entries
from bench.training.losses import LossReader
from bench.training.precision import compile_cache
from bench.training.step import RecipeStep
from bench.types import Ending, MethodError
from tests.simulated_graphs import simulate
from tests.training.patterns import CLASSES, NETWORK, SHAPE, reference

#: Every recipe as it is, with each of its presets, and with what its defaults leave out.
RECIPES = {name: (name, {}) for name in entries("recipe")}
RECIPES |= {
    f"{name} {preset}": (name, params)
    for name, entry in entries("recipe").items()
    for preset, params in entry.meta.get("presets", {}).items()
}
RECIPES |= {
    "at fgsm": ("at", {"inner": "fgsm"}),
    "at last iterate": ("at", {"inner": "pgd[steps=2, rule=last-iterate]"}),
    "fgsm-at late clean images": ("fgsm-at", {"clean_weight": 0.4, "clean_from": 0.5}),
    "at cw": ("at", {"inner": "cw[steps=3]", "norm": "l2", "eps": "1/2"}),
}
#: These read values: which images are broken, so far.
BRANCHING = {"at", "at cw"}
every_recipe = pytest.mark.parametrize("recipe", sorted(RECIPES))
#: Deep learning kernels made for CPUs with bfloat16 units do not give equal bits for equal numbers; PyTorch's own do.
plain_kernels = partial(torch.backends.mkldnn.flags, enabled=False)
SETTINGS = [
    {},
    {"batch": 25},
    {"batch": 33},
    {"batch": 1000},
    {"augment": "flip"},
    {"augment": "crop-flip", "ema": 0.9},
    {"holdout": 20, "augment": "crop-flip"},
    {"schedule": "one-cycle", "momentum": 0.0, "weight_decay": 0.0},
    {"bf16": True},
    {"bf16": True, "channels_last": True, "augment": "crop-flip"},
]


class PlainAutocast(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


def crop(image, top, left, mirrored, augment):
    if augment == "crop-flip":
        image = F.pad(image, [4] * 4)[:, top : top + SHAPE[1], left : left + SHAPE[2]]
    return image.flip(2) if mirrored else image


def plain_batch(x, rows, schedule, seed):
    if schedule.augment != "none":
        generator = torch.Generator().manual_seed(seed)
        top, left = torch.randint(9 if schedule.augment == "crop-flip" else 1, (2, len(rows)), generator=generator)
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        cropped = [crop(x[r], *at, schedule.augment) for r, *at in zip(rows, top, left, mirrored, strict=True)]
        # Images of one channel count as contiguous in either layout, and the kernel depends on which it is.
        batch = torch.stack([each.permute(1, 2, 0) for each in cropped]).permute(0, 3, 1, 2).float() / 255
    else:
        batch = x[rows].float() / 255
    layout = torch.channels_last if schedule.channels_last is True else torch.contiguous_format
    return batch.contiguous(memory_format=layout)


def plain_training(ref, images):
    """Return the weights after training by a loop of a few lines, one number and one batch at a time."""
    x, y = torch.from_numpy(images[0]), torch.from_numpy(images[1])
    plan, entry = ref.schedule, entries("recipe")[ref.recipe.name]
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive_seed(ref.seed, "holdout")))
    rows = shuffled[plan.holdout :].sort().values
    torch.manual_seed(derive_seed(ref.seed, "init"))
    net = build(NETWORK, CLASSES, SHAPE)
    net = net.to(memory_format=torch.channels_last) if plan.channels_last is True else net
    average = copy.deepcopy(net)
    step = RecipeStep(PlainAutocast(net) if plan.bf16 is True else net, CLASSES)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1.0, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )
    for epoch in range(plan.epochs):
        generator = torch.Generator().manual_seed(derive_seed(ref.seed, epoch, "order"))
        order = rows[torch.randperm(len(rows), generator=generator)]
        batches = list(order.split(plan.batch))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        for i, batch in enumerate(batches):
            seed = ref.seed, epoch, i
            torch.manual_seed(derive_seed(*seed, "global"))
            done = torch.tensor((epoch * len(batches) + i) / (plan.epochs * len(batches)), dtype=torch.float64)
            step.begin(batch, lambda call, seed=seed: derive_seed(*seed, "draws", call), done)
            images_of = plain_batch(x, batch, plan, derive_seed(*seed, "augment"))
            loss = entry.load()(step, images_of, y[batch], **entry.arguments(ref.recipe.params))
            optimizer.zero_grad()
            loss.backward()
            if plan.schedule == "one-cycle":
                done = (epoch * len(batches) + i + 1) / (plan.epochs * len(batches) + 1)
                rate = plan.lr * min(2 * done, 2 - 2 * done)
            else:
                rate = plan.lr * plan.drop_factor ** sum(epoch >= drop * plan.epochs for drop in plan.drops)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            with torch.no_grad():
                for kept, new in zip(average.parameters(), net.parameters(), strict=True):
                    kept.lerp_(new, 1 - plan.ema)
    return dict((average if plan.ema else net).named_parameters())


def assert_same(weights, expected):
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


@every_recipe
def test_every_recipe_trains_as_a_plain_loop_does_to_the_bit(run, images, recipe):
    name, params = RECIPES[recipe]
    ref = reference(name, params, epochs=2, drops=(0.5,), augment="crop-flip")
    with torch.random.fork_rng():
        expected = plain_training(ref, images)
    assert_same(run(ref=ref).weights, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("recipe", ["fgsm-at tpap", "trades reference"])
def test_every_setting_trains_as_a_plain_loop_does_to_the_bit(run, images, recipe, settings):
    name, params = RECIPES[recipe]
    ref = reference(name, params, **{"epochs": 1 if "holdout" in settings else 2, "drops": (0.5,), **settings})
    with torch.random.fork_rng(), plain_kernels() if ref.schedule.bf16 is True else nullcontext():
        expected = plain_training(ref, images)
        assert_same(run(ref=ref).weights, expected)


@every_recipe
def test_recipes_that_read_values_are_known(images, recipe):
    name, params = RECIPES[recipe]
    entry = entries("recipe")[name]
    x, y = torch.from_numpy(images[0][:12]).float() / 255, torch.from_numpy(images[1][:12])
    with torch.random.fork_rng():
        step = RecipeStep(build(NETWORK, CLASSES, SHAPE).train(), CLASSES)
    step.begin(torch.arange(12), lambda call: torch.full((), 7 + call), torch.tensor(0.5, dtype=torch.float64))
    with HostReads() as reads:
        entry.load()(step, x, y, **entry.arguments(params)).backward()
    assert (reads.why is not None) == (recipe in BRANCHING), reads.found


#: Eight whole batches and a last one of four images.
CAPTURED = {"epochs": 2, "batch": 12, "drops": (0.5,)}


@every_recipe
def test_a_recorded_step_trains_as_one_that_is_not_to_the_bit(run, monkeypatch, recipe):
    name, params = RECIPES[recipe]
    ref = reference(name, params, **CAPTURED)
    expected = run("as it is", ref=ref)
    assert expected.card["computation"]["why"] == "there are no graphs on cpu"
    simulate(monkeypatch)
    recorded = run("recorded", ref=ref)
    computation = recorded.card["computation"]
    assert computation["captured"] is (recipe not in BRANCHING)
    assert ("_local_scalar_dense" in (computation["why"] or "")) is (recipe in BRANCHING)
    assert_same(recorded.weights, expected.weights)
    assert recorded.untimed_log() == expected.untimed_log()


@pytest.mark.parametrize("settings", [*SETTINGS[4:], {}], ids=str)
def test_a_recorded_step_trains_as_one_that_is_not_in_every_setting(run, monkeypatch, settings):
    ref = reference("pgd-at", {"steps": 2}, **CAPTURED | {"batch": 10} | settings)
    expected = run("as it is", ref=ref)
    simulate(monkeypatch)
    recorded = run("recorded", ref=ref)
    assert recorded.card["computation"]["captured"] is True
    assert_same(recorded.weights, expected.weights)
    assert recorded.untimed_log() == expected.untimed_log()


@pytest.mark.parametrize("recipe", ["fgsm-rs", "fgsm-at late clean images"])
def test_a_recorded_step_is_stopped_and_resumed_to_the_bit(run, monkeypatch, images, recipe):
    simulate(monkeypatch)
    ref = reference(*RECIPES[recipe], ema=0.9, holdout=10, **CAPTURED | {"batch": 10})
    settings = {"ref": ref, "test": images}
    expected = run("whole", **settings)
    for stop in (3, 6, 6):
        with pytest.raises(Ending):
            run("parts", stop_before=stop, **settings)
    resumed = run("parts", **settings)
    assert_same(resumed.weights, expected.weights)
    assert resumed.untimed_log() == expected.untimed_log()
    assert resumed.card["computation"]["captured"] is True


def test_dropout_draws_anew_in_every_replay(run, monkeypatch, tmp_path):
    (tmp_path / "dropping.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, num_classes))\n"
    )
    network = network_ref(f"{tmp_path}/dropping.py:net", {})
    expected = run("as it is", network=network, **CAPTURED)
    simulate(monkeypatch)
    recorded = run("recorded", network=network, **CAPTURED)
    assert recorded.card["computation"]["captured"] is True
    assert_same(recorded.weights, expected.weights)


@pytest.mark.parametrize("draw", [random.random, np.random.random], ids=["Python", "NumPy"])
def test_a_recipe_that_draws_from_global_generators_is_resumed_to_the_bit(run, monkeypatch, draw):
    monkeypatch.setattr("defenses.standard.standard", lambda step, x, y: plain_loss(step, x + draw(), y))
    expected = run("whole", recipe="standard")
    for stop in (3, 4):
        with pytest.raises(Ending):
            run("parts", recipe="standard", stop_before=stop)
        random.seed(stop)
        np.random.seed(stop)
    assert_same(run("parts", recipe="standard").weights, expected.weights)


def plain_loss(step, x, y):
    return F.cross_entropy(step.net(x), y)


class Counting:
    """A recipe whose loss grows with every call."""

    calls = 0

    def __call__(self, step, x, y):
        self.calls += 1
        return plain_loss(step, x, y) * (1 + 0.1 * self.calls)


@pytest.mark.parametrize(
    "recipe",
    [Counting(), lambda step, x, y: plain_loss(step, x + random.random(), y)],
    ids=["a count in Python", "a draw in Python"],
)
def test_a_recipe_that_a_graph_would_freeze_is_not_recorded(run, monkeypatch, recipe):
    simulate(monkeypatch)
    monkeypatch.setattr("defenses.standard.standard", recipe)
    computation = run(recipe="standard", **CAPTURED).card["computation"]
    assert computation["captured"] is False
    assert "must not keep state or draw numbers in Python" in computation["why"]


def test_a_loss_that_is_no_number_stops_a_recorded_training(run, monkeypatch):
    simulate(monkeypatch)
    with pytest.raises(MethodError, match=r"diverged: loss nan at epoch 1, batch \d of 9, learning rate 1e\+09"):
        run(recipe="standard", **CAPTURED | {"lr": 1e9, "momentum": 0.0, "drops": ()})


def test_a_compiled_step_is_recorded(run, monkeypatch):
    # The tracing is PyTorch's own; only the C++ compiler behind it is left out, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    expected = run("as it is", compile=True, bf16=True, **CAPTURED)
    simulate(monkeypatch)
    recorded = run("recorded", compile=True, bf16=True, **CAPTURED)
    assert recorded.card["computation"]["captured"] is True
    assert_same(recorded.weights, expected.weights)


def test_few_batches_are_not_recorded(run, monkeypatch):
    simulate(monkeypatch)
    computation = run(recipe="standard", epochs=1, batch=16).card["computation"]
    assert computation["captured"] is False and "fewer than 7 batches" in computation["why"]


def test_a_capture_that_fails_changes_nothing(run, monkeypatch):
    expected = run("as it is", **CAPTURED)
    simulate(monkeypatch)

    def failing(*_args, **_settings):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", failing)
    eager = run("eager", **CAPTURED)
    assert eager.card["computation"]["why"].startswith("capturing failed: operation not permitted")
    assert_same(eager.weights, expected.weights)
    assert eager.untimed_log() == expected.untimed_log()


class Shared(nn.Module):
    """A network with a weight that two layers share, one used twice, and batch norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.one, self.other = nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)
        self.other.weight = self.one.weight
        self.last = nn.Linear(256, CLASSES)

    def forward(self, x):
        x = self.twice(F.relu(self.twice(F.relu(self.norm(self.conv(x))))))
        return self.last(self.other(F.relu(self.one(x.flatten(1)))))


@pytest.mark.parametrize(
    ("kernels", "rounding"), [(plain_kernels, 0.0), (nullcontext, 2**-5)], ids=["to the bit", "as installed"]
)
def test_weights_cast_once_give_what_autocast_gives(kernels, rounding):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x, y = Shared(), torch.rand(3, 6, *SHAPE), torch.arange(6) % CLASSES
    twin = copy.deepcopy(net)
    once, plain = Bf16(net), PlainAutocast(twin)
    for _ in range(3):
        results = []
        for module in (once, plain):
            # The gradients of three passes are added, of which one is not differentiated.
            with kernels():
                with torch.no_grad():
                    module(x[0])
                losses = torch.stack([F.cross_entropy(module(part), y) for part in x[1:]])
                losses.sum().backward()
            assert all(value.grad.dtype == torch.float32 for value in module.parameters())
            gradient = nn.utils.parameters_to_vector([value.grad for value in module.parameters()])
            results.append(torch.cat([losses.detach(), gradient]))
            with torch.no_grad():
                for value in module.parameters():
                    value -= 0.1 * value.grad
        assert (results[0] - results[1]).norm() <= rounding * results[1].norm()
        once.cast()


def test_losses_are_read_a_look_behind(monkeypatch):
    losses = torch.zeros(8)
    reader = LossReader(losses)
    waits = []

    class Event:
        def record(self):
            waits.append("record")

        def synchronize(self):
            waits.append("wait")

    reader._copied = Event()
    losses[:2] = torch.tensor([1.0, 2.0])
    # Nothing is known yet, so the first look waits.
    assert reader.read(2, wait=False) == [(0, 1.0), (1, 2.0)]
    losses[2:4] = torch.tensor([3.0, 4.0])
    assert reader.read(4, wait=False) == [] and reader.last == 2.0
    losses[4] = 5.0
    assert reader.read(5, wait=False) == [(2, 3.0), (3, 4.0)] and reader.last == 4.0
    losses[5:] = torch.tensor([6.0, 7.0, 8.0])
    assert reader.read(8, wait=True) == [(4, 5.0), (5, 6.0), (6, 7.0), (7, 8.0)]
    assert waits == ["record", "wait", "record", "wait", "record", "record"]
    reader.begin(3)
    assert reader.read(5, wait=True) == [(3, 4.0), (4, 5.0)]


@pytest.mark.parametrize("by_torch", [False, True], ids=["unset", "set by torch"])
def test_a_compiled_network_lies_in_the_users_cache_and_in_no_store(tmp_path, monkeypatch, by_torch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if by_torch:
        torch._inductor.runtime.cache_dir_utils.cache_dir()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{tempfile.gettempdir()}/torchinductor_")
    before = dict(os.environ)
    with compile_cache():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "crossfire" / "compiled")
        assert os.environ["TRITON_CACHE_DIR"] == "mine"
    assert dict(os.environ) == before


def test_a_cache_that_the_user_names_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with compile_cache():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_graphs_are_recorded_on_cuda_only():
    assert capture.graphs(torch.device("cuda")) and not capture.graphs(torch.device("cpu"))
