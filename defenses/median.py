from torch import Tensor, nn

from bench.api import Count, defense
from defenses._gradients import Before
from defenses._smoothing import median


@defense(kind="test-time")
class Median:
    """Spatial smoothing (Xu et al., 2018): the median of a square window, in each channel.

    Args:
        window: side of the window; 1 changes nothing.
    """

    def __init__(self, *, window: Count = 3) -> None:
        self.window = window

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._smoothed)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function: a median has a gradient, that of the pixel it picks."""
        return self.wrap(base)

    def _smoothed(self, x: Tensor) -> Tensor:
        return median(x, self.window)
