"""Every attack class of torchattacks, Foolbox and ART that takes images and labels alone, tried on a small network.

The network is in the layout that runs use: channels-last, with batch norm folded.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from bench.api import Threat
from bench.models.layout import fast_layout
from tests.attacks.driving import Case, assert_within, drive, right
from tests.attacks.test_adapters import need

LINF = Threat(eps="1/5")
L2, UNBOUNDED = Threat(norm="l2", eps="2"), Threat(norm="l2", eps=None)
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
    **dict.fromkeys(("EADEN", "EADL1"), (UNBOUNDED, {"max_iterations": 10, "binary_search_steps": 2})),
    "SparseFool": (UNBOUNDED, {"steps": 2}),
    "OnePixel": (UNBOUNDED, {"steps": 1, "popsize": 4}),
    "Pixle": (UNBOUNDED, {"restarts": 2, "max_iterations": 3}),
    "JSMA": (UNBOUNDED, {"gamma": 0.02}),
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
            *("LinfAdamPGD", "AdamPGD", "LinfDeepFoolAttack", "LInfFMNAttack"),
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
        ("BoundaryAttack", "CarliniL2Method", "DeepFool", "ElasticNet", "NewtonFool", "SignOPTAttack", "SimBA"),
        (UNBOUNDED, FEW_ART),
    ),
    "HopSkipJump": (UNBOUNDED, {"max_iter": 1, "max_eval": 20, "init_eval": 5}),
    "VirtualAdversarialMethod": (UNBOUNDED, FEW_ART),
    "CarliniLInfMethod": (UNBOUNDED, {"max_iter": 2}),
    "CarliniL0Method": (UNBOUNDED, {"max_iter": 1, "binary_search_steps": 1}),
    "PixelAttack": (UNBOUNDED, {"th": 1, "max_iter": 1}),
    "SaliencyMapMethod": (UNBOUNDED, {}),
    "ShadowAttack": (UNBOUNDED, {"nb_steps": 3}),
    "ZooAttack": (UNBOUNDED, {"max_iter": 2, "nb_parallel": 4}),
    "SpatialTransformation": (FLOW, {"max_translation": 10.0, "num_translations": 2}),
    "Wasserstein": (Threat(norm="wasserstein", eps="1/2"), {"max_iter": 1, "regularization": 50}),
}

CLASSES = {"torchattacks": TORCHATTACKS, "foolbox": FOOLBOX, "art": ART}
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
        **dict.fromkeys(
            (
                *("L1ProjectedGradientDescentAttack", "L1AdamProjectedGradientDescentAttack", "L1BasicIterativeAttack"),
                *("L1AdamBasicIterativeAttack", "L1MomentumIterativeFastGradientMethod", "L1FastGradientAttack"),
                *("SparseL1DescentAttack", "EADAttack", "L0FMNAttack", "L1FMNAttack", "L1PGD", "L1AdamPGD"),
            ),
            "a threat in L1 or L0",
        ),
    },
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
    ],
)
def test_no_class_of_a_library_is_left_out(prefix: str, package: str, version: str) -> None:
    need(f"{prefix}:")
    if importlib.metadata.version(package) != version:
        pytest.skip(f"the list is of {package} {version}")
    module, base = _library(prefix)
    known = {name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    assert known == CLASSES[prefix].keys() | NEEDS_MORE[prefix].keys()
    assert not CLASSES[prefix].keys() & NEEDS_MORE[prefix].keys()


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
