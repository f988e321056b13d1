from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import registry
from bench.models.layout import fast_layout

SMALL = {"resnet18": {"width": 8}, "vgg16": {"width": 8}, "wrn-34-10": {"widen": 1}, "small-resnet": {"width": 8}}


def settled(net: nn.Module) -> nn.Module:
    """Give batch norms non-trivial statistics and scales: a wrong fold then changes the output."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, spread in ((module.weight.data, 0.3), (module.bias.data, 0.3), (module.running_mean, 0.2)):
                value.add_(spread * torch.randn(value.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return net.eval()


def logits_and_gradient(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    images = x.clone().requires_grad_()
    logits = net(images)
    (grad,) = torch.autograd.grad(F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.int64)), images)
    return logits.detach(), grad


@pytest.mark.parametrize("name", sorted(registry.entries("network")))
def test_every_network_keeps_its_logits_and_gradients(name: str) -> None:
    # Double precision: round-off then switches no ReLU.
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    factory, arguments = registry.find("network", name).load(), SMALL.get(name, {"image_size": (32, 32)})
    net = settled(factory(10, in_channels=3, **arguments)).double()
    before = copy.deepcopy(net.state_dict())
    fast = fast_layout(net, x[:2])
    for actual, expected in zip(logits_and_gradient(fast.net, x), logits_and_gradient(net, x), strict=True):
        assert float((actual - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fast.net.modules())
    assert fast.folded == norms - left
    assert (fast.folded > 0) == (norms > 0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "the network is left alone"


def test_resnet_folds_every_batch_norm() -> None:
    net = settled(registry.find("network", "resnet18").load()(10, in_channels=3, width=8))
    fast = fast_layout(net, torch.rand(2, 3, 32, 32))
    assert fast.folded == 20
    assert fast.note == ""
    weights = [module.weight for module in fast.net.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


class Shared(nn.Module):
    """One convolution read twice: before and after its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((y + self.norm(y)).mean((2, 3)))


class Branching(Shared):
    """Takes another path for bright images, which no trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.head((y if x.mean() > 0.5 else -y).mean((2, 3)))


class Drawing(Shared):
    """Draws at every call, which a trace would freeze."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3))) + torch.randn(2)


@pytest.mark.parametrize(
    ("kind", "note"),
    [(Shared, "no convolution"), (Branching, "cannot be traced"), (Drawing, "its trace gives other logits")],
)
def test_what_cannot_be_folded_is_copied_and_says_so(kind: type[nn.Module], note: str) -> None:
    net, x = settled(kind()), torch.rand(3, 3, 8, 8)
    fast = fast_layout(net, x)
    assert fast.folded == 0
    assert note in fast.note
    if kind is not Drawing:
        assert torch.allclose(fast.net(x), net(x), atol=1e-5)
