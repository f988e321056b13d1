import io
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Annotated, Field, MethodError, defense
from defenses._gradients import Preprocessed
from defenses._jpeg import straight_through_jpeg


@defense(kind="test-time")
class Jpeg:
    """JPEG compression (Dziugaite et al., 2016; Guo et al., 2018): encode and decode, with chroma at half resolution.

    Args:
        quality: of the encoder, 1 to 100.

    Raises:
        MethodError: images of neither one nor three channels.
    """

    def __init__(self, *, quality: Annotated[int, Field(ge=1, le=100)] = 75) -> None:
        self.quality = quality

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._compress)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the gradient of JPEG with straight-through rounding (BPDA)."""
        return Preprocessed(base, self._compress, lambda x: straight_through_jpeg(x, self.quality))

    def _compress(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise MethodError(f"jpeg takes images of 1 or 3 channels, these have {x.shape[1]}")
        # Always the CPU codec: those of accelerators decode to other pixels.
        pixels = (x.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1)
        decoded = [_encode_and_decode(image.squeeze(2).numpy(), self.quality) for image in pixels]
        return torch.stack(decoded).view(pixels.shape).permute(0, 3, 1, 2).to(x.device).float() / 255


def _encode_and_decode(pixels: Any, quality: int) -> Tensor:
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer, formats=("JPEG",))))
