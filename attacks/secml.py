import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from attacks._adapters import batches, checked_arguments, find_class, keep_in_ball, require_norm
from attacks._steps import per_image
from bench.api import MethodError, Target, Threat, library

# What the harness gives, and what has no meaning in a table.
_NOT_SET = ("y_target", "lb", "ub", "trackers", "init_attack", "kwargs")


@library(
    prefix="secml",
    requires="secml-torch",
    minimises={
        "BoundaryAttack": ("l2",),
        "CW": ("l2",),
        "DDN": ("l2",),
        "DeepFool": ("l2",),
        "FMN": ("l2", "linf", "l1", "l0"),
        "GaussianBlur": ("l2",),
        "HopSkipJump": ("l2", "linf"),
        "SaltAndPepperNoise": ("l2",),
    },
)
def secml(target: Target, x: Tensor, y: Tensor, threat: Threat, *, name: str, **parameters: Any) -> Tensor:
    """Evasion attacks of SecML-Torch (Pintor et al.), such as ``secml:FMN``.

    ``epsilon`` and ``perturbation_model`` come from the threat, the step of ``PGD`` is a quarter of eps and that of
    ``FMN`` is 1 unless given, and other parameters come from the configuration. ``backend`` chooses between the
    library's own code (``"native"``, the default where there is one), Foolbox and Adversarial Library (``"advlib"``).
    An attack that minimises a norm does so without a limit where there is no ``eps``; with it, images outside the ball
    are replaced by the input. So are failures, which Foolbox shows as black images. This is the package
    ``secml-torch``; the older ``secml`` is no longer maintained and needs an old NumPy.

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: a norm of the attack, with a budget unless it minimises the norm.
        name: class in ``secmlt.adv.evasion``.
        **parameters: of its constructor.

    Returns:
        Images shaped as ``x``; the input where the attack failed.

    Raises:
        MethodError: an unknown class or parameter, one that is missing, another norm than the threat's, or a budget
            that is missing.
    """
    from secmlt.adv import evasion
    from secmlt.adv.evasion.base_evasion_attack import BaseEvasionAttackCreator
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
    from torch.utils.data import DataLoader, TensorDataset

    for module in pkgutil.iter_modules(evasion.__path__, "secmlt.adv.evasion."):
        importlib.import_module(module.name)
    creators = SimpleNamespace(**{each.__name__: each for each in BaseEvasionAttackCreator.__subclasses__()})
    creator: Any = find_class("secml", creators, BaseEvasionAttackCreator, name)
    arguments = _arguments(creator, threat, parameters)
    # Their own code keeps distances on the CPU.
    on_cpu = x.is_cuda and arguments["backend"] == "native"
    model = BasePyTorchClassifier(_OnCPU(target.module, x.device) if on_cpu else target.module)
    x_input, y_input = (x.cpu(), y.cpu()) if on_cpu else (x, y)
    attacked = []
    for images, labels in batches(target, x_input, y_input):
        # An attack keeps the radius that it ended with, so that each batch needs a new one.
        attack = creator(**arguments)
        loader = DataLoader(TensorDataset(images, labels), batch_size=len(images))
        attacked += [x_adv.detach().to(x.device) for x_adv, _ in attack(model, loader, stream=True)]
    x_adv = torch.cat(attacked)
    black = (x_adv.flatten(1).amax(1) == 0) & (x.flatten(1).amax(1) > 0)
    failed = black | ~x_adv.isfinite().flatten(1).all(1)
    x_adv = torch.where(per_image(failed, x), x, x_adv.clamp(0, 1))
    return x_adv if "epsilon" in arguments else keep_in_ball(x_adv, x, threat)


def _arguments(creator: Any, threat: Threat, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments to construct an attack with, all checked."""
    name, known = creator.__name__, inspect.signature(creator).parameters
    if threat.eps is None and "epsilon" in known:
        raise MethodError(f"secml:{name} needs a bounded threat: set eps")
    eps = float(threat.eps or 0)
    steps = {"PGD": {"step_size": eps / 4}, "FMN": {"step_size": 1.0}}.get(name, {})
    backends = creator.get_backends()
    default = {"backend": "native" if "native" in backends else known["backend"].default}
    fixed = {"perturbation_model": threat.norm, "epsilon": eps}
    arguments = checked_arguments(name, known.keys() - _NOT_SET, parameters, fixed, default | steps)
    if arguments["backend"] not in backends:
        raise MethodError(f"secml:{name} has no backend '{arguments['backend']}'; it has: {', '.join(backends)}")
    required = [key for key, each in known.items() if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    if missing := [key for key in required if key not in arguments]:
        raise MethodError(f"secml:{name} has no default for {' and '.join(missing)}")
    try:
        norms = creator.get_implementation(arguments["backend"]).get_perturbation_models()
    except ImportError as error:
        raise MethodError(f"secml:{name} runs code of another library, which is not installed: {error}") from None
    # One that rotates and translates has no norm.
    if norms:
        require_norm(f"secml:{name}", sorted(norms), threat)
    return arguments


class _OnCPU(nn.Module):
    """A module on another device, for images on the CPU and with logits there."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.device, self.call = device, module.__call__
        #: By which the library knows where images belong.
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x.to(self.device)).to(x.device)
