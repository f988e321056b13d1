"""Batches on the device against torchvision's crops and flips."""

import pytest
import torch
from torchvision.transforms.v2 import functional as V

from bench.training.augment import Batches


@pytest.fixture
def images():
    return torch.randint(256, (40, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def explained(found, image, padding):
    """Return which crop of the padded image, mirrored or not, ``found`` is."""
    padded = V.pad(image, [padding] * 4)
    ways = []
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = V.crop(padded, top, left, *image.shape[1:])
            ways += [(top, left, mirrored) for mirrored in (False, True)
                     if torch.equal(found, (V.horizontal_flip(crop) if mirrored else crop).float() / 255)]  # fmt: skip
    return ways


def test_no_augmentation_is_the_images(images):
    rows = torch.tensor([3, 1, 39])
    assert torch.equal(Batches(images, "none")(rows, 0), images[rows].float() / 255)


@pytest.mark.parametrize(("kind", "padding"), [("flip", 0), ("crop-flip", 4)])
def test_every_image_is_a_crop_and_perhaps_mirrored(images, kind, padding):
    rows = torch.arange(40).flip(0)
    found = Batches(images, kind)(rows, 7)
    assert found.shape == images.shape
    assert found.is_contiguous()
    ways = [explained(one, images[row], padding) for one, row in zip(found, rows, strict=True)]
    assert all(len(way) == 1 for way in ways)
    tops, lefts, mirrored = zip(*(way[0] for way in ways), strict=True)
    assert 10 <= sum(mirrored) <= 30
    if padding:
        assert len(set(tops)) > 5
        assert len(set(lefts)) > 5


def test_crops_are_uniform(images):
    corner = torch.zeros(2000, 1, 9, 9, dtype=torch.uint8)
    corner[:, :, 4, 4] = 255
    found = Batches(corner, "crop-flip")(torch.arange(2000), 1)
    share = found.mean((0, 1))
    # The middle pixel is shown at each of the 81 places alike: 2000 / 81 with a deviation of 5.
    assert float(share.min()) * 2000 > 4
    assert float(share.max()) * 2000 < 50
    assert float(share.sum()) == pytest.approx(1.0)


def test_a_seed_is_a_batch(images):
    batches = Batches(images, "crop-flip")
    rows = torch.arange(40)
    assert torch.equal(batches(rows, 5), batches(rows, 5))
    assert not torch.equal(batches(rows, 5), batches(rows, 6))
