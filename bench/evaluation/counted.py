"""What is counted of a defense, and comes out the same on every machine: parameters, FLOPs, and its own passes."""

from __future__ import annotations

from typing import NamedTuple

from bench.evaluation.cost import DeployedCost, PassFlops
from bench.evaluation.device_cache import Classifier
from bench.types import Cell, Passes


class Counted(NamedTuple):
    """The counted costs of a defense.

    Attributes:
        params: of all networks that answer.
        test_passes: of the base classifier, for one image through the deployed defense.
        test_flops: of one image through the deployed defense.
        attacked: FLOPs of one pass of the base classifier in the function that an attack sees.
    """

    params: int
    test_passes: Passes
    test_flops: float
    attacked: PassFlops


def counted(cell: Cell, classifier: Classifier, score: Classifier | None, test: DeployedCost) -> Counted:
    """Return what is counted.

    Args:
        cell: whose attack, if any, sees the step or not.
        classifier: under its test-time step.
        score: the network that the step predicts noise with, if it has one.
        test: of one image through the deployed defense.
    """
    deployed = classifier.flops if score is None else test.with_score(classifier.flops, score.flops)
    sees_step = cell.attack is None or cell.attack.step is not None
    return Counted(
        classifier.params + (0 if score is None else score.params),
        test.passes,
        deployed.of(*test.passes),
        deployed if sees_step else classifier.flops,
    )
