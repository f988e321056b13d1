import torch
from torch import Tensor, nn

from bench.api import Annotated, Field, defense
from defenses._gradients import borrow


@defense(kind="test-time")
class Jpeg:
    """JPEG compression (Dziugaite et al., 2016; Guo et al., 2018): encode and decode, with chroma at half resolution.

    Args:
        quality: of the encoder, 1 to 100.
    """

    def __init__(self, *, quality: Annotated[int, Field(ge=1, le=100)] = 75) -> None:
        self.quality = quality

    def wrap(self, base: nn.Module) -> nn.Module:
        return _Compressed(self.quality, base)

    def surrogate(self, base: nn.Module) -> nn.Module:
        return self.wrap(base)


class _Compressed(nn.Module):
    def __init__(self, quality: int, base: nn.Module) -> None:
        super().__init__()
        self.quality, self.base = quality, base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(borrow(compressed(x, self.quality), x))


def compressed(x: Tensor, quality: int) -> Tensor:
    """Return images (N, C, H, W) in [0, 1] after 8-bit JPEG, one or three channels, by the CPU codec on any device."""
    from torchvision.io import decode_jpeg, encode_jpeg

    pixels = (x.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
    decoded = [decode_jpeg(encode_jpeg(image, quality)) for image in pixels]
    return torch.stack(decoded).to(x.device).float() / 255
