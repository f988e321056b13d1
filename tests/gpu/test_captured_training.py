"""Training recorded as a graph against the same training launched kernel by kernel; skipped without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.models.build import network_ref
from bench.process import capture
from bench.training.augment import Batches
from bench.training.epoch import EpochTables
from bench.training.loop import train
from bench.training.precision import Precision, built
from bench.training.update import Updates
from bench.types import DataRef, Ending, TrainRef
from tests.training.patterns import reference
from tests.training.test_static_step import BRANCHING, RECIPES

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SHAPE, CLASSES, STEPS = (3, 32, 32), 4, 20
NETWORK = network_ref("resnet18", {"width": 16})


def images(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % CLASSES
    patterns = rng.random((CLASSES, *SHAPE))[labels]
    return ((patterns * 0.5 + 0.5 * rng.random((n, *SHAPE))) * 255).astype(np.uint8), labels


def on_images(recipe: str, n: int, **schedule: object) -> TrainRef:
    name, params = RECIPES[recipe]
    data = DataRef(
        name="patterns", split="train", n=n, image_shape=SHAPE, num_classes=CLASSES, indices_sha="a", data_sha="b"
    )
    return reference(name, params, **{"augment": "crop-flip", **schedule}).model_copy(update={"data": data})


def losses_of(recipe: str, **schedule: object) -> tuple[torch.Tensor, Updates]:
    """Return the losses of the first batches (20,), and what took the steps."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        ref = on_images(recipe, STEPS * 32, epochs=1, **schedule)
        x, y = (torch.from_numpy(each).to(GPU) for each in images(STEPS * 32))
        batches = Batches(x, ref.schedule.augment)
        tables = EpochTables(ref.schedule, 0, torch.arange(len(x)), batches, GPU)
        updates = Updates(ref, built(ref, NETWORK, GPU), Precision.of(ref.schedule, GPU), tables, y)
        updates.begin(0, 0)
        for step in range(STEPS):
            updates(step)
        return updates.losses.cpu(), updates


def trained(folder: Path, stop_before: int = 0, **schedule: object) -> Path:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_before:
            raise Ending

    ref = on_images("fgsm-at", 300, epochs=2, **schedule)
    train(ref, NETWORK, *images(300), folder, device=GPU, check=check, on_progress=lambda progress: None)
    return folder


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recorded_losses_are_those_of_single_kernels(recipe, monkeypatch) -> None:
    recorded, updates = losses_of(recipe)
    assert updates.captured is (recipe not in BRANCHING), updates.why
    monkeypatch.setattr(capture, "graphs", lambda device: False)
    eager, plain = losses_of(recipe)
    assert not plain.captured and torch.isfinite(eager).all()
    assert torch.allclose(recorded, eager, rtol=2.0**-6)
    assert (updates.step_of.meter.forwards, updates.step_of.meter.backwards) == (
        plain.step_of.meter.forwards,
        plain.step_of.meter.backwards,
    )


@pytest.mark.parametrize(
    "settings", [{"bf16": False, "channels_last": False}, {"ema": 0.9}, {"compile": True}], ids=str
)
def test_every_setting_is_recorded(settings, monkeypatch) -> None:
    recorded, updates = losses_of("fgsm-at", **settings)
    assert updates.captured, updates.why
    monkeypatch.setattr(capture, "graphs", lambda device: False)
    eager, _ = losses_of("fgsm-at", **settings)
    assert torch.allclose(recorded, eager, rtol=2.0**-6)


def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    for stop in (3, 5):
        with pytest.raises(Ending):
            trained(tmp_path / "parts", stop_before=stop)
    parts = trained(tmp_path / "parts")
    card = json.loads((parts / "card.json").read_text())
    assert card["computation"] == {
        "bf16": True, "channels_last": True, "compile": False, "captured": True, "why": None
    }  # fmt: skip
    expected, resumed = (load_file(folder / "weights.safetensors") for folder in (whole, parts))
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_no_operation_within_an_epoch_waits_for_the_device() -> None:
    _, updates = losses_of("pgd-at")
    updates.begin(0, 0)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(STEPS):
            updates(step)
    finally:
        torch.cuda.set_sync_debug_mode(before)
