"""Checkpoints as they lie around: each gives, to the bit, the logits of the plain state dict inside, or one line."""

import argparse
import json
import re
import tomllib
import warnings as python_warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.cli import main
from bench.models import weights
from bench.models.adapted import Adapted, Normalisation
from bench.models.build import build, network_ref
from bench.models.resnet18 import resnet18
from bench.models.small_cnn import small_cnn
from bench.models.wrn_34_10 import wrn_34_10
from bench.types import NETWORK_KEYS, DataRef, ModelRef, UsageError, WeightsRef

NETWORK = {"in_channels": 1, "image_size": 8, "channels": 4, "hidden": 16}
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed=None, classes=10, **sizes):
    """Return a small network with random weights, or with weights that no file has."""
    torch.manual_seed(99 if seed is None else seed)
    return small_cnn(classes, **{**NETWORK, **sizes}).eval()


RAW, EMA = (network(seed).state_dict() for seed in (1, 2))


def prefixed(prefix, state=RAW):
    return {f"{prefix}{name}": value for name, value in state.items()}


def expected(state=RAW):
    net = network()
    net.load_state_dict(state)
    return net(IMAGES)


def loaded(path, key=None, net=None):
    net = network() if net is None else net
    remarks = weights.load(path, net, key)
    assert all("\n" not in remark and str(path) in remark for remark in remarks)
    return net.eval()(IMAGES), [remark.removeprefix(f"{path}: ") for remark in remarks]


def refusal(path, key=None, net=None):
    """Return the one line with which a file is refused; the network is left as it was."""
    net = network() if net is None else net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        weights.load(path, net, key)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    line = str(caught.value)
    assert "\n" not in line and "\x1b" not in line and "\\x1b" not in line and str(path.name) in line
    return line.replace(str(path), "FILE")


def optimizer():
    net = network(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(IMAGES).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = network(1)
        self.loss_fn = nn.CrossEntropyLoss(weight=torch.ones(10))


SAVED = {
    "plain.pt": (RAW, None, ""),
    "parallel.pth": (prefixed("module."), None, "prefix 'module.' taken off"),
    "compiled.pt": (prefixed("_orig_mod."), None, "prefix '_orig_mod.' taken off"),
    "both.pt": (prefixed("module._orig_mod."), None, "prefix 'module._orig_mod.' taken off"),
    "inside.pt": (
        {name.replace("features.", "features.module."): value for name, value in RAW.items()},
        None,
        "names of wrappers (module, _orig_mod) taken out",
    ),
    "imagenet.pth.tar": (
        {"epoch": 3, "arch": "x", "state_dict": prefixed("module."), "best_acc1": torch.tensor(0.5), "optimizer": {}},
        None,
        "the state dict 'state_dict' is used; prefix 'module.' taken off",
    ),
    "numpy.pt": (
        {"state_dict": RAW, "best": np.float64(0.5), "epoch": np.int64(7), "is_best": np.bool_(True)},
        None,
        "the state dict 'state_dict' is used",
    ),
    "kuangliu.pth": ({"net": prefixed("module."), "acc": 93.0, "epoch": 1}, None, "the state dict 'net' is used"),
    "tutorial.tar": (
        {"model_state_dict": OrderedDict(RAW), "optimizer_state_dict": optimizer(), "loss": torch.tensor(0.3)},
        None,
        "the state dict 'model_state_dict' is used",
    ),
    "beside.pt": ({**RAW, "epoch": 4}, None, "'epoch' beside its tensors left out"),
    "timm.pth": ({"model": RAW, "model_ema": EMA, "epoch": 1}, "model", "the state dict 'model' is used"),
    "lightning.ckpt": (
        {
            "state_dict": Lightning().state_dict(),
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [optimizer()],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
        },
        None,
        "prefix 'model.' taken off; 1 key beside 'model.' left out (loss_fn.weight)",
    ),
    "twice.pt": ({**prefixed("model."), **prefixed("attacker.model.")}, None, "prefix 'model.' taken off"),
    "arguments.pth": (
        {"model": RAW, "args": argparse.Namespace(lr=1, out=Path("runs")), "epoch": 3},
        None,
        "the state dict 'model' is used",
    ),
    "stated.pt": (
        {"state_dict": RAW, "mean": [0.3], "std": [0.35]},
        None,
        "'mean' and 'std' state a normalisation, which is not used; if the network needs it, give it in [[models]]",
    ),
    "lightning-stated.ckpt": (
        {"state_dict": RAW, "hyper_parameters": {"mean": 0.3, "std": 0.35}},
        None,
        "'mean' and 'std' in 'hyper_parameters' state a normalisation, which is not used",
    ),
    "double.pt": ({name: value.double() for name, value in RAW.items()}, None, "float64 read as float32"),
}


@pytest.mark.parametrize("name", SAVED)
def test_the_same_logits_from_every_wrapping(name, tmp_path):
    content, key, says = SAVED[name]
    torch.save(content, tmp_path / name)
    logits, remarks = loaded(tmp_path / name, key)
    assert torch.equal(logits, expected())
    assert says in "; ".join(remarks) and bool(says) == bool(remarks)
    assert weights.inspect(f"weights:{tmp_path / name}").problem is None


def test_counters_of_batch_norm_may_be_missing_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    full, net = resnet18(10, width=2), resnet18(10, width=2)
    state = full.state_dict()
    uncounted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(uncounted, path := tmp_path / "old.pt")
    x = torch.rand(2, 3, 16, 16)
    assert weights.load(path, net) == () and torch.equal(net.eval()(x), full.eval()(x))
    del uncounted["layer1.0.bn1.running_mean"]
    torch.save(uncounted, path)
    assert "1 key missing (layer1.0.bn1.running_mean)" in refusal(path, net=net)


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "ema"), ("net", "ema_state_dict")])
def test_an_average_beside_raw_weights_is_asked_for_by_key(names, tmp_path):
    raw, average = names
    torch.save({raw: RAW, average: EMA}, path := tmp_path / "both.pt")
    asked = refusal(path)
    assert f'2 state dicts: "{raw}", "{average}"' in asked and "key" in asked
    assert torch.equal(loaded(path, raw)[0], expected(RAW))
    assert torch.equal(loaded(path, average)[0], expected(EMA))
    assert torch.equal(loaded(path, "ema")[0], expected(EMA))
    assert "unknown state dict 'emo'" in refusal(path, "emo")
    torch.save({**prefixed("model."), **prefixed("ema_model.", EMA)}, path)
    assert 'key = "model" or key = "ema_model" chooses' in refusal(path)
    assert torch.equal(loaded(path, "ema_model")[0], expected(EMA))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_was_rounded(kind, tmp_path):
    rounded = {name: value.to(kind) if value.is_floating_point() else value for name, value in RAW.items()}
    torch.save(rounded, tmp_path / "half.pt")
    save_file(rounded, tmp_path / "half.safetensors", metadata={"format": "pt"})
    for path in (tmp_path / "half.pt", tmp_path / "half.safetensors"):
        logits, remarks = loaded(path)
        assert torch.equal(logits, expected({name: value.float() for name, value in rounded.items()}))
        assert remarks == [f"{str(kind).removeprefix('torch.')} read as float32"]


def shard(folder, state=RAW):
    names, weight_map = sorted(state), {}
    for index, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-0000{index}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index, weight_map


def test_shards_are_read_and_hashed_together(tmp_path):
    index, _ = shard(tmp_path)
    assert weights.find(f"weights:{tmp_path}") == index
    assert torch.equal(loaded(index)[0], expected())
    before = weights.inspect(f"weights:{index}")
    assert before.problem is None
    save_file({name: RAW[name] + 1 for name in sorted(RAW)[3:]}, tmp_path / "model-00002-of-00002.safetensors")
    assert weights.inspect(f"weights:{index}").sha256 != before.sha256


def test_shards_that_do_not_agree_with_their_index_are_refused(tmp_path):
    index, weight_map = shard(tmp_path)
    last = tmp_path / "model-00002-of-00002.safetensors"

    def problem(changed=weight_map):
        index.write_text(json.dumps({"weight_map": changed}))
        return weights.inspect(f"weights:{index}").problem

    (tmp_path / "model-00003-of-00003.safetensors").write_bytes(last.read_bytes())
    assert "does not name model-00003-of-00003.safetensors" in problem()
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    for escape in ("../x.safetensors", "/etc/passwd", "x.pt", "..\\x.safetensors"):
        assert "shards are .safetensors files beside their index" in problem({**weight_map, "more": escape})
    assert "lacks the tensor 'more'" in problem({**weight_map, "more": last.name})
    fewer = dict(list(weight_map.items())[:-1])
    assert "holds, against its index, the tensor" in problem(fewer)
    assert "weight_map" in problem({}) and "weight_map" in problem([])
    last.unlink()
    assert "1 of its 2 shards are missing: model-00002-of-00002.safetensors" in problem()
    index.write_text("[" * 100_000)
    assert "no readable index" in weights.inspect(f"weights:{index}").problem


def test_a_home_folder_is_expanded_and_variables_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(RAW, tmp_path / "x.pt")
    assert weights.find("weights:~/x.pt") == tmp_path / "x.pt"
    with pytest.raises(UsageError, match="no file"):
        weights.find("weights:$HOME/x.pt")
    with pytest.raises(UsageError, match=r"did you mean 'x\.pt'"):
        weights.find("weights:~/y.pt")


def changed(name, value):
    return {**RAW, name: value}


FIRST = "features.0.weight"
with python_warnings.catch_warnings(action="ignore"):
    QUANTISED = torch.quantize_per_tensor(RAW[FIRST], 0.1, 0, torch.qint8)
REFUSED = {
    "sequential.pt": (prefixed("1.module."), "so something came before the network"),
    "normaliser.pt": (
        {**prefixed("model."), "norm.weight": torch.ones(1), "norm.bias": torch.ones(1)},
        "beside 'model.' it holds 2 keys (norm.weight, norm.bias); if they change no prediction, as a normalisation "
        'would, key = "model" takes the network alone',
    ),
    "bias.pt": ({n: v for n, v in RAW.items() if n != "linear.bias"}, "it lacks tensors of layers of which it has"),
    "shard-00001-of-00002.pt": ({"linear.bias": RAW["linear.bias"]}, "one of several shards: name their index"),
    "array.pt": ({"state_dict": RAW, "history": np.zeros(3)}, "asks for numpy"),
    "module.pt": (
        nn.Linear(2, 2),
        "a whole network would run code; if you trust the file, read it with torch.load('module.pt'",
    ),
    "quantised.pt": (
        changed(FIRST, QUANTISED),
        f"'{FIRST}' is quantised",
    ),
    "int8.pt": (changed(FIRST, RAW[FIRST].to(torch.int8)), f"'{FIRST}' is int8, as quantised weights are"),
    "fp8.pt": (changed(FIRST, RAW[FIRST].to(torch.float8_e4m3fn)), f"'{FIRST}' is float8_e4m3fn"),
    "complex.pt": (changed(FIRST, RAW[FIRST].to(torch.complex64)), f"'{FIRST}' is complex (complex64)"),
    "meta.pt": (changed(FIRST, RAW[FIRST].to("meta")), f"'{FIRST}' is a meta tensor"),
    "expanded.pt": (
        changed(FIRST, torch.zeros(1).expand(2**20, 2**20)),
        f"'{FIRST}' is an expanded tensor, of fewer numbers than places",
    ),
    "empty.pt": ({}, "not a state dict (names to tensors): it is empty"),
    "optimizer.pt": (optimizer(), "but that of an optimizer"),
    "only-optimizer.pt": ({"optimizer": optimizer(), "epoch": 1}, 'it holds "optimizer", "epoch"'),
    "tensor.pt": (torch.zeros(3), "but a Tensor"),
    "classes.pt": (network(1, classes=7).state_dict(), "it tells 7 classes apart, the images have 10"),
    "channels.pt": (network(1, in_channels=3).state_dict(), "it takes images of 3 channels, these have 1"),
    "width.pt": (network(1, channels=6).state_dict(), "another width"),
    "other.pt": (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(), "another architecture"),
    "features.pt": ({n: v for n, v in RAW.items() if not n.startswith("linear")}, "lacks the layer"),
    "thop.pt": ({**RAW, "total_ops": torch.zeros(1)}, "profiler (thop)"),
    "loss.pt": ({**RAW, "criterion.weight": torch.ones(10)}, "what training used, under no prefix"),
    "ema.pt": ({**RAW, "ema.decay": torch.ones(1)}, "an average of weights (EMA)"),
    "layer.pt": (
        {**prefixed("1."), "0.weight": torch.ones(3, 3)},
        "a larger or deeper network (doctor FILE says which one fits); 1 key too many (0.weight)",
    ),
    "both.pt": ({**RAW, **prefixed("module.", EMA)}, "twice, with different weights, under no prefix and 'module.'"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dense_network_of_this_shape_is_refused_in_one_line(name, tmp_path):
    content, says = REFUSED[name]
    torch.save(content, tmp_path / name)
    assert says in refusal(tmp_path / name)


def test_what_came_before_or_lies_beside_a_network_is_told_by_the_user(tmp_path):
    torch.save(prefixed("1.module."), path := tmp_path / "x.pt")
    normalisation = Normalisation((0.3,), (0.35,))
    logits, _ = loaded(path, net=Adapted(network(), normalisation).eval())
    net = network()
    net.load_state_dict(RAW)
    assert torch.equal(logits, net((IMAGES - torch.tensor(0.3)) / torch.tensor(0.35)))
    assert torch.equal(loaded(path, net=Adapted(network(), Normalisation((0.0,), (1.0,))).eval())[0], expected())
    # A network whose own names have the number was saved with what comes before it.
    assert torch.equal(loaded(path, net=nn.Sequential(nn.Identity(), network()).eval())[0], expected())
    torch.save({**prefixed("model."), "norm.weight": torch.ones(1)}, path)
    assert torch.equal(loaded(path, key="model")[0], expected())


@pytest.mark.parametrize(
    ("name", "value"), [("running_var", float("inf")), ("running_var", -1.0), ("running_mean", float("-inf"))]
)
def test_statistics_that_are_none_are_refused(name, value, tmp_path):
    torch.save(resnet18(10, width=2).state_dict(), path := tmp_path / "x.pt")
    net = resnet18(10, width=2)
    weights.load(path, net)
    weights.check_finite(path, net)
    net.get_buffer(f"bn1.{name}")[1] = value
    with pytest.raises(UsageError, match=f"1 of the 2 numbers of bn1.{name} are"):
        weights.check_finite(path, net)


def test_the_normalisation_of_a_card_is_said_of_weights_from_elsewhere(tmp_path, caplog):
    from torchvision import models

    torch.save(models.get_model("mobilenet_v2", num_classes=10).state_dict(), path := tmp_path / "x.pt")
    says = "images are normalised as the card of network 'torchvision:mobilenet_v2' says, mean = [0.485, 0.456, 0.406]"
    _, remarks = classifier(path, "torchvision:mobilenet_v2")
    assert says in "; ".join(remarks)
    build(network_ref("torchvision:mobilenet_v2", {NETWORK_KEYS["initial_weights"]: str(path)}), 10, (3, 32, 32))
    assert says in caplog.text


def test_statistics_that_are_missing_are_named(tmp_path):
    state = {name: value for name, value in resnet18(10, width=2).state_dict().items() if "running_" not in name}
    torch.save(state, path := tmp_path / "x.pt")
    with pytest.raises(UsageError, match="lacks the running statistics of batch norm"):
        weights.load(path, resnet18(10, width=2))


def test_a_misfit_names_the_first_three_keys_of_each_side(tmp_path):
    torch.save({f"layer.{i}.w": torch.zeros(1) for i in range(5)}, tmp_path / "x.pt")
    own = [name for name in RAW if not name.endswith("num_batches_tracked")]
    line = refusal(tmp_path / "x.pt")
    assert f"{len(own)} keys missing ({', '.join(own[:3])} and {len(own) - 3} more)" in line
    assert "5 too many (layer.0.w, layer.1.w, layer.2.w and 2 more)" in line
    torch.save(network(1, channels=6).state_dict(), tmp_path / "x.pt")
    assert re.search(
        r"of another shape \(features\.0\.weight is 6x1x3x3, the network's 4x1x3x3", refusal(tmp_path / "x.pt")
    )


def test_changed_bytes_and_compressed_entries_are_seen(tmp_path):
    torch.save(RAW, path := tmp_path / "x.pt")
    content = path.read_bytes()
    at = content.index(RAW[FIRST].numpy().tobytes())
    path.write_bytes(content[:at] + bytes(8) + content[at + 8 :])
    assert "damaged: the bytes of its entry 'x/data/0' are not those that were written" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("x/data.pkl", bytes(10**6))
    assert "compressed or overlap" in refusal(path)


FOREIGN = {
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "page.pth": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "page.safetensors": (b"<html>404</html>", "a web page"),
    "keras.ckpt": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "zeros.pt": (bytes(5000), "nothing but zeros"),
    "packed.pt": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "pickle.bin": (b"\x80\x04}\x94.", "a plain pickle"),
    "noise.pt": (bytes(range(200, 256)) * 20, "no file of torch.save or safetensors"),
    "json.pt": (b'{"error": "gated"}', "text, such as JSON"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_only_has_the_name_of_weights_is_told_apart(name, tmp_path):
    content, says = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    assert says in weights.inspect(f"weights:{tmp_path / name}").problem
    assert says in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_plain_state_dict_of_a_library_loads_into_its_network(name, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    from torchvision import models

    name_of_timm = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
    x = torch.rand(2, 3, 32, 32)
    for arch, inner in (
        (f"torchvision:{name}", models.get_model(name, num_classes=10)),
        (f"timm:{name_of_timm}", timm.create_model(name_of_timm, num_classes=10)),
    ):
        torch.save({"state_dict": prefixed("module.", inner.state_dict())}, path := tmp_path / "plain.pt")
        net = build(network_ref(arch, {}), 10, (3, 32, 32))
        remarks = weights.load(path, net)
        assert any("prefix 'net.' put in front" in remark for remark in remarks)
        mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        with torch.no_grad():
            assert torch.equal(net.eval()(x), inner.eval()((x - mean) / std))


MU, SIGMA = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])
FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))
    def forward(self, x):
        return self.inner(x)

class Buffered(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        import torch
        self.register_buffer("mu", torch.zeros(1, 3, 1, 1))
        self.register_buffer("sigma", torch.ones(1, 3, 1, 1))
    def forward(self, x):
        return self.inner((x - self.mu) / self.sigma)
"""
DATA = DataRef(
    name="x", split="test", n=4, image_shape=(3, 16, 16), num_classes=10, indices_sha="0" * 64, data_sha="0" * 64
)


def classifier(path, arch, **params):
    params = {NETWORK_KEYS.get(name, name): value for name, value in params.items()}
    model = ModelRef(network=network_ref(arch, params), weights=WeightsRef(name="weights:x.pt", sha256="0" * 64))
    net, remarks = weights.classifier(model, DATA, path)
    return net.eval(), remarks


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize(
    "names", [("mu", "sigma", ""), ("normalize.mean", "normalize.std", "model."), ("0.mean", "0.std", "1.")]
)
def test_the_normalisation_in_a_file_is_put_in_front_of_a_network_of_crossfire(shape, names, tmp_path):
    mean, std, prefix = names
    torch.manual_seed(0)
    inner = resnet18(10, width=2).eval()
    content = {mean: MU.view(shape), std: SIGMA.view(shape), **prefixed(prefix, inner.state_dict())}
    torch.save(content, path := tmp_path / "x.pt")
    net, remarks = classifier(path, "resnet18", width=2)
    x = torch.rand(4, 3, 16, 16)
    assert torch.equal(net(x), inner((x - MU.view(3, 1, 1)) / SIGMA.view(3, 1, 1)))
    assert "mean = [0.4914, 0.4822, 0.4465] and std = [0.2471, 0.2435, 0.2616]" in remarks[-1]
    same, _ = classifier(path, "resnet18", width=2, mean="0.4914 0.4822 0.4465", std="0.2471 0.2435 0.2616")
    assert torch.equal(same(x), net(x))
    with pytest.raises(
        UsageError, match=r"network 'resnet18' by mean = \[0\.5\] and std = \[0\.25\]; give that of the"
    ):
        classifier(path, "resnet18", width=2, mean="0.5", std="0.25")


def test_the_normalisation_in_a_file_must_be_that_of_a_network_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    content = {"mu": MU.view(1, 3, 1, 1), "sigma": SIGMA.view(1, 3, 1, 1), **prefixed("inner.", inner.state_dict())}
    torch.save(content, path := tmp_path / "x.pt")
    x = torch.rand(4, 3, 16, 16)
    expected = inner((x - MU.view(3, 1, 1)) / SIGMA.view(3, 1, 1))
    net, remarks = classifier(path, "nets.py:Buffered")
    assert torch.equal(net(x), expected) and remarks == ()
    with pytest.raises(UsageError, match=r"does not, give mean = \[0\.4914, .* in \[\[models\]\]"):
        classifier(path, "nets.py:Net")
    net, _ = classifier(path, "nets.py:Net", mean="0.4914 0.4822 0.4465", std="0.2471 0.2435 0.2616")
    assert torch.equal(net(x), expected)
    torch.save({**content, "mu": 255 * content["mu"]}, path)
    with pytest.raises(UsageError, match="for pixels from 0 to 255"):
        classifier(path, "nets.py:Net")
    torch.save({**content, "sigma": 0 * content["sigma"]}, path)
    with pytest.raises(UsageError, match="none that can be divided by"):
        classifier(path, "nets.py:Net")


def diagnosis(capsys, path, code=0):
    assert main(["doctor", str(path)]) == code
    out, err = capsys.readouterr()
    return err if code else out


def pasted(out):
    """Return the TOML in what doctor printed, of its last state dict."""
    return tomllib.loads(out[out.rindex("[[models]]") :])


def test_doctor_says_what_a_checkpoint_holds_and_its_lines_load_it(tmp_path, capsys):
    torch.manual_seed(0)
    raw, average = resnet18(7, in_channels=1, width=6).eval(), resnet18(7, in_channels=1, width=6).eval()
    content = {
        "epoch": 3,
        "best": np.float64(0.5),
        "optimizer": {},
        "state_dict": prefixed("module.", raw.state_dict()),
    }
    torch.save({**content, "ema": average.state_dict()}, path := tmp_path / "net.pth.tar")
    out = diagnosis(capsys, path)
    parameters = sum(each.numel() for each in raw.parameters())
    for line in (
        "epoch = 3, best = 0.5, optimizer",
        "state dicts    2: 'state_dict', 'ema'",
        f"tensors      122, {parameters:,} parameters, float32",
        "prefix       'module.'",
        "classes      7, by the last linear layer, linear.weight (7x48)",
        "channels     1, by the first convolution, conv1.weight (6x1x3x3)",
        "fits         resnet18 (width = 6)",
    ):
        assert line in out
    toml = pasted(out)
    assert toml == {
        "models": [{"arch": "resnet18", "width": 6}],
        "defenses": [{"use": f"weights:{path}", "key": "ema"}],
    }
    net = resnet18(7, in_channels=1, width=toml["models"][0]["width"])
    weights.load(weights.find(toml["defenses"][0]["use"]), net, toml["defenses"][0]["key"])
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(net.eval()(x), average(x))


def test_doctor_finds_sizes_and_the_networks_of_libraries(tmp_path, capsys):
    from torchvision import models

    path = tmp_path / "x.pt"
    torch.save(network(1, classes=4, image_size=28, channels=6, hidden=20).state_dict(), path)
    assert "small-cnn (channels = 6, hidden = 20) for images of 28x28" in diagnosis(capsys, path)
    torch.save({"mu": MU, "sigma": SIGMA, **models.squeezenet1_1(num_classes=10).half().state_dict()}, path)
    out = diagnosis(capsys, path)
    assert pasted(out)["models"] == [{"arch": "torchvision:squeezenet1_1"}] and "fits         torchvision" in out
    assert "normalises   mean = [0.4914, 0.4822, 0.4465] and std = [0.2471, 0.2435, 0.2616]" in out
    torch.save(nn.Linear(3, 3).state_dict(), path)
    assert "fits         no network" in diagnosis(capsys, path)
    torch.save({"w\x1b[2J": torch.full((2, 2), torch.nan)}, path)
    out = diagnosis(capsys, path)
    assert "holds NaN or infinite" in out and "\x1b" not in out


def test_doctor_says_what_is_no_checkpoint_in_one_line(tmp_path, capsys):
    for name, says in (("my.toml", "is a configuration"), ("x.npz", "looks like images"), ("no.pt", "no file")):
        line = diagnosis(capsys, tmp_path / name, code=2)
        assert says in line and line.count("\n") == 1
    torch.save({"optimizer": optimizer()}, tmp_path / "o.pt")
    assert "holds no state dict of a network" in diagnosis(capsys, tmp_path / "o.pt", code=2)


def test_the_table_of_the_page_is_planned(tmp_path, monkeypatch, capsys, caplog):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"^```toml\n# my-checkpoint\.toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("my-checkpoint.toml").write_text(toml, encoding="utf-8")
    raw, average = (resnet18(10, in_channels=1, width=16).state_dict() for _ in range(2))
    torch.save({"model": raw, "model_ema": average}, "net.pth")
    assert main(["plan", "my-checkpoint.toml"]) == 0
    out, _ = capsys.readouterr()
    assert "weights:net.pth[key=ema]" in out and "jpeg@weights:net.pth[key=ema]" in out
    assert "net.pth: the state dict 'model_ema' is used" in caplog.messages


class PreActivation(nn.Module):
    """A block of a WideResNet with the names of its first implementation in PyTorch, which TRADES and MART have."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if channels != out:
            self.convShortcut = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        active = self.bn1(x).relu()
        skipped = self.convShortcut(active) if hasattr(self, "convShortcut") else x
        return skipped + self.conv2(self.bn2(self.conv1(active)).relu())


class Stage(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.layer = nn.Sequential(
            PreActivation(channels, out, stride), *(PreActivation(out, out, 1) for _ in range(4))
        )

    def forward(self, x):
        return self.layer(x)


class PublishedWideResNet(nn.Module):
    """WideResNet-34-2, with the stage that TRADES makes beside it and never calls."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = Stage(16, 32, 1), Stage(32, 64, 2), Stage(64, 128, 2)
        self.sub_block1 = Stage(16, 32, 1)
        self.bn1, self.fc = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x):
        x = self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))).relu()
        return self.fc(x.mean((2, 3)))


def test_a_published_wide_resnet_loads_into_that_of_crossfire(tmp_path):
    torch.manual_seed(0)
    published = PublishedWideResNet().eval()
    for each in published.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_mean, -0.5, 0.5), nn.init.uniform_(each.running_var, 0.5, 2)
    torch.save(prefixed("module.", published.state_dict()), path := tmp_path / "x.pt")
    net = wrn_34_10(10, widen=2)
    said = "; ".join(weights.load(path, net))
    assert "convShortcut shortcut, fc linear" in said and "of sub_block1, which predicts nothing, left out" in said
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net.eval()(x), published(x), rtol=1e-4, atol=1e-5)


def test_initial_weights_may_hold_the_normalisation_that_the_network_has(tmp_path):
    inner = resnet18(10, width=2).eval()
    torch.save({"mu": MU, "sigma": SIGMA, **inner.state_dict()}, path := tmp_path / "x.pt")
    entry = {NETWORK_KEYS["initial_weights"]: str(path), "width": 2}
    with pytest.raises(UsageError, match=r"give mean = \[0\.4914, 0\.4822, 0\.4465\] and std = .* in \[\[models\]\]"):
        build(network_ref("resnet18", entry), 10, (3, 16, 16))
    given = {NETWORK_KEYS["mean"]: "0.4914 0.4822 0.4465", NETWORK_KEYS["std"]: "0.2471 0.2435 0.2616"}
    net = build(network_ref("resnet18", {**entry, **given}), 10, (3, 16, 16)).eval()
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(net(x), inner((x - MU.view(3, 1, 1)) / SIGMA.view(3, 1, 1)))
