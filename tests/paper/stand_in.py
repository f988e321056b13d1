"""Stand-ins for the five sets of the paper: scikit-learn's digits, coloured and enlarged, as Parquet files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.data.image_files import encode, write_parquet

#: Height and width of the images of each set; none for the one whose images have many.
SIZES = {"cifar10": (32, 32), "cifar100": (32, 32), "svhn": (32, 32), "tiny_imagenet": (64, 64), "caltech101": None}
COUNTS = {"train": 40, "test": 20}


def write(folder: Path) -> Path:
    """Write the sets into ``folder``, no two of them with the same images, and return it."""
    digits, labels = load_digits(return_X_y=True)
    names = [f"digit {index}" for index in range(10)]
    rng, first = np.random.default_rng(0), 0
    for name, size in SIZES.items():
        for split, count in COUNTS.items():
            rows = range(first, first + count)
            first += count
            images = [encode(_photo(digits[row], size or tuple(rng.integers(100, 140, 2)), rng)) for row in rows]
            write_parquet(folder / name / f"{split}.parquet", images, labels[rows.start : rows.stop], names=names)
    return folder


def _photo(digit: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    paper, ink = rng.integers(0, 256, (2, 3))
    share = digit.reshape(8, 8, 1) / 16
    small = Image.fromarray((paper + share * (ink - paper)).astype(np.uint8))
    return np.asarray(small.resize((size[1], size[0]), Image.Resampling.NEAREST))
