"""Which kind of overfitting a training log shows."""

import pytest
import torch
from torch import nn

from bench.evaluation.target import Meter
from bench.registry import find
from bench.training import overfitting
from bench.training.overfitting import Part, measure, verdict, watched_threat
from bench.types import Schedule, Threat


def log(*rows):
    """Rows of (test FGSM, test PGD-20, training PGD-20)."""
    return [
        {"epoch": number, "test": {"clean": 0.9, "fgsm": fgsm, "pgd20": pgd}, "train": {"fgsm": fgsm, "pgd20": train}}
        for number, (fgsm, pgd, train) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("rows", "catastrophic", "robust"),
    [
        # FGSM-AT of a ResNet-32 on CIFAR-10 (FGSM .55, PGD-10 .0004 after 200 epochs).
        ([(0.45, 0.40, 0.42), (0.55, 0.0, 0.0)], True, False),
        # PGD-AT of a PreAct ResNet-18 on CIFAR-10 (Rice et al.: best .535, last .456; the gap to training grows).
        ([(0.58, 0.535, 0.588), (0.53, 0.456, 0.811)], False, True),
        ([(0.58, 0.535, 0.588), (0.58, 0.53, 0.60)], False, False),
        # PGD-AT of a small network on digits at 1/4: so large a budget parts one step from many without a collapse.
        ([(0.74, 0.53, 0.48), (0.77, 0.60, 0.51)], False, False),
        # Too little is left under one step to speak of resisting it.
        ([(0.10, 0.02, 0.02), (0.14, 0.0, 0.0)], False, False),
        # It recovered: the last epoch counts.
        ([(0.9, 0.0, 0.0), (0.5, 0.45, 0.46)], False, False),
        # It fell on training images too: unstable, not overfitted.
        ([(0.58, 0.535, 0.588), (0.35, 0.30, 0.31)], False, False),
    ],
)
def test_verdict(rows, catastrophic, robust):
    overfitting = verdict(log(*rows), monitored=512)
    assert (overfitting["catastrophic"], overfitting["robust"]) == (catastrophic, robust)
    regimes = {(True, False): "catastrophic-overfitting", (False, True): "robust-overfitting", (False, False): "none"}
    assert overfitting["regime"] == regimes[catastrophic, robust]
    assert (overfitting["last_fgsm"], overfitting["last_several_steps"]) == rows[-1][:2]
    assert overfitting["best_epoch"] == 1 + max(range(len(rows)), key=lambda i: rows[i][1])


def test_few_images_prove_little():
    rows = log((0.5, 0.48, 0.5), (0.3, 0.12, 0.12))
    assert verdict(rows, monitored=500)["catastrophic"]
    assert not verdict(rows, monitored=20)["catastrophic"]


def test_a_mask_before_pgd_does_not_hide_a_collapse():
    # FGSM-AT of a small network on digits at 1/4, 400 images: FGSM .98, PGD-20 .695, MI-FGSM-10 .2225.
    rows = log((0.98, 0.695, 0.65))
    assert not verdict(rows, monitored=400)["catastrophic"]
    rows[-1]["test"]["mi10"] = 0.2225
    assert verdict(rows, monitored=400)["catastrophic"]


def test_epochs_that_were_not_measured_change_no_verdict():
    rows = log((0.58, 0.535, 0.588), (0.53, 0.456, 0.811))
    between = [{"epoch": 2, "loss": 1.0}, {"epoch": 3, "loss": 1.0, "holdout": {"pgd20": 1.0}}]
    assert verdict([rows[0], *between, rows[1] | {"epoch": 4}], 512) == verdict(rows, 512)


@pytest.mark.parametrize("passes_per_image", [2, 4, 22, 1_000])
@pytest.mark.parametrize("rows", [100, 10_000, 10_001, 50_000])
@pytest.mark.parametrize("epochs", [1, 2, 3, 15, 30, 100, 200])
def test_measuring_takes_at_most_three_percent_of_the_passes(epochs, rows, passes_per_image):
    interval = overfitting.measuring_interval(Schedule(epochs=epochs), rows, rows * passes_per_image)
    measured = [epoch for epoch in range(1, epochs + 1) if overfitting.is_measured(epoch, epochs, interval)]
    assert overfitting.measurements(epochs, interval) == len(measured)
    assert {1, epochs} <= set(measured)
    if rows <= 10_000:
        assert len(measured) == epochs
        return
    one = 2 * overfitting.watched_images(rows) * sum(overfitting.passes_per_image())
    assert len(measured) <= 2 or len(measured) * one <= 0.03 * epochs * rows * passes_per_image
    if interval > 1:
        oftener = {epoch for epoch in range(1, epochs + 1) if epoch % (interval - 1) == 0}
        assert (len(oftener) + 2) * one > 0.03 * epochs * rows * passes_per_image


@pytest.mark.parametrize(("epochs", "interval"), [(epochs, every) for epochs in range(8) for every in range(1, 10)])
def test_measurements_are_counted(epochs, interval):
    measured = [epoch for epoch in range(1, epochs + 1) if overfitting.is_measured(epoch, epochs, interval)]
    assert overfitting.measurements(epochs, interval) == len(measured)


def test_the_passes_of_measuring_are_those_that_are_counted(monkeypatch):
    meters = []

    class Counting(Meter):
        def __init__(self, *args):
            super().__init__(*args)
            meters.append(self)

    monkeypatch.setattr(overfitting, "Meter", Counting)
    # No image ever breaks: the logits do not depend on it, so no attack ends early.
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    net[1].weight.data.zero_()
    net[1].bias.data = torch.tensor([1.0, 0.0])
    labels = torch.zeros(8, dtype=torch.int64)
    measure(net, Part(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), labels), Threat())
    stated = overfitting.passes_per_image()
    # Besides, one image goes forwards in each of the four looks, for the number of classes.
    assert sum(meter.forwards for meter in meters) == 8 * stated.forwards + 4
    assert sum(meter.backwards for meter in meters) == 8 * stated.backwards


def test_accuracies_of_a_network_whose_robustness_is_known():
    # Two classes separated by the mean pixel at 1/2: an image at distance d is misclassified from eps >= d.
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    net[1].weight.data = torch.stack([-torch.ones(16), torch.ones(16)])
    net[1].bias.data = torch.tensor([8.0, -8.0])
    levels = torch.tensor([0, 51, 102, 120, 135, 153, 204, 255], dtype=torch.uint8)
    images = levels.view(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 0])
    accuracy = measure(net.train(), Part(images, labels), Threat(eps="0.05"))
    # One is wrong without any attack; two are nearer to the border than 0.05 of 1.
    assert accuracy == {"clean": 7 / 8, "fgsm": 5 / 8, "pgd20": 5 / 8, "mi10": 5 / 8}
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("recipe", "params", "expected"),
    [
        ("standard", {}, Threat()),
        ("fgsm-at", {"eps": "0.25"}, Threat(eps="0.25")),
        ("at", {"norm": "l2", "eps": "0.5"}, Threat(norm="l2", eps="0.5")),
        ("at", {"norm": "flow", "inner": "sta"}, Threat()),
    ],
)
def test_a_recipe_is_watched_under_its_own_threat(recipe, params, expected):
    assert watched_threat(find("recipe", recipe).ref(params)) == expected
