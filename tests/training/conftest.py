import numpy as np
import pytest
import torch

from bench.training.loop import train
from bench.types import Ending
from tests.training.patterns import CLASSES, NETWORK, SHAPE, Run, reference


@pytest.fixture(scope="session")
def images():
    """Four classes of noisy patterns: 100 images and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % CLASSES
    patterns = rng.random((CLASSES, *SHAPE))
    noisy = patterns[labels] * 0.7 + 0.3 * rng.random((100, *SHAPE))
    return (noisy * 255).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture
def run(images, tmp_path):
    """Train; ``stop_before`` raises at that call of ``check``."""

    def train_run(name="run", *, ref=None, network=NETWORK, stop_before=None, test=None, data=None, **settings):
        calls = 0

        def check():
            nonlocal calls
            calls += 1
            if calls == stop_before:
                raise Ending

        train(
            ref or reference(**settings),
            network,
            *(data or images),
            tmp_path / name,
            device=torch.device("cpu"),
            check=check,
            on_progress=lambda progress: None,
            test=test,
        )
        return Run(tmp_path / name)

    return train_run
