"""Probes on fresh instances detect steps with memory or drift, or whose answers depend on the batch."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import registry
from bench.cli import main
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.probe import ProbeImages, function_flags
from bench.store.working_store import Store
from tests.engine import tiny

FILE = Path(__file__).with_name("judged.py")


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(7)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4 * 49, 5))
    return net.eval().requires_grad_(False)


def flags(base, name, **params):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(48, 3, 16, 16, generator=generator)
    y = torch.randint(5, (48,), generator=generator)
    training = lambda: (x * 255).to(torch.uint8)  # noqa: E731
    score = registry.find("score-network", "unet").load()(channels=4).eval().requires_grad_(False)
    fresh = partial(deploy, base, registry.find("test-time", name).ref(params), training, score)
    return function_flags(ProbeImages(base, x, y, "checks"), fresh)[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Remembers", {"not-deterministic"}),
        ("Cheats", {"not-deterministic"}),
        ("Normalises", {"batch-dependent"}),
        ("Halves", set()),
        ("Alters", set()),
    ],
)
def test_what_is_no_function_of_the_image_is_flagged(base, name, expected):
    assert flags(base, f"{FILE}:{name}") - {"zero-gradient"} == expected


class Asked(nn.Module):
    """Counts calls and images; the logits of some images do not depend on their pixels."""

    def __init__(self, base, flat=(), naps=()):
        super().__init__()
        self.base, self.flat, self.naps, self.sizes = base, flat, list(naps), []

    def forward(self, x):
        self.sizes.append(len(x))
        if self.naps:
            time.sleep(self.naps.pop(0))
        flat = torch.isin(x[:, 0, 0, 0].detach(), torch.tensor(self.flat))
        return torch.where(flat[:, None], self.base(x).detach(), self.base(x))


def probed(asked, instances):
    """Probe 64 images of which each has its own first pixel: i / 64."""
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x[:, 0, 0, 0] = torch.arange(64) / 64
    probe = ProbeImages(asked.base, x, torch.zeros(64, dtype=torch.int64), "checks")
    return probe, function_flags(probe, instances)[0]


def test_a_network_alone_is_asked_no_more_than_its_flags_take(base):
    alone = Asked(base)
    probe, found = probed(alone, lambda: DeployedDefense(alone, alone))
    assert not found
    assert alone.sizes == [32] * 5, "twice the same, twice in other company, and once for a gradient"
    assert probe.cost().passes == (2, 0)
    steps = []

    def fresh():
        steps.append(Asked(base))
        return DeployedDefense(steps[-1], steps[-1])

    probed(Asked(base), fresh)
    assert sorted(len(each.sizes) for each in steps) == [1, 1, 2, 2], "another instance is asked too"


@pytest.mark.parametrize(("flat", "share"), [((40,), 0.0), ((3, 40), 2 / 64), ((3, *range(40, 46)), 7 / 64)])
def test_images_without_a_gradient_are_looked_for_among_all_once_there_is_one(base, flat, share):
    asked = Asked(base, flat=tuple(i / 64 for i in flat))
    probe, found = probed(asked, lambda: DeployedDefense(asked, asked))
    assert probe.share_without_gradient(DeployedDefense(asked, asked)) == pytest.approx(share)
    assert ("zero-gradient" in found) == (share > 0.1)


def test_the_cost_is_that_of_the_fastest_call(base):
    asked = Asked(base, naps=(0.4, 0.1, 0.3, 0.5))
    probe, _ = probed(asked, lambda: DeployedDefense(asked, asked))
    assert 0.1 <= 32 * probe.cost().seconds < 0.3


@pytest.mark.parametrize("name", registry.entries("test-time"))
def test_our_own_steps_are_functions(base, name):
    assert not flags(base, name) & {"not-deterministic", "batch-dependent", "probabilities"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    text = tiny.CONFIG.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', "")
    steps = "".join(
        f'\n[[defenses]]\nuse = "{FILE}:{name}"\nbase = "fgsm-at"\n' for name in ("Remembers", "Drifts", "Halves")
    )
    (folder / "this.toml").write_text(text.replace("\n[[attacks]]", f"{steps}\n[[attacks]]", 1))
    main(["run", str(folder / "this.toml"), "--store", str(folder / "store"), "--report", str(folder / "r")])
    return {
        f"{r.names.defense.lower()}/{r.names.attack}/{r.names.access}": r for r in Store(folder / "store").results()
    }


def of(results, step, attack, access="static"):
    return next(r for name, r in results.items() if step in name and f"/{attack}/{access}" in name)


def test_the_warm_up_spoils_no_answer(results):
    plain = of(results, "fgsm-at", "clean", "white-box").clean_bits
    assert of(results, "halves", "clean").clean_bits == plain
    assert of(results, "remembers", "clean").clean_bits == plain, "each image was new to the instance that answered"


@pytest.mark.parametrize("attack", ["clean", "fgsm", "pgd"])
def test_a_step_that_remembers_images_is_flagged_in_every_cell(results, attack):
    assert "not-deterministic" in of(results, "remembers", attack).flags
    assert "not-deterministic" not in of(results, "halves", attack).flags


def test_a_step_that_drifts_with_its_calls_is_flagged_where_it_did(results):
    # The probe and a clean cell make three calls; the attack of three steps makes more.
    assert "not-deterministic" in of(results, "drifts", "pgd", "adaptive").flags
