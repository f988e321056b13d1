"""Each preprocessing step against another library, a closed form, or its limits."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize
from torch.nn import functional as F

from bench.types import MethodError
from defenses._jpeg import straight_through_jpeg
from defenses.feature_squeezing import non_local_means
from defenses.quilting import _min_error_cut
from defenses.tvm import minimise_total_variation


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("bit-depth", {"bits": 8}),
        ("median", {"window": 1}),
        ("gaussian-blur", {"window": 1}),
        ("tvm", {"keep": 1.0, "weight": 0.0}),
        ("resize-pad", {"low": 1.0, "high": 1.0}),
        ("pixel-deflection", {"share": 0.0, "sigma": 0.0}),
        ("feature-squeezing", {"bits": 8, "window": 1}),
    ],
)
def test_limits_in_which_nothing_changes(purify, x, name, params):
    assert torch.allclose(purify(name, x, **params), x, rtol=0, atol=1e-7)


def test_wavelets_without_noise_change_nothing(purify, x):
    assert torch.allclose(purify("wavelet", x[..., :21, :19], sigma=0.0), x[..., :21, :19], atol=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_bit_depth_has_two_to_the_bits_levels(purify, bits):
    ramp = torch.linspace(0, 1, 3 * 24 * 24).view(1, 3, 24, 24)
    x_purified = purify("bit-depth", ramp, bits=bits)
    assert x_purified.unique().numel() == 2**bits
    assert float((x_purified - ramp).abs().max()) <= 0.5 / (2**bits - 1) + 1e-6


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_median_is_scipys(purify, x, window):
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, window, window), mode="reflect")
    assert np.array_equal(purify("median", x, window=window).numpy(), expected)


def test_gaussian_blur_is_a_convolution(purify, x):
    line = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    expected = ndimage.convolve(x.numpy(), window[None, None], mode="mirror")
    assert np.allclose(purify("gaussian-blur", x, sigma=0.8, window=5).numpy(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_jpeg_is_torchvisions(purify, x, quality):
    codec = pytest.importorskip("torchvision.io")
    if not hasattr(codec, "encode_jpeg"):
        pytest.skip("this torchvision has no JPEG codec")
    for image, decoded in zip(x, purify("jpeg", x, quality=quality), strict=True):
        expected = codec.decode_jpeg(codec.encode_jpeg((image * 255).round().byte(), quality))
        # Two builds of one codec may round differently, by a level.
        assert float((decoded * 255 - expected).abs().max()) <= 2


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_straight_through_jpeg_is_near_the_codec(purify, x, quality, channels):
    images = x[:, :channels, :19, :23]
    error = (straight_through_jpeg(images, quality) - purify("jpeg", images, quality=quality)).abs()
    assert float(error.mean()) < 4 / 255
    # Nearer to the codec than the image itself is, where the codec changes much.
    if quality <= 50:
        assert float(error.mean()) < float((images - purify("jpeg", images, quality=quality)).abs().mean())


def test_the_straight_through_jpeg_has_the_derivative_of_jpeg_without_rounding(x):
    # Without rounding a grey image stays as it is, and so does the mean of each colour channel.
    for channels in (1, 3):
        images = (x[:1, :channels, :16, :16] * 0.6 + 0.2).requires_grad_()
        weight = torch.linspace(-1, 1, images.numel()).view_as(images)
        (grad,) = torch.autograd.grad((straight_through_jpeg(images, 50) * weight).sum(), images)
        assert torch.allclose(grad.sum((2, 3)), weight.sum((2, 3)), atol=1e-3)
        if channels == 1:
            assert torch.allclose(grad, weight, atol=1e-5)


def test_total_variation_reaches_the_minimum():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 1, 6, 7, generator=generator).double()
    mask, weight = (torch.rand(1, 1, 6, 7, generator=generator) < 0.6).double(), 0.1

    def energy(z, softness=0.0):
        down, right = torch.zeros_like(z), torch.zeros_like(z)
        down[..., :-1, :] = z[..., 1:, :] - z[..., :-1, :]
        right[..., :, :-1] = z[..., :, 1:] - z[..., :, :-1]
        return (mask * (z - x)).pow(2).sum() / 2 + weight * (down**2 + right**2 + softness).sqrt().sum()

    def soft(flat):
        z = torch.tensor(flat).view_as(x).requires_grad_()
        value = energy(z, 1e-8)
        (grad,) = torch.autograd.grad(value, z)
        return value.item(), grad.flatten().numpy()

    best = optimize.minimize(soft, x.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    reached = energy(minimise_total_variation(x, mask, weight, 2000)).item()
    assert reached == pytest.approx(energy(torch.tensor(best.x).view_as(x)).item(), abs=2e-4)
    # The default number of steps is near enough.
    assert energy(minimise_total_variation(x, mask, weight, 100)).item() == pytest.approx(reached, rel=0.01)


def test_total_variation_of_great_weight_is_the_mean_of_the_kept_pixels():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    expected = (x * mask).sum((2, 3)) / mask.sum((2, 3))
    assert torch.allclose(
        minimise_total_variation(x, mask, 10.0, 3000), expected[..., None, None].expand_as(x), atol=2e-2
    )


def test_tvm_keeps_the_share_it_says(purify, x, monkeypatch):
    monkeypatch.setattr("defenses.tvm.minimise_total_variation", lambda images, mask, *_: mask.expand_as(images))
    mask = purify("tvm", x, keep=0.3)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(mask[:, 0], mask[:, 2]) and not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("scale", [1.125, 1.5])
def test_resizing_is_nearest_neighbour(purify, x, scale):
    size = round(scale * 24)
    x_purified = purify("resize-pad", x, low=scale, high=scale)
    assert torch.equal(x_purified, F.interpolate(x, size=(size, size), mode="nearest"))


def test_resizing_pads_each_image_in_its_own_way(purify):
    ones = torch.ones(200, 3, 32, 32)
    x_purified = purify("resize-pad", ones, low=0.75, high=1.0)
    assert x_purified.shape == ones.shape
    inside = x_purified[:, 0] > 0
    heights, widths = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(heights, widths)
    assert set(heights.tolist()) == set(range(24, 33))
    assert torch.equal(inside.sum((1, 2)), heights * widths)
    tops = inside.any(2).int().argmax(1)
    assert set(tops.tolist()) == set(range(9))


def test_the_frame_of_the_paper(purify):
    assert purify("resize-pad", torch.rand(2, 3, 32, 32)).shape == (2, 3, 36, 36)


def test_deflected_pixels_come_from_their_neighbourhood(purify):
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    # The value of each pixel is its position.
    image = torch.stack([rows, columns, torch.zeros(24, 24)])[None] / 24
    x_purified = purify("pixel-deflection", image, share=0.2, window=3, sigma=0.0)
    moved = ((x_purified - image) * 24).round()[0]
    assert float(moved.abs().max()) == 3
    assert float(moved[2].abs().max()) == 0
    share = float((moved[:2].abs().sum(0) > 0).float().mean())
    # 115 draws with repetition among 576 pixels, of which about 1 in 40 picks its own position.
    assert 0.13 < share < 0.2


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (64, 40)])
@pytest.mark.parametrize("sigma", [None, 0.05])
def test_wavelets_are_scikit_images(purify, shape, sigma):
    restoration = pytest.importorskip("skimage.restoration", reason="needs scikit-image")
    pytest.importorskip("pywt", reason="needs PyWavelets")
    rng = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(rng.random((2, 3, *shape)), (0, 0, 4, 4))
    noisy = np.clip((clean - clean.min()) / np.ptp(clean) + 0.05 * rng.standard_normal(clean.shape), 0, 1)
    x_purified = purify("wavelet", torch.from_numpy(noisy), sigma=sigma).numpy()
    for image, denoised in zip(noisy, x_purified, strict=True):
        expected = restoration.denoise_wavelet(
            image, sigma=sigma if sigma is None else [sigma] * 3, wavelet="db1", channel_axis=0, rescale_sigma=False
        )
        assert np.allclose(denoised, expected, atol=1e-6)


def test_wavelets_take_noise_away(purify, x):
    noisy = (x + 0.08 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert float((purify("wavelet", noisy) - x).pow(2).mean()) < 0.7 * float((noisy - x).pow(2).mean())


def test_quilting_an_image_from_its_own_patches_gives_it_back(deploy_defense, x):
    defense = deploy_defense("quilting", torch.nn.Identity(), patch=4, overlap=1)
    windows = F.unfold(x, 4).transpose(1, 2).reshape(-1, 3, 4, 4)
    defense.step.bank = windows
    assert torch.allclose(defense.deployed(x), x, atol=1e-6)


def test_quilting_refuses_a_patch_larger_than_the_images(deploy_defense):
    with pytest.raises(MethodError, match="patch = 40 is larger than the images"):
        deploy_defense("quilting", torch.nn.Identity(), patch=40)


def test_quilting_uses_nothing_but_the_bank(deploy_defense, x):
    defense = deploy_defense("quilting", torch.nn.Identity(), bank=50)
    values = defense.step.bank.flatten().unique()
    assert torch.isin(defense.deployed(torch.rand(2, 3, 24, 24)), values).all()


def test_quilting_draws_its_bank_from_the_training_images(deploy_defense, x):
    step = deploy_defense("quilting", torch.nn.Identity(), bank=300).step
    first = step.bank.clone()
    windows = {
        tuple(window) for window in (F.unfold(x, 5).transpose(1, 2).reshape(-1, 75) * 255).round().int().tolist()
    }
    assert all(tuple(patch) in windows for patch in (first.flatten(1) * 255).round().int().tolist())
    step.fit((x * 255).round().to(torch.uint8))
    assert torch.equal(step.bank, first)


def test_quilting_without_images_says_so(deploy_defense, x):
    defense = deploy_defense("quilting", torch.nn.Identity())
    defense.step.bank = None
    with pytest.raises(MethodError, match="training images"):
        defense.deployed(x)


def test_the_seam_is_the_cheapest_path():
    error = torch.rand(20, 5, 5, generator=torch.Generator().manual_seed(0))
    for overlap in (1, 2, 3):
        keep = _min_error_cut(error, overlap)
        cut_column = keep.sum(2)
        assert torch.equal(keep, torch.arange(5)[None, None] < cut_column[..., None])
        assert int((cut_column[:, 1:] - cut_column[:, :-1]).abs().max()) <= 1
        paths = [
            p
            for p in itertools.product(range(overlap), repeat=5)
            if all(abs(a - b) <= 1 for a, b in itertools.pairwise(p))
        ]
        costs = torch.stack([sum(error[:, line, column] for line, column in enumerate(path)) for path in paths])
        cost = error.gather(2, cut_column[..., None]).sum((1, 2))
        assert torch.allclose(cost, costs.amin(0))


def test_the_detection_score_is_the_farthest_squeezed_prediction(deploy_defense, base, x):
    deployed = deploy_defense("feature-squeezing", base, bits=3, window=3).deployed
    plain = F.softmax(base(x), 1)
    reduced = F.softmax(base((x * 7).round() / 7), 1)
    smooth = F.softmax(base(torch.from_numpy(ndimage.median_filter(x.numpy(), size=(1, 1, 3, 3)))), 1)
    similar = F.softmax(base(non_local_means(x, 13, 3, 2 / 255)), 1)
    expected = torch.stack([(plain - one).abs().sum(1) for one in (reduced, smooth, similar)]).amax(0)
    assert torch.allclose(deployed.score(x), expected, atol=1e-6)
    unchanged = deploy_defense("feature-squeezing", base, bits=8, window=1, search=1).deployed
    with torch.no_grad():
        assert float(unchanged.score(x).max()) < 1e-5


@pytest.mark.parametrize(("search", "patch"), [(7, 3), (5, 5), (3, 1)])
def test_non_local_means_are_what_their_definition_says(x, search, patch):
    reach, edge = search // 2, patch // 2
    images = x[:2].double()
    for image, smoothed in zip(images.numpy(), non_local_means(images, search, patch, 0.1), strict=True):
        frame = np.pad(image, [(0, 0), *[(reach + edge, reach + edge)] * 2], mode="symmetric")
        for row, column in ((0, 0), (3, 23), (12, 7)):
            # The patch of each pixel searched, and the middle one's own.
            patches = np.stack(
                [
                    frame[:, row + i : row + i + patch, column + j : column + j + patch]
                    for i, j in itertools.product(range(search), repeat=2)
                ]
            )
            weights = np.exp(-((patches - patches[len(patches) // 2]) ** 2).mean((1, 2, 3)) / 0.1**2)
            expected = (weights[:, None] * patches[:, :, edge, edge]).sum(0) / weights.sum()
            assert np.allclose(smoothed[:, row, column].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("feature-squeezing", {"patch": 4}, "must be odd"),
        ("gaussian-blur", {"window": 4}, "even"),
        ("resize-pad", {"low": 1.2, "high": 1.1}, "above high"),
        ("quilting", {"patch": 3, "overlap": 3}, "not less"),
    ],
)
def test_parameters_that_do_not_fit_each_other(deploy_defense, base, name, params, said):
    with pytest.raises(MethodError, match=said):
        deploy_defense(name, base, **params)


def test_jpeg_of_other_images_says_what_it_takes(deploy_defense, base):
    with pytest.raises(MethodError, match="1 or 3 channels"):
        deploy_defense("jpeg", base).deployed(torch.rand(1, 4, 16, 16))
