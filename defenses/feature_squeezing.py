import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, MethodError, defense
from defenses._gradients import borrow
from defenses._smoothing import median, mirrored, quantised


@defense(kind="test-time")
class FeatureSqueezing:
    """Feature squeezing (Xu et al., 2018): fewer bits, then a median; how far that moves the prediction tells attacks.

    The deployed classifier answers on the squeezed image. Its method ``score`` is the paper's detection score, for
    which non-local means squeeze as well; the defaults are the paper's for colour images.

    Args:
        bits: per channel.
        window: side of the median window.
        search: side of the window in which non-local means look for patches like a pixel's own; 1 changes nothing.
        patch: side of these patches, odd.
        strength: patches that differ by as much, root mean square, weigh 1/e of the pixel's own.

    Raises:
        MethodError: search or patch is even.
    """

    def __init__(
        self,
        *,
        bits: Count = 5,
        window: Count = 2,
        search: Count = 13,
        patch: Count = 3,
        strength: Budget = Fraction(2, 255),
    ) -> None:
        if search % 2 == 0 or patch % 2 == 0:
            raise MethodError(f"feature-squeezing: search = {search} and patch = {patch} must be odd")
        self.bits, self.window = bits, window
        self.similar = search, patch, float(strength)

    def wrap(self, base: nn.Module) -> nn.Module:
        return _Squeezed(base, self.bits, self.window, self.similar)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, rounding with the identity as its derivative (BPDA)."""
        return self.wrap(base)


class _Squeezed(nn.Module):
    def __init__(self, base: nn.Module, bits: int, window: int, similar: tuple[int, int, float]) -> None:
        super().__init__()
        self.base, self.bits, self.window, self.similar = base, bits, window, similar

    def forward(self, x: Tensor) -> Tensor:
        return self.base(median(borrow(quantised(x, self.bits), x), self.window))

    def score(self, x: Tensor) -> Tensor:
        """Return (N,): the greatest L1 distance, in [0, 2], of the prediction from that on a squeezed image.

        The squeezers are fewer bits, the median and non-local means, each by itself.
        """
        plain = self.base(x).softmax(1)
        squeezed = (quantised(x, self.bits), median(x, self.window), non_local_means(x, *self.similar))
        return torch.stack([(plain - self.base(one).softmax(1)).abs().sum(1) for one in squeezed]).amax(0)


def non_local_means(x: Tensor, search: int, patch: int, strength: float) -> Tensor:
    """Return images in which each pixel is the mean of those near it whose surroundings are like its own.

    Buades, Coll and Morel (2005), with weights exp(-d / strength^2), where d is the mean squared difference of the
    patches round two pixels, over all channels; images are mirrored at their edges.
    """
    edge = patch // 2
    height, width = x.shape[2] + 2 * edge, x.shape[3] + 2 * edge
    frame = mirrored(x, search // 2 + edge, search // 2 + edge)
    own = mirrored(x, edge, edge)
    mean, total = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for down in range(search):
        for across in range(search):
            other = frame[..., down : down + height, across : across + width]
            differing = F.avg_pool2d((other - own).pow(2).mean(1, keepdim=True), patch, stride=1)
            weight = (-differing / max(strength**2, 1e-12)).exp()
            mean += weight * other[..., edge : height - edge, edge : width - edge]
            total += weight
    return mean / total
