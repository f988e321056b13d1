"""The registered networks against published sizes and closed forms."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.models.build import build, network_ref
from bench.types import UsageError

NAMES = ("resnet18", "vgg16", "wrn-34-10", "small-cnn", "small-resnet")
NARROW = {
    "resnet18": {"width": 4},
    "vgg16": {"width": 4},
    "wrn-34-10": {"widen": 1},
    "small-cnn": {"channels": 4, "hidden": 8},
    "small-resnet": {"width": 4},
}


def multiply_adds(net, shape):
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def on_meta(name, num_classes=10, shape=(3, 32, 32)):
    with torch.device("meta"):
        return build(network_ref(name, {}), num_classes, shape).eval()


def num_params(net):
    return sum(parameter.numel() for parameter in net.parameters())


def conv_macs(channels, out, side, kernel=3):
    return kernel * kernel * channels * out * side * side


def test_resnet18_is_the_one_of_the_published_cost_table():
    net = on_meta("resnet18")
    assert num_params(net) == 11_173_962
    assert multiply_adds(net, (3, 32, 32)) == 555_422_720
    # 10,000 test images, two operations per multiply-add: 11.1 TFLOP.
    assert 2e4 * multiply_adds(net, (3, 32, 32)) == pytest.approx(11.108e12, rel=1e-3)


def test_vgg16_has_the_size_of_its_layers():
    layers = [(3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 256, 8)]
    layers += [(256, 512, 4), (512, 512, 4), (512, 512, 4), (512, 512, 2), (512, 512, 2), (512, 512, 2)]
    net = on_meta("vgg16")
    assert num_params(net) == sum(9 * i * o + o + 2 * o for i, o, _ in layers) + 512 * 10 + 10 == 14_728_266
    assert multiply_adds(net, (3, 32, 32)) == sum(conv_macs(*layer) for layer in layers) + 5120


def test_wrn_34_10_has_the_size_of_its_layers():
    expected, channels = conv_macs(3, 16, 32), 16
    for out, side in ((160, 32), (320, 16), (640, 8)):
        expected += (
            conv_macs(channels, out, side) + conv_macs(out, out, side) + conv_macs(channels, out, side, kernel=1)
        )
        expected += 4 * 2 * conv_macs(out, out, side)
        channels = out
    net = on_meta("wrn-34-10")
    # The size published for the network of TRADES and MART: 46.16 M.
    assert num_params(net) == 46_160_474
    assert multiply_adds(net, (3, 32, 32)) == expected + 640 * 10


def test_small_resnet_has_the_size_of_its_layers():
    # Input and output channels, side of the output, and whether the shortcut is a convolution.
    blocks = [(24, 24, 16, False), (24, 48, 8, True), (48, 96, 4, True), (96, 96, 4, False)]
    params, macs = 27 * 24 + 2 * 24 + 96 * 10 + 10, conv_macs(3, 24, 16) + 960
    for channels, out, side, projects in blocks:
        params += 9 * channels * out + 9 * out * out + 4 * out + projects * (channels * out + 2 * out)
        macs += conv_macs(channels, out, side) + conv_macs(out, out, side)
        macs += projects * conv_macs(channels, out, side, kernel=1)
    net = on_meta("small-resnet")
    assert num_params(net) == params == 340_546
    assert multiply_adds(net, (3, 32, 32)) == macs == 9_604_032


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (3, 64, 64), (1, 40, 60)])
def test_any_image_size_and_class_count(name, channels, height, width):
    net = build(network_ref(name, NARROW[name]), 7, (channels, height, width))
    assert net.training
    logits = net.eval()(torch.rand(2, channels, height, width))
    assert logits.shape == (2, 7)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "wrn-34-10", "small-resnet"])
def test_large_images_are_averaged(name):
    assert build(network_ref(name, NARROW[name]), 5, (3, 300, 200)).eval()(torch.rand(1, 3, 300, 200)).shape == (1, 5)


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_see_their_batch(name):
    net = build(network_ref(name, NARROW[name]), 10, (3, 32, 32)).eval()
    x = torch.rand(5, 3, 32, 32)
    assert torch.allclose(net(x)[2:3], net(x[2:3]), atol=1e-5)


def test_the_example_network_of_pyautoattack_fits_key_by_key():
    package = pytest.importorskip("pyautoattack")
    path = f"{package.__path__[0]}/examples/model_test.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = build(network_ref("resnet18", {}), 10, (3, 32, 32))
    assert net.state_dict().keys() == state.keys()
    net.load_state_dict(state)


def test_weights_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    from bench.models import build as build_module

    ref = network_ref("small-cnn", {"channels": 30_000})
    # The second layer alone: 60,000 x 30,000 kernels of nine weights, four bytes each.
    with pytest.raises(UsageError, match=r"small-cnn' has weights of [\d,.]+ GiB; to train it takes") as caught:
        build(ref, 10, (1, 8, 8))
    assert float(re.search(r"of ([\d,.]+) GiB", str(caught.value))[1].replace(",", "")) > 36 * 60_000 * 30_000 / 2**30
    small, calls = network_ref("small-cnn", {"channels": 4, "hidden": 8}), []
    monkeypatch.setattr(build_module, "available_memory", lambda: calls.append(1) or 10**9)
    torch.manual_seed(0)
    net, next_draw = build(small, 10, (1, 8, 8)), torch.rand(1)
    num_bytes = 4 * sum(parameter.numel() for parameter in net.parameters())
    monkeypatch.setattr(build_module, "available_memory", lambda: 3 * num_bytes - 1)
    with pytest.raises(UsageError, match="weights"):
        build(small, 10, (1, 8, 8))
    # Weights that are there already need neither gradients nor momenta, and nothing is said of a training.
    assert build(small, 10, (1, 8, 8), is_trained=True)
    monkeypatch.setattr(build_module, "available_memory", lambda: num_bytes - 1)
    with pytest.raises(
        UsageError, match=r"small-cnn' has weights of [\d,.]+ GiB, and [\d,.]+ GiB of memory are available$"
    ):
        build(small, 10, (1, 8, 8), is_trained=True)
    # Looking takes no random number.
    monkeypatch.setattr(build_module, "_require_room", lambda name, make, is_trained: None)
    torch.manual_seed(0)
    other = build(small, 10, (1, 8, 8))
    assert calls and next_draw == torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
