import torch
from torch import Tensor, nn

from bench.api import Draws, MethodError, Positive, defense
from defenses._gradients import Before


@defense(kind="test-time", randomised=True)
class ResizePad:
    """Random resizing and padding (Xie et al., 2018): nearest-neighbour to a random size, zeros to a fixed one.

    Each image has its own size, uniform between ``low`` and ``high`` times its own, and its own place in a frame of
    ``high`` times its size. The paper goes from 299 to 331; at the defaults 32 becomes 36. A network that takes one
    size only needs ``high = 1``, with ``low = 0.9``, say.

    Args:
        low: least size as a multiple of the image's.
        high: greatest size, and the frame.

    Raises:
        MethodError: low is above high.
    """

    def __init__(self, *, low: Positive = 1.0, high: Positive = 1.125) -> None:
        if low > high:
            raise MethodError(f"resize-pad: low = {low} is above high = {high}")
        self.low, self.high = low, high
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._moved)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function: pixels are copied, so it is differentiable (and to be averaged)."""
        return self.wrap(base)

    def _moved(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        scale = self.low + (self.high - self.low) * self.draws.uniform(x[:, 0, 0, 0])
        lines, inside_down = self._places(height, scale)
        columns, inside_across = self._places(width, scale)
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        picked = x.permute(0, 2, 3, 1)[rows, lines[:, :, None], columns[:, None, :]]
        inside = (inside_down[:, :, None] & inside_across[:, None, :]).to(x)
        return picked.permute(0, 3, 1, 2) * inside[:, None]

    def _places(self, size: int, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for each image and line of the frame, which line of the image it shows, and whether it does."""
        frame = round(self.high * size)
        new = (scale * size).round().long().clamp(max(1, round(self.low * size)), frame)[:, None]
        before = (self.draws.uniform(scale[:, None]) * (frame - new + 1)).long()
        line = torch.arange(frame, device=scale.device)[None] - before
        inside = (line >= 0) & (line < new)
        return (line * size // new).clamp(0, size - 1), inside
