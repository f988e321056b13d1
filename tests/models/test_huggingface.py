"""Image classifiers of transformers: a stand-in for the package where it is not installed, and the package itself."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.models import huggingface
from bench.models.build import build, network_ref
from bench.types import UsageError

SHAPE, COMMIT = (1, 8, 8), "0123456789abcdef0123456789abcdef01234567"
CARD = {"image_mean": [0.3], "image_std": [0.4], "rescale_factor": 0.00392156862745098}

# The calls that are made, with the names, arguments and kinds of errors of transformers 5.24.
STAND_IN = {
    "__init__.py": """
import json, pathlib
from types import SimpleNamespace
import torch
from torch import nn
from safetensors.torch import load_file
from transformers.utils import found

class AutoConfig:
    @staticmethod
    def from_pretrained(name, trust_remote_code, local_files_only=False, revision=None):
        config = json.loads((found(name, revision) / "config.json").read_text())
        if "auto_map" in config and not trust_remote_code:
            raise ValueError("it requires you to execute the configuration file in that repo\\nsecond line")
        return SimpleNamespace(num_labels=len(config["id2label"]), num_channels=config["num_channels"])

class Answer(dict):
    logits = property(lambda self: self["logits"])

class Linear(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.classifier = nn.Linear(64 * config.num_channels, config.num_labels)
    def forward(self, pixel_values):
        return Answer(loss=None, logits=self.classifier(pixel_values.flatten(1)))

class AutoModelForImageClassification:
    @staticmethod
    def from_pretrained(name, trust_remote_code, dtype, use_safetensors, output_loading_info, local_files_only=False,
                        revision=None):
        assert (dtype, use_safetensors, output_loading_info) == ("float32", True, True) and not trust_remote_code
        net = Linear(AutoConfig.from_pretrained(name, False, revision=revision))
        missing, _ = net.load_state_dict(load_file(found(name, revision) / "model.safetensors"), strict=False)
        return net, {"missing_keys": set(missing)}
""",
    "utils/__init__.py": """
import os, pathlib
def found(name, revision):
    folder = pathlib.Path(name)
    if not folder.is_dir():
        folder = pathlib.Path(os.environ["HF_HUB"]) / f"models--{name.replace('/', '--')}" / "snapshots" / revision
    if not folder.is_dir():
        raise OSError("We couldn't connect to 'https://huggingface.co'\\nCheck your internet connection")
    return folder
""",
    "utils/logging.py": "def set_verbosity_error(): ...\ndef disable_progress_bar(): ...\n",
    "image_processing_base.py": """
import json
from transformers.utils import found
class ImageProcessingMixin:
    @staticmethod
    def get_image_processor_dict(name, trust_remote_code, local_files_only=False, revision=None):
        return json.loads((found(name, revision) / "preprocessor_config.json").read_text()), {}
""",
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """An installed stand-in package, and an empty cache of the hub."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == "transformers"]
    kept = {name: sys.modules.pop(name) for name in loaded}
    for name, text in STAND_IN.items():
        path = tmp_path / "site" / "transformers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    metadata = tmp_path / "site" / "transformers-5.24.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.24.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("HF_HUB", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface, "_FAILED", {})
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]
    sys.modules.update(kept)


def linear(folder, classes=10, card=CARD, **config):
    """Save a linear classifier and return its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = {str(label): f"class {label}" for label in range(classes)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels, "num_channels": 1, **config}))
    if card is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(card))
    layer = nn.Linear(64, classes)
    save_file({f"classifier.{name}": value for name, value in layer.state_dict().items()}, folder / "model.safetensors")
    return layer.eval()


@pytest.mark.parametrize(
    ("card", "as_given"),
    [
        (CARD, lambda x: (x - 0.3) / 0.4),
        ({**CARD, "do_normalize": False}, lambda x: x),
        ({**CARD, "do_rescale": False}, lambda x: (255 * x - 0.3) / 0.4),
        # EfficientNet's: from -1 to 1.
        ({**CARD, "rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda x: ((255 * x / 127.5 - 1) - 0.3) / 0.4),
    ],
)
def test_a_folder_is_a_network_that_normalises_as_its_card_says(stand_in, card, as_given):
    layer, x = linear(stand_in / "mine", card=card), torch.rand(3, *SHAPE)
    net = build(network_ref("huggingface:mine", {}), 10, SHAPE)
    assert net.training
    torch.testing.assert_close(net.eval()(x), layer(as_given(x).flatten(1)), rtol=1e-4, atol=1e-4)


def test_mean_and_std_replace_the_card(stand_in):
    layer, x = linear(stand_in / "mine", card=None), torch.rand(3, *SHAPE)
    net = build(network_ref("huggingface:mine", {"input.mean": "0.5", "input.std": "0.25"}), 10, SHAPE).eval()
    torch.testing.assert_close(net(x), layer(((x - 0.5) / 0.25).flatten(1)))


def test_the_files_of_a_folder_are_in_the_key(stand_in):
    linear(stand_in / "mine")
    before = network_ref("huggingface:mine", {})
    linear(stand_in / "mine")
    after = network_ref("huggingface:mine", {})
    assert before.params == after.params == {} and before.code_sha != after.code_sha


class Api:
    """What is asked of the hub."""

    def model_info(self, name, revision, timeout):
        if name != "somebody/digits-net":
            raise ConnectionError("Name or service not known")
        return SimpleNamespace(sha=COMMIT[::-1] if revision == "v2" else COMMIT)


@pytest.fixture
def hub(stand_in, monkeypatch):
    package = SimpleNamespace(constants=SimpleNamespace(HF_HUB_CACHE=str(stand_in / "hub")), HfApi=Api)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    huggingface._commit.cache_clear()
    yield stand_in / "hub"
    huggingface._commit.cache_clear()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_model_of_the_hub_is_known_by_its_commit(hub, is_kept):
    folder = hub / "models--somebody--digits-net"
    layer = linear(folder / "snapshots" / COMMIT)
    if is_kept:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
    ref = network_ref("huggingface:somebody/digits-net", {})
    assert ref.params == {"revision": COMMIT} and network_ref(ref.name, ref.params) == ref
    assert network_ref(ref.name, {"revision": "v2"}).params == {"revision": COMMIT[::-1]}
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(build(ref, 10, SHAPE).eval()(x), layer(((x - 0.3) / 0.4).flatten(1)))


REFUSED = {
    "classes": ({"classes": 7}, {}, SHAPE, "tells 7 classes apart, the images have 10"),
    "channels": ({"num_channels": 3}, {}, SHAPE, "takes images of 3 channels, these have 1"),
    "no card": ({"card": None}, {}, SHAPE, "has no preprocessor_config.json; give mean and std"),
    "another card": ({"card": {**CARD, "image_mean": [1, 2, 3]}}, {}, SHAPE, "card's mean and std cannot be read"),
    "no mean": ({"card": {"image_std": [0.4]}}, {}, SHAPE, "card's mean and std cannot be read"),
    "no list": ({"card": [1]}, {}, SHAPE, "card's mean and std cannot be read"),
    "infinite": ({"card": {**CARD, "image_std": [float("inf")]}}, {}, SHAPE, "card's mean and std cannot be read"),
    "code": ({"auto_map": {"AutoConfig": "x.Y"}}, {}, SHAPE, "cannot be had: ValueError: it requires you to execute"),
    "a parameter": ({}, {"revision": "main"}, SHAPE, "unknown parameter 'revision'"),
    "a size": ({}, {}, (1, 9, 9), "cannot take images of 1x9x9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_classifier_of_the_images_is_one_line(stand_in, case):
    config, params, shape, message = REFUSED[case]
    linear(stand_in / "mine", **config)
    with pytest.raises(UsageError, match=message) as caught:
        build(network_ref("huggingface:mine", params), 10, shape)
    assert "\n" not in str(caught.value)


def test_weights_without_a_classifier_are_refused(stand_in):
    linear(stand_in / "mine")
    save_file({"body.weight": torch.zeros(1)}, stand_in / "mine" / "model.safetensors")
    with pytest.raises(UsageError, match=r"its weights lack classifier\.bias, so it is no trained image classifier"):
        build(network_ref("huggingface:mine", {}), 10, SHAPE)


def test_a_name_that_is_nowhere(hub):
    with pytest.raises(UsageError, match="which is no folder here, cannot be had: ConnectionError: Name or service"):
        network_ref("huggingface:mine", {})
    with pytest.raises(UsageError, match="there is no folder ./mine"):
        network_ref("huggingface:./mine", {})
    with pytest.raises(UsageError, match="the folder .* has no config.json"):
        network_ref(f"huggingface:{hub.parent}", {})
    ref = network_ref("huggingface:some/body", {"revision": COMMIT})
    for _ in range(2):
        with pytest.raises(UsageError, match="cannot be had: OSError: We couldn't connect to") as caught:
            build(ref, 10, SHAPE)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the stand-in above shows the same")
def test_a_folder_of_transformers_itself(tmp_path):
    import transformers

    sizes = {"num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**sizes, num_labels=10)
    theirs = transformers.AutoModelForImageClassification.from_config(config).eval()
    theirs.half().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**CARD, "image_processor_type": "ViTImageProcessor"})
    )
    net, x = build(network_ref(f"huggingface:{tmp_path}", {}), 10, (1, 32, 32)).eval(), torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(x), theirs.float()((x - 0.3) / 0.4).logits)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="cannot be had: OSError"):
        build(network_ref(f"huggingface:{tmp_path}", {}), 10, (1, 32, 32))
