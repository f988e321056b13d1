"""Attacks of other libraries by name: run for real, audited, and refused in one line where a name is wrong."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from bench import registry
from bench.api import Threat
from tests.attacks.driving import Case, assert_within, drive, right

LINF, FLOW = Threat(eps="1/5"), Threat(norm="flow", eps=None)
L2 = Threat(norm="l2", eps=None)
L0 = Threat(norm="l0", eps=None)
REAL = [
    ("art:SquareAttack", LINF, {"max_iter": 100}),
    (
        "art:SpatialTransformation",
        FLOW,
        {"max_translation": 20.0, "num_translations": 3, "max_rotation": 40.0, "num_rotations": 3},
    ),
    ("art:ProjectedGradientDescent", LINF, {"max_iter": 5}),
    ("art:DeepFool", L2, {"max_iter": 10}),
    # These three are targeted by themselves.
    ("art:SaliencyMapMethod", L0, {"theta": 0.5, "gamma": 0.5}),
    ("art:BoundaryAttack", L2, {"max_iter": 10, "num_trial": 5, "init_size": 20}),
    ("art:SignOPTAttack", L2, {"max_iter": 2, "query_limit": 100, "num_trial": 20}),
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
    ("advlib:ddn", L2, {"steps": 30}),
    ("advlib:sigma_zero", L0, {"num_steps": 60}),
    ("secml:PGD", LINF, {"num_steps": 10}),
    ("secml:FMN", L0, {"num_steps": 30}),
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


@pytest.mark.parametrize("use", ["art:DeepFool", "torchattacks:CW", "foolbox:L2DeepFoolAttack", "advlib:ddn"])
def test_a_budget_holds_for_attacks_that_know_none(plain: Case, use: str) -> None:
    need(use)
    threat = Threat(norm="l2", eps="1/2")
    x_adv = drive(plain.net, use, plain.x[:20], plain.y[:20], threat).images
    assert_within(x_adv, plain.x[:20], threat)


@pytest.mark.parametrize(
    ("use", "norm", "settings"),
    [
        ("advlib:fmn", "l0", {"steps": 30}),
        ("advlib:ddn", "l2", {"steps": 30}),
        ("secml:FMN", "l1", {"num_steps": 30}),
        ("foolbox:L0FMNAttack", "l0", {"steps": 30}),
        ("torchattacks:FAB", "l2", {"steps": 5}),
    ],
)
def test_a_budget_keeps_what_the_search_without_one_found_inside_it(
    plain: Case, use: str, norm: Any, settings: dict
) -> None:
    need(use)
    x, y = plain.x[:20], plain.y[:20]
    free = drive(plain.net, use, x, y, Threat(norm=norm, eps=None), **settings).images
    assert int(right(plain.net, free, y).sum()) < 10
    distance = (free - x).flatten(1).norm(p=float(norm[1:]), dim=1)
    eps = Fraction(float(distance.median())).limit_denominator(100) + Fraction(1, 100)
    bounded = drive(plain.net, use, x, y, Threat(norm=norm, eps=eps), **settings).images
    inside = distance <= float(eps)
    assert 0 < int(inside.sum()) < 20
    assert torch.equal(bounded[inside], free[inside])
    if use != "torchattacks:FAB":
        assert torch.equal(bounded[~inside], x[~inside])


def test_images_of_adversarial_library_are_those_it_makes_when_called_itself(plain: Case) -> None:
    need("advlib:")
    x, y = plain.x[:20], plain.y[:20]
    ours = {
        "fmn": drive(plain.net, "advlib:fmn", x, y, L0, steps=30, gamma_init=0.1, batch=7).images,
        "alma": drive(plain.net, "advlib:alma", x, y, L2, num_steps=40, penalty="P3").images,
        "df": drive(plain.net, "advlib:df", x, y, Threat(norm="linf", eps=None)).images,
    }
    from adv_lib import attacks
    from adv_lib.utils.lagrangian_penalties import all_penalties

    pieces = zip(x.split(7), y.split(7), strict=True)
    # Some leave gradients on the network that they attack.
    net = copy.deepcopy(plain.net)
    fmn = [attacks.fmn(net, images, labels, norm=0, steps=30, γ_init=0.1) for images, labels in pieces]
    assert torch.equal(ours["fmn"], torch.cat(fmn).clamp(0, 1))
    assert torch.equal(ours["alma"], attacks.alma(net, x, y, num_steps=40, penalty=all_penalties["P3"]))
    assert torch.equal(ours["df"], attacks.df(net, x, y, norm=math.inf).detach())


def test_images_of_secml_are_those_it_makes_when_called_itself(plain: Case) -> None:
    need("secml:")
    x, y = plain.x[:20], plain.y[:20]
    ours = [
        drive(plain.net, "secml:FMN", x, y, L2, num_steps=20, step_size=0.5, batch=7).images,
        drive(plain.net, "secml:PGD", x, y, LINF, num_steps=8).images,
    ]
    from secmlt.adv.evasion.fmn import FMN
    from secmlt.adv.evasion.pgd import PGD
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
    from torch.utils.data import DataLoader, TensorDataset

    net = copy.deepcopy(plain.net)

    def called(attack: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loader = DataLoader(TensorDataset(images.clone(), labels), batch_size=20)
        return next(attack(BasePyTorchClassifier(net), loader, stream=True))[0].detach()

    pieces = zip(x.split(7), y.split(7), strict=True)
    fmn = [called(FMN("l2", 20, 0.5, backend="native"), images, labels) for images, labels in pieces]
    assert torch.equal(ours[0], torch.cat(fmn).clamp(0, 1))
    assert torch.equal(ours[1], called(PGD("linf", 0.2, 8, 0.05, backend="native"), x, y).clamp(0, 1))


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
        ("art:ProjectedGradientDescent", LINF, {"targeted": True}, "would aim at the true labels"),
        ("torchattacks:DIFGMS", LINF, {}, "did you mean 'DIFGSM'"),
        ("torchattacks:PGD", LINF, {"eps": 0.3}, "eps of PGD follows from the threat"),
        ("foolbox:LinfPDG", LINF, {}, "did you mean 'LinfPGD'"),
        ("foolbox:L2PGD", LINF, {}, "keeps to l2, the threat is linf"),
        ("foolbox:LinfPGD", Threat(eps=None), {}, "needs a bounded threat"),
        ("advlib:fnm", L2, {}, "advlib has no attack 'fnm'; did you mean 'fmn'"),
        ("advlib:ddn", L2, {"gama": 0.1}, "ddn has no parameter 'gama'; did you mean 'gamma'"),
        ("advlib:ddn", L2, {"targeted": True}, "ddn has no parameter 'targeted'"),
        ("advlib:ddn", LINF, {}, "advlib:ddn keeps to l2, the threat is linf: set norm"),
        ("advlib:fmn", L2, {"norm": 1}, "norm of fmn follows from the threat"),
        ("advlib:alma", L2, {"penalty": "P0"}, "alma has no penalty 'P0'"),
        ("secml:FNM", L2, {}, "secml has no attack 'FNM'; did you mean 'FMN'"),
        ("secml:FMN", L2, {"num_step": 3}, "FMN has no parameter 'num_step'; did you mean 'num_steps'"),
        ("secml:FMN", L2, {}, "secml:FMN has no default for num_steps"),
        ("secml:DDN", LINF, {"num_steps": 3}, "secml:DDN keeps to l2, the threat is linf"),
        ("secml:CW", L2, {"backend": "native"}, "secml:CW has no backend 'native'; it has: foolbox, advlib"),
    ],
)
def test_a_wrong_name_is_one_clear_line(plain: Case, use: str, threat: Threat, settings: dict, message: str) -> None:
    need(use)
    with pytest.raises(Exception, match=message) as error:
        drive(plain.net, use, plain.x[:1], plain.y[:1], threat, **settings)
    assert type(error.value).__name__ == "MethodError"
    assert "\n" not in str(error.value)
