import torch
from torch import Tensor, nn

from bench.api import Count, Draws, NonNegative, Probability, defense
from defenses._gradients import Preprocessed
from defenses._wavelets import bayes_shrink


@defense(kind="test-time", randomised=True)
class PixelDeflection:
    """Pixel deflection (Prakash et al., 2018), without its saliency map: copy random neighbours, then denoise wavelets.

    Args:
        share: fraction of the pixels that are replaced, drawn with repetition; the paper replaces 200 of 224x224.
        window: greatest distance of the neighbour in each direction, in pixels.
        sigma: standard deviation of the noise for wavelet denoising (BayesShrink); 0 turns the denoising off.
    """

    def __init__(self, *, share: Probability = 0.004, window: Count = 10, sigma: NonNegative = 0.04) -> None:
        self.share, self.window = share, window
        self.sigma = sigma
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._purify)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the gradient of the denoising alone (BPDA).

        It is random, so attackers average its gradient over draws.
        """
        return Preprocessed(base, self._purify, self._denoise)

    def _purify(self, x: Tensor) -> Tensor:
        return self._denoise(self._deflect(x.detach()))

    def _deflect(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        like = x.new_empty(len(x), round(self.share * height * width))
        row, source_row = self._pixels_and_neighbours(height, like)
        column, source_column = self._pixels_and_neighbours(width, like)
        image = torch.arange(len(x), device=x.device)[:, None]
        deflected = x.permute(0, 2, 3, 1).clone()
        deflected[image, row, column] = deflected[image, source_row, source_column]
        return deflected.permute(0, 3, 1, 2)

    def _denoise(self, x: Tensor) -> Tensor:
        return bayes_shrink(x, self.sigma, None) if self.sigma else x

    def _pixels_and_neighbours(self, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return random coordinates along one dimension, and for each a uniform one in its window and the image."""
        pixel = (self.draws.uniform(like) * size).long()
        low, high = (pixel - self.window).clamp_min(0), (pixel + self.window).clamp_max(size - 1)
        return pixel, low + (self.draws.uniform(like) * (high - low + 1)).long()
