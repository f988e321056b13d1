"""Wavelet denoising: soft thresholds on Haar coefficients, for batches of images on any device."""

import math

import torch
from torch import Tensor

from defenses._smoothing import mirror_pad

# The 75th percentile of a standard normal: the median absolute value of noise with standard deviation 1.
_QUARTILE = 0.6744897501960817


def bayes_shrink(x: Tensor, sigma: float | None, levels: int | None) -> Tensor:
    """Return images (N, C, H, W) after BayesShrink (Chang, Yu and Vetterli, 2000) in each channel, within [0, 1].

    Args:
        x: images in [0, 1].
        sigma: standard deviation of the noise; estimated from the finest diagonal band of each channel if ``None``.
        levels: of the transform; by default three fewer than fit into the image, and at least one.
    """
    height, width = x.shape[2:]
    levels = levels or max(int(math.log2(min(height, width))) - 3, 1)
    approximation = x
    bands_by_level: list[list[Tensor]] = []
    for _ in range(levels):
        approximation, details = _haar_dwt(approximation)
        bands_by_level.append(details)
    noise_sigma = _noise_sigma(bands_by_level[0][2]) if sigma is None else x.new_full((*x.shape[:2], 1, 1), sigma)
    for details in reversed(bands_by_level):
        shrunk = [_soft_threshold(band, noise_sigma**2) for band in details]
        height_at_level, width_at_level = shrunk[0].shape[-2:]
        approximation = _inverse_haar_dwt(approximation[..., :height_at_level, :width_at_level], shrunk)
    return approximation[..., :height, :width].clamp(0.0, 1.0)


def _haar_dwt(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the approximation and the horizontal, vertical and diagonal details, each of half the size."""
    x = mirror_pad(x, 0, 1)[..., : x.shape[-2] + x.shape[-2] % 2, : x.shape[-1] + x.shape[-1] % 2]
    a, b = x[..., ::2, ::2], x[..., ::2, 1::2]
    c, d = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, [(a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2]


def _inverse_haar_dwt(approximation: Tensor, details: list[Tensor]) -> Tensor:
    horizontal, vertical, diagonal = details
    *leading, height, width = approximation.shape
    x = approximation.new_empty((*leading, 2 * height, 2 * width))
    x[..., ::2, ::2] = (approximation + horizontal + vertical + diagonal) / 2
    x[..., ::2, 1::2] = (approximation + horizontal - vertical - diagonal) / 2
    x[..., 1::2, ::2] = (approximation - horizontal + vertical - diagonal) / 2
    x[..., 1::2, 1::2] = (approximation - horizontal - vertical + diagonal) / 2
    return x


def _noise_sigma(diagonal: Tensor) -> Tensor:
    """Return the noise's standard deviation per channel, from the median absolute coefficient without exact zeros."""
    magnitudes = diagonal.abs().flatten(2).sort(dim=2).values
    size = magnitudes.shape[2]
    zeros = (magnitudes == 0).sum(2, keepdim=True)
    lower, upper = (zeros + size - 1) // 2, (zeros + size) // 2
    median = (magnitudes.gather(2, lower) + magnitudes.gather(2, upper.clamp_max(size - 1))) / 2
    return torch.where(zeros == size, 0.0, median)[..., None] / _QUARTILE


def _soft_threshold(band: Tensor, noise_variance: Tensor) -> Tensor:
    signal_variance = (band**2).mean((-2, -1), keepdim=True) - noise_variance
    threshold = noise_variance / signal_variance.clamp_min(torch.finfo(band.dtype).eps).sqrt()
    return band.sign() * (band.abs() - threshold).relu()
