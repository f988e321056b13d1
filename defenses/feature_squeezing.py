import torch
from torch import Tensor, nn

from bench.api import Count, defense
from defenses._gradients import borrow
from defenses._smoothing import median, quantised


@defense(kind="test-time")
class FeatureSqueezing:
    """Feature squeezing (Xu et al., 2018): fewer bits, then a median; how far that moves the prediction tells attacks.

    The deployed classifier answers on the squeezed image. Its method ``score`` is the paper's detection score.

    Args:
        bits: per channel.
        window: side of the median window.
    """

    def __init__(self, *, bits: Count = 5, window: Count = 2) -> None:
        self.bits, self.window = bits, window

    def wrap(self, base: nn.Module) -> nn.Module:
        return _Squeezed(base, self.bits, self.window)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, rounding with the identity as its derivative (BPDA)."""
        return self.wrap(base)


class _Squeezed(nn.Module):
    def __init__(self, base: nn.Module, bits: int, window: int) -> None:
        super().__init__()
        self.base, self.bits, self.window = base, bits, window

    def forward(self, x: Tensor) -> Tensor:
        return self.base(median(borrow(quantised(x, self.bits), x), self.window))

    def score(self, x: Tensor) -> Tensor:
        """Return (N,): the greatest L1 distance, in [0, 2], of the prediction from that on a squeezed image.

        The squeezers are fewer bits and the median, each by itself.
        """
        plain = self.base(x).softmax(1)
        squeezed = (quantised(x, self.bits), median(x, self.window))
        return torch.stack([(plain - self.base(one).softmax(1)).abs().sum(1) for one in squeezed]).amax(0)
