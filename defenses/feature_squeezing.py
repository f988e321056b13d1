from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, MethodError, defense
from defenses._gradients import bpda
from defenses._smoothing import median_filter, mirror_pad, quantise

Squeezer = Callable[[Tensor], Tensor]


@defense(kind="test-time")
class FeatureSqueezing:
    """Feature squeezing (Xu et al., 2018): bit-depth reduction, then a median filter; a score detects attacks.

    The deployed classifier predicts on the squeezed image. Its method ``score`` is the paper's detection score, the
    distance between the predictions before and after squeezing, for which non-local means are a squeezer as well. The
    defaults are the paper's for colour images.

    Args:
        bits: per channel.
        window: side of the median window.
        search: side of the window in which non-local means search for similar patches; 1 changes nothing.
        patch: side of these patches, odd.
        strength: the root mean square difference at which a patch weighs 1/e of the pixel's own.

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
        self.reduce_bit_depth = partial(quantise, bits=bits)
        self.median_filter = partial(median_filter, window=window)
        self.non_local_means = partial(non_local_means, search=search, patch=patch, strength=float(strength))

    def wrap(self, base: nn.Module) -> nn.Module:
        return _Squeezed(base, self.reduce_bit_depth, self.median_filter, self.non_local_means)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, rounding with the identity as its derivative (BPDA)."""
        return self.wrap(base)


class _Squeezed(nn.Module):
    def __init__(
        self, base: nn.Module, reduce_bit_depth: Squeezer, median_filter: Squeezer, non_local_means: Squeezer
    ) -> None:
        super().__init__()
        self.base = base
        self.reduce_bit_depth, self.median_filter = reduce_bit_depth, median_filter
        self.non_local_means = non_local_means

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.median_filter(bpda(self.reduce_bit_depth(x), x)))

    def score(self, x: Tensor) -> Tensor:
        """Return (N,): the greatest L1 distance, in [0, 2], between the predictions on the image and on a squeezed one.

        The squeezers are bit-depth reduction, the median filter and non-local means, each alone.
        """
        probs = self.base(x).softmax(1)
        squeezers = (self.reduce_bit_depth, self.median_filter, self.non_local_means)
        probs_squeezed = [self.base(squeeze(x)).softmax(1) for squeeze in squeezers]
        return torch.stack([(probs - p).abs().sum(1) for p in probs_squeezed]).amax(0)


def non_local_means(x: Tensor, search: int, patch: int, strength: float) -> Tensor:
    """Return images in which each pixel is a mean of nearby pixels, weighted by the similarity of their patches.

    Buades, Coll and Morel (2005), with weights exp(-d / strength^2), where d is the mean squared difference of the
    patches around two pixels, over all channels, with mirror padding.
    """
    half_patch = patch // 2
    height, width = x.shape[2] + 2 * half_patch, x.shape[3] + 2 * half_patch
    padded = mirror_pad(x, search // 2 + half_patch, search // 2 + half_patch)
    reference = mirror_pad(x, half_patch, half_patch)
    weighted_sum, weight_sum = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for top in range(search):
        for left in range(search):
            shifted = padded[..., top : top + height, left : left + width]
            squared_error = (shifted - reference).pow(2).mean(1, keepdim=True)
            distance = F.avg_pool2d(squared_error, patch, stride=1)
            weight = (-distance / max(strength**2, 1e-12)).exp()
            weighted_sum += weight * shifted[..., half_patch : height - half_patch, half_patch : width - half_patch]
            weight_sum += weight
    return weighted_sum / weight_sum
