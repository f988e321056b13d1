from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks._adapters import constructor_arguments, find_class, keep_in_ball, require_meaning
from bench.api import MethodError, Target, Threat, library

# Classes that take one image at a time.
_SINGLE = ("ShadowAttack", "SimBA")
# For this class ``targeted`` adds runs towards each other class.
_ENSEMBLE = "AutoAttack"
# These aim at the labels that they are given, whatever is set; the first draws wrong ones where it gets none.
_DRAWING, _AIMING = "SaliencyMapMethod", ("GRAPHITEBlackbox", "LowProFool", "TargetedUniversalPerturbation")
# What the toolbox calls its norms.
_NORMS = {"linf": "inf", "l2": 2, "l1": 1}
# Classes that refuse logits.
_PROBABILITIES = ("SimBA", "VirtualAdversarialMethod")


@library(
    prefix="art",
    requires="adversarial-robustness-toolbox",
    minimises={
        "BoundaryAttack": ("l2",),
        "CarliniL0Method": ("l0",),
        "CarliniL2Method": ("l2",),
        "CarliniLInfMethod": ("linf",),
        "DeepFool": ("l2",),
        "ElasticNet": ("l1",),
        "GeoDA": ("l2", "linf", "l1"),
        "HopSkipJump": ("l2", "linf"),
        "NewtonFool": ("l2",),
        "SaliencyMapMethod": ("l0",),
        "SignOPTAttack": ("l2",),
        "ZooAttack": ("l2",),
    },
    min_classes={
        "AutoConjugateGradient[loss_type=difference_logits_ratio]": 3,
        "AutoProjectedGradientDescent[loss_type=difference_logits_ratio]": 3,
        "PixelAttack": 3,
        "RescalingAutoConjugateGradient[loss_type=difference_logits_ratio]": 3,
        "SignOPTAttack": 3,
    },
)
def art(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Evasion attacks of the Adversarial Robustness Toolbox (Nicolae et al., 2018), such as ``art:SquareAttack``.

    ``eps`` and ``norm`` come from the threat wherever the class has a parameter for them, its step is a quarter of
    eps unless given (the toolbox's 0.1 is above most budgets), and its other parameters come from the configuration.
    Where a class knows no budget, its images outside the threat are replaced by the input; one that minimises a norm
    needs none. ``ElasticNet`` keeps the image of least L1. The toolbox works in NumPy, so images are copied to the CPU
    at each of its calls.

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: any norm that the class can keep to, with a budget if the class has a parameter for one.
        name: class in ``art.attacks.evasion``.
        **parameters: of its constructor.

    Returns:
        Images shaped as ``x``.

    Raises:
        MethodError: an unknown class or parameter, a norm that the class does not have, a budget that is missing, or a
            targeted attack.
    """
    from art.attacks import EvasionAttack, evasion
    from art.estimators.classification import PyTorchClassifier

    attack_class = find_class("art", evasion, EvasionAttack, name)
    require_meaning(f"art:{name}", attack_class, threat, budgets=("eps",), norms=(*_NORMS, "wasserstein"))
    fixed: dict[str, Any] = {} if threat.eps is None else {"eps": float(threat.eps)}
    default = {"batch_size": 1 if name in _SINGLE else target.batch, "verbose": False}
    if threat.norm == "l1":
        default["decision_rule"] = "L1"
    if name != _ENSEMBLE:
        # Some classes are targeted by themselves, and would lead every image to its true class.
        fixed["targeted"] = False
        if parameters.get("targeted") or name in _AIMING:
            raise MethodError(f"art:{name} would aim at the true labels, all that it gets")
    if threat.norm in _NORMS:
        fixed["norm"] = _NORMS[threat.norm]
        if threat.eps is not None:
            default["eps_step"] = float(threat.eps) / 4
    own = {key: value for key, value in parameters.items() if key != "targeted" or name == _ENSEMBLE}
    arguments = constructor_arguments(attack_class, own, fixed, default)
    classifier = PyTorchClassifier(
        nn.Sequential(target.module, nn.Softmax(1)) if name in _PROBABILITIES else target.module,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=target.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    attack = attack_class(classifier, **arguments)
    batches = [(x, y)] if name not in _SINGLE else zip(x.split(1), y.split(1), strict=True)
    generated = [
        attack.generate(
            x=images.cpu().numpy().copy(),
            y=None if name == _DRAWING else F.one_hot(labels, target.num_classes).cpu().numpy(),
        )
        for images, labels in batches
    ]
    x_adv = torch.cat([torch.from_numpy(images) for images in generated]).to(x)
    return x_adv if "eps" in arguments else keep_in_ball(x_adv, x, threat)
