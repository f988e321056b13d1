from torch import Tensor, nn

from bench.api import Count, defense
from defenses._gradients import Preprocessed
from defenses._smoothing import median_filter


@defense(kind="test-time")
class Median:
    """Spatial smoothing (Xu et al., 2018): the median of a square window, in each channel.

    Args:
        window: side of the window; 1 changes nothing.
    """

    def __init__(self, *, window: Count = 3) -> None:
        self.window = window

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._filter)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function: the gradient of a median is that of the pixel it selects."""
        return self.wrap(base)

    def _filter(self, x: Tensor) -> Tensor:
        return median_filter(x, self.window)
