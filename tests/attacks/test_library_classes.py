"""Every attack of the libraries that takes images and labels alone, tried on a small network.

The network is in the layout that runs use: channels-last, with batch norm folded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
import pkgutil
import sys
from itertools import chain
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from bench import registry
from bench.api import Threat
from bench.models.layout import fast_layout
from bench.schedule.plan import too_few_classes
from bench.types import AttackRef, Cell, DataRef
from tests.attacks.driving import Case, assert_within, drive, right
from tests.attacks.test_adapters import need

LINF = Threat(eps="1/5")
L2, UNBOUNDED = Threat(norm="l2", eps="2"), Threat(norm="l2", eps=None)
L1, L0 = Threat(norm="l1", eps="4"), Threat(norm="l0", eps=40)
LEAST_LINF, LEAST_L1, LEAST_L0 = (Threat(norm=norm, eps=None) for norm in ("linf", "l1", "l0"))
FLOW = Threat(norm="flow", eps=None)
FEW = {"steps": 4}
FEW_ART = {"max_iter": 4}

TORCHATTACKS: dict[str, tuple[Threat, dict[str, Any]]] = {
    **dict.fromkeys(("VANILA", "FGSM", "FFGSM"), (LINF, {})),
    "GN": (LINF, {"std": 0.02}),
    **dict.fromkeys(
        (
            *("BIM", "RFGSM", "PGD", "EOTPGD", "TPGD", "MIFGSM", "UPGD", "APGD", "APGDT", "DIFGSM", "TIFGSM", "Jitter"),
            *("NIFGSM", "PGDRS", "SINIFGSM", "VMIFGSM", "VNIFGSM", "FAB"),
        ),
        (LINF, FEW),
    ),
    **dict.fromkeys(("PIFGSM", "PIFGSMPP"), (LINF, {"num_iter_set": 4})),
    "SPSA": (LINF, {"nb_iter": 2, "nb_sample": 8}),
    "Square": (LINF, {"n_queries": 20}),
    "AutoAttack": (LINF, {}),
    **dict.fromkeys(("PGDL2", "PGDRSL2"), (L2, FEW)),
    **dict.fromkeys(("CW", "DeepFool"), (UNBOUNDED, FEW)),
    "EADEN": (L1, {"max_iterations": 10, "binary_search_steps": 2}),
    "EADL1": (LEAST_L1, {"max_iterations": 10, "binary_search_steps": 2}),
    "SparseFool": (LEAST_L1, {"steps": 2}),
    "OnePixel": (UNBOUNDED, {"steps": 1, "popsize": 4}),
    "Pixle": (UNBOUNDED, {"restarts": 2, "max_iterations": 3}),
    "JSMA": (LEAST_L0, {"gamma": 0.02}),
}

FOOLBOX: dict[str, tuple[Threat, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            *(
                "LinfProjectedGradientDescentAttack",
                "LinfAdamProjectedGradientDescentAttack",
                "LinfBasicIterativeAttack",
            ),
            *("LinfAdamBasicIterativeAttack", "LinfMomentumIterativeFastGradientMethod", "LinfPGD", "PGD", "MIFGSM"),
            *("LinfAdamPGD", "AdamPGD"),
        ),
        (LINF, FEW),
    ),
    **dict.fromkeys(("LinfFastGradientAttack", "FGSM", "LinfAdditiveUniformNoiseAttack"), (LINF, {})),
    "LinfRepeatedAdditiveUniformNoiseAttack": (LINF, {"repeats": 4}),
    **dict.fromkeys(
        (
            *("L2ProjectedGradientDescentAttack", "L2AdamProjectedGradientDescentAttack", "L2BasicIterativeAttack"),
            *("L2AdamBasicIterativeAttack", "L2MomentumIterativeFastGradientMethod", "L2PGD", "L2AdamPGD"),
        ),
        (L2, FEW),
    ),
    **dict.fromkeys(
        (
            *("L2FastGradientAttack", "FGM", "L2ContrastReductionAttack", "L2AdditiveGaussianNoiseAttack"),
            *("L2AdditiveUniformNoiseAttack", "L2ClippingAwareAdditiveGaussianNoiseAttack"),
            "L2ClippingAwareAdditiveUniformNoiseAttack",
        ),
        (L2, {}),
    ),
    **dict.fromkeys(
        (
            *("L1ProjectedGradientDescentAttack", "L1AdamProjectedGradientDescentAttack", "L1BasicIterativeAttack"),
            *("L1AdamBasicIterativeAttack", "L1MomentumIterativeFastGradientMethod", "L1PGD", "L1AdamPGD"),
            "SparseL1DescentAttack",
        ),
        (L1, FEW),
    ),
    "L1FastGradientAttack": (L1, {}),
    **dict.fromkeys(("LinfDeepFoolAttack", "LInfFMNAttack"), (LEAST_LINF, FEW)),
    "L1FMNAttack": (LEAST_L1, FEW),
    "EADAttack": (LEAST_L1, {"steps": 10, "binary_search_steps": 2, "initial_const": 1.0}),
    "L0FMNAttack": (L0, FEW),
    "VirtualAdversarialAttack": (L2, FEW),
    **dict.fromkeys(
        (
            *("L2RepeatedAdditiveGaussianNoiseAttack", "L2RepeatedAdditiveUniformNoiseAttack"),
            "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack",
            "L2ClippingAwareRepeatedAdditiveUniformNoiseAttack",
        ),
        (L2, {"repeats": 4}),
    ),
    **dict.fromkeys(
        ("DDNAttack", "L2CarliniWagnerAttack", "NewtonFoolAttack", "L2DeepFoolAttack", "L2FMNAttack", "BoundaryAttack"),
        (UNBOUNDED, FEW),
    ),
    "HopSkipJumpAttack": (UNBOUNDED, {"steps": 2}),
    "SaltAndPepperNoiseAttack": (UNBOUNDED, FEW),
    **dict.fromkeys(
        (
            *("InversionAttack", "BinarySearchContrastReductionAttack", "LinearSearchContrastReductionAttack"),
            *("GaussianBlurAttack", "LinearSearchBlendedUniformNoiseAttack"),
        ),
        (UNBOUNDED, {}),
    ),
    "SpatialAttack": (FLOW, {"num_rotations": 2, "num_translations": 2}),
}

ART: dict[str, tuple[Threat, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            *("AutoProjectedGradientDescent", "AutoConjugateGradient", "RescalingAutoConjugateGradient"),
            *("BasicIterativeMethod", "MomentumIterativeMethod", "ProjectedGradientDescent", "SquareAttack"),
            *("ProjectedGradientDescentNumpy", "ProjectedGradientDescentPyTorch"),
        ),
        (LINF, FEW_ART),
    ),
    "FastGradientMethod": (LINF, {}),
    "UniversalPerturbation": (LINF, {"max_iter": 1, "attacker": "fgsm"}),
    **dict.fromkeys(
        ("BoundaryAttack", "CarliniL2Method", "DeepFool", "NewtonFool", "SignOPTAttack", "SimBA"),
        (UNBOUNDED, FEW_ART),
    ),
    "ElasticNet": (LEAST_L1, FEW_ART),
    "HopSkipJump": (UNBOUNDED, {"max_iter": 1, "max_eval": 20, "init_eval": 5}),
    "VirtualAdversarialMethod": (L2, {"max_iter": 1}),
    "CarliniLInfMethod": (LEAST_LINF, {"max_iter": 2}),
    "CarliniL0Method": (LEAST_L0, {"max_iter": 1, "binary_search_steps": 1}),
    "PixelAttack": (UNBOUNDED, {"th": 1, "max_iter": 1}),
    "SaliencyMapMethod": (LEAST_L0, {}),
    "ShadowAttack": (UNBOUNDED, {"nb_steps": 3}),
    "ZooAttack": (UNBOUNDED, {"max_iter": 2, "nb_parallel": 4}),
    "SpatialTransformation": (FLOW, {"max_translation": 10.0, "num_translations": 2}),
    "Wasserstein": (Threat(norm="wasserstein", eps="1/2"), {"max_iter": 1, "regularization": 50}),
}

ADVLIB: dict[str, tuple[Threat, dict[str, Any]]] = {
    "alma": (UNBOUNDED, {"num_steps": 20, "penalty": "P3"}),
    "apgd": (L1, {"n_iter": 4}),
    "apgd_targeted": (LINF, {"n_iter": 4, "num_targets": 2}),
    "carlini_wagner_l2": (UNBOUNDED, {"max_iterations": 10, "binary_search_steps": 2, "initial_const": 1.0}),
    "carlini_wagner_linf": (LEAST_LINF, {"max_iterations": 4}),
    "ddn": (UNBOUNDED, {"steps": 10, "gamma": 0.1}),
    "df": (LEAST_LINF, FEW),
    "fab": (LEAST_L1, {"n_iter": 4, "alpha_max": 0.2}),
    **dict.fromkeys(("fga", "vfga"), (L0, {})),
    "fmn": (L0, {"steps": 10}),
    "pdgd": (UNBOUNDED, {"num_steps": 20}),
    "pdpgd": (LEAST_LINF, {"num_steps": 20}),
    "perc_al": (L2, {"max_iterations": 4}),
    "pgd_linf": (LINF, FEW),
    "sdf": (UNBOUNDED, FEW),
    "sigma_zero": (LEAST_L0, {"num_steps": 20}),
    "str_attack": (L2, {"max_iterations": 1, "binary_search_steps": 1, "retrain": False}),
    "tr": (UNBOUNDED, {"iter": 10, "c": 3}),
}

SECML: dict[str, tuple[Threat, dict[str, Any]]] = {
    "AdditiveNoise": (LINF, {"noise_type": "uniform"}),
    "BoundaryAttack": (UNBOUNDED, FEW),
    "ContrastReduction": (L2, {}),
    "CW": (UNBOUNDED, {"num_steps": 10, "backend": "advlib"}),
    "DDN": (UNBOUNDED, {"num_steps": 20, "eps_init": 0.5}),
    "DeepFool": (UNBOUNDED, {"num_steps": 4}),
    "FGSM": (LINF, {}),
    "FMN": (LEAST_L0, {"num_steps": 10}),
    "GaussianBlur": (UNBOUNDED, FEW),
    "HopSkipJump": (LEAST_LINF, {"steps": 2}),
    "PGD": (L1, {"num_steps": 4}),
    "SaltAndPepperNoise": (UNBOUNDED, FEW),
    "SpatialAttack": (FLOW, {"num_rotations": 2, "num_translations": 2}),
    "VAT": (L2, FEW),
}

CLASSES = {"torchattacks": TORCHATTACKS, "foolbox": FOOLBOX, "art": ART, "advlib": ADVLIB, "secml": SECML}
ALL: list[tuple[str, Threat, dict[str, Any]]] = []
for prefix, classes in CLASSES.items():
    ALL += [(f"{prefix}:{name}", threat, settings) for name, (threat, settings) in classes.items()]

#: What a class needs beyond images, labels, a budget and what the tests install.
NEEDS_MORE = {
    "torchattacks": {"MultiAttack": "attacks to run", "LGV": "training images"},
    "foolbox": {
        **dict.fromkeys(("Attack",), "to be subclassed"),
        **dict.fromkeys(("BinarizationRefinementAttack",), "starting points"),
        "DatasetAttack": "images to start from",
        "GenAttack": "a target class",
        "PointwiseAttack": "a distance; it has none",
        **dict.fromkeys(
            ("L0BrendelBethgeAttack", "L1BrendelBethgeAttack", "L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack"),
            "numba",
        ),
    },
    "advlib": {},
    "secml": {},
    "art": {
        **dict.fromkeys(
            ("AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch", "AdversarialTexturePyTorch"),
            "the shape of a patch",
        ),
        **dict.fromkeys(
            (
                *("AdversarialPatchTensorFlowV2", "FeatureAdversariesTensorFlowV2", "MalwareGDTensorFlow"),
                "ProjectedGradientDescentTensorFlowV2",
            ),
            "TensorFlow",
        ),
        **dict.fromkeys(("CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch"), "a speech recogniser"),
        **dict.fromkeys(("DPatch", "RobustDPatch", "OverloadPyTorch", "SNAL"), "an object detector"),
        **dict.fromkeys(("FrameSaliencyAttack", "OverTheAirFlickeringPyTorch"), "a video"),
        **dict.fromkeys(("FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"), "an image to imitate"),
        **dict.fromkeys(("GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"), "a mask"),
        "AutoAttack": "the package multiprocess",
        "CompositeAdversarialAttackPyTorch": "the package kornia",
        "ThresholdAttack": "the package cma",
        "DecisionTreeAttack": "a decision tree",
        "HighConfidenceLowUncertainty": "a Gaussian process",
        "LaserAttack": "a generator of lasers",
        "LowProFool": "the importance of features",
        "GeoDA": "images of the size of ImageNet's",
        "TargetedUniversalPerturbation": "a target class",
    },
}


@pytest.fixture(scope="module")
def colours() -> Case:
    """A network trained on tinted digits 16x16 in three channels, as runs lay it out, and four images it gets right."""
    digits = load_digits()
    tint = torch.tensor([1.0, 0.9, 0.8]).view(1, 3, 1, 1)
    x = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, size=(16, 16)) * tint
    y = torch.from_numpy(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(192, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(6):
            for rows in torch.randperm(1300).split(100):
                loss = F.cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    fast = fast_layout(net.eval(), x[:4]).net
    held_out = torch.arange(1300, 1500)
    kept = held_out[right(fast, x[held_out], y[held_out])][:4]
    return Case(fast, x[kept], y[kept])


def test_the_network_gives_gradients_that_are_not_contiguous(colours: Case) -> None:
    leaf = colours.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(colours.net(leaf).sum(), leaf)
    assert not grad.is_contiguous()


@pytest.mark.parametrize(("use", "threat", "settings"), ALL, ids=[row[0] for row in ALL])
def test_a_class_runs_and_keeps_to_its_threat(
    colours: Case, use: str, threat: Threat, settings: dict[str, Any]
) -> None:
    need(use)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        driven = drive(colours.net, use, colours.x, colours.y, threat, **settings)
    assert_within(driven.images, colours.x, threat)
    assert float(driven.forwards.sum()) > 0 or use in ("torchattacks:VANILA", "torchattacks:GN")


@pytest.mark.parametrize(
    ("prefix", "package", "version"),
    [
        ("torchattacks", "torchattacks", "3.5.1"),
        ("foolbox", "foolbox", "3.3.4"),
        ("art", "adversarial-robustness-toolbox", "1.20.1"),
        ("advlib", "adv-lib", "0.2.8"),
        ("secml", "secml-torch", "1.5"),
    ],
)
def test_no_class_of_a_library_is_left_out(prefix: str, package: str, version: str) -> None:
    need(f"{prefix}:")
    if importlib.metadata.version(package) != version:
        pytest.skip(f"the list is of {package} {version}")
    known = set(_attacks(prefix))
    assert known == CLASSES[prefix].keys() | NEEDS_MORE[prefix].keys()
    assert not CLASSES[prefix].keys() & NEEDS_MORE[prefix].keys()


def _attacks(prefix: str) -> dict[str, Any]:
    """Return what a library exports that is an attack, by name."""
    if prefix == "advlib":
        # visdom, which it imports to draw, is not installed.
        with patch.dict(sys.modules, {"visdom": ModuleType("visdom")}):
            from adv_lib import attacks
        return {name: value for name, value in vars(attacks).items() if inspect.isfunction(value)}
    if prefix == "secml":
        from secmlt.adv import evasion
        from secmlt.adv.evasion.base_evasion_attack import BaseEvasionAttackCreator

        files = [name for _, name, _ in pkgutil.iter_modules(evasion.__path__, "secmlt.adv.evasion.")]
        known = list(map(importlib.import_module, files))
        base: type = BaseEvasionAttackCreator
        attacks_of = chain.from_iterable(vars(module).items() for module in known)
        return {name: each for name, each in attacks_of if _is_attack(each, base) and each is not base}
    module, base = _library(prefix)
    return {name: value for name, value in vars(module).items() if _is_attack(value, base)}


def _is_attack(value: Any, base: type) -> bool:
    return inspect.isclass(value) and issubclass(value, base)


def _library(prefix: str) -> tuple[Any, type]:
    if prefix == "torchattacks":
        import torchattacks
        from torchattacks.attack import Attack

        return torchattacks, Attack
    if prefix == "foolbox":
        import foolbox
        from foolbox.attacks.base import Attack as FoolboxAttack

        return foolbox.attacks, FoolboxAttack
    from art.attacks import EvasionAttack, evasion

    return evasion, EvasionAttack


def test_what_foolbox_minimises_is_stated_as_its_classes_have_it() -> None:
    need("foolbox:")
    from foolbox.attacks.base import FlexibleDistanceMinimizationAttack, MinimizationAttack
    from foolbox.attacks.brendel_bethge import BrendelBethgeAttack

    stated = registry.find("library", "foolbox").meta["minimises"]
    starts = {"DatasetAttack", "PointwiseAttack", "BinarizationRefinementAttack"}
    classes = {name: each for name, each in _attacks("foolbox").items() if _is_attack(each, MinimizationAttack)}
    assert stated.keys() == classes.keys() - starts
    for name, each in classes.items():
        if name in starts or issubclass(each, BrendelBethgeAttack) or name == "HopSkipJumpAttack":
            continue
        if issubclass(each, FlexibleDistanceMinimizationAttack):
            assert set(stated[name]) == {"l2", "linf", "l1", "l0"}
        else:
            (norm,) = stated[name]
            assert each.distance.p == {"l2": 2, "linf": math.inf, "l1": 1, "l0": 0}[norm]


@pytest.mark.parametrize("prefix", CLASSES)
def test_every_attack_that_is_said_to_minimise_a_norm_is_one_of_the_library(prefix: str) -> None:
    need(f"{prefix}:")
    stated = registry.find("library", prefix).meta["minimises"]
    assert stated
    assert stated.keys() <= CLASSES[prefix].keys() | NEEDS_MORE[prefix].keys()
    tried = {name: threat for name, (threat, _) in CLASSES[prefix].items() if name in stated}
    assert all(threat.norm in stated[name] for name, threat in tried.items())


@pytest.mark.parametrize(
    ("use", "settings"),
    [
        ("advlib:alma", {"num_steps": 20, "penalty": "P3"}),
        ("advlib:apgd", {"n_iter": 4}),
        ("advlib:apgd", {"n_iter": 4, "loss_function": "ce"}),
        ("advlib:apgd_targeted", {"n_iter": 4}),
        ("advlib:apgd_targeted", {"n_iter": 4, "loss_function": "ce"}),
        ("advlib:apgd_targeted", {"n_iter": 4, "loss_function": "ce", "num_targets": 2}),
        ("torchattacks:APGD", {"steps": 4, "loss": "dlr"}),
        ("torchattacks:APGDT", {"steps": 4}),
        ("torchattacks:UPGD", {"steps": 4, "loss": "dlr"}),
        ("torchattacks:AutoAttack", {"version": "rand"}),
        ("art:AutoProjectedGradientDescent", {"max_iter": 4, "loss_type": "difference_logits_ratio"}),
        ("art:AutoConjugateGradient", {"max_iter": 4, "loss_type": "difference_logits_ratio"}),
        ("art:RescalingAutoConjugateGradient", {"max_iter": 4, "loss_type": "difference_logits_ratio"}),
    ],
)
def test_a_class_runs_on_as_many_classes_as_is_stated_and_raises_on_fewer(use: str, settings: dict[str, Any]) -> None:
    need(use)
    for classes in range(2, 5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes)).eval()
            x = torch.rand(2, 3, 16, 16)
            ref = registry.find("library", use.partition(":")[0]).ref(settings).model_copy(update={"name": use})
            attack = AttackRef.model_construct(attack=ref, target=None)
            data = DataRef.model_construct(num_classes=classes)
            said = too_few_classes(Cell.model_construct(attack=attack, data=data))
            # Within so small a budget nothing breaks, or attacks that come later in a suite would have nothing to do.
            threat = UNBOUNDED if use == "advlib:alma" else Threat(eps="1/100000")
            if said is None:
                drive(net, use, x, net(x).argmax(1), threat, **settings)
            else:
                with pytest.raises((RuntimeError, IndexError)):
                    drive(net, use, x, net(x).argmax(1), threat, **settings)


@pytest.mark.parametrize(
    ("use", "threat"),
    [
        ("torchattacks:PGD", LEAST_LINF),
        ("art:ProjectedGradientDescent", LEAST_LINF),
        ("advlib:pgd_linf", LEAST_LINF),
        ("advlib:perc_al", UNBOUNDED),
        ("secml:FGSM", LEAST_LINF),
    ],
)
def test_a_class_never_falls_back_on_a_budget_of_its_own(colours: Case, use: str, threat: Threat) -> None:
    need(use)
    with pytest.raises(Exception, match="needs a bounded threat: set eps"):
        drive(colours.net, use, colours.x, colours.y, threat)


@pytest.mark.parametrize("name", ["PIFGSM", "PIFGSMPP", "FGSM"])
def test_a_class_uses_the_budget_of_the_threat_whatever_it_calls_it(colours: Case, name: str) -> None:
    need("torchattacks:")
    for eps in ("1/50", "1/5"):
        x_adv = drive(colours.net, f"torchattacks:{name}", colours.x, colours.y, Threat(eps=eps)).images
        assert float((x_adv - colours.x).abs().max()) == pytest.approx(float(Threat(eps=eps).eps or 0), abs=1e-5)


@pytest.mark.parametrize("name", ["PGDL2", "PGDRSL2"])
def test_a_class_of_another_norm_is_refused(colours: Case, name: str) -> None:
    need("torchattacks:")
    with pytest.raises(Exception, match=f"torchattacks:{name} keeps to l2, the threat is linf"):
        drive(colours.net, f"torchattacks:{name}", colours.x, colours.y, LINF)
