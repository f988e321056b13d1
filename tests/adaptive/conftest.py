"""Runs of the whole engine on defenses whose truth is known."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from bench.cli import main
from bench.report.leaderboard.tables import build
from bench.store.working_store import Store
from tests.adaptive.known import checkerboard

KNOWN = Path(__file__).with_name("known.py")
N = 100
EPS = "1/10"
HEAD = f"""
[dataset]
name = "digits"
n = {N}

[[models]]
arch = "{KNOWN}:linear"
"""
COST = {"pgd": "steps = 20", "apgd-t": "steps = 20\ntargets = 9", "square": "queries = 200"}


def means():
    """Return weights (10, 64) and biases of the classifier by the nearest class mean, which is linear."""
    digits = load_digits()
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    centres = torch.stack([x[y == k].mean(0) for k in range(10)])
    return centres, -0.5 * (centres**2).sum(1)


def fragile():
    """Return the same with a checkerboard that no digit shows much of, and that decides once it is there."""
    weight, bias = means()
    strength = torch.linspace(-1, 1, 10)
    return weight + 0.4 * strength[:, None] * checkerboard(torch.zeros(1, 1, 8, 8)).flatten(), bias


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Run a configuration from nothing and return its results."""

    def of(body):
        folder = tmp_path_factory.mktemp("run")
        (folder / "this.toml").write_text(f'schema = 1\nname = "known"\n{body}')
        places = ["--store", str(folder / "store"), "--report", str(folder / "report")]
        code = main(["run", str(folder / "this.toml"), "--device", "cpu", *places])
        return code, list(Store(folder / "store").results())

    return of


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Files of the two linear classifiers."""
    folder = tmp_path_factory.mktemp("weights")
    for name, (weight, bias) in {"means": means(), "fragile": fragile()}.items():
        save_file({"1.weight": weight.contiguous(), "1.bias": bias.contiguous()}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="session")
def known(run, weights):
    """Exit code and results of every known defense under a few attacks."""
    body = HEAD
    for name in ("means", "fragile"):
        body += f'[[defenses]]\nuse = "weights:{weights / name}.safetensors"\n'
    for step in ("Saturated", "Quantised", "Detached", "Leaking", "Noisy", "Secretive", "Probable", "Projected"):
        name = "fragile" if step == "Projected" else "means"
        body += f'[[defenses]]\nuse = "{KNOWN}:{step}"\nbase = "weights:{weights / name}.safetensors"\n'
    for attack in ("noise", "pgd", "apgd-t", "square"):
        body += f'[[attacks]]\nuse = "{attack}"\neps = "{EPS}"\n{COST.get(attack, "")}\n'
    return run(f"{body}[attack]\neot = 5\n")


def board_of(results, *attacks):
    """Return the table over some attacks only."""
    (table,) = build([each for each in results if each.names.attack in ("clean", *attacks)]).tables
    return table


def summary_of(results, defense, *attacks):
    """Return the row of a defense over some attacks only."""
    return next(s for s in board_of(results, *attacks).threats if s.defense.partition("@")[0] == defense)


def robust(result):
    """Return which images are right clean and attacked."""
    return torch.tensor(list(result.robust_outcomes))
