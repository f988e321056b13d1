"""The cost convention against the figures of the paper's slides (CIFAR-10, ResNet-18)."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from bench.evaluation.cost import deployed_cost, parameters, pass_flops
from bench.models.resnet18 import resnet18

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("name", ["MobileNet_V3_Small", "ResNeXt50_32X4D", "ConvNeXt_Tiny", "Swin_T", "ViT_B_32"])
def test_figures_that_torchvision_publishes(name):
    net = getattr(torchvision.models, name.lower())(weights=None).eval()
    published = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.meta["_ops"]
    flops = pass_flops(net, (3, 224, 224))
    # Those are multiply-adds, in 10^9, rounded to three places.
    assert flops.forward / 2e9 == pytest.approx(published, abs=0.0006)
    assert flops.backward == 2 * flops.forward


def test_a_transposed_convolution_in_groups():
    net = nn.Sequential(nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), nn.Flatten())
    # Each of 6 x 5 x 5 values is multiplied with 4 x 3 x 3 weights.
    assert pass_flops(net, (6, 5, 5)) == (2 * 6 * 25 * 4 * 9, 2 * 2 * 6 * 25 * 4 * 9)


def test_counting_does_not_load_the_compiler():
    code = (
        "import sys; from torch import nn; from bench.evaluation.cost import pass_flops\n"
        "print(pass_flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2)).forward)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["72.0", "False"]


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
