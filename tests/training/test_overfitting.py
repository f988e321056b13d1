"""Which kind of overfitting a training log shows."""

import pytest
import torch
from torch import nn

from bench.registry import find
from bench.training.overfitting import Part, measure, verdict, watched_threat
from bench.types import Threat


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
