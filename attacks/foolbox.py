from typing import Any

import torch
from torch import Tensor

from attacks._adapters import batches, constructor_arguments, find_class, keep_in_ball
from attacks._steps import per_image
from bench.api import MethodError, Target, Threat, library

# What the library's distances have as p.
_NORMS = {0: "l0", 1: "l1", 2: "l2", float("inf"): "linf"}


@library(
    prefix="foolbox",
    requires="foolbox",
    minimises={
        "BinarySearchContrastReductionAttack": ("l2", "linf", "l1", "l0"),
        "BoundaryAttack": ("l2",),
        "DDNAttack": ("l2",),
        "EADAttack": ("l1",),
        "GaussianBlurAttack": ("l2", "linf", "l1", "l0"),
        "HopSkipJumpAttack": ("l2", "linf"),
        "InversionAttack": ("l2", "linf", "l1", "l0"),
        "L0BrendelBethgeAttack": ("l0",),
        "L0FMNAttack": ("l0",),
        "L1BrendelBethgeAttack": ("l1",),
        "L1FMNAttack": ("l1",),
        "L2BrendelBethgeAttack": ("l2",),
        "L2CarliniWagnerAttack": ("l2",),
        "L2DeepFoolAttack": ("l2",),
        "L2FMNAttack": ("l2",),
        "LInfFMNAttack": ("linf",),
        "LinearSearchBlendedUniformNoiseAttack": ("l2", "linf", "l1", "l0"),
        "LinearSearchContrastReductionAttack": ("l2", "linf", "l1", "l0"),
        "LinfDeepFoolAttack": ("linf",),
        "LinfinityBrendelBethgeAttack": ("linf",),
        "NewtonFoolAttack": ("l2",),
        "SaltAndPepperNoiseAttack": ("l2",),
    },
)
def foolbox(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Attacks of Foolbox (Rauber et al., 2020), such as ``foolbox:L2CarliniWagnerAttack``.

    The class has a norm of its own, which must be the threat's; eps is passed to it, its other parameters come from
    the configuration. An attack that minimises the norm gives the input where it failed (the library may give a black
    image there and call it a success, or one that is not finite).

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: the norm of the class, with a budget unless the class minimises the norm.
        name: class in ``foolbox.attacks``.
        **parameters: of its constructor.

    Returns:
        Images shaped as ``x``.

    Raises:
        MethodError: an unknown class or parameter, another norm than the threat's, or a budget that is missing.
    """
    import foolbox as package
    from foolbox.attacks.base import Attack, AttackWithDistance, MinimizationAttack

    attack_class = find_class("foolbox", package.attacks, Attack, name)
    # Some classes minimise whatever distance they are given.
    fixed = {"distance": getattr(package.distances, threat.norm)} if threat.norm in _NORMS.values() else {}
    default = {"constraint": threat.norm} if threat.norm in ("linf", "l2") else {}
    attack = attack_class(**constructor_arguments(attack_class, parameters, fixed, default))
    minimises = isinstance(attack, MinimizationAttack)
    model = package.PyTorchModel(target.module, bounds=(0, 1), device=x.device)
    eps = None if threat.eps is None else float(threat.eps)
    if isinstance(attack, AttackWithDistance):
        distance = getattr(attack, "distance", "a distance of its own")
        norm = _NORMS.get(getattr(distance, "p", None), str(distance))
        if norm != threat.norm:
            raise MethodError(f"foolbox:{name} keeps to {norm}, the threat is {threat.norm}: set norm of the attack")
        if eps is None and not minimises:
            raise MethodError(f"foolbox:{name} needs a bounded threat: set eps")
    # The library cannot shorten what it found in L0.
    budget = {"epsilons": None if threat.norm == "l0" else eps} if isinstance(attack, AttackWithDistance) else {}
    returned = [attack(model, images, labels, **budget) for images, labels in batches(target, x, y)]
    raw, x_adv, is_adv = (torch.cat(column) for column in zip(*returned, strict=True))
    black = (raw.flatten(1).amax(1) == 0) & (x.flatten(1).amax(1) > 0)
    failed = ~is_adv | black | ~x_adv.isfinite().flatten(1).all(1) if minimises else torch.zeros_like(black)
    x_adv = torch.where(per_image(failed, x), x, x_adv.detach())
    return keep_in_ball(x_adv, x, threat) if threat.norm == "l0" else x_adv
