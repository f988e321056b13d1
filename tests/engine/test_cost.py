"""The cost convention against the figures of the paper's slides (CIFAR-10, ResNet-18)."""

import pytest
import torch
from torch import nn

from bench.evaluation.cost import deployed_cost, parameters, pass_flops
from bench.models.resnet18 import resnet18


@pytest.fixture(scope="module")
def net():
    return resnet18(10)


def test_published_figures_of_the_cifar_resnet18(net):
    flops = pass_flops(net, (3, 32, 32))
    assert parameters(net) / 1e6 == pytest.approx(11.17, abs=0.005)
    assert flops.forward * 10_000 / 1e12 == pytest.approx(11.1, rel=0.005)
    assert flops.of(1, 1) * 50_000 / 1e12 == pytest.approx(166.6, rel=0.005)
    assert flops.of(11, 11) * 50_000 / 1e12 == pytest.approx(1832.9, rel=0.005)
    assert flops.of(2, 2) * 50_000 / 1e12 == pytest.approx(333.3, rel=0.005)


def test_measuring_leaves_the_network_as_it_was(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    pass_flops(net, (3, 32, 32))
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_passes_inside_a_deployed_function_are_counted():
    base = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    class Twice(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(base(leaf).sum(), leaf)
            return base(x + grad)

    assert deployed_cost(base, Twice(), (3, 2, 2), 4).passes == (2, 1)
