"""AutoAttack as its authors publish it, and a network that skips the images that are misclassified already."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attacks._steps import per_image
from bench.api import MethodError

#: ``attack_single_run(x, y, x_init)`` of the package's Auto-PGD: images of best loss, robust mask, losses, adversarial
#: images.
SingleRun = Callable[..., tuple[Any, Any, Any, Tensor]]


class SkipBroken(nn.Module):
    """Repeats the last logits of an image once it is misclassified, so that within a run only the others cost passes.

    An image that was misclassified once counts as broken whatever follows, and images of one run do not influence each
    other, so the run breaks the same images.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._labels: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._labels is None:
            logits: Tensor = self.net(x)
            return logits
        active = ~self._is_adv
        if self._last_logits is None:
            logits = self.net(x)
        else:
            # The package differentiates its loss also when no image is active, so the logits must depend on x.
            logits = self._last_logits + 0.0 * x.flatten(1)[:, :1]
            if bool(active.any()):
                logits = logits.index_put((active,), self.net(x[active]))
        self._last_logits = logits.detach()
        newly_adv = active & (self._last_logits.max(1).indices != self._labels)
        self._first_adv[newly_adv] = x.detach()[newly_adv]
        self._is_adv |= newly_adv
        return logits

    def skipping(self, attack: Any) -> SingleRun:
        """Return ``attack_single_run`` of an Auto-PGD, of images (N, C, H, W) with labels (N,).

        It gives the first misclassified iterate of each. A run at a larger radius than the budget, as in L1, skips
        nothing: a success there is none.
        """
        run = attack.attack_single_run

        def skipping_run(x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Any, Any, Any, Tensor]:
            if attack.eps > attack.eps_orig:
                return run(x, y, x_init=x_init)
            self._labels = y
            self._first_adv = x.clone()
            self._last_logits = None
            self._is_adv = torch.zeros_like(y, dtype=torch.bool)
            try:
                best, robust, losses, x_adv = run(x, y, x_init=x_init)
            finally:
                self._labels = None
            return best, robust, losses, torch.where(per_image(self._is_adv, x_adv), self._first_adv, x_adv)

        return skipping_run


def authors_package() -> ModuleType:
    """Return pyautoattack, or autoattack where that is installed.

    Raises:
        MethodError: neither is.
    """
    for name in ("pyautoattack", "autoattack"):
        if importlib.util.find_spec(name):
            # The package counts calls of gradients in a global that it never resets.
            checks = importlib.import_module(f"{name}.checks")
            checks.funcs.update(dict.fromkeys(checks.funcs, 0))
            return importlib.import_module(name)
    raise MethodError("autoattack needs a package: pip install pyautoattack")
