from torch import Tensor, nn

from bench.api import Count, NonNegative, defense
from defenses._gradients import Before
from defenses._wavelets import denoised


@defense(kind="test-time")
class Wavelet:
    """Wavelet denoising with BayesShrink (Chang, Yu and Vetterli, 2000): soft thresholds on Haar coefficients.

    Args:
        sigma: standard deviation of the noise in units of [0, 1]; estimated from each image by default.
        levels: of the transform; three less than fit into the image by default.
    """

    def __init__(self, *, sigma: NonNegative | None = None, levels: Count | None = None) -> None:
        self.sigma, self.levels = sigma, levels

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._denoised)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, which has a gradient almost everywhere."""
        return self.wrap(base)

    def _denoised(self, x: Tensor) -> Tensor:
        return denoised(x, self.sigma, self.levels)
