"""A test-time step on a base classifier: what is deployed, and what an adaptive attacker differentiates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from bench import registry
from bench.api import DeployedStep
from bench.draws import Draws
from bench.keys import canonical_json, derive_seed
from bench.process.isolation import frozen, isolated
from bench.types import MethodError, MethodRef


class DeployedDefense(NamedTuple):
    """A test-time step put on a base classifier; ``draws`` are its random numbers where it draws.

    ``smooth`` makes the second-order form of a purifier for a smoothing width. ``name`` is what its user calls it.
    """

    deployed: nn.Module
    surrogate: nn.Module
    draws: Draws | None = None
    smooth: Callable[[float], nn.Module] | None = None
    name: str = "the network"

    def seed(self, *seed_parts: str | int, images: Tensor | None = None) -> None:
        """Start the random draws that ``seed_parts`` name; ``images`` are the identities of the next batch."""
        if self.draws is not None:
            self.draws.begin(derive_seed(*seed_parts), images)


def deploy(
    base: nn.Module,
    step: MethodRef | None,
    training: Callable[[], Tensor] | None = None,
    score: nn.Module | None = None,
) -> DeployedDefense:
    """Return the deployed function and what an adaptive attacker differentiates; both are ``base`` without a step.

    Args:
        base: the classifier.
        step: the test-time step, if any.
        training: gives training images uint8 (N, C, H, W) to a step that is fitted on some.
        score: the network that the step predicts noise with, frozen and in evaluation mode, if it has one.

    Raises:
        MethodError: the step must be fitted, and there are no training images; or it needs a score, and there is none;
            or it draws, and not from a ``Draws``; or it changes ``base``.
    """
    if step is None:
        return DeployedDefense(base, base)
    entry = registry.entry_of(step)
    seed = derive_seed("put on", canonical_json(dict(step.params)))
    with isolated(step.name, seed=seed), frozen(base, strict=True):
        instance: DeployedStep = entry.load()(**entry.arguments(step.params))
        if hasattr(instance, "fit"):
            if training is None:
                raise MethodError(f"{step.name} is fitted on training images, and its base was trained elsewhere")
            instance.fit(training())
        if hasattr(instance, "use_score") and entry.meta.get("score") is not None:
            if score is None:
                raise MethodError(f"{step.name} stands on a network that predicts noise, and there is none")
            instance.use_score(score)
        draws = getattr(instance, "draws", None)
        if not isinstance(draws, Draws | None) or (draws is None and entry.meta.get("randomised")):
            raise MethodError(
                f"{step.name} is randomised, so its __init__ must set self.draws = Draws(), from bench.api"
            )
        smooth = partial(instance.smooth, base) if hasattr(instance, "smooth") else None
        return DeployedDefense(instance.wrap(base).eval(), instance.surrogate(base).eval(), draws, smooth, step.name)
