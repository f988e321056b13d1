"""A real network on real images, against values measured independently with other code."""

import os
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.data import open_set
from bench.evaluation.target import Meter, NetworkTarget
from bench.models import weights
from bench.models.resnet18 import resnet18
from bench.process.isolation import frozen
from bench.registry import find
from bench.store.working_store import Store
from bench.types import Threat

FOLDER = Path(os.environ.get("CROSSFIRE_DATA", "../shared/data"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "cifar10" / "test.parquet").is_file(),
    reason=f"no CIFAR-10 test images in {FOLDER}; set CROSSFIRE_DATA",
)


@pytest.fixture(scope="module")
def net():
    net = resnet18(10)
    weights.load(weights.find("weights:pyautoattack"), net)
    return net.eval()


@pytest.fixture(scope="module")
def images():
    image_set = open_set("cifar10", "test", folder=FOLDER)
    return torch.from_numpy(image_set.images[:2000].copy()).float() / 255, torch.from_numpy(
        image_set.labels[:2000].copy()
    )


def correct(net, x, y):
    with torch.no_grad():
        return sum(
            int((net(part).argmax(1) == label).sum()) for part, label in zip(x.split(100), y.split(100), strict=True)
        )


def attacked(net, x, y, name, **params):
    entry = find("attack", name)
    with frozen(net), Meter(net, len(x)) as meter:
        target = NetworkTarget(net, meter, torch.arange(len(x)), seed=0, num_classes=10, batch=50)
        return entry.load()(target, x, y, Threat(norm="linf", eps="8/255"), **entry.arguments(params))


def test_clean(net, images):
    x, y = images
    assert abs(correct(net, x, y) - 1865) <= 1
    assert abs(correct(net, x[:200], y[:200]) - 189) <= 1


def test_fgsm_leaves_31_of_200(net, images):
    x, y = (each[:200] for each in images)
    assert abs(correct(net, attacked(net, x, y, "fgsm"), y) - 31) <= 1


def test_pgd_20_leaves_none_of_200(net, images):
    x, y = (each[:200] for each in images)
    assert correct(net, attacked(net, x, y, "pgd", steps=20, step_size="0.003"), y) <= 1


def test_tpap_on_a_plain_network_is_right_under_attack_on_61_of_200_and_both_times_on_17(tmp_path):
    # The step harms images that the network is sure of and undoes a small attack on others: two measures, far apart.
    (tmp_path / "harm.toml").write_text("""
schema = 1
name = "harm"
[dataset]
name = "cifar10"
n = 200
subset = "first"
[[models]]
arch = "resnet18"
[[defenses]]
use = "tpap"
base = "weights:pyautoattack"
[[attacks]]
use = "fgsm"
eps = "1/255"
access = ["static"]
""")
    folders = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "report"), "--data", str(FOLDER)]
    assert main(["run", str(tmp_path / "harm.toml"), "--device", "cpu", *folders]) == 0
    (metrics,) = (r.metrics for r in Store(tmp_path / "store").results() if r.cell.attack)
    assert metrics.accuracy_under_attack * 200 == pytest.approx(61, abs=1)
    assert metrics.robust_accuracy * 200 == pytest.approx(17, abs=1)
