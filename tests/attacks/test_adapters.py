"""Attacks of other libraries by name: run for real, audited, and refused in one line where a name is wrong."""

from __future__ import annotations

import pytest
import torch

from bench import registry
from bench.api import Threat
from tests.attacks.driving import Case, assert_within, drive, right

LINF, FLOW = Threat(eps="1/5"), Threat(norm="flow", eps=None)
L2 = Threat(norm="l2", eps=None)
REAL = [
    ("art:SquareAttack", LINF, {"max_iter": 100}),
    (
        "art:SpatialTransformation",
        FLOW,
        {"max_translation": 20.0, "num_translations": 3, "max_rotation": 40.0, "num_rotations": 3},
    ),
    ("art:ProjectedGradientDescent", LINF, {"max_iter": 5}),
    ("art:DeepFool", L2, {"max_iter": 10}),
    ("torchattacks:DIFGSM", LINF, {"steps": 10, "alpha": 0.04}),
    ("torchattacks:CW", L2, {"steps": 40, "lr": 0.05}),
    ("torchattacks:Pixle", FLOW, {"restarts": 3, "max_iterations": 5}),
    ("torchattacks:APGDT", LINF, {"steps": 5}),
    ("foolbox:LinfPGD", LINF, {"steps": 10, "rel_stepsize": 0.2}),
    ("foolbox:L2DeepFoolAttack", L2, {"steps": 10}),
    ("foolbox:SpatialAttack", FLOW, {"num_rotations": 3, "num_translations": 3}),
    (
        "foolbox:L2CarliniWagnerAttack",
        L2,
        {"steps": 60, "stepsize": 0.05, "binary_search_steps": 3, "initial_const": 1.0},
    ),
]


def need(use: str) -> None:
    entry = registry.find("library", use.partition(":")[0])
    if not entry.available:
        pytest.skip(f"{entry.requires} is not installed")


@pytest.mark.parametrize(("use", "threat", "settings"), REAL, ids=[row[0] for row in REAL])
def test_an_attack_through_an_adapter_breaks_images_within_its_threat(
    plain: Case, use: str, threat: Threat, settings: dict
) -> None:
    need(use)
    x, y = plain.x[:20], plain.y[:20]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        driven = drive(plain.net, use, x, y, threat, **settings)
    assert_within(driven.images, x, threat)
    assert int(right(plain.net, driven.images, y).sum()) < 15
    assert float(driven.forwards.sum()) > 0, "its passes are counted"


def test_art_wasserstein_runs_through_the_adapter(plain: Case) -> None:
    need("art:")
    x, y = plain.x[:3], plain.y[:3]
    settings = {"regularization": 50, "max_iter": 3, "eps_step": 0.2, "eps_iter": 2, "kernel_size": 3}
    short = {"conjugate_sinkhorn_max_iter": 10, "projected_sinkhorn_max_iter": 10}
    x_adv = drive(plain.net, "art:Wasserstein", x, y, Threat(norm="wasserstein", eps="1/2"), **settings, **short).images
    assert x_adv.shape == x.shape
    assert bool(torch.isfinite(x_adv).all())
    assert float((x_adv - x).abs().max()) > 0.01


@pytest.mark.parametrize("use", ["art:DeepFool", "torchattacks:CW", "foolbox:L2DeepFoolAttack"])
def test_a_budget_holds_for_attacks_that_know_none(plain: Case, use: str) -> None:
    need(use)
    threat = Threat(norm="l2", eps="1/2")
    x_adv = drive(plain.net, use, plain.x[:20], plain.y[:20], threat).images
    assert_within(x_adv, plain.x[:20], threat)


def test_foolbox_failures_are_the_image_and_never_black(plain: Case) -> None:
    need("foolbox:")
    x_adv = drive(plain.net, "foolbox:L2CarliniWagnerAttack", plain.x[:10], plain.y[:10], L2, steps=1).images
    assert torch.equal(x_adv, plain.x[:10])


@pytest.mark.parametrize(
    ("use", "threat", "settings", "message"),
    [
        ("art:ProjectedGradientDescen", LINF, {}, "art has no attack .*; did you mean 'ProjectedGradientDescent'"),
        ("art:SquareAttack", LINF, {"max_itr": 3}, "SquareAttack has no parameter 'max_itr'; did you mean 'max_iter'"),
        ("art:SquareAttack", LINF, {"norm": 2}, "norm of SquareAttack follows from the threat"),
        ("torchattacks:DIFGMS", LINF, {}, "did you mean 'DIFGSM'"),
        ("torchattacks:PGD", LINF, {"eps": 0.3}, "eps of PGD follows from the threat"),
        ("foolbox:LinfPDG", LINF, {}, "did you mean 'LinfPGD'"),
        ("foolbox:L2PGD", LINF, {}, "keeps to l2, the threat is linf"),
        ("foolbox:LinfPGD", Threat(eps=None), {}, "needs a bounded threat"),
    ],
)
def test_a_wrong_name_is_one_clear_line(plain: Case, use: str, threat: Threat, settings: dict, message: str) -> None:
    need(use)
    with pytest.raises(Exception, match=message) as error:
        drive(plain.net, use, plain.x[:1], plain.y[:1], threat, **settings)
    assert type(error.value).__name__ == "MethodError"
    assert "\n" not in str(error.value)
