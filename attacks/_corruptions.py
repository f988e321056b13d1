"""Common corruptions (Hendrycks and Dietterich, 2019), for batches of images, with the constants of their authors."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks._elastic import affine_warped, displaced, smoothed
from attacks._frost import frost_of
from attacks._motion_blur import motion_blurred
from bench.api import Target

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Pixels of the shortest side that the widest kernel for small images still fits into.
LEAST_SIDE = 8
#: Sides below which images take the constants of CIFAR-10-C, and those of Tiny ImageNet-C.
_CIFAR, _TINY = 48, 128


def _of_244(displacement: float, deviation: float, warp: float) -> tuple[float, float, float]:
    """Return shares of a side of 244 pixels as shares of one of 224."""
    return displacement * 244 / 224, deviation * 244 / 224, warp * 244 / 224


#: For images like CIFAR's, Tiny ImageNet's and ImageNet's: what each severity from 1 to 5 takes.
_CONSTANTS: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]] = {
    # The standard deviation.
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # Photons that white stands for.
    "shot_noise": ((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
    # The share of values that become black or white.
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)),
    # Radius of the disk, and the deviation of the Gaussian that softens its edge.
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # Deviation of the blur before and after, how far pixels move, and how often.
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # Radius and deviation of ImageMagick's motion blur.
    "motion_blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    # Where the zoom factors end, and their distance.
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # Mean and deviation of the flakes, how much they are enlarged, the least that is seen, radius and deviation of
    # their motion blur, and the share of the image that is not whitened.
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # The shares of the image and of the photograph in their sum, and the scale of the photograph.
    "frost": (
        ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
        ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    ),
    # How thick, and how much less the fog varies from one scale to the next.
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # What is added to the value of HSV.
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # The share of the difference from the mean that stays.
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # In shares of the side: the displacement, the deviation that smooths it, and how far the corners of the warp move.
    # The authors took the side of ImageNet's 224 pixels for 244.
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        (
            _of_244(2, 0.7, 0.1),
            _of_244(2, 0.08, 0.2),
            _of_244(0.05, 0.01, 0.02),
            _of_244(0.07, 0.01, 0.02),
            _of_244(0.12, 0.01, 0.02),
        ),
    ),
    # The share of the side that the image is shrunk to.
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
    # Quality as libjpeg counts it.
    "jpeg_compression": ((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
}


def constants(kind: str, severity: int, side: int) -> Any:
    """Return what a corruption takes at a severity from 1 to 5 for images whose shorter side has so many pixels."""
    return _CONSTANTS[kind][(side >= _CIFAR) + (side >= _TINY)][severity - 1]


def corrupted(target: Target, x: Tensor, kind: str, severity: int, photographs: str = "") -> Tensor:
    """Return corrupted images, shaped and typed as ``x`` (N, C, H, W) in [0, 1], of 8 bits a value.

    Args:
        target: draws for its images.
        x: images, rounded to 8 bits first.
        kind: a corruption, as its authors call it.
        severity: from 1 to 5.
        photographs: the folder with those of ``frost``.

    Raises:
        MethodError: a photograph cannot be read.
    """
    pixels = (x.double() * 255).round() / 255
    more = {"photographs": photographs} if kind == "frost" else {}
    changed = _CORRUPT[kind](pixels, constants(kind, severity, min(x.shape[2:])), target, **more)
    return (_rounded_down(changed.clamp(0.0, 1.0)) / 255).to(x)


def _rounded_down(x: Tensor) -> Tensor:
    """Return pixels in [0, 1] as levels from 0 to 255; one that is a level but for round-off stays."""
    return (x * 255 + 1e-6).floor()


def _gaussian_noise(x: Tensor, deviation: float, target: Target) -> Tensor:
    return x + deviation * target.normal(x)


def _shot_noise(x: Tensor, photons: int, target: Target) -> Tensor:
    return poisson((x * 255).round().long(), photons / 255, target.uniform(x)) / photons


def poisson(levels: Tensor, rate: float, uniform: Tensor) -> Tensor:
    """Return draws from Poisson distributions by inverting their distribution functions.

    Args:
        levels: whole numbers from 0 to 255; a mean is ``levels * rate``.
        rate: above 0.
        uniform: draws in [0, 1), shaped as ``levels``.
    """
    most = 255 * rate
    counts = torch.arange(int(most + 10 * math.sqrt(most) + 20), dtype=torch.float64, device=levels.device)
    level = torch.arange(256, dtype=torch.float64, device=levels.device)[:, None]
    # P(X <= k) is the regularised upper incomplete gamma function of k + 1 at the mean.
    distribution = torch.special.gammaincc(counts[None] + 1, level * rate)
    # Each level's function lies in an interval of its own, so that one search serves all.
    rows = (level + distribution).flatten()
    at = torch.searchsorted(rows, (levels + uniform.double()).contiguous(), right=True)
    return (at - levels * len(counts)).double()


def _impulse_noise(x: Tensor, share: float, target: Target) -> Tensor:
    uniform = target.uniform(x)
    extreme = (uniform < share / 2).to(x)
    return torch.where(uniform < share, extreme, x)


def _defocus_blur(x: Tensor, disk: tuple[float, float], target: Target) -> Tensor:
    kernel = disk_kernel(*disk).to(x)
    half = len(kernel) // 2
    padded = F.pad(x, [half] * 4, mode="reflect")
    # The product of spectra wraps around only where the padding is.
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, padded.shape[2:])
    return torch.fft.irfft2(spectrum, padded.shape[2:])[:, :, 2 * half :, 2 * half :]


def disk_kernel(radius: float, deviation: float) -> Tensor:
    """Return a disk that sums to 1 (float64), its edge softened by a Gaussian, without rows and columns of zeros."""
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).double()
    taps_of = _gaussian(taps // 2, deviation)
    padded = F.pad((disk / disk.sum())[None, None], [taps // 2] * 4, mode="reflect")
    soft = F.conv2d(padded, (taps_of[:, None] * taps_of)[None, None])[0, 0]
    half = int(offsets[soft.amax(1) > 0].amax())
    return soft[reach - half : reach + half + 1, reach - half : reach + half + 1]


def _gaussian(reach: int, deviation: float) -> Tensor:
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * deviation**2))
    return taps / taps.sum()


def _glass_blur(x: Tensor, glass: tuple[float, int, int], target: Target) -> Tensor:
    deviation, distance, times = glass
    (n, channels, height, width), side = x.shape, 2 * distance
    pixels = _rounded_down(_gaussian_blur(x, deviation)).flatten(2)
    rows = torch.arange(n, device=x.device)
    for _ in range(times):
        uniform = target.uniform(x.new_empty(n, 2, height, width))
        dx, dy = ((uniform * side).floor().long() - distance).flatten(2).unbind(1)
        move = dy * width + dx
        # The authors mean to swap two pixels, but what they run copies one over the other.
        for row in range(height - distance, distance, -1):
            for at in range(row * width + width - distance, row * width + distance, -1):
                pixels[:, :, at] = pixels[rows, :, at + move[:, at]]
    return _gaussian_blur(pixels.view(n, channels, height, width) / 255, deviation)


def _gaussian_blur(x: Tensor, deviation: float) -> Tensor:
    """Return images after a Gaussian filter of four deviations, with the border repeated outside."""
    reach = int(4 * deviation + 0.5)
    taps = _gaussian(reach, deviation).to(x)
    planes = F.pad(x, [reach] * 4, mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(planes, taps[None, None, :, None]), taps[None, None, None]).view(x.shape)


def _motion_blur(x: Tensor, blur: tuple[int, float], target: Target) -> Tensor:
    angles = _angles(x, -45.0, 45.0, target)
    return motion_blurred((x * 255).round(), *blur, angles) / 255


def _angles(x: Tensor, low: float, high: float, target: Target) -> Tensor:
    """Return an angle in degrees for each image (N,)."""
    return target.uniform(x.new_empty(len(x), 1), low, high)[:, 0]


def _zoom_blur(x: Tensor, zoom: tuple[float, float], target: Target) -> Tensor:
    import numpy as np

    # As NumPy counts them: the last bit decides how many pixels are kept.
    factors = np.arange(1, *zoom).tolist()
    total = x.clone()
    for factor in factors:
        total += _zoomed(x, factor)
    return total / (len(factors) + 1)


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """Return the centers of images, enlarged bilinearly to the size of the images; corners map to corners."""
    sides = x.shape[2:]
    kept = [math.ceil(side / factor) for side in sides]
    top, left = ((side - part) // 2 for side, part in zip(sides, kept, strict=True))
    center = x[:, :, top : top + kept[0], left : left + kept[1]]
    size = [round(part * factor) for part in kept]
    large = F.interpolate(center, size, mode="bilinear", align_corners=True)
    above, before = ((grown - side) // 2 for grown, side in zip(size, sides, strict=True))
    return large[:, :, above : above + sides[0], before : before + sides[1]]


def _snow(x: Tensor, snow: tuple[float, float, float, float, int, float, float], target: Target) -> Tensor:
    mean, deviation, factor, least, radius, width, kept = snow
    flakes = _zoomed(mean + deviation * target.normal(x[:, :1]).to(x), factor)
    flakes = _rounded_down(torch.where(flakes < least, 0.0, flakes).clamp(0.0, 1.0))
    fallen = motion_blurred(flakes, radius, width, _angles(x, -135.0, -45.0, target)) / 255
    whitened = torch.maximum(x, _grey(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * whitened + fallen + fallen.rot90(2, (2, 3))


def _grey(x: Tensor) -> Tensor:
    """Return the luma of images in colour (ITU-R BT.601), and the mean of any other number of channels."""
    shares = x.new_tensor([0.299, 0.587, 0.114]) if x.shape[1] == 3 else x.new_full((x.shape[1],), 1 / x.shape[1])
    return (x * shares[:, None, None]).sum(1, keepdim=True)


def _frost(x: Tensor, frost: tuple[float, float, float], target: Target, photographs: str) -> Tensor:
    share, frozen, scale = frost
    shape = (x.shape[1], x.shape[2], x.shape[3])
    return share * x + frozen * frost_of(target.uniform(x.new_empty(len(x), 3)), photographs, shape, scale) / 255


def _fog(x: Tensor, fog: tuple[float, float], target: Target) -> Tensor:
    thickness, decay = fog
    height, width = x.shape[2:]
    side = 2 ** math.ceil(math.log2(max(height, width)))
    clouds = plasma(partial(_uniform, target, x), x.new_zeros(len(x), side, side), decay)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * clouds[:, None, :height, :width]) * brightest / (brightest + thickness)


def _uniform(target: Target, x: Tensor, rows: int) -> Tensor:
    return target.uniform(x.new_empty(len(x), rows, rows), -1.0, 1.0).to(x)


def plasma(draw: Callable[[int], Tensor], flat: Tensor, decay: float) -> Tensor:
    """Return height maps in [0, 1], shaped as ``flat``, by the diamond-square algorithm, opposite borders joined.

    Args:
        draw: returns uniform draws in [-1, 1) (N, rows, rows) for a number of rows.
        flat: zeros (N, side, side), a power of two.
        decay: what the amplitude is divided by from one scale to the next.
    """
    heights, side = flat.clone(), flat.shape[1]
    step, amplitude = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        beside, below = corners.roll(-1, 2), corners.roll(-1, 1)
        around = corners + beside + below + below.roll(-1, 2)
        centers = around / 4 + amplitude**2 * draw(side // step)
        heights[:, half::step, half::step] = centers
        edges = corners + beside + centers + centers.roll(1, 1)
        heights[:, ::step, half::step] = edges / 4 + amplitude**2 * draw(side // step)
        edges = corners + below + centers + centers.roll(1, 2)
        heights[:, half::step, ::step] = edges / 4 + amplitude**2 * draw(side // step)
        step, amplitude = half, amplitude / decay
    heights = heights - heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def _brightness(x: Tensor, added: float, target: Target) -> Tensor:
    value = x.amax(1, keepdim=True)
    brighter = (value + added).clamp(0.0, 1.0)
    # Hue and saturation are ratios, which stay as they are; black has none.
    return torch.where(value > 0, x * brighter / value.clamp_min(1 / 255), brighter)


def _contrast(x: Tensor, share: float, target: Target) -> Tensor:
    means = x.mean((2, 3), keepdim=True)
    return (x - means) * share + means


def _elastic_transform(x: Tensor, elastic: tuple[float, float, float], target: Target) -> Tensor:
    distance, deviation, corners = (share * min(x.shape[2:]) for share in elastic)
    warped = affine_warped(x, target.uniform(x.new_empty(len(x), 3, 2), -corners, corners).to(x))
    noise = target.uniform(x.new_empty(len(x), 2, *x.shape[2:]), -1.0, 1.0).to(x)
    return displaced(warped, distance * smoothed(noise, deviation))


def _pixelate(x: Tensor, share: float, target: Target) -> Tensor:
    from PIL.Image import Resampling

    height, width = x.shape[2:]
    small = int(width * share), int(height * share)
    box = Resampling.BOX
    return _by_pillow(x, lambda image: image.resize(small, box).resize((width, height), box))


def _jpeg_compression(x: Tensor, quality: int, target: Target) -> Tensor:
    return _by_pillow(x, lambda image: _jpeg(image, quality))


def _jpeg(image: Picture, quality: int) -> Picture:
    from PIL import Image

    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file, formats=("JPEG",))


def _by_pillow(x: Tensor, change: Callable[[Picture], Picture]) -> Tensor:
    """Return what Pillow makes of each image; of grey ones, and of any other number of channels, each channel alone."""
    import numpy as np
    from PIL.Image import fromarray

    images = (x * 255).round().byte().cpu()
    colour = x.shape[1] == 3
    planes = images.permute(0, 2, 3, 1) if colour else images.flatten(0, 1)
    changed = np.stack([np.asarray(change(fromarray(plane))) for plane in planes.contiguous().numpy()])
    back = torch.from_numpy(changed).to(x) / 255
    return back.permute(0, 3, 1, 2) if colour else back.view(x.shape)


_CORRUPT: Mapping[str, Callable[..., Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
