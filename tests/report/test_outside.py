"""Results are anyone's, and so are the names in them: none of these is opened unless somebody trusts the results."""

import hashlib
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from bench import registry
from bench.cli import main
from bench.data import NAMED, data_ref, open_set
from bench.evaluation.chunks import write_chunk
from bench.evaluation.craft import Crafted
from bench.keys import Keys, attack_key, sha256_hex, training_key
from bench.models.build import build, network_ref
from bench.report import figures
from bench.report.render import outside
from bench.report.render.samples import samples
from bench.store import cards
from bench.store.files import write_atomically
from bench.store.working_store import Store
from bench.types import AttackRef, Cell, ModelRef, Schedule, Threat, TrainRef, UsageError, WeightsRef
from tests.report.fabricate import result

N, SHAPE = 20, (1, 16, 16)

NETWORK = """
from pathlib import Path

from torch import nn

Path(__file__).with_name("ran").touch()


def mine(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))
"""


@pytest.fixture
def photos(tmp_path):
    """A folder of images of this machine, of two classes."""
    drawn = np.random.default_rng(0).integers(0, 256, (N, 16, 16), dtype=np.uint8)
    for index, pixels in enumerate(drawn):
        path = tmp_path / "photos" / "test" / f"class{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def carried(root, data, network, weights=None):
    """Make the store of somebody else: a result on these images and this network, with its adversarial set."""
    store = Store(root)
    trained = TrainRef(
        recipe=registry.find("recipe", "standard").ref({}), schedule=Schedule(epochs=1), data=data, seed=0
    )
    model = ModelRef(network=network, weights=weights or trained)
    attack = AttackRef(
        model=model,
        step=None,
        attack=registry.find("attack", "pgd").ref({}),
        threat=Threat(eps="1"),
        data=data,
        seed=0,
    )
    cell = Cell(data=data, model=model, step=None, access="white-box", attack=attack, seed=0)
    attacked = result(clean=[True] * N, adversarial=[False] * N).model_copy(
        update={"cell": cell, "key": Keys().of(cell)}
    )
    store.put(attacked)
    grey = torch.full((N, *data.image_shape), 0.5)
    write_chunk(
        store.adversarial(attack_key(attack)) / f"000000-{N:06d}.safetensors",
        Crafted(grey, torch.ones(N), torch.ones(N), 0.1, [], N),
    )
    return store, attacked


@pytest.fixture
def looked(monkeypatch):
    """Every path that is looked at."""
    opened = []
    for name in ("stat", "scandir", "open"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, real=real, **k: opened.append(str(path)) or real(path, *a, **k))
    return opened


def test_a_folder_that_results_name_is_shown_to_those_only_who_trust_them(tmp_path, photos, looked, capsys, caplog):
    data = data_ref(open_set(f"folder:{photos}", "test", folder=None, channels=1))
    store, attacked = carried(tmp_path / "store", data, network_ref("small-cnn", {}))
    words = ["leaderboard", "--store", str(store.root), "--format", "html"]
    looked.clear()
    assert main(words) == 0
    assert "data:image/png" not in capsys.readouterr().out
    assert f"the results name folder:{photos}, which is not opened" in caplog.text and "--trust" in caplog.text
    assert str(store.root) in "".join(looked) and not [path for path in looked if path.startswith(str(photos))]
    assert main([*words, "--trust"]) == 0
    assert "data:image/png" in capsys.readouterr().out
    assert samples([attacked], store, trusted=True).keys() == {attacked.key}


def test_a_network_that_results_name_is_not_run(tmp_path, photos, looked, capsys):
    file = tmp_path / "mine.py"
    file.write_text(NETWORK)
    data = data_ref(open_set(f"folder:{photos}", "test", folder=None, channels=1))
    network = network_ref(f"{file}:mine", {})
    store, attacked = carried(tmp_path / "store", data, network)
    weights = save(build(network, 2, SHAPE).state_dict())
    folder = store.training(training_key(attacked.cell.model))
    write_atomically(folder / "weights.safetensors", weights)
    cards.write(folder, {"weights_sha256": hashlib.sha256(weights).hexdigest()})
    (tmp_path / "ran").unlink()
    looked.clear()
    words = ["figures", "attack-gallery", "--store", str(store.root), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"the results name '{file}:mine', which is not opened" in said and said.count("\n") == 1
    assert not (tmp_path / "ran").exists() and not [p for p in looked if p.startswith((str(file), str(photos)))]
    assert main([*words, "--trust"]) == 0
    assert (tmp_path / "out" / "attack-gallery.png").exists()


@pytest.mark.parametrize("name", ["weights:secret.pt", "secret.pt"])
def test_weights_that_results_name_are_not_read(tmp_path, name):
    data = data_ref(open_set("digits", "test", folder=None, image_size=(16, 16)), N)
    store, attacked = carried(
        tmp_path, data, network_ref("small-cnn", {}), WeightsRef(name=name, sha256=sha256_hex("anything"))
    )
    with pytest.raises(figures.Missing, match=f"the results name '{name}', which is not opened"):
        figures.draw("attack-gallery", figures.source_of([attacked], store), tmp_path / "out")
    # Nor does a figure end the others over weights that are not there.
    with pytest.raises(figures.Missing, match="no file"):
        figures.draw("attack-gallery", figures.source_of([attacked], store, trusted=True), tmp_path / "out")


@pytest.mark.parametrize("name", ["evil.py:Step", "/dev/zero.py:f", "art:Anything"])
def test_a_step_that_results_name_is_not_run(tmp_path, name):
    data = data_ref(open_set("digits", "test", folder=None, image_size=(16, 16)), N)
    store, attacked = carried(tmp_path, data, network_ref("small-cnn", {}))
    step = registry.find("test-time", "jpeg").ref({}).model_copy(update={"name": name})
    cell = attacked.cell.model_copy(update={"step": step, "access": "static"})
    foreign = attacked.model_copy(
        update={"cell": cell, "key": Keys().of(cell), "names": attacked.names.model_copy(update={"access": "static"})}
    )
    with pytest.raises(figures.Missing, match=f"the results name '{name}', which is not opened"):
        figures.draw("grad-cam", figures.source_of([foreign], store), tmp_path / "out")


def test_nothing_is_downloaded_or_made_huge_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CROSSFIRE_DATA", raising=False)
    monkeypatch.setattr("bench.data.named._download", lambda entry: pytest.fail(f"{entry.name} is downloaded"))
    digits = data_ref(open_set("digits", "test", folder=None), N)
    with pytest.raises(UsageError, match="the images of svhn are not on this machine"):
        outside.images(digits.model_copy(update={"name": "svhn"}), None, trusted=True)
    large = digits.model_copy(update={"image_shape": (3, 1000, 1000)})
    with pytest.raises(UsageError, match=f"3x1000x1000, {NAMED['digits'].splits['test'] * 3_000_000:,} bytes"):
        outside.images(large, None, trusted=False)
    assert len(outside.images(digits, None, trusted=False)[1]) == N
