import math
from typing import Any

import torch
from torch import Tensor

from attacks._adapters import batches, constructor_arguments, find_class, keep_in_ball, require_meaning
from bench.api import MethodError, Target, Threat, library

# What the library calls its norms.
_NORMS = {"linf": "Linf", "l2": "L2"}
# Classes that have a budget and minimise the norm.
_MINIMISE = ("FAB",)
# Names that classes give to their budget.
_BUDGETS = ("eps", "max_epsilon")
# Classes whose eps is a distance in L2; they have no parameter that says so.
_L2_ONLY = ("PGDL2", "PGDRSL2")


@library(
    prefix="torchattacks",
    requires="torchattacks",
    minimises={
        "CW": ("l2",),
        "DeepFool": ("l2",),
        "EADL1": ("l1",),
        "FAB": ("linf", "l2"),
        "JSMA": ("l0",),
        "SparseFool": ("l1",),
    },
    # JSMA goes towards label + 1, up to 9; AutoAttack runs APGDT or, for random functions, APGD on the DLR loss.
    min_classes={
        "APGD[loss=dlr]": 3,
        "APGDT": 4,
        "AutoAttack": 4,
        "AutoAttack[version=rand]": 3,
        "JSMA": 10,
        "UPGD[loss=dlr]": 3,
    },
)
def torchattacks(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Attacks of torchattacks (Kim, 2020), such as ``torchattacks:DIFGSM``.

    ``eps`` and ``norm`` come from the threat wherever the class has a parameter for them, the number of classes from
    the network, and its other parameters from the configuration. Where a class knows no budget, its images outside
    the threat are replaced by the input; one that minimises a norm needs none. The ``AutoAttack`` of torchattacks takes
    10 steps where the authors' takes 100: use ``autoattack`` instead.

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: any norm that the class can keep to, with a budget if the class has a parameter for one, as all but
            ``FAB`` then need it.
        name: class in ``torchattacks``.
        **parameters: of its constructor.

    Returns:
        Images shaped as ``x``.

    Raises:
        MethodError: an unknown class or parameter, a class of another norm than the threat's, or a budget that is
            missing.
    """
    import torchattacks as package
    from torchattacks.attack import Attack

    attack_class = find_class("torchattacks", package, Attack, name)
    if name in _L2_ONLY and threat.norm != "l2":
        raise MethodError(f"torchattacks:{name} keeps to l2, the threat is {threat.norm}: set norm of the attack")
    unbounded = threat.eps is None and name in _MINIMISE
    require_meaning(f"torchattacks:{name}", attack_class, threat, budgets=() if unbounded else _BUDGETS, norms=_NORMS)
    fixed: dict[str, Any] = dict.fromkeys(_BUDGETS, math.inf if threat.eps is None else float(threat.eps))
    if threat.norm in _NORMS:
        fixed["norm"] = _NORMS[threat.norm]
    default = {"n_classes": target.num_classes, "verbose": False}
    arguments = constructor_arguments(attack_class, parameters, fixed, default)
    attack = attack_class(target.module, **arguments)
    attack.set_device(x.device)
    x_adv = torch.cat([attack(images, labels).detach() for images, labels in batches(target, x, y)])
    return x_adv if any(name in arguments for name in _BUDGETS) else keep_in_ball(x_adv, x, threat)
