from typing import Any

import torch
from torch import Tensor

from attacks._doors import arguments, batches, find, in_ball
from bench.api import MethodError, Target, Threat, library

# What classes call their budget.
_BUDGETS = ("eps", "max_epsilon")
# Classes whose eps is a distance in L2; they have no parameter that says so.
_L2_ONLY = ("PGDL2", "PGDRSL2")


@library(prefix="torchattacks", requires="torchattacks")
def torchattacks(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Attacks of torchattacks (Kim, 2020), such as ``torchattacks:DIFGSM``.

    ``eps`` and ``norm`` come from the threat wherever the class has a parameter for them, the number of classes from
    the network, and its other parameters from the configuration. Of a class that knows no budget the images within
    the threat are kept. Its ``AutoAttack`` takes 10 steps where the authors' takes 100: use ``autoattack`` instead.

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: any norm and budget that the class can keep to.
        name: class in ``torchattacks``.
        **parameters: of its constructor.

    Returns:
        Images shaped as ``x``.

    Raises:
        MethodError: an unknown class or parameter, or a class of another norm than the threat's.
    """
    import torchattacks as package
    from torchattacks.attack import Attack

    maker = find("torchattacks", package, Attack, name)
    if name in _L2_ONLY and threat.norm != "l2":
        raise MethodError(f"torchattacks:{name} keeps to l2, the threat is {threat.norm}: set norm of the attack")
    fixed: dict[str, Any] = {} if threat.eps is None else dict.fromkeys(_BUDGETS, float(threat.eps))
    if threat.norm in ("linf", "l2"):
        fixed["norm"] = {"linf": "Linf", "l2": "L2"}[threat.norm]
    chosen = arguments(maker, parameters, fixed, {"n_classes": target.num_classes, "verbose": False})
    attack = maker(target.module, **chosen)
    attack.set_device(x.device)
    found = torch.cat([attack(*part).detach() for part in batches(target, x, y)])
    return found if any(word in chosen for word in _BUDGETS) else in_ball(found, x, threat)
