"""Networks from a user's file and from libraries, and what is said where they cannot be had."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from bench.models.build import build, network_ref
from bench.types import MethodError, UsageError

SHAPE = (3, 32, 32)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def factory(num_classes, *, in_channels=3, hidden: int = 4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.Linear(hidden, num_classes))\n"
        "def nothing(num_classes):\n    return 'a network'\n"
    )
    return path


def test_a_users_own_factory(own):
    ref = network_ref(f"{own}:factory", {"hidden": 6})
    assert ref.params == {"hidden": 6}
    net = build(ref, 5, SHAPE)
    assert net(torch.rand(2, *SHAPE)).shape == (2, 5)
    assert net[1].out_features == 6


def test_a_changed_file_is_another_network(own):
    before = network_ref(f"{own}:factory", {}).code_sha
    own.write_text(own.read_text() + "# changed\n")
    assert network_ref(f"{own}:factory", {}).code_sha != before


def test_a_factory_that_returns_no_network(own):
    with pytest.raises(MethodError, match="returned str"):
        build(network_ref(f"{own}:nothing", {}), 5, SHAPE)


def test_torchvision_normalises_inside():
    ref = network_ref("torchvision:resnet18", {})
    net = build(ref, 5, SHAPE).eval()
    x = torch.rand(2, *SHAPE)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = net.net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert expected.shape == (2, 5)
    assert torch.allclose(net(x), expected, atol=1e-5)
    assert not any("mean" in key and "running" not in key for key in net.state_dict())


def test_timm_normalises_inside():
    pytest.importorskip("timm")
    net = build(network_ref("timm:resnet10t", {}), 4, SHAPE).eval()
    assert isinstance(net.net, nn.Module)
    assert net(torch.rand(2, *SHAPE)).shape == (2, 4)
    assert build(network_ref("timm:resnet10t", {}), 4, (1, 32, 32)).eval()(torch.rand(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("arch", "params", "said"),
    [
        ("resnet81", {}, "did you mean 'resnet18'"),
        ("torchvison:resnet18", {}, "did you mean 'torchvision'"),
        ("torchvision:", {}, "lacks the name"),
        ("resnet18", {"widht": 8}, "did you mean 'width'"),
        ("resnet18", {"width": 0}, "width"),
        ("resnet18", {"in_channels": 1}, "unknown key 'in_channels'"),
        ("no/such/file.py:factory", {}, "no file"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_built(arch, params, said):
    with pytest.raises(UsageError, match=said) as caught:
        network_ref(arch, params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "params", "shape", "said"),
    [
        ("torchvision:resnet81", {}, SHAPE, "did you mean"),
        ("torchvision:resnet18", {"wdith": 3}, SHAPE, "wdith"),
        ("torchvision:resnet18", {}, (1, 32, 32), "3 channels"),
        ("torchvision:resnet18", {"pretrained": True}, SHAPE, "1000 classes"),
    ],
)
def test_what_a_library_refuses_is_one_line(arch, params, shape, said):
    with pytest.raises(UsageError, match=said) as caught:
        build(network_ref(arch, params), 5, shape)
    assert "\n" not in str(caught.value)


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr("bench.models.build.installed", lambda package: False)
    with pytest.raises(UsageError, match="pip install robustbench"):
        network_ref("robustbench:Wong2020Fast", {})


def test_references_need_no_torch():
    code = (
        "import sys; from bench.models.build import network_ref\n"
        "network_ref('torchvision:resnet18', {}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
