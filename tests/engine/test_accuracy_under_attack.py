"""A step that harms clean images: accuracy under attack and robust accuracy differ by a known count."""

import base64
import json

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from bench.cli import main
from bench.data import open_set
from bench.store.working_store import Store
from tests.adaptive.conftest import KNOWN, means

N = 60
MINE = '''
from torch import nn

from bench.api import Target, Threat, attack, defense


class Suspicious(nn.Module):
    """Negates the logits of bright images whose upper left corner is black, as in every digit."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        harmed = (x[:, 0, 0, 0] == 0) & (x.mean((1, 2, 3)) > 0.3)
        return self.base(x) * (1 - 2 * harmed.to(x))[:, None]


@defense(kind="test-time")
class Harming:
    def wrap(self, base):
        return Suspicious(base)

    def surrogate(self, base):
        return Suspicious(base)


def lit(x, y, digits):
    out = x.clone()
    out[:, 0, 0, 0] += 0.1 * (y < digits).to(x)
    return out


@attack(norms=("linf",), passes="1 forward")
def some(target: Target, x, y, threat: Threat):
    """Lights the corner of the digits 0 to 4, and so undoes the harm."""
    target(x)
    return lit(x, y, 5)


@attack(norms=("linf",), passes="2 forwards")
def every(target: Target, x, y, threat: Threat):
    """Lights the corner of every digit."""
    target(x)
    return lit(x, y, 10)


@attack(norms=("linf",), passes="3 forwards")
def nothing(target: Target, x, y, threat: Threat):
    """Returns the images unchanged."""
    target(x)
    return x.clone()
'''
ATTACKS = ("some", "every", "nothing")


@pytest.fixture(scope="module")
def known_right():
    """Masks of the images that are right clean and under each attack, by mode, computed from the linear weights."""
    data = open_set("digits", "test", folder=None, image_size=None, interpolation="bilinear")
    x, y = torch.from_numpy(data.images[:N].copy()).float() / 255, torch.from_numpy(data.labels[:N].copy())
    weight, bias = means()

    def right(x):
        logits = x.flatten(1) @ weight.T + bias
        harmed = (x[:, 0, 0, 0] == 0) & (x.mean((1, 2, 3)) > 0.3)
        return torch.where(harmed, logits.argmin(1), logits.argmax(1)) == y

    some, every = x.clone(), x.clone()
    some[y < 5, 0, 0, 0], every[:, 0, 0, 0] = 0.1, 0.1
    apart = {"clean": right(x), "some": right(some), "every": right(every), "nothing": right(x)}
    # In a suite an attack runs on the images that survive the earlier attacks; the others keep their x_adv.
    running = {"some": apart["some"], "every": apart["some"] & apart["every"]}
    return apart, apart | running | {"nothing": running["every"] & apart["clean"]}


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "worst-case mode"])
def done(request, tmp_path_factory, known_right):
    folder = tmp_path_factory.mktemp("run")
    weight, bias = means()
    save_file({"1.weight": weight.contiguous(), "1.bias": bias.contiguous()}, folder / "net.safetensors")
    (folder / "mine.py").write_text(MINE)
    text = f"""
schema = 1
name = "harm"
worst_case = {str(request.param).lower()}
[dataset]
name = "digits"
n = {N}
[[models]]
arch = "{KNOWN}:linear"
[[defenses]]
use = "{folder}/mine.py:Harming"
base = "weights:{folder}/net.safetensors"
"""
    for name in ATTACKS:
        text += f'[[attacks]]\nuse = "{folder}/mine.py:{name}"\neps = "0.1"\naccess = ["adaptive"]\n'
    (folder / "this.toml").write_text(text)
    folders = ["--store", str(folder / "store"), "--report", str(folder / "report"), "--device", "cpu"]
    assert main(["run", str(folder / "this.toml"), *folders]) == 0
    results = {r.names.attack: r for r in Store(folder / "store").results()}
    return folder / "store", results, known_right[request.param]


def test_both_measures_are_the_known_counts(done):
    _, results, truth = done
    for attack in ("clean", *ATTACKS):
        metrics, right = results[attack].metrics, int(truth[attack].sum())
        both = int((truth["clean"] & truth[attack]).sum())
        interval = binomtest(right, N).proportion_ci(method="wilson")
        assert metrics.accuracy_under_attack == pytest.approx(right / N)
        assert metrics.robust_accuracy == pytest.approx(both / N)
        assert (metrics.ci_low, metrics.ci_high) == pytest.approx((interval.low, interval.high))
        assert metrics.clean_accuracy == pytest.approx(int(truth["clean"].sum()) / N)
    assert int((truth["some"] & ~truth["clean"]).sum()) > 5, "or the two measures would hardly differ"


def test_the_worst_case_counts_the_clean_answer_as_an_attack(done, capsys):
    store, _, truth = done
    capsys.readouterr()
    assert main(["leaderboard", "--store", str(store), "--format", "json"]) == 0
    body = json.loads(capsys.readouterr().out)
    shown = {cell["attack"]: cell for cell in body["cells"]}
    assert shown["every"]["accuracy_under_attack"] == pytest.approx(int(truth["every"].sum()) / N)
    assert shown["every"]["robust_accuracy"] == pytest.approx(int((truth["clean"] & truth["every"]).sum()) / N)
    (defense,) = body["defenses"]
    survivors = truth["clean"] & truth["some"] & truth["every"]
    assert defense["worst_case"] == pytest.approx(int(survivors.sum()) / N)
    assert defense["worst_case"] < shown["some"]["accuracy_under_attack"]


def test_show_prints_both(done, capsys):
    store, results, _ = done
    capsys.readouterr()
    assert main(["show", results["every"].key, "--store", str(store)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["accuracy_under_attack", str(results["every"].metrics.accuracy_under_attack)] in lines
    assert ["robust_accuracy", str(results["every"].metrics.robust_accuracy)] in lines


def test_what_the_table_stands_on_is_in_the_outcomes(done):
    _, results, truth = done
    data = base64.b64decode(results["some"].adversarial_bits)
    bits = [data[i // 8] >> (7 - i % 8) & 1 for i in range(N)]
    assert bits == truth["some"].int().tolist()
