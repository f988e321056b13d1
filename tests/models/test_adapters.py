"""Networks from a user's file and from libraries, and the errors where they are not available."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from PIL import Image
from torch import nn

from bench.cli import main
from bench.models.build import build, network_ref
from bench.store.working_store import Store
from bench.types import UsageError

SHAPE = (3, 32, 32)


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def factory(num_classes, *, in_channels=3, hidden: int = 4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.Linear(hidden, num_classes))\n"
        "def nothing(num_classes):\n    return 'a network'\n"
        "def seven(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(7))\n"
        "def maps(num_classes):\n    return nn.Conv2d(3, num_classes, 3)\n"
    )
    return path


def test_a_users_own_factory(own_file):
    ref = network_ref(f"{own_file}:factory", {"hidden": 6})
    assert ref.params == {"hidden": 6}
    net = build(ref, 5, SHAPE)
    # Lazy layers are initialised before the first image, so an optimiser can take them.
    assert [tuple(parameter.shape) for parameter in net.parameters()] == [(6, 3 * 32 * 32), (6,), (5, 6), (5,)]
    assert net.training
    assert net(torch.rand(2, *SHAPE)).shape == (2, 5)


def test_a_changed_file_is_another_network(own_file):
    before = network_ref(f"{own_file}:factory", {}).code_sha
    own_file.write_text(own_file.read_text() + "CHANGED = 1\n")
    assert network_ref(f"{own_file}:factory", {}).code_sha != before


def test_a_factory_that_returns_no_network(own_file):
    with pytest.raises(UsageError, match="returned str, not a torch.nn.Module"):
        build(network_ref(f"{own_file}:nothing", {}), 5, SHAPE)


@pytest.mark.parametrize(
    ("name", "message"), [("seven", "tells 7 classes apart, the images have 5"), ("maps", "returns no logits of shape")]
)
def test_a_factory_whose_network_gives_no_logit_for_each_class(own_file, name, message):
    with pytest.raises(UsageError, match=message):
        build(network_ref(f"{own_file}:{name}", {}), 5, SHAPE)


def test_a_factory_that_is_not_there(own_file):
    with pytest.raises(UsageError, match=r"mine\.py has no function factry$"):
        network_ref(f"{own_file}:factry", {})


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


def test_a_new_last_layer_of_a_pretrained_network_is_said(monkeypatch, caplog):
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=4)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: net)
    with caplog.at_level("WARNING", "crossfire"):
        build(network_ref("timm:resnet10t", {"pretrained": True}), 4, SHAPE)
    assert "is pretrained for 1000 classes, the images have 4: its last layer is new" in caplog.text


@pytest.mark.parametrize(
    ("arch", "params", "message"),
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
def test_a_wrong_name_is_told_before_anything_is_built(arch, params, message):
    with pytest.raises(UsageError, match=message) as caught:
        network_ref(arch, params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "params", "shape", "message"),
    [
        ("torchvision:resnet81", {}, SHAPE, "did you mean"),
        ("torchvision:resnet18", {"wdith": 3}, SHAPE, "wdith"),
        ("timm:local-dir:net", {}, SHAPE, "is no name of timm or its hub"),
        ("torchvision:resnet18", {}, (1, 32, 32), "3 channels"),
        ("torchvision:resnet18", {"pretrained": True}, SHAPE, "1000 classes"),
        ("vgg16", {}, (3, 8, 8), "cannot take images of 3x8x8"),
    ],
)
def test_what_a_library_refuses_is_one_line(arch, params, shape, message):
    with pytest.raises(UsageError, match=message) as caught:
        build(network_ref(arch, params), 5, shape)
    assert "\n" not in str(caught.value)


# What RobustBench 1.1.1 offers of itself: the names, the signatures and the keys of its model zoo.
ROBUSTBENCH = {
    "__init__.py": "",
    "model_zoo/__init__.py": """
from torch import nn
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
def net(classes):
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))
model_dicts = {
    BenchmarkDataset.cifar_10: {ThreatModel.Linf: {"Wong2020Fast": {"model": net(10), "gdrive_id": "1"}}},
    BenchmarkDataset.cifar_100: {ThreatModel.Linf: {"Rice2020Overfitting": {"model": net(100), "gdrive_id": "2"}}},
}
""",
    "model_zoo/enums.py": """
from enum import Enum
class BenchmarkDataset(Enum):
    cifar_10 = "cifar10"
    cifar_100 = "cifar100"
class ThreatModel(Enum):
    Linf = "Linf"
""",
    "utils.py": """
import os
from pathlib import Path
import torch
from robustbench.model_zoo import model_dicts
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
def load_model(model_name, model_dir="./models", dataset=BenchmarkDataset.cifar_10, threat_model=ThreatModel.Linf,
               custom_checkpoint="", norm=None):
    dataset_, threat_ = BenchmarkDataset(dataset), ThreatModel(threat_model)
    net = model_dicts[dataset_][threat_][model_name]["model"]()
    path = Path(model_dir) / dataset_.value / threat_.value / f"{model_name}.pt"
    if not path.is_file():
        if "NO_NETWORK" in os.environ:
            raise ConnectionError("Failed to resolve 'drive.google.com'")
        os.makedirs(path.parent)
        torch.save({name: torch.full_like(value, 0.01) for name, value in net.state_dict().items()}, path)
    net.load_state_dict(torch.load(path))
    return net.eval()
""",
}


@pytest.fixture
def robustbench(tmp_path, monkeypatch):
    """An installed stand-in package; its downloads need no network."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    for name, text in ROBUSTBENCH.items():
        path = tmp_path / "site" / "robustbench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    metadata_path = tmp_path / "site" / "robustbench-1.1.1.dist-info" / "METADATA"
    metadata_path.parent.mkdir()
    metadata_path.write_text("Metadata-Version: 2.1\nName: robustbench\nVersion: 1.1.1\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        del sys.modules[name]


def test_robustbench_comes_with_its_weights_which_lie_in_the_cache(robustbench):
    net = build(network_ref("robustbench:Wong2020Fast", {}), 10, SHAPE)
    assert net.training
    expected = torch.full((1, 10), 0.01 * (3 * 32 * 32 + 1))
    torch.testing.assert_close(net(torch.ones(1, *SHAPE)), expected, rtol=1e-4, atol=0)
    ref = network_ref("robustbench:Rice2020Overfitting", {"dataset": "cifar100", "threat_model": "Linf"})
    assert build(ref, 100, SHAPE)[1].out_features == 100
    assert {path.name for path in robustbench.iterdir()} == {"site", "cache"}
    assert len(list((robustbench / "cache" / "crossfire" / "robustbench").rglob("*.pt"))) == 2


@pytest.mark.parametrize(
    ("name", "params", "shape", "message"),
    [
        ("Wong2020Fasst", {}, SHAPE, "did you mean 'Wong2020Fast'"),
        ("Rice2020Overfitting", {}, SHAPE, "cannot be had: KeyError: 'Rice2020Overfitting'"),
        ("Rice2020Overfitting", {"dataset": "cifar100"}, SHAPE, "tells 100 classes apart, the images have 10"),
        ("Wong2020Fast", {"dataset": "cifar11"}, SHAPE, "'cifar11' is not a valid BenchmarkDataset"),
        ("Wong2020Fast", {"model": "x"}, SHAPE, "unexpected keyword argument 'model'"),
        ("Wong2020Fast", {}, (3, 64, 64), "shapes cannot be multiplied"),
    ],
)
def test_what_robustbench_refuses_is_one_line(robustbench, name, params, shape, message):
    with pytest.raises(UsageError, match=message) as caught:
        build(network_ref(f"robustbench:{name}", params), 10, shape)
    assert "\n" not in str(caught.value)


def test_robustbench_without_the_internet(robustbench, monkeypatch):
    monkeypatch.setenv("NO_NETWORK", "1")
    with pytest.raises(UsageError, match="cannot be had: ConnectionError: Failed to resolve"):
        build(network_ref("robustbench:Wong2020Fast", {}), 10, SHAPE)


def test_robustbench_without_what_it_needs(robustbench):
    (robustbench / "site" / "robustbench" / "__init__.py").write_text("import autoattack_of_which_nobody_knows")
    with pytest.raises(UsageError, match="cannot be imported: No module named 'autoattack_of_which"):
        build(network_ref("robustbench:Wong2020Fast", {}), 10, SHAPE)


def test_a_run_with_weights_as_they_are(robustbench):
    images = robustbench / "images"
    for split in ("train", "test"):
        for label in range(10):
            (images / split / str(label)).mkdir(parents=True)
            colour = Image.new("RGB", (32, 32), (25 * label, 0, 0))
            colour.save(images / split / str(label) / "one.png")
    config = robustbench / "as-they-are.toml"
    config.write_text(
        f'schema = 1\nname = "as-they-are"\n[dataset]\nname = "folder:{images}"\n'
        '[[models]]\narch = "robustbench:Wong2020Fast"\n[train]\nepochs = 0\n[[defenses]]\nuse = "standard"\n'
        '[[attacks]]\nuse = "fgsm"\n'
    )
    store = robustbench / "store"
    assert main(["run", str(config), "--store", str(store), "--report", str(robustbench / "report")]) == 0
    # All weights are equal, so all logits are; a tie is not a correct prediction.
    assert {r.names.attack: r.metrics.clean_accuracy for r in Store(store).results()} == {"clean": 0.0, "fgsm": 0.0}


@pytest.mark.parametrize("library", ["timm", "robustbench"])
def test_what_pip_does_not_know_is_not_installed(monkeypatch, library):
    def package_not_found(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", package_not_found)
    with pytest.raises(UsageError, match=f"pip install {library}"):
        network_ref(f"{library}:anything", {})


def test_references_need_no_torch():
    code = (
        "import sys; from bench.models.build import network_ref\n"
        "network_ref('torchvision:resnet18', {}); print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert process.stdout.strip() == "False"
