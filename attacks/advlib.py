import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attacks._adapters import batches, checked_arguments, find_function, keep_in_ball, require_norm
from attacks._steps import per_image
from bench.api import MethodError, Target, Threat, library

# The norms of each function; one that is not here minimises something else, or several things at once.
_NORMS = {
    "alma": ("l2", "l1"),
    "apgd": ("linf", "l2", "l1"),
    "apgd_targeted": ("linf", "l2", "l1"),
    "carlini_wagner_l2": ("l2",),
    "carlini_wagner_linf": ("linf",),
    "ddn": ("l2",),
    "df": ("l2", "linf"),
    "fab": ("linf", "l2", "l1"),
    "fga": ("l0",),
    "fmn": ("l2", "linf", "l1", "l0"),
    "pdgd": ("l2",),
    "pdpgd": ("l2", "linf", "l1", "l0"),
    "pgd_linf": ("linf",),
    "sdf": ("l2",),
    "sigma_zero": ("l0",),
    "tr": ("l2", "linf"),
    "vfga": ("l0",),
}
# What functions of a fixed budget call it.
_BUDGETS = {"apgd": "eps", "apgd_targeted": "eps", "pgd_linf": "ε"}
# What the harness gives, and what has no meaning in a table.
_NOT_SET = {"model", "inputs", "images", "labels", "targeted", "num_classes", "callback", "starting_points"}
_LATIN = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "eta"},
    **{"μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau"},
}


@library(
    prefix="advlib",
    requires="adv-lib",
    minimises={
        "alma": ("l2", "l1"),
        "carlini_wagner_l2": ("l2",),
        "carlini_wagner_linf": ("linf",),
        "ddn": ("l2",),
        "df": ("l2", "linf"),
        "fab": ("linf", "l2", "l1"),
        "fga": ("l0",),
        "fmn": ("l2", "linf", "l1", "l0"),
        "pdgd": ("l2",),
        "pdpgd": ("l2", "linf", "l1", "l0"),
        "sdf": ("l2",),
        "sigma_zero": ("l0",),
        "tr": ("l2", "linf"),
        "vfga": ("l0",),
    },
    # The loss apgd takes unless told, the DLR, divides by the third largest logit and, towards a class, by the fourth.
    min_classes={
        "alma": 3,
        "apgd": 3,
        "apgd[loss_function=ce]": 2,
        "apgd_targeted": 4,
        "apgd_targeted[loss_function=ce]": 2,
    },
    wrong_classes={"apgd_targeted": "num_targets"},
)
def advlib(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Attacks of Adversarial Library (Rony and Ben Ayed), such as ``advlib:fmn``.

    Most minimise a norm, which must be the threat's: without ``eps`` they do so without a limit, and with it images
    outside the ball are replaced by the input. ``eps`` and ``norm`` come from the threat, other parameters from the
    configuration, with Greek letters written out: ``gamma_init`` for ``γ_init``. ``penalty`` of ``alma`` is a name such
    as ``"P2"``. ``perc_al`` and ``str_attack`` minimise no norm and need a budget. The package asks for visdom, which
    current setuptools do not build; it does without.

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: a norm of the function, with a budget unless the function minimises the norm.
        name: function in ``adv_lib.attacks``.
        **parameters: of the function.

    Returns:
        Images shaped as ``x``; the input where an attack that minimises failed.

    Raises:
        MethodError: an unknown function or parameter, another norm than the threat's, or a budget that is missing.
    """
    with _stand_ins():
        from adv_lib import attacks
        from adv_lib.utils.lagrangian_penalties import all_penalties

    function = find_function("advlib", attacks, name)
    if name in _NORMS:
        require_norm(f"advlib:{name}", _NORMS[name], threat)
    if threat.eps is None and (name in _BUDGETS or name not in _NORMS):
        raise MethodError(f"advlib:{name} needs a bounded threat: set eps")
    written = {_latin(key): key for key in inspect.signature(function).parameters}
    fixed: dict[str, Any] = {} if name not in _BUDGETS else {_latin(_BUDGETS[name]): float(threat.eps or 0)}
    p = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}.get(threat.norm)
    fixed |= {"norm": p, "distance": threat.norm, **({"p": p} if name == "tr" else {})}
    # Their defaults suit ten classes.
    fewer = {"c": min(9, target.num_classes - 1)} if name == "tr" else {}
    arguments = checked_arguments(name, written.keys() - _NOT_SET, parameters, fixed, fewer)
    if "penalty" in arguments:
        if arguments["penalty"] not in all_penalties:
            raise MethodError(f"alma has no penalty '{arguments['penalty']}'; it has: {', '.join(all_penalties)}")
        arguments["penalty"] = all_penalties[arguments["penalty"]]
    given = {written[key]: value for key, value in arguments.items()} | {"targeted": False}
    if "num_classes" in written:
        given["num_classes"] = target.num_classes
    module = target.module
    x_adv = torch.cat([function(module, images, labels, **given).detach() for images, labels in batches(target, x, y)])
    finite = x_adv.isfinite().flatten(1).all(1)
    x_adv = torch.where(per_image(finite, x), x_adv.clamp(0, 1), x)
    return x_adv if name in _BUDGETS else keep_in_ball(x_adv, x, threat)


def _latin(name: str) -> str:
    return "".join(_LATIN.get(letter, letter) for letter in name)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let the library be imported without visdom, with which it draws, and without distutils, which Python dropped."""
    from packaging.version import Version

    version = ModuleType("distutils.version")
    version.LooseVersion = Version  # type: ignore[attr-defined]
    wanted = {"visdom": ModuleType("visdom"), "distutils": ModuleType("distutils"), "distutils.version": version}
    absent = {name for name in ("visdom", "distutils") if name not in sys.modules and find_spec(name) is None}
    added = {name: module for name, module in wanted.items() if name.partition(".")[0] in absent}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
