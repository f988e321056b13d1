from torch import Tensor, nn

from bench.api import Count, MethodError, Positive, defense
from defenses._gradients import Preprocessed


@defense(kind="test-time", requires="torchvision")
class GaussianBlur:
    """Gaussian smoothing: a convolution with a normalised Gaussian window.

    Args:
        sigma: standard deviation in pixels.
        window: side of the window, odd; 1 changes nothing.

    Raises:
        MethodError: the window is even.
    """

    def __init__(self, *, sigma: Positive = 1.0, window: Count = 3) -> None:
        if window % 2 == 0:
            raise MethodError(f"gaussian-blur: window = {window} is even; a Gaussian window has a middle pixel")
        self.sigma, self.window = sigma, window

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._blur)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, which is differentiable."""
        return self.wrap(base)

    def _blur(self, x: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import gaussian_blur

        return gaussian_blur(x, [self.window] * 2, [self.sigma] * 2).clamp(0.0, 1.0)
