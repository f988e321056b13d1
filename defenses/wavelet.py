from torch import Tensor, nn

from bench.api import Count, NonNegative, defense
from defenses._gradients import Preprocessed
from defenses._wavelets import bayes_shrink


@defense(kind="test-time")
class Wavelet:
    """Wavelet denoising with BayesShrink (Chang, Yu and Vetterli, 2000): soft thresholds on Haar coefficients.

    Args:
        sigma: standard deviation of the noise in units of [0, 1]; estimated from each image by default.
        levels: of the transform; by default three fewer than fit into the image.
    """

    def __init__(self, *, sigma: NonNegative | None = None, levels: Count | None = None) -> None:
        self.sigma, self.levels = sigma, levels

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._denoise)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, which is differentiable almost everywhere."""
        return self.wrap(base)

    def _denoise(self, x: Tensor) -> Tensor:
        return bayes_shrink(x, self.sigma, self.levels)
