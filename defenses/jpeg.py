import io
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Annotated, Field, MethodError, defense
from defenses._gradients import Before
from defenses._jpeg import passing_jpeg


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
        return Before(base, self._compressed)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the gradient of JPEG without rounding (BPDA; Athalye et al., 2018)."""
        return Before(base, self._compressed, lambda x: passing_jpeg(x, self.quality))

    def _compressed(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise MethodError(f"jpeg takes images of 1 or 3 channels, these have {x.shape[1]}")
        # By the CPU codec on any device: codecs of devices give other pixels.
        pixels = (x.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1)
        decoded = [_through_file(image.squeeze(2).numpy(), self.quality) for image in pixels]
        return torch.stack(decoded).view(pixels.shape).permute(0, 3, 1, 2).to(x.device).float() / 255


def _through_file(pixels: Any, quality: int) -> Tensor:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file, formats=("JPEG",))))
