"""Batches on the device against torchvision's crops and flips."""

import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as V

from bench.training.augment import Batches


@pytest.fixture
def images():
    return torch.randint(256, (40, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(images, kind, rows, seed):
    batches = Batches(images, kind)
    return batches(rows, batches.crops(len(rows), seed))


def matching_crops(augmented, image, padding):
    """Return every (top, left, mirrored) of a crop of the padded image that equals ``augmented``."""
    padded = V.pad(image, [padding] * 4)
    matches = []
    for top, left in itertools.product(range(2 * padding + 1), repeat=2):
        crop = V.crop(padded, top, left, *image.shape[1:])
        for mirrored, expected in ((False, crop), (True, V.horizontal_flip(crop))):
            if torch.equal(augmented, expected.float() / 255):
                matches.append((top, left, mirrored))
    return matches


def test_no_augmentation_is_the_images(images):
    rows = torch.tensor([3, 1, 39])
    assert torch.equal(augmented(images, "none", rows, 0), images[rows].float() / 255)


@pytest.mark.parametrize(("kind", "padding"), [("flip", 0), ("crop-flip", 4)])
def test_every_image_is_a_crop_and_perhaps_mirrored(images, kind, padding):
    rows = torch.arange(40).flip(0)
    crops = augmented(images, kind, rows, 7)
    assert crops.shape == images.shape
    assert crops.is_contiguous()
    matches = [matching_crops(crop, images[row], padding) for crop, row in zip(crops, rows, strict=True)]
    assert all(len(crops_of_image) == 1 for crops_of_image in matches)
    tops, lefts, mirrored = zip(*(crops_of_image[0] for crops_of_image in matches), strict=True)
    assert 10 <= sum(mirrored) <= 30
    if padding:
        assert len(set(tops)) > 5
        assert len(set(lefts)) > 5


def test_crops_are_uniform(images):
    corner = torch.zeros(2000, 1, 9, 9, dtype=torch.uint8)
    corner[:, :, 4, 4] = 255
    crops = augmented(corner, "crop-flip", torch.arange(2000), 1)
    share = crops.mean((0, 1))
    # The middle pixel is equally likely at each of the 81 positions: 2000 / 81 with a standard deviation of 5.
    assert float(share.min()) * 2000 > 4
    assert float(share.max()) * 2000 < 50
    assert float(share.sum()) == pytest.approx(1.0)


def test_a_seed_is_a_batch(images):
    rows = torch.arange(40)
    first = augmented(images, "crop-flip", rows, 5)
    assert torch.equal(first, augmented(images, "crop-flip", rows, 5))
    assert not torch.equal(first, augmented(images, "crop-flip", rows, 6))
