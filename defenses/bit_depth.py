from torch import Tensor, nn

from bench.api import Count, defense
from defenses._gradients import Before, identity
from defenses._smoothing import quantised


@defense(kind="test-time")
class BitDepth:
    """Bit-depth reduction (Xu et al., 2018; Guo et al., 2018): pixels rounded to 2^bits levels.

    Args:
        bits: per channel; 8 changes nothing in 8-bit images.
    """

    def __init__(self, *, bits: Count = 5) -> None:
        self.bits = bits

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._reduced)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, rounding with the identity as its derivative (BPDA)."""
        return Before(base, self._reduced, identity)

    def _reduced(self, x: Tensor) -> Tensor:
        return quantised(x, self.bits)
