"""One optimiser step as a recipe sees it: crafting on the network as it is, draws that a resumed run repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from bench import draws, registry
from bench.evaluation.target import Meter, NetworkTarget
from bench.models.adapted import described
from bench.types import MethodError, Threat


class TotalPasses(Meter):
    """Counts passes, and not of which images they were: a GPU would have to be asked for those."""

    @property
    def rows(self) -> None:
        """No images."""
        return None

    @rows.setter
    def rows(self, rows: Tensor | None) -> None:
        pass


class RecipeStep:
    """The :class:`bench.api.TrainingStep` of each batch in turn."""

    def __init__(self, net: nn.Module, num_classes: int) -> None:
        self.net = net
        self.meter = TotalPasses(net)
        self.logits: Tensor | None = None
        self._num_classes = num_classes
        self._modules = list(net.modules())
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._resolved: dict[tuple[Any, ...], tuple[Callable[..., Tensor], dict[str, Any]]] = {}
        net.register_forward_hook(self._keep)

    def begin(self, rows: Tensor, seed_of: Callable[[int], int | Tensor], progress: Tensor) -> None:
        """Enter the batch of these training images.

        Args:
            rows: int64 identities of the images (N,), on the device.
            seed_of: the seed of each random draw of the batch, which count from one: a number, or an int64 scalar.
            progress: the share of the training's batches that are done, a float64 scalar on the device.
        """
        self._rows, self._seed_of = rows, seed_of
        self.progress = progress
        self._calls, self.logits = 0, None

    def attack(
        self, name: str, x: Tensor, y: Tensor, threat: Threat, *, mode: Literal["eval", "train"] = "eval", **params: Any
    ) -> Tensor:
        method, arguments = self._method(name, params)
        with self._crafting(mode):
            target = NetworkTarget(
                self.net, self.meter, self._rows, seed=self._seed(), num_classes=self._num_classes, batch=len(x)
            )
            x_adv = method(target, x, y, threat, **arguments)
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            raise MethodError(f"{name} returned no images shaped as those that it was given")
        return x_adv.detach()

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return draws.uniform(self._seed(), self._rows, 0, like.shape[1:]) * (high - low) + low

    def normal(self, like: Tensor) -> Tensor:
        return draws.normal(self._seed(), self._rows, 0, like.shape[1:])

    def _seed(self) -> int | Tensor:
        self._calls += 1
        return self._seed_of(self._calls)

    def _method(self, name: str, params: dict[str, Any]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
        wanted = (name, *sorted(params.items()))
        if wanted not in self._resolved:
            chosen = registry.attack_named(name)
            self._resolved[wanted] = chosen.entry.load(), chosen.entry.arguments({**chosen.params, **params})
        return self._resolved[wanted]

    @contextmanager
    def _crafting(self, mode: Literal["eval", "train"]) -> Iterator[None]:
        # As ``bench.process.isolation.frozen``, less the comparison of all buffers, for which a GPU would wait at every
        # batch.
        self._set(training=mode == "train", requires_grad=False)
        kept = self.logits
        try:
            yield
        finally:
            self._set(training=True, requires_grad=True)
            self.logits = kept

    def _set(self, *, training: bool, requires_grad: bool) -> None:
        for module in self._modules:
            module.training = training
        for parameter in self._parameters:
            parameter.requires_grad_(requires_grad)

    def _keep(self, module: nn.Module, _inputs: Any, logits: Any) -> None:
        if not isinstance(logits, Tensor):
            raise MethodError(
                f"while it is trained, the network returns {described(logits)}; name the logits in its [[models]] "
                "entry, as in output = 0"
            )
        # A score network gives images.
        if module.training and logits.requires_grad and logits.dim() == 2:
            self.logits = logits.detach()
