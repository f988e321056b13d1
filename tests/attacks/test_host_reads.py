"""Which attacks make a GPU's host wait: those that drop images, once a step, and few others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.capture import HostReads
from bench.process.isolation import frozen
from tests.attacks.driving import FEW, THREATS, Case
from tests.attacks.test_contract import JOINT, PAIRS

#: Whether any image fell, which then costs no more passes.
FALLEN = "_local_scalar_dense"
#: Masks turned into rows: what a restart or an objective found is kept. Between these, not in their steps.
MASKS = "index"
#: What each attack reads from its third pass on, where no image falls. An attack that is not named reads nothing.
READS = {
    "mi-fgsm": {FALLEN},
    **dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "label-aware-apgd", "second-order-apgd"), {FALLEN, MASKS}),
    **dict.fromkeys(("pgd", "rays", "smoothed-pgd", "square"), {FALLEN, MASKS}),
    # Between searches, and where it looks for those that stall: not at each step.
    "cw": {FALLEN, MASKS, "nonzero"},
    # Whether the price of distance is found, and the window's offsets.
    "fwa": {FALLEN, "lift_fresh"},
    "inverse-purification": {MASKS},
}


class AlwaysClass0(nn.Module):
    """A network with a gradient that no attack breaks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * self.net(x) + torch.eye(10)[0]


ON_PURIFIERS = [
    (name, entry.meta["norms"][0])
    for name, entry in registry.entries("attack").items()
    if entry.meta.get("purifiers_only")
]


@pytest.mark.parametrize(("name", "norm"), [pair for pair in PAIRS + ON_PURIFIERS if pair[0] not in JOINT])
def test_reads_inside_a_step(robust: Case, name: str, norm: str) -> None:
    entry, reads, passes = registry.find("attack", name), HostReads(), 0
    net, x, y = AlwaysClass0(robust.net), robust.x[:6], torch.zeros(6, dtype=torch.int64)

    def check() -> None:
        nonlocal passes
        passes += 1
        if passes == 3:
            reads.__enter__()

    with frozen(net), Meter(net, 6, check) as meter:
        target = NetworkTarget(net, meter, torch.arange(6), seed=0, num_classes=10, batch=6, smooth=lambda tau: net)
        arguments = entry.arguments(FEW.get(name, {}))
        try:
            entry.load()(target, x, y, THREATS[norm], **arguments)
        finally:
            if passes >= 3:
                reads.__exit__(None, None, None)
    assert set(reads.found) == READS.get(name, set())
