from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from tests.attacks.driving import Case


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def trained(eps: float, epochs: int) -> Case:
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    y = torch.from_numpy(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = small_cnn()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(1300).split(100):
                images = x[rows].clone().requires_grad_()
                if eps:
                    (grad,) = torch.autograd.grad(F.cross_entropy(net(images), y[rows]), images)
                    images = (images + eps * grad.sign()).clamp(0, 1)
                loss = F.cross_entropy(net(images.detach()), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    net.eval().zero_grad(set_to_none=True)
    held_out = torch.arange(1300, len(x))
    with torch.no_grad():
        kept = held_out[net(x[held_out]).argmax(1) == y[held_out]][:100]
    return Case(net, x[kept], y[kept])


@pytest.fixture(scope="session")
def plain() -> Case:
    """A network trained on clean digits: attacks at eps 0.2 break nearly all of its images."""
    return trained(0.0, 8)


@pytest.fixture(scope="session")
def robust() -> Case:
    """A network trained on FGSM images at eps 0.15: it keeps some of its images under PGD at that budget."""
    return trained(0.15, 12)
