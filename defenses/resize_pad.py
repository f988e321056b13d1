import torch
from torch import Tensor, nn

from bench.api import Draws, MethodError, Positive, defense
from defenses._gradients import Preprocessed


@defense(kind="test-time", randomised=True)
class ResizePad:
    """Random resizing and padding (Xie et al., 2018): nearest-neighbour to a random size, zeros to a fixed one.

    Each image is resized to a random size, uniform between ``low`` and ``high`` times its own, and put at a random
    position into a frame of ``high`` times its size. The paper goes from 299 to 331; at the defaults 32 becomes 36. A
    network that takes images of only one size needs ``high = 1``, with ``low = 0.9``, for example.

    Args:
        low: smallest size as a multiple of the image's.
        high: largest size as a multiple of the image's, and the size of the frame.

    Raises:
        MethodError: low is above high.
    """

    def __init__(self, *, low: Positive = 1.0, high: Positive = 1.125) -> None:
        if low > high:
            raise MethodError(f"resize-pad: low = {low} is above high = {high}")
        self.low, self.high = low, high
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._resize_and_pad)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, which copies pixels, so it is differentiable.

        It is random, so attackers average its gradient over draws.
        """
        return self.wrap(base)

    def _resize_and_pad(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        scale = self.low + (self.high - self.low) * self.draws.uniform(x[:, 0, 0, 0])
        rows, row_inside = self._source_pixels(height, scale)
        columns, column_inside = self._source_pixels(width, scale)
        image = torch.arange(len(x), device=x.device)[:, None, None]
        resized = x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        inside = (row_inside[:, :, None] & column_inside[:, None, :]).to(x)
        return resized.permute(0, 3, 1, 2) * inside[:, None]

    def _source_pixels(self, size: int, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return, along one dimension, the image pixel that each frame pixel copies, and where it is no padding."""
        frame_size = round(self.high * size)
        resized_size = (scale * size).round().long().clamp(max(1, round(self.low * size)), frame_size)[:, None]
        padding_before = (self.draws.uniform(scale[:, None]) * (frame_size - resized_size + 1)).long()
        resized_pixel = torch.arange(frame_size, device=scale.device)[None] - padding_before
        inside = (resized_pixel >= 0) & (resized_pixel < resized_size)
        return (resized_pixel * size // resized_size).clamp(0, size - 1), inside
