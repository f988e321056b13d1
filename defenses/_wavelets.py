"""Denoising by soft thresholds on Haar wavelets, for batches of images on any device."""

import math

import torch
from torch import Tensor

from defenses._smoothing import mirrored

# The 75th percentile of a standard normal: the median absolute value of noise of unit deviation.
_QUARTILE = 0.6744897501960817


def denoised(x: Tensor, sigma: float | None, levels: int | None) -> Tensor:
    """Return images (N, C, H, W) after BayesShrink (Chang, Yu and Vetterli, 2000) in each channel, within [0, 1].

    Args:
        x: images in [0, 1].
        sigma: standard deviation of the noise; estimated from the finest diagonal band of each channel if ``None``.
        levels: of the transform; three less than fit by default, and one at least.
    """
    height, width = x.shape[2:]
    levels = levels or max(int(math.log2(min(height, width))) - 3, 1)
    coarse, bands = x, []
    for _ in range(levels):
        coarse, details = _split(coarse)
        bands.append(details)
    noise = _deviation(bands[0][2]) if sigma is None else x.new_full((*x.shape[:2], 1, 1), sigma)
    for details in reversed(bands):
        shrunk = [_shrunk(band, noise**2) for band in details]
        coarse = _joined(coarse[..., : shrunk[0].shape[-2], : shrunk[0].shape[-1]], shrunk)
    return coarse[..., :height, :width].clamp(0.0, 1.0)


def _split(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = mirrored(x, 0, 1)[..., : x.shape[-2] + x.shape[-2] % 2, : x.shape[-1] + x.shape[-1] % 2]
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, [(a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2]


def _joined(low: Tensor, details: list[Tensor]) -> Tensor:
    down, right, both = details
    out = low.new_empty((*low.shape[:-2], 2 * low.shape[-2], 2 * low.shape[-1]))
    out[..., ::2, ::2] = (low + down + right + both) / 2
    out[..., ::2, 1::2] = (low + down - right - both) / 2
    out[..., 1::2, ::2] = (low - down + right - both) / 2
    out[..., 1::2, 1::2] = (low - down - right + both) / 2
    return out


def _deviation(diagonal: Tensor) -> Tensor:
    """Return the deviation of the noise per channel: the median absolute coefficient, exact zeros left out."""
    ordered = diagonal.abs().flatten(2).sort(dim=2).values
    size = ordered.shape[2]
    zeros = (ordered == 0).sum(2, keepdim=True)
    low, high = (zeros + size - 1) // 2, (zeros + size) // 2
    middle = (ordered.gather(2, low) + ordered.gather(2, high.clamp_max(size - 1))) / 2
    return torch.where(zeros == size, 0.0, middle)[..., None] / _QUARTILE


def _shrunk(band: Tensor, variance: Tensor) -> Tensor:
    signal = (band**2).mean((-2, -1), keepdim=True) - variance
    threshold = variance / signal.clamp_min(torch.finfo(band.dtype).eps).sqrt()
    return band.sign() * (band.abs() - threshold).relu()
