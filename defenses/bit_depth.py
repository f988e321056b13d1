from torch import Tensor, nn

from bench.api import Count, defense
from defenses._gradients import Preprocessed, identity
from defenses._smoothing import quantise


@defense(kind="test-time")
class BitDepth:
    """Bit-depth reduction (Xu et al., 2018; Guo et al., 2018): pixels rounded to 2^bits levels.

    Args:
        bits: per channel; 8 changes nothing in 8-bit images.
    """

    def __init__(self, *, bits: Count = 5) -> None:
        self.bits = bits

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._quantise)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, rounding with the identity as its derivative (BPDA)."""
        return Preprocessed(base, self._quantise, identity)

    def _quantise(self, x: Tensor) -> Tensor:
        return quantise(x, self.bits)
