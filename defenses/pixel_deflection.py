import torch
from torch import Tensor, nn

from bench.api import Count, Draws, NonNegative, Probability, defense
from defenses._gradients import Before
from defenses._wavelets import denoised


@defense(kind="test-time", randomised=True)
class PixelDeflection:
    """Pixel deflection (Prakash et al., 2018), without its saliency map: copy random neighbours, then denoise wavelets.

    Args:
        share: of the pixels that are replaced (drawn with repetition); the paper's 200 of 224x224.
        window: greatest distance of the neighbour in each direction, in pixels.
        sigma: of the wavelet denoising (BayesShrink); 0 leaves it out.
    """

    def __init__(self, *, share: Probability = 0.004, window: Count = 10, sigma: NonNegative = 0.04) -> None:
        self.share, self.window, self.sigma = share, window, sigma
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._deflected)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the gradient of the denoising alone (BPDA, to be averaged)."""
        return Before(base, self._deflected, self._denoised)

    def _deflected(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        like = x.new_empty(len(x), round(self.share * height * width))
        line, source_line = self._pair(height, like)
        column, source_column = self._pair(width, like)
        rows = torch.arange(len(x), device=x.device)[:, None]
        moved = x.detach().permute(0, 2, 3, 1).clone()
        moved[rows, line, column] = moved[rows, source_line, source_column]
        return self._denoised(moved.permute(0, 3, 1, 2))

    def _denoised(self, x: Tensor) -> Tensor:
        return denoised(x, self.sigma, None) if self.sigma else x

    def _pair(self, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return random lines, and for each a uniform one within the window that lies in the image."""
        line = (self.draws.uniform(like) * size).long()
        low, high = (line - self.window).clamp_min(0), (line + self.window).clamp_max(size - 1)
        return line, low + (self.draws.uniform(like) * (high - low + 1)).long()
