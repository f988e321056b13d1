"""AutoAttack as its authors publish it, and a network that spares it the images that are broken already."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attacks._steps import per_image
from bench.api import MethodError

#: ``run(x, y)`` of Auto-PGD: best images, who stands, losses, and images that are broken.
Run = Callable[..., tuple[Any, Any, Any, Tensor]]


class Standing(nn.Module):
    """Answers within a run for images that it has seen broken from memory: only those that stand cost passes.

    An image that broke stays broken whatever becomes of it, and images of one run do not notice each other, so the same
    ones stand at the end.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._labels: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._labels is None:
            logits: Tensor = self.net(x)
            return logits
        stands = ~self._broken
        if self._answers is None:
            logits = self.net(x)
        else:
            # Tied to x, for a package differentiates its loss even where nothing stands.
            logits = self._answers + 0.0 * x.flatten(1)[:, :1]
            if bool(stands.any()):
                logits = logits.index_put((stands,), self.net(x[stands]))
        self._answers = logits.detach()
        falls = stands & (self._answers.max(1).indices != self._labels)
        self._first[falls] = x.detach()[falls]
        self._broken |= falls
        return logits

    def spared(self, run: Run) -> Run:
        """Return a run of images (N, C, H, W) with labels (N,) that returns broken ones as they first were."""

        def begun(x: Tensor, y: Tensor) -> tuple[Any, Any, Any, Tensor]:
            self._labels, self._first, self._answers = y, x.clone(), None
            self._broken = torch.zeros_like(y, dtype=torch.bool)
            try:
                best, stands, losses, found = run(x, y)
            finally:
                self._labels = None
            return best, stands, losses, torch.where(per_image(self._broken, found), self._first, found)

        return begun


def package_of_authors() -> ModuleType:
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
