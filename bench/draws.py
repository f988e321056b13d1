"""Random numbers that belong to an image, not to its batch.

A counter-based generator (SplitMix64; Steele, Lea and Flood, 2014) in plain tensor arithmetic: the draw for
(seed, image, call, pixel) is the same in any batch, in any order and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bench.types import MethodError

if TYPE_CHECKING:
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift(z: Tensor, bits: int) -> Tensor:
    # Tensors have no unsigned 64-bit shift: mask away the copies of the sign.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def uniform(seed: int | Tensor, images: Tensor, call: int, shape: tuple[int, ...]) -> Tensor:
    """Return float32 draws in [0, 1), of shape (len(images), *shape), each a multiple of 2**-24.

    Args:
        seed: in [0, 2**63), a number or an int64 scalar on the device of the images.
        images: int64 identities of the images, on the device wanted.
        call: which draw of this seed.
        shape: the shape for one image.
    """
    import torch

    # Filled in on the device: a number that is copied there makes the host wait.
    start = seed if isinstance(seed, torch.Tensor) else torch.full((1,), seed, dtype=torch.int64, device=images.device)
    stream = _mix(_mix(start) + call * 2 + 1)
    keys = _mix(stream + _mix(images * _GOLDEN))
    counter = torch.arange(1, math.prod(shape) + 1, device=images.device)
    bits = _shift(_mix(keys[:, None] + counter[None] * _GOLDEN), 40)
    return (bits.to(torch.float32) * 2.0**-24).view(len(images), *shape)


def normal(seed: int | Tensor, images: Tensor, call: int, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal draws of shape (len(images), *shape) (Box and Muller, 1958)."""
    pair = uniform(seed, images, call, (2, *shape))
    radius = (-2.0 * (-pair[:, 0]).log1p()).sqrt()
    return radius * (2.0 * math.pi * pair[:, 1]).cos()


class Draws:
    """The random numbers of one test-time step.

    The engine sets which images come next. Without that, images are identified by their position in the batch, and
    every call draws again.
    """

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, seed: int, images: Tensor | None = None) -> None:
        """Start over with this seed in [0, 2**63); the next batch is of these images (int64 identities)."""
        self.seed = seed
        self.calls = 0
        self.images = images

    def uniform(self, like: Tensor) -> Tensor:
        """Return float32 draws in [0, 1) shaped and placed as ``like`` (N, ...), one row for each image of the batch.

        Raises:
            MethodError: ``like`` has more or fewer rows than the batch has images.
        """
        return uniform(self.seed, self._next(like), self.calls, like.shape[1:])

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal draws shaped and placed as ``like``; raises as ``uniform`` does."""
        return normal(self.seed, self._next(like), self.calls, like.shape[1:])

    def repeatable(self) -> Callable[[Tensor], Tensor]:
        """Return the next standard normal draw as a function of what it is shaped as, the same whenever it is called.

        So a part of a step that a backward pass computes again draws what it drew before.
        """
        self.calls += 1
        return partial(_normal_of, self.seed, self.images, self.calls)

    def _next(self, like: Tensor) -> Tensor:
        self.calls += 1
        return _identities(self.images, like)


def _normal_of(seed: int, images: Tensor | None, call: int, like: Tensor) -> Tensor:
    return normal(seed, _identities(images, like), call, like.shape[1:])


def _identities(images: Tensor | None, like: Tensor) -> Tensor:
    import torch

    if images is None:
        return torch.arange(len(like), device=like.device)
    if len(images) != len(like):
        raise MethodError(f"a step draws {len(like)} rows for a batch of {len(images)} images")
    return images.to(like.device)
