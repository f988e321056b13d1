"""How long a common corruption takes for an image: ``python -m tests.perf.corruptions [KIND ...]``.

Each kind at severity 3 is made of a batch by ``corruption``, and image by image with numpy, scipy, scikit-image and
Pillow, as the scripts of its authors work, both from a tensor of images to another. Processor time on one thread,
medians of calls that take turns. Nothing is promised; the figures go to ``results/perf/corruptions.json``.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.color
import skimage.filters
import torch
from PIL import Image

from attacks import _corruptions
from attacks._frost import PHOTOGRAPHS
from bench.types import CORRUPTIONS
from tests.attacks.photographs import write_photographs
from tests.attacks.test_corruptions import diamond_square, images, target_of
from tests.perf.kept import keep

SEVERITY, REPEATS = 3, 3
#: Images at once, by the pixels of their side.
BATCHES = {32: 64, 224: 8}

Picture = np.ndarray[Any, np.dtype[np.float64]]
Draw = np.random.Generator


def noisy(image: Picture, deviation: float, draw: Draw) -> Picture:
    return image + draw.normal(size=image.shape, scale=deviation)


def shot(image: Picture, photons: int, draw: Draw) -> Picture:
    return draw.poisson(image * photons) / photons


def impulses(image: Picture, share: float, draw: Draw) -> Picture:
    hit = draw.random(image.shape)
    return np.where(hit < share, hit < share / 2, image)


def defocused(image: Picture, disk: tuple[float, float], draw: Draw) -> Picture:
    kernel = _corruptions.disk_kernel(*disk).numpy()
    return np.stack([scipy.ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(3)], 2)


def through_glass(image: Picture, glass: tuple[float, int, int], draw: Draw) -> Picture:
    deviation, distance, times = glass
    pixels = np.uint8(skimage.filters.gaussian(image, deviation, channel_axis=-1) * 255)
    for _ in range(times):
        for row in range(len(image) - distance, distance, -1):
            for column in range(len(image) - distance, distance, -1):
                dx, dy = draw.integers(-distance, distance, size=2)
                pixels[row, column] = pixels[row + dy, column + dx]
    return skimage.filters.gaussian(pixels / 255, deviation, channel_axis=-1)


def moved(image: Picture, blur: tuple[int, float], draw: Draw, low: float = -45.0, high: float = 45.0) -> Picture:
    radius, deviation = blur
    angle, steps = np.radians(draw.uniform(low, high)), np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    at, total = np.arange(len(image)), np.zeros_like(image)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = (int(np.ceil(step * part - 0.5)) for part in (np.sin(angle), np.cos(angle)))
        total += weight * image[(at + down).clip(0, len(at) - 1)][:, (at + right).clip(0, len(at) - 1)]
    return total


def enlarged(image: Picture, factor: float) -> Picture:
    side = len(image)
    part = int(np.ceil(side / factor))
    top = (side - part) // 2
    zooms = (factor, factor) + (1,) * (image.ndim - 2)
    large = scipy.ndimage.zoom(image[top : top + part, top : top + part], zooms, order=1)
    top = (len(large) - side) // 2
    return large[top : top + side, top : top + side]


def zoomed(image: Picture, zoom: tuple[float, float], draw: Draw) -> Picture:
    factors = np.arange(1, *zoom)
    return (image + sum(enlarged(image, factor) for factor in factors)) / (len(factors) + 1)


def snowed(image: Picture, snow: tuple[Any, ...], draw: Draw) -> Picture:
    mean, deviation, factor, least, radius, width, kept = snow
    flakes = enlarged(draw.normal(mean, deviation, image.shape[:2]), factor)
    fallen = moved(np.where(flakes < least, 0, flakes).clip(0, 1), (radius, width), draw, -135.0, -45.0)[..., None]
    whiter = np.maximum(image, skimage.color.rgb2gray(image)[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * whiter + fallen + fallen[::-1, ::-1]


def frosted(image: Picture, frost: tuple[float, float, float], draw: Draw, *, folder: Path) -> Picture:
    share, frozen, scale = frost
    photograph = Image.open(folder / PHOTOGRAPHS[draw.integers(5)]).convert("RGB")
    small = np.asarray(photograph.resize([int(side * scale) for side in photograph.size], Image.Resampling.BILINEAR))
    top, left = (draw.integers(length - len(image)) for length in small.shape[:2])
    return share * image + frozen * small[top : top + len(image), left : left + len(image)] / 255


def fogged(image: Picture, fog: tuple[float, float], draw: Draw) -> Picture:
    thickness, decay = fog
    side = 2 ** int(np.ceil(np.log2(len(image))))
    sizes = [2**level for level in range(side.bit_length() - 1)]
    clouds = diamond_square([draw.uniform(-1, 1, (size, size)) for size in sizes for _ in range(3)], side, decay)
    clouds = clouds[: len(image), : len(image), None]
    return (image + thickness * clouds) * image.max() / (image.max() + thickness)


def brightened(image: Picture, added: float, draw: Draw) -> Picture:
    hsv = skimage.color.rgb2hsv(image)
    hsv[..., 2] = (hsv[..., 2] + added).clip(0, 1)
    return skimage.color.hsv2rgb(hsv)


def flattened(image: Picture, share: float, draw: Draw) -> Picture:
    means = image.mean((0, 1), keepdims=True)
    return share * image + (1 - share) * means


def stretched(image: Picture, elastic: tuple[float, float, float], draw: Draw) -> Picture:
    side = len(image)
    reach, deviation, corner = np.multiply(elastic, side)
    points = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    back = np.linalg.solve(np.hstack([points + draw.uniform(-corner, corner, (3, 2)), np.ones((3, 1))]), points)
    rows, columns = np.mgrid[:side, :side].astype(float)
    places = (np.stack([columns, rows, np.ones_like(rows)], 2) @ back)[..., ::-1].transpose(2, 0, 1)
    warped = [scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="mirror") for c in range(3)]
    down, right = (
        reach * scipy.ndimage.gaussian_filter(draw.uniform(-1, 1, (side, side)), deviation, truncate=3) for _ in "xy"
    )
    there = np.stack([rows + down, columns + right])
    return np.stack([scipy.ndimage.map_coordinates(c, there, order=1, mode="reflect") for c in warped], 2)


def coarsened(image: Picture, share: float, draw: Draw) -> Picture:
    picture, box = Image.fromarray(np.uint8(image * 255)), Image.Resampling.BOX
    return np.asarray(picture.resize((int(len(image) * share),) * 2, box).resize(picture.size, box)) / 255


def compressed(image: Picture, quality: int, draw: Draw) -> Picture:
    file = io.BytesIO()
    Image.fromarray(np.uint8(image * 255)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


ONE_BY_ONE: Mapping[str, Callable[..., Picture]] = {
    "gaussian_noise": noisy,
    "shot_noise": shot,
    "impulse_noise": impulses,
    "defocus_blur": defocused,
    "glass_blur": through_glass,
    "motion_blur": moved,
    "zoom_blur": zoomed,
    "snow": snowed,
    "frost": frosted,
    "fog": fogged,
    "brightness": brightened,
    "contrast": flattened,
    "elastic_transform": stretched,
    "pixelate": coarsened,
    "jpeg_compression": compressed,
}


def measure(kind: str, side: int, folder: Path) -> dict[str, float]:
    """Return the milliseconds for an image, made in a batch and one by one."""
    x, draw = images(BATCHES[side], side), np.random.default_rng(0)
    constants = _corruptions.constants(kind, SEVERITY, side)
    one = partial(ONE_BY_ONE[kind], **({"folder": folder} if kind == "frost" else {}))

    def batch() -> None:
        _corruptions.corrupted(target_of(x), x, kind, SEVERITY, str(folder))

    def one_by_one() -> None:
        pictures = x.double().permute(0, 2, 3, 1).numpy()
        levels = np.stack([np.uint8(one(picture, constants, draw).clip(0, 1) * 255) for picture in pictures])
        torch.from_numpy(levels).permute(0, 3, 1, 2).float().div(255).contiguous()

    taken: dict[str, list[float]] = {"batch_ms": [], "one_by_one_ms": []}
    for repeat in range(1 + REPEATS):
        for name, run in (("batch_ms", batch), ("one_by_one_ms", one_by_one)):
            started = time.process_time()
            run()
            # The first call of all loads libraries and finds memory.
            if repeat:
                taken[name].append(1000 * (time.process_time() - started) / len(x))
    return {name: statistics.median(each) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*CORRUPTIONS, []], help="default: all")
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = write_photographs(Path(name), (600, 400))
        for kind in parser.parse_args().kinds or CORRUPTIONS:
            for side in BATCHES:
                figures[part := f"{kind}, {side} pixels"] = own = measure(kind, side, folder)
                print(f"{part:32} {own['batch_ms']:9.3f} ms, one by one {own['one_by_one_ms']:9.3f} ms", flush=True)
    keep("corruptions", figures)


if __name__ == "__main__":
    main()
