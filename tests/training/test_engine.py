"""The training loop: its computation, and that a stopped and resumed run equals an uninterrupted one."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import bench.training.loop
import bench.training.overfitting
from bench.models.build import build, network_ref
from bench.training import checkpoint
from bench.training.epoch import batches_per_epoch, learning_rate
from bench.types import Ending, MethodError, Schedule, UsageError
from tests.training.patterns import CLASSES, NETWORK, SHAPE, reference


def same_weights(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def batches_of(n, batch):
    return -(-n // batch)


def test_standard_training_is_plain_sgd(run, images):
    trained = run(recipe="standard", epochs=3, batch=100, lr=0.05, weight_decay=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(NETWORK, CLASSES, SHAPE)
    net.load_state_dict(run("start", recipe="standard", epochs=0).weights)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    x, y = torch.from_numpy(images[0]).float() / 255, torch.from_numpy(images[1])
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 if epoch < 2 else 0.005
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    for key, value in net.state_dict().items():
        assert torch.allclose(trained.weights[key], value, atol=1e-5), key


@pytest.mark.parametrize(
    ("rows", "batch", "sizes"),
    [(100, 33, [33, 33, 34]), (100, 32, [32, 32, 32, 4]), (33, 32, [33]), (1, 32, [1]), (3, 1, [1, 1, 1])],
)
def test_a_last_batch_of_one_image_joins_the_one_before(run, images, monkeypatch, rows, batch, sizes):
    batch_sizes = []

    def record_batch(self, rows, crops):
        batch_sizes.append(len(rows))
        return self._images[rows].float() / 255

    monkeypatch.setattr("bench.training.loop.Batches.__call__", record_batch)
    data = images[0][:rows], images[1][:rows]
    run(recipe="fgsm-at", n=rows, data=data, epochs=2, batch=batch, drops=(), augment="none")
    assert batch_sizes == 2 * sizes
    assert batches_per_epoch(rows, batch) == len(sizes)


def test_batch_norm_over_single_values_trains_with_a_batch_too_many_by_one(run, images, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def pooled(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(),"
        " nn.Linear(4, num_classes))\n"
    )
    network = network_ref(f"{tmp_path}/net.py:pooled", {})
    trained = run(recipe="standard", network=network, data=(images[0][:65], images[1][:65]), n=65, epochs=1)
    assert trained.card["images_per_epoch"] == 65


def test_it_learns(run, images):
    log = run(recipe="standard", epochs=15, batch=10, test=images).log
    assert log[-1]["train_accuracy"] > 0.95
    assert log[-1]["test"]["clean"] > 0.95
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]


@pytest.mark.parametrize("recipe", ["standard", "fgsm-at", "fgsm-rs", "pgd-at", "trades", "mart", "at"])
def test_stopped_anywhere_and_resumed_is_the_same_to_the_bit(run, recipe):
    settings = {"recipe": recipe, "epochs": 2, "augment": "crop-flip"}
    uninterrupted = run("whole", **settings)
    total = 2 * batches_of(100, 32)
    for stop in (1, 2, 4, 5, total):
        with pytest.raises(Ending):
            run(f"stopped{stop}", stop_before=stop, **settings)
        assert not (uninterrupted.folder.parent / f"stopped{stop}" / "card.json").exists()
        resumed = run(f"stopped{stop}", **settings)
        assert same_weights(resumed.weights, uninterrupted.weights)
        assert resumed.untimed_log() == uninterrupted.untimed_log()
        assert resumed.card["weights_sha256"] == uninterrupted.card["weights_sha256"]


def test_stopped_at_every_batch_is_the_same_to_the_bit(run, images):
    settings = {"recipe": "fgsm-at", "epochs": 2, "ema": 0.9, "holdout": 20, "test": images}
    uninterrupted = run("whole", **settings)
    finished = False
    while not finished:
        try:
            run("piecewise", stop_before=2, **settings)
            finished = True
        except Ending:
            continue
    assert same_weights(run("piecewise", **settings).weights, uninterrupted.weights)
    assert run("piecewise", **settings).untimed_log() == uninterrupted.untimed_log()


def test_the_accuracy_on_training_images_is_left_out_where_logits_are_not_those_of_the_batch(run, monkeypatch):
    monkeypatch.setattr(
        "defenses.standard.standard", lambda step, x, y: F.cross_entropy(step.net(torch.cat([x, x])), torch.cat([y, y]))
    )
    assert [row["train_accuracy"] for row in run(recipe="standard").log] == [None] * 3


def test_a_recipe_that_raises_says_where(run, monkeypatch):
    calls = 0

    def failing(step, x, y):
        nonlocal calls
        if (calls := calls + 1) == 4 + 2:
            raise ValueError("no luck")
        return F.cross_entropy(step.net(x), y)

    monkeypatch.setattr("defenses.standard.standard", failing)
    with pytest.raises(MethodError, match=r"^recipe standard, epoch 2, batch 2 of 4: ValueError: no luck$"):
        run(recipe="standard")


@pytest.mark.parametrize("limits", [{"SAVE_EVERY": 0}, {"SLOW_BATCH": 0, "_KEEPING": 1e9}])
def test_what_is_killed_within_an_epoch_goes_on_from_the_last_batch_that_was_kept(run, images, monkeypatch, limits):
    uninterrupted = run("whole", epochs=2)
    for name, value in limits.items():
        monkeypatch.setattr(bench.training.loop, name, value)
    batches = 0

    def killed_in_batch(self):
        nonlocal batches
        if (batches := batches + 1) == 3:
            # Unlike what `check` raises, it comes in the middle of a batch.
            raise RuntimeError("killed")
        return batch(self)

    batch = bench.training.loop._Training._batch
    with monkeypatch.context() as patch:
        patch.setattr(bench.training.loop._Training, "_batch", killed_in_batch)
        with pytest.raises(RuntimeError, match="killed"):
            run("killed", epochs=2)
    resumed = run("killed", stop_before=2 * batches_of(100, 32) - 2 + 1, epochs=2)
    assert same_weights(resumed.weights, uninterrupted.weights) and resumed.untimed_log() == uninterrupted.untimed_log()


def test_an_epoch_that_is_ended_while_it_is_measured_goes_on_from_what_is_measured(run, images, monkeypatch):
    settings = {"epochs": 1, "test": images, "holdout": 20}
    uninterrupted, measured = run("whole", **settings), []
    measure = bench.training.overfitting._right

    def counted(*args):
        measured.append(args[4])
        return measure(*args)

    monkeypatch.setattr(bench.training.overfitting, "_right", counted)
    # Three parts of one batch each, under three attacks and none; the first checks are those of the batches.
    steps = batches_of(80, 32)
    for stop in (steps + 3, 4, 4):
        with pytest.raises(Ending):
            run("ended", stop_before=stop, **settings)
    resumed = run("ended", **settings)
    assert len(measured) == 12, "nothing is measured twice"
    assert same_weights(resumed.weights, uninterrupted.weights) and resumed.untimed_log() == uninterrupted.untimed_log()


def test_killed_and_started_again_is_the_same_to_the_bit(tmp_path, run, images):
    np.savez(tmp_path / "images.npz", *images)
    here = Path(__file__).parent
    (tmp_path / "victim.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path[:0] = [{str(here)!r}, {str(here.parents[1])!r}]
        import numpy as np, torch
        from pathlib import Path
        from bench.training.loop import train
        from tests.training.patterns import NETWORK, reference
        torch.set_num_threads(torch.get_num_threads())
        images = [value for _, value in sorted(np.load({str(tmp_path / "images.npz")!r}).items())]
        left = 7
        def check():
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        train(reference(epochs=3), NETWORK, *images, Path({str(tmp_path / "killed")!r}), device=torch.device("cpu"),
              check=check, on_progress=lambda p: None)
        """)
    )
    done = subprocess.run([sys.executable, str(tmp_path / "victim.py")], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 1
    resumed = run("killed", epochs=3)
    assert same_weights(resumed.weights, run("whole", epochs=3).weights)
    assert [row["epoch"] for row in resumed.log] == [1, 2, 3]


def test_seeds_differ_and_repeat(run):
    first = run("a", seed=1, epochs=1).weights
    assert same_weights(first, run("b", seed=1, epochs=1).weights)
    assert not same_weights(first, run("c", seed=2, epochs=1).weights)


def test_measuring_does_not_influence(run, images):
    assert same_weights(run("a", epochs=2).weights, run("b", epochs=2, test=images).weights)


def test_of_many_images_only_some_epochs_are_measured(run, images, monkeypatch):
    monkeypatch.setattr(bench.training.overfitting, "_EVERY_EPOCH_UP_TO", 50)
    every = run("every", epochs=4, test=images, holdout=20, measure_every=1)
    some = run("some", epochs=4, test=images, holdout=20)
    assert [row["epoch"] for row in some.log if "test" in row and "train" in row] == [1, 4]
    # The epoch that is kept is chosen among all of them.
    assert all("holdout" in row for row in some.log) and some.card["epoch_kept"] == every.card["epoch_kept"]
    assert same_weights(some.weights, every.weights)
    dropped = [
        row if row["epoch"] in (1, 4) else {name: row[name] for name in row.keys() - {"train", "test"}}
        for row in every.untimed_log()
    ]
    assert some.untimed_log() == dropped
    assert some.card["overfitting"]["last_pgd20"] == every.card["overfitting"]["last_pgd20"]


def test_which_epochs_are_measured_survives_a_stop(run, images):
    settings = {"epochs": 5, "test": images, "measure_every": 2}
    whole = run("whole", **settings)
    assert [row["epoch"] for row in whole.log if "test" in row] == [1, 2, 4, 5]
    finished = False
    while not finished:
        try:
            run("piecewise", stop_before=3, **settings)
            finished = True
        except Ending:
            continue
    assert run("piecewise", **settings).untimed_log() == whole.untimed_log()


def test_global_random_states_are_left_alone_and_not_used(run):
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    first = run("a", epochs=1).weights
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    assert same_weights(first, run("b", epochs=1).weights)


def test_dropout_resumes_to_the_bit(run, tmp_path):
    path = tmp_path / "dropping.py"
    path.write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, num_classes))\n"
    )
    network = network_ref(f"{path}:net", {})
    uninterrupted = run("whole", network=network, epochs=2).weights
    with pytest.raises(Ending):
        run("stopped", network=network, epochs=2, stop_before=6)
    assert same_weights(run("stopped", network=network, epochs=2).weights, uninterrupted)


def test_a_finished_run_is_not_repeated(run):
    before = run(epochs=1)
    stamp = (before.folder / "weights.safetensors").stat().st_mtime_ns
    # The first call of check would raise.
    after = run(epochs=1, stop_before=1)
    assert (after.folder / "weights.safetensors").stat().st_mtime_ns == stamp


def test_the_card_says_what_was_trained(run, images):
    trained = run(recipe="pgd-at", params={"steps": 5}, epochs=2, test=images)
    card = trained.card
    assert card["params"] == sum(value.numel() for value in trained.weights.values())
    assert card["passes_per_example"] == [6.0, 6.0]
    assert card["images_per_epoch"] == 100
    assert card["epochs"] == card["epoch_kept"] == 2
    assert card["seconds_per_epoch"] > 0
    assert card["overfitting"]["catastrophic"] is False
    assert sorted(path.name for path in trained.folder.iterdir()) == ["card.json", "log.jsonl", "weights.safetensors"]


def test_flops_of_an_epoch_are_passes_times_the_networks(run):
    trained = run(recipe="fgsm-at", epochs=1)
    macs = 9 * 64 * 4 + 9 * 4 * 8 * 64 + 9 * 8 * 16 * 16 + 64 * 16 + 16 * CLASSES
    # Two forwards and two backwards per image; a backward costs two forwards, less the first layer's share of images.
    assert trained.log[0]["flops"] == pytest.approx(100 * 6 * 2 * macs, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"drops": (0.5, 0.75)}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"drops": (), "drop_factor": 0.5}, [1] * 8),
        ({"drops": (0.3,), "drop_factor": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_learning_rates_drop_before_the_epoch(settings, expected):
    plan = Schedule(epochs=8, lr=1.0, **settings)
    assert [learning_rate(plan, epoch, 5, 10) for epoch in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [100, 30, 7])
def test_a_drop_falls_on_the_epoch_that_its_fraction_means(epochs):
    # 0.07 * 100 is a little more than 7 in floating point.
    plan = Schedule(epochs=epochs, lr=1.0, drops=(0.07, 0.75))
    rates = [learning_rate(plan, epoch, 0, 1) for epoch in range(epochs)]
    assert rates.index(pytest.approx(0.1)) == -(-7 * epochs // 100)
    assert rates.index(pytest.approx(0.01)) == -(-3 * epochs // 4)


def test_one_cycle_is_a_triangle():
    plan = Schedule(epochs=5, lr=0.4, schedule="one-cycle")
    rates = [learning_rate(plan, epoch, step, 9) for epoch, step in itertools.product(range(5), range(9))]
    assert rates == pytest.approx(rates[::-1])
    assert max(rates) == rates[22] == pytest.approx(0.4)
    assert np.diff(rates)[:22] == pytest.approx([rates[0]] * 22)
    assert rates[0] > 0


@pytest.mark.parametrize(("epochs", "cycles"), [(6, 2), (6, 3), (4, 4)])
def test_each_cycle_has_half_the_peak_of_the_one_before(epochs, cycles):
    plan = Schedule(epochs=epochs, lr=0.4, schedule="one-cycle", cycles=cycles)
    steps = 6
    rates = [learning_rate(plan, epoch, step, steps) for epoch, step in itertools.product(range(epochs), range(steps))]
    # torch's cycles begin at a rate of zero, which ours leave out.
    length = epochs * steps // cycles
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cyclic = torch.optim.lr_scheduler.CyclicLR(
        optimizer, 0.0, 0.4, step_size_up=(length + 1) / 2, mode="triangular2", cycle_momentum=False
    )
    expected = []
    for step in range(cycles * (length + 1)):
        expected += [optimizer.param_groups[0]["lr"]] if step % (length + 1) else []
        optimizer.step()
        cyclic.step()
    assert rates == pytest.approx(expected)


def test_cycles_of_unequal_length_fill_the_run():
    plan = Schedule(epochs=7, lr=1.0, schedule="one-cycle", cycles=3)
    rates = [learning_rate(plan, epoch, step, 5) for epoch, step in itertools.product(range(7), range(5))]
    assert min(rates) > 0
    peaks = [b for a, b, c in zip(rates, rates[1:], rates[2:], strict=False) if a <= b > c]
    assert len(peaks) == 3
    assert [0.9 < peak * 2**cycle <= 1 for cycle, peak in enumerate(peaks)] == [True] * 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"cycles": 2}, "is of schedule"), ({"cycles": 4, "epochs": 3, "schedule": "one-cycle"}, "above epochs = 3")],
)
def test_cycles_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Schedule(**settings)


def test_the_average_of_weights_is_exponential(run):
    weights_after = [
        run(f"after{epochs}", recipe="standard", batch=100, epochs=epochs, drops=()).weights for epochs in range(4)
    ]
    averaged = run("average", recipe="standard", batch=100, epochs=3, drops=(), ema=0.75).weights
    for key, average in averaged.items():
        expected = weights_after[0][key]
        for weights in weights_after[1:]:
            expected = 0.75 * expected + 0.25 * weights[key]
        assert torch.allclose(average, expected, atol=1e-6), key


def test_the_held_out_choice_is_the_best_epoch(run):
    trained = run(recipe="fgsm-at", epochs=6, holdout=30, lr=0.3)
    assert trained.card["images_per_epoch"] == 70
    scores = [row["holdout"]["pgd20"] for row in trained.log]
    assert trained.card["epoch_kept"] == 1 + scores.index(max(scores))
    plain = run("plain", recipe="standard", epochs=6, holdout=30, lr=0.3)
    scores = [row["holdout"]["clean"] for row in plain.log]
    assert plain.card["epoch_kept"] == 1 + scores.index(max(scores))
    with pytest.raises(UsageError, match="holdout = 100 leaves none"):
        run("none", holdout=100)


def test_held_out_images_are_not_trained_on(run, images, monkeypatch):
    pixels, first_pixels = images[0].copy(), []
    # The first pixel of each image is its number.
    pixels[:, 0, 0, 0] = np.arange(100)

    def spy(step, x, y):
        first_pixels.append((x[:, 0, 0, 0] * 255).round().long())
        return F.cross_entropy(step.net(x), y)

    monkeypatch.setattr("defenses.standard.standard", spy)
    run(recipe="standard", epochs=3, holdout=40, data=(pixels, images[1]))
    epochs = torch.cat(first_pixels).view(3, 60)
    assert all(set(epoch.tolist()) == set(epochs[0].tolist()) for epoch in epochs)
    assert len(set(epochs[0].tolist())) == 60
    # Shuffled anew, and not merely the first images held out.
    assert not torch.equal(epochs[0], epochs[1])
    assert set(epochs[0].tolist()) != set(range(40, 100))


def test_a_loss_that_is_no_number_stops_at_its_batch(run):
    ref = reference(recipe="standard", epochs=4, lr=1e9, momentum=0.0)
    with pytest.raises(MethodError, match=r"epoch 1, batch [2-4] of 4, learning rate 1e\+09") as caught:
        run("diverged", ref=ref)
    assert "\n" not in str(caught.value)


def test_the_last_good_state_is_kept(run, tmp_path, monkeypatch):
    settings = {"recipe": "standard", "drops": ()}
    good = run("good", epochs=1, **settings).weights
    batches = []

    def failing(step, x, y):
        batches.append(len(x))
        return F.cross_entropy(step.net(x), y) * (float("nan") if len(batches) > 5 else 1.0)

    monkeypatch.setattr("defenses.standard.standard", failing)
    with pytest.raises(MethodError, match="loss nan at epoch 2, batch 2 of 4"):
        run("bad", epochs=2, **settings)
    state = load_file(tmp_path / "bad" / "state.safetensors")
    assert same_weights({key.removeprefix("net."): state[key] for key in state if key.startswith("net.")}, good)


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("settings", [{}, {"ema": 0.5}, {"holdout": 20, "batch": 25}])
def test_the_weights_of_the_last_finished_epoch_are_kept_while_the_next_is_trained(
    run, tmp_path, monkeypatch, settings, has_links
):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    # A schedule that drops nothing: the first epoch of three is that of one.
    settings = {**settings, "drops": ()}
    first = run("first", epochs=1, **settings)
    folder = tmp_path / "stopped"

    def kept_after(epochs):
        path = folder / checkpoint.EPOCH
        while not path.exists() or checkpoint.read(path).metadata["epoch"] < epochs:
            with pytest.raises(Ending):
                run("stopped", epochs=3, stop_before=4, **settings)
        return checkpoint.read(path)

    ended, within = kept_after(1), checkpoint.read(folder / checkpoint.STATE)
    assert (within.metadata["epoch"], ended.metadata["epoch"], ended.metadata["step"]) == (1, 1, 0)
    assert within.metadata["step"] > 0
    assert same_weights(checkpoint.weights(ended.tensors), first.weights)
    assert ended.metadata["training"]["recipe"]["name"] == "fgsm-at"
    assert kept_after(2).metadata["step"] == 0
    assert same_weights(run("stopped", epochs=3, **settings).weights, run("whole", epochs=3, **settings).weights)
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "log.jsonl", "weights.safetensors"]


def test_within_the_first_epoch_none_is_kept(run, tmp_path):
    with pytest.raises(Ending):
        run(stop_before=3)
    assert not (tmp_path / "run" / checkpoint.EPOCH).exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_is_named(run, tmp_path, damage):
    with pytest.raises(Ending):
        run(stop_before=6)
    path = tmp_path / "run" / "state.safetensors"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": b"\xff" * 8 + data[8:], "empty": b""}[damage])
    with pytest.raises(UsageError, match=r"state\.safetensors is damaged") as caught:
        run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "tensors", "reason"),
    [
        ({"epoch": 10**6}, {}, "its epochs and batches are not those of the schedule"),
        ({"step": -1}, {}, "step is not what a state says"),
        ({"log": "none"}, {}, "log is not what a state says"),
        ({"seconds": None}, {}, "seconds is not what a state says"),
        ({}, {"epoch.losses": torch.zeros(1)}, "epoch.losses is not what the network has"),
        ({}, {"epoch.right": torch.zeros(())}, "epoch.right is not what the network has"),
        ({}, {"best.weight": torch.zeros(1)}, "its best epoch is not whole"),
    ],
)
def test_a_state_with_a_right_seal_and_wrong_contents_is_named(run, tmp_path, metadata, tensors, reason):
    with pytest.raises(Ending):
        run(stop_before=6)
    path = tmp_path / "run" / "state.safetensors"
    state = checkpoint.read(path)
    checkpoint.write(path, {**state.tensors, **tensors}, {**state.metadata, **metadata})
    with pytest.raises(UsageError, match=rf"state\.safetensors is damaged \({reason}\)"):
        run()


def test_the_state_of_another_training_is_refused(run):
    with pytest.raises(Ending):
        run(stop_before=6)
    with pytest.raises(UsageError, match="another training"):
        run(lr=0.01)


def test_a_recipe_that_returns_no_loss(run, monkeypatch):
    monkeypatch.setattr("defenses.standard.standard", lambda step, x, y: step.net(x))
    with pytest.raises(MethodError, match="no scalar loss"):
        run(recipe="standard")


@pytest.mark.parametrize("option", ["channels_last", "bf16", "compile"])
def test_ways_to_compute_change_the_last_digits_only(run, monkeypatch, option):
    # The tracing is PyTorch's own; only the C++ compiler behind it is left out, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    settings = {"recipe": "pgd-at", "params": {"steps": 2}, "epochs": 1}
    plain, other = run("plain", **settings), run("other", **settings, **{option: True})
    assert other.weights.keys() == plain.weights.keys()
    for key, value in plain.weights.items():
        assert value.dtype == torch.float32
        assert torch.allclose(other.weights[key], value, atol=2e-2 if option == "bf16" else 1e-5), key
    assert other.card["passes_per_example"] == plain.card["passes_per_example"] == [3.0, 3.0]


def test_channels_last_is_refused_where_torch_overruns_memory(run):
    with pytest.raises(UsageError, match="strided 1x1 convolutions of fewer than 16 channels, and resnet18 has one"):
        run(network=network_ref("resnet18", {"width": 8}), epochs=1, channels_last=True)
    # Its first shortcut has as many channels as its width.
    run("wide", network=network_ref("resnet18", {"width": 16}), epochs=0, channels_last=True)


def test_the_log_can_be_watched_while_it_grows(run, tmp_path):
    with pytest.raises(Ending):
        run(stop_before=10)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert os.path.getsize(tmp_path / "run" / "state.safetensors") > 0
