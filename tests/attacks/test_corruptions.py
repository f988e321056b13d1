"""Common corruptions against other libraries, closed forms and plain loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.color
import skimage.filters
import skimage.measure
import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from attacks import _corruptions
from attacks._elastic import affine_warped
from attacks._motion_blur import motion_blurred
from bench import registry
from bench.api import MethodError
from bench.config import expand
from bench.config.sections import load
from bench.evaluation.target import Meter, NetworkTarget
from bench.types import CORRUPTIONS, UsageError
from tests.attacks.driving import THREATS, Constant, assert_within
from tests.attacks.photographs import write_photographs

KINDS = tuple(_corruptions._CONSTANTS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_photographs(tmp_path_factory.mktemp("frost")))


def images(n: int = 4, side: int = 32, channels: int = 3) -> Tensor:
    """Smooth images of 8 bits that use the whole range, darker and lighter ones."""
    coarse = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    return ((smooth * 1.4 - 0.2).clamp(0, 1) * 255).round().float() / 255


def corrupt(x: Tensor, kind: str, severity: int, numbers: Tensor | None = None, **more: str) -> Tensor:
    attack, before = registry.find("attack", "corruption").load(), x.clone()
    y = torch.zeros(len(x), dtype=torch.int64)
    x_adv = attack(target_of(x, numbers), x, y, THREATS["corruption"], kind=kind, severity=severity, **more)
    assert torch.equal(x, before)
    assert_within(x_adv, x, THREATS["corruption"])
    return x_adv


def target_of(x: Tensor, numbers: Tensor | None = None) -> NetworkTarget:
    """What the attack draws from, from its beginning."""
    net, numbers = Constant(), torch.arange(len(x)) if numbers is None else numbers
    return NetworkTarget(net, Meter(net, len(x)), numbers, seed=0, num_classes=10, batch=len(x))


def channels_last(x: Tensor) -> np.ndarray:
    return (x.double() * 255).round().permute(0, 2, 3, 1).numpy() / 255


def assert_levels(x_adv: Tensor, expected: np.ndarray, *, share: float = 0.002) -> None:
    """What is expected is in [0, 1] and not rounded down yet; a few values may fall to the other side of a level."""
    levels = (x_adv.double() * 255).round().permute(0, 2, 3, 1).numpy()
    difference = np.abs(levels - np.floor(np.clip(expected, 0, 1) * 255 + 1e-6))
    assert difference.max() <= 1 and (difference > 0).mean() <= share


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_moments_that_its_authors_give_it(side: int, severity: int) -> None:
    x = torch.full((40, 1, side, side), 128 / 255)
    white = _corruptions.constants("gaussian_noise", severity, side)
    # Rounding down takes half a level, and what leaves [0, 1] is cut off.
    noise = (corrupt(x, "gaussian_noise", severity) - x + 0.5 / 255).double().flatten()
    normal = scipy.stats.norm(128 / 255, white)
    cut = normal.ppf((np.arange(10_000) + 0.5) / 10_000).clip(0, 1)
    assert abs(float(noise.std()) - cut.std()) < 0.02 * white and abs(float(noise.mean())) < 0.02 * white + 0.5 / 255
    photons = _corruptions.constants("shot_noise", severity, side)
    shot = corrupt(x, "shot_noise", severity).double().flatten() + 0.5 / 255
    counts = scipy.stats.poisson(128 / 255 * photons).ppf((np.arange(100_000) + 0.5) / 100_000) / photons
    assert abs(float(shot.std()) - counts.clip(0, 1).std()) < 0.03 * counts.std()
    share = _corruptions.constants("impulse_noise", severity, side)
    impulse = corrupt(x, "impulse_noise", severity)
    black, white_pixels = ((impulse == value).double().mean() for value in (0, 1))
    width = 5 * (share / x.numel()) ** 0.5
    assert abs(black - share / 2) < width and abs(white_pixels - share / 2) < width
    assert torch.equal(impulse[(impulse > 0) & (impulse < 1)].unique(), x.unique())


@pytest.mark.parametrize("photons", [3, 60, 500])
def test_poisson_draws_are_scipys_inverse(photons: int) -> None:
    levels = torch.arange(256)[:, None].repeat(1, 2000)
    uniform = torch.rand(256, 2000, generator=torch.Generator().manual_seed(photons))
    uniform[:, 0], uniform[:, 1] = 0, 1 - 2**-24
    drawn = _corruptions.poisson(levels, photons / 255, uniform)
    expected = scipy.stats.poisson(levels.numpy() * photons / 255).ppf(uniform.double().numpy())
    # scipy's inverse of nothing is one below the least count.
    assert np.array_equal(drawn[:, 1:].numpy(), expected[:, 1:]) and (drawn[:, 0] >= 0).all()
    assert (drawn[0] == 0).all()


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_defocus_is_scipys_correlation_with_a_softened_disk(side: int, severity: int) -> None:
    x = images(1, side)
    radius, deviation = _corruptions.constants("defocus_blur", severity, side)
    reach = 8 if radius <= 8 else radius
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(float)
    kernel = scipy.ndimage.gaussian_filter(disk / disk.sum(), deviation, mode="mirror", radius=1 if radius <= 8 else 2)
    blurred = scipy.ndimage.correlate(channels_last(x), kernel[None, :, :, None], mode="mirror")
    assert_levels(corrupt(x, "defocus_blur", severity), blurred)


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 5), (64, 5)])
def test_glass_blur_is_a_loop_over_pixels_between_two_blurs(side: int, severity: int) -> None:
    x = images(2, side)
    deviation, distance, times = _corruptions.constants("glass_blur", severity, side)
    pixels, target = [], target_of(x)
    offsets = [
        (target.uniform(torch.empty(2, 2, side, side)) * 2 * distance).floor().long() - distance for _ in range(times)
    ]
    for number, image in enumerate(channels_last(x)):
        glass = np.uint8(skimage.filters.gaussian(image, deviation, channel_axis=-1) * 255 + 1e-6)
        for moved in offsets:
            for row in range(side - distance, distance, -1):
                for column in range(side - distance, distance, -1):
                    dx, dy = moved[number, :, row, column].tolist()
                    # Both sides are views, so this copies: see numpy's manual on swaps of views.
                    here, there = glass[row, column], glass[row + dy, column + dx]
                    glass[row, column], glass[row + dy, column + dx] = there, here
        pixels.append(skimage.filters.gaussian(glass / 255, deviation, channel_axis=-1))
    # A level that the first blur rounds otherwise shows in the pixels around it.
    assert_levels(corrupt(x, "glass_blur", severity), np.stack(pixels), share=0.01)


#: ``(97 row + 61 column + 13 row column) mod 256`` after ``-motion-blur 6x2`` of ImageMagick 6.9.11, written as PNG.
IMAGEMAGICK = {
    30.0: [
        [83, 87, 153, 188, 115, 83, 121, 142],
        [133, 180, 122, 116, 166, 103, 64, 89],
        [139, 83, 143, 97, 102, 177, 156, 100],
        [103, 176, 143, 131, 96, 97, 159, 192],
        [184, 163, 165, 141, 133, 102, 88, 126],
        [154, 160, 161, 168, 142, 113, 116, 73],
        [145, 122, 125, 154, 158, 201, 128, 89],
        [135, 110, 131, 83, 95, 146, 156, 207],
    ],
    -100.0: [
        [0, 50, 111, 172, 233, 82, 99, 160],
        [32, 87, 152, 132, 197, 136, 72, 137],
        [92, 70, 144, 142, 130, 152, 106, 95],
        [88, 86, 170, 118, 127, 126, 115, 124],
        [103, 136, 147, 169, 101, 122, 117, 134],
        [147, 157, 163, 136, 158, 103, 132, 144],
        [131, 161, 135, 182, 136, 171, 128, 86],
        [141, 121, 177, 148, 110, 162, 125, 105],
    ],
}


def test_motion_blur_is_imagemagicks() -> None:
    row, column = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    levels = ((97 * row + 61 * column + 13 * row * column) % 256).expand(2, 1, 8, 8)
    blurred = motion_blurred(levels, 6, 2, torch.tensor(list(IMAGEMAGICK)))
    assert blurred[:, 0].tolist() == list(IMAGEMAGICK.values())


def along(levels: np.ndarray, radius: int, deviation: float, angle: float) -> np.ndarray:
    """Return scipy's correlation of a plane of levels with a half Gaussian on a line, in 16 bits, then cut to 8."""
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    for distance in range(2 * radius + 1):
        weight = np.exp(-(distance**2) / (2 * deviation**2))
        down, right = (
            np.ceil(distance * part - 0.5) for part in (np.sin(np.radians(angle)), np.cos(np.radians(angle)))
        )
        kernel[2 * radius + int(down), 2 * radius + int(right)] += weight
    return np.rint(scipy.ndimage.correlate(levels, kernel / kernel.sum(), mode="nearest") * 257) // 257


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 5), (64, 5), (224, 5)])
def test_motion_blur_is_scipys_correlation_with_half_a_gaussian_on_a_line(side: int, severity: int) -> None:
    x = images(3, side)
    radius, deviation = _corruptions.constants("motion_blur", severity, side)
    angles = target_of(x).uniform(torch.empty(3, 1), -45.0, 45.0)[:, 0].tolist()
    levels = channels_last(x) * 255
    blurred = [
        np.stack([along(image[..., channel], radius, deviation, angle) for channel in range(3)], 2)
        for image, angle in zip(levels, angles, strict=True)
    ]
    assert_levels(corrupt(x, "motion_blur", severity), np.stack(blurred) / 255)


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 4), (64, 3), (224, 5)])
def test_snow_is_scipys_zoom_of_noise_blurred_and_laid_over_a_whiter_image(side: int, severity: int) -> None:
    x = images(2, side)
    mean, deviation, factor, least, radius, width, kept = _corruptions.constants("snow", severity, side)
    target, expected = target_of(x), []
    noise = target.normal(x[:, :1])[:, 0].double().numpy()
    angles = target.uniform(torch.empty(2, 1), -135.0, -45.0)[:, 0].tolist()
    for image, own, angle in zip(channels_last(x), noise, angles, strict=True):
        part = int(np.ceil(side / factor))
        top = (side - part) // 2
        flakes = scipy.ndimage.zoom(mean + deviation * own[top : top + part, top : top + part], factor, order=1)
        top = (len(flakes) - side) // 2
        flakes = flakes[top : top + side, top : top + side]
        seen = np.floor(np.where(flakes < least, 0, flakes).clip(0, 1) * 255)
        fallen = along(seen, radius, width, angle)[..., None] / 255
        grey = (image @ [0.299, 0.587, 0.114])[..., None]
        whiter = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5)
        expected.append(whiter + fallen + fallen[::-1, ::-1])
    # A flake that scipy rounds otherwise shows in the pixels that it is blurred over.
    assert_levels(corrupt(x, "snow", severity), np.stack(expected), share=0.01)


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 2), (32, 5), (64, 3), (224, 1), (224, 3)])
def test_elastic_transform_is_scipys_interpolation_at_smoothly_moved_places(side: int, severity: int) -> None:
    x = images(2, side)
    reach, deviation, corner = np.multiply(_corruptions.constants("elastic_transform", severity, side), side)
    target, expected = target_of(x), []
    moves = target.uniform(torch.empty(2, 3, 2), -corner, corner).double().numpy()
    noise = target.uniform(torch.empty(2, 2, side, side), -1.0, 1.0).double().numpy()
    rows, columns = np.mgrid[:side, :side].astype(float)
    points = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    for image, moved, (right, down) in zip(channels_last(x), moves, noise, strict=True):
        # The affine map that takes the moved points back, by its six equations.
        back = np.linalg.solve(np.hstack([points + moved, np.ones((3, 1))]), points)
        places = np.stack([columns, rows, np.ones_like(rows)], 2) @ back
        places = (np.rint(places * 32) / 32)[..., ::-1].transpose(2, 0, 1)
        warped = [scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="mirror") for c in range(3)]
        down, right = (
            reach * scipy.ndimage.gaussian_filter(each, deviation, mode="reflect", truncate=3) for each in (down, right)
        )
        there = np.stack([rows + down, columns + right])
        expected.append(np.stack([scipy.ndimage.map_coordinates(c, there, order=1, mode="reflect") for c in warped], 2))
    # A place that is rounded to the other side of a 32nd of a pixel shows in one value.
    assert_levels(corrupt(x, "elastic_transform", severity), np.stack(expected), share=0.005)


def test_a_warp_without_an_inverse_looks_at_one_place() -> None:
    x = images(1).double()
    # All three points come to lie in the center.
    moves = -10.0 * torch.tensor([[[1, 1], [1, -1], [-1, -1]]], dtype=torch.float64)
    warped = affine_warped(x, moves)
    assert torch.equal(warped, x[:, :, 26:27, 26:27].expand_as(x))


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 3), (32, 5), (64, 2), (224, 4)])
def test_zoom_blur_is_the_mean_of_scipys_zooms(side: int, severity: int) -> None:
    x = images(1, side)
    image, total = channels_last(x)[0], channels_last(x)[0]
    stop, step = _corruptions.constants("zoom_blur", severity, side)
    factors = np.arange(1, stop, step)
    for factor in factors:
        kept = int(np.ceil(side / factor))
        top = (side - kept) // 2
        large = scipy.ndimage.zoom(image[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
        top = (len(large) - side) // 2
        total = total + large[top : top + side, top : top + side]
    assert_levels(corrupt(x, "zoom_blur", severity), total[None] / (len(factors) + 1))


def diamond_square(draws: list[np.ndarray], side: int, decay: float) -> np.ndarray:
    """The algorithm point by point: centers of squares, then the middles of their edges."""
    heights, step, amplitude, drawn = np.zeros((side, side)), side, 100.0, iter(draws)
    while step > 1:
        half = step // 2
        noise = next(drawn)
        for i in range(0, side, step):
            for j in range(0, side, step):
                corners = [heights[(i + a) % side, (j + b) % side] for a in (0, step) for b in (0, step)]
                heights[i + half, j + half] = np.mean(corners) + amplitude**2 * noise[i // step, j // step]
        for down, right in ((0, half), (half, 0)):
            noise = next(drawn)
            for i in range(down, side, step):
                for j in range(right, side, step):
                    around = [
                        heights[(i + a) % side, (j + b) % side]
                        for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))
                    ]
                    heights[i, j] = np.mean(around) + amplitude**2 * noise[i // step, j // step]
        step, amplitude = half, amplitude / decay
    return (heights - heights.min()) / (heights.max() - heights.min())


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 5), (64, 3)])
def test_fog_is_a_diamond_square_fractal(side: int, severity: int) -> None:
    x = images(2, side) * 0.8
    x = (x * 255).round() / 255
    thickness, decay = _corruptions.constants("fog", severity, side)
    target, sizes = target_of(x), [2**level for level in range(side.bit_length() - 1)]
    draws = [target.uniform(torch.empty(2, size, size), -1.0, 1.0).numpy() for size in sizes for _ in range(3)]
    expected = []
    for number, image in enumerate(channels_last(x)):
        clouds = diamond_square([draw[number].astype(float) for draw in draws], side, decay)
        foggy = image + thickness * clouds[:, :, None]
        expected.append(foggy * image.max() / (image.max() + thickness))
    assert_levels(corrupt(x, "fog", severity), np.stack(expected))


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_brightness_and_contrast(severity: int) -> None:
    x = images(6)
    x[0], x[1, :, :4] = 0, 1
    added = _corruptions.constants("brightness", severity, 32)
    hsv = skimage.color.rgb2hsv(channels_last(x))
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    assert_levels(corrupt(x, "brightness", severity), skimage.color.hsv2rgb(hsv), share=0.005)
    share, image = _corruptions.constants("contrast", severity, 32), channels_last(x)
    means = image.mean((1, 2), keepdims=True)
    assert_levels(corrupt(x, "contrast", severity), share * image + (1 - share) * means)


def test_pixels_are_means_of_blocks() -> None:
    x = images(2, 224)
    blocks = skimage.measure.block_reduce(channels_last(x) * 255, (1, 4, 4, 1), np.mean)
    pixelated = (corrupt(x, "pixelate", 5) * 255).round().permute(0, 2, 3, 1).numpy()
    # Pillow rounds after rows and again after columns.
    assert np.abs(pixelated - blocks.repeat(4, 1).repeat(4, 2)).max() <= 1 + 1e-3
    # 32 pixels become 20, and these are drawn over 32.
    small = corrupt(images(2), "pixelate", 5)
    assert len(torch.unique(small[0, 0], dim=0)) <= 20


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (64, 4), (224, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_torchvisions(side: int, severity: int, channels: int) -> None:
    x = images(2, side, channels)
    quality = _corruptions.constants("jpeg_compression", severity, side)
    expected = torch.stack([decode_jpeg(encode_jpeg((image * 255).round().byte(), quality)) for image in x])
    difference = ((corrupt(x, "jpeg_compression", severity) * 255).round() - expected).abs()
    # Two builds of libjpeg may round otherwise.
    assert float(difference.max()) <= 3 and float((difference > 0).double().mean()) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_8_bits_grows_with_severity_and_depends_on_no_batch(kind: str, photographs: str) -> None:
    more = {"photographs": photographs}
    for side in (32, 64, 130) if kind != "glass_blur" else (32, 64):
        x = images(5, side)
        weakest, strongest = (corrupt(x, kind, severity, **more) for severity in (1, 5))
        assert float((weakest - x).square().mean()) > 0
        # Its authors move corners less where they displace pixels more.
        if kind != "elastic_transform":
            assert float((strongest - x).square().mean()) > float((weakest - x).square().mean())
        assert float(((strongest * 255).round() - strongest * 255).abs().max()) < 1e-3
        order = torch.tensor([3, 0, 4])
        alone = corrupt(x[order], kind, 5, order, **more)
        assert torch.equal(alone, strongest[order])
    grey = torch.zeros(1, 1, 20, 33)
    assert torch.equal(corrupt(grey, kind, 1, **more), corrupt(grey, kind, 1, **more))


def test_the_kinds_are_those_with_constants_and_all_that_a_mean_error_counts() -> None:
    assert KINDS == CORRUPTIONS
    assert registry.find("attack", "corruption").parameters.model_fields["kind"].annotation.__args__ == KINDS
    assert tuple(_corruptions._CORRUPT) == KINDS


def test_images_too_small_for_a_kernel_are_refused() -> None:
    with pytest.raises(MethodError, match="images of 7x9: corruptions need 8 pixels a side at least"):
        corrupt(torch.zeros(1, 3, 7, 9), "defocus_blur", 1)


CONFIG = """
schema = 1
name = "my"
[dataset]
name = "digits"
[[models]]
arch = "small-cnn"
[[defenses]]
use = "standard"
[attack]
eps = "4/255"
[[attacks]]
use = "corruption"
"""


def columns_of(tmp_path, text: str) -> list[expand.Attack]:
    (tmp_path / "my.toml").write_text(CONFIG + text)
    return expand.attacks(load(str(tmp_path / "my.toml")))


def test_kinds_and_severities_sweep_and_are_always_in_the_name(tmp_path) -> None:
    columns = columns_of(tmp_path, 'kind = ["fog", "contrast"]\nseverity = [1, 2, 3, 4, 5]\n')
    assert [column.label for column in columns][:2] == [
        "corruption[kind=fog,severity=1]",
        "corruption[kind=fog,severity=2]",
    ]
    assert len(columns) == 10 and {column.threat for column in columns} == {THREATS["corruption"]}
    (alone,) = columns_of(tmp_path, 'kind = "fog"\n')
    assert alone.label == "corruption[kind=fog,severity=3]"


def test_one_set_of_images_serves_all_defenses_unless_the_access_says_otherwise(tmp_path) -> None:
    (alone,) = columns_of(tmp_path, "")
    assert alone.access == "static"
    asked = columns_of(tmp_path, 'access = ["static", "adaptive"]\n')
    assert [column.access for column in asked] == ["static", "adaptive"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('eps = "8/255"', "common corruptions have a severity and no eps: leave eps out"),
        ("severity = 6", "severity"),
        ('kind = "rain"', "'gaussian_noise', 'shot_noise'"),
        ('norm = "linf"', "norm 'linf' is not one that corruption keeps to: corruption"),
    ],
)
def test_what_a_corruption_does_not_take_is_one_line(tmp_path, text: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        columns_of(tmp_path, text)
    assert line in str(caught.value) and len(str(caught.value).splitlines()) == 1
