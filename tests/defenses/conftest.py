from typing import NamedTuple

import pytest
import torch
from torch import nn

from bench.registry import entries
from tests.defenses.scores import score_network


class Deployed(NamedTuple):
    step: object
    deployed: nn.Module
    surrogate: nn.Module

    def seed(self, seed=0):
        if (draws := getattr(self.step, "draws", None)) is not None:
            draws.begin(seed)
        return self


@pytest.fixture
def x():
    """Six smooth 8-bit images."""
    coarse = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(coarse, size=24, mode="bicubic").clamp(0, 1) * 255).round() / 255


@pytest.fixture
def base():
    """A small network in evaluation mode, whose parameters still require gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        ).eval()


@pytest.fixture
def deploy_defense(x):
    """Deploy a test-time step with these parameters on a network."""

    def deploy(name, base, **params):
        entry = entries("test-time")[name]
        step = entry.load()(**entry.arguments(params))
        if hasattr(step, "use_score"):
            step.use_score(score_network(x.shape[1]))
        if hasattr(step, "fit"):
            step.fit((x * 255).round().to(torch.uint8))
        return Deployed(step, step.wrap(base).eval(), step.surrogate(base).eval()).seed()

    return deploy


@pytest.fixture
def purify(deploy_defense):
    """Transform images by a test-time step: what the base network receives."""

    def purify_images(name, x, **params):
        return deploy_defense(name, nn.Identity(), **params).deployed(x)

    return purify_images
