"""Memory or time that runs out fails one cell only."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.models.small_cnn import small_cnn
from bench.store.working_store import Store
from tests.schedule import small

HUNGRY = """
import os

import torch
from bench.models.small_cnn import small_cnn


class Hungry(torch.nn.Module):
    def __init__(self, **shape):
        super().__init__()
        self.net = small_cnn(10, **shape)

    def forward(self, x):
        if len(x) > int(os.environ["MOST"]):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def hungry(num_classes, *, in_channels: int = 3, image_size: int = 32):
    return Hungry(in_channels=in_channels, image_size=image_size, channels=4, hidden=16)
"""


def hungry(folder):
    """A configuration whose network limits its batch by an environment variable, which is no part of its key."""
    (folder / "net.py").write_text(HUNGRY)
    torch.manual_seed(0)
    net = small_cnn(10, in_channels=1, image_size=8, channels=4, hidden=16)
    save_file({f"net.{name}": value for name, value in net.state_dict().items()}, folder / "w.safetensors")
    text = small.CONFIG.replace('arch = "small-cnn"\nchannels = 4\nhidden = 16', f'arch = "{folder}/net.py:hungry"')
    text = text.replace('use = "fgsm-at"', f'use = "weights:{folder}/w.safetensors"')
    return text.replace('use = "tpap"', f'use = "tpap"\nbase = "weights:{folder}/w.safetensors"')


def test_where_memory_runs_out_half_the_batch_is_taken(tmp_path, monkeypatch):
    text = f'{hungry(tmp_path)}\n[[defenses]]\nuse = "hedge"\nsteps = 2\nbase = "weights:{tmp_path}/w.safetensors"\n'
    results = []
    for max_batch in (1000, 20):
        folder = tmp_path / str(max_batch)
        folder.mkdir()
        monkeypatch.setenv("MOST", str(max_batch))
        assert small.run(folder, text=text) == 0
        cell_results = Store(folder / "store").results()
        results.append({(r.names.defense, r.names.attack, r.names.access): r for r in cell_results})
    enough, little = results
    assert len(enough) == 13 and enough.keys() == little.keys()
    for name, expected in enough.items():
        halved = little[name]
        assert (expected.clean_bits, expected.adversarial_bits) == (halved.clean_bits, halved.adversarial_bits), name
        assert expected.metrics == halved.metrics, name
    batches = [event["batch"] for event in small.events(tmp_path / "20", "out of memory")]
    assert batches and min(batches) <= 20
    assert not small.events(tmp_path / "1000", "out of memory")


GREEDY = '''
import torch
from bench.api import Target, Threat, attack


@attack(norms=("linf",), passes="0 forwards")
def greedy(target, x, y, threat):
    """Always runs out of memory."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB")


@attack(norms=("linf",), passes="0 forwards")
def endless(target, x, y, threat):
    """Never ends, and swallows every exception."""
    while True:
        try:
            target(x)
        except Exception:
            continue
'''


@pytest.mark.parametrize(("name", "says"), [("greedy", "out of memory"), ("endless", "longer than timeout = 3 s")])
def test_a_cell_without_end_fails_alone(tmp_path, name, says):
    (tmp_path / "mine.py").write_text(GREEDY)
    text = small.CONFIG + f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:{name}"\neps = "0.1"\n\n[run]\ntimeout = "3s"\n'
    assert small.run(tmp_path, "--only", "*fgsm-at/*", text=text) == 3
    status = {result.names.attack: result.status for result in Store(tmp_path / "store").results()}
    assert status == {"clean": "done", "fgsm": "done", "pgd": "done", name: "failed"}
    (failed,) = (result for result in Store(tmp_path / "store").results() if result.status == "failed")
    assert says in failed.error.message
    (event,) = small.events(tmp_path, "failed")
    assert says in event["error"]


DIVERGES = '''
from bench.api import defense


@defense(kind="recipe")
def diverges(step, x, y):
    """Its loss is not a number."""
    return step.net(x).sum() * float("nan")
'''


def test_a_training_that_fails_is_not_repeated_by_every_cell(tmp_path):
    (tmp_path / "mine.py").write_text(DIVERGES)
    text = small.CONFIG.replace('use = "fgsm-at"', f'use = "{tmp_path}/mine.py:diverges"')
    assert small.run(tmp_path, "--only", "diverges/", text=text) == 3
    results = list(Store(tmp_path / "store").results())
    assert len(results) == 3 and all("diverged" in result.error.message for result in results)
    (note,) = (tmp_path / "store").glob("train/*/failed.json")
    first = note.stat().st_mtime_ns
    assert "diverged" in json.loads(note.read_text())["message"]
    assert small.run(tmp_path, "--only", "diverges/", text=text) == 3
    assert note.stat().st_mtime_ns > first, "the next run tries again"


@pytest.mark.parametrize("timeout", ['"soon"', '"0s"', "-1", "true"])
def test_a_timeout_that_is_none(tmp_path, capsys, timeout):
    assert small.run(tmp_path, text=f"{small.CONFIG}\n[run]\ntimeout = {timeout}\n") == 2
    assert "is no time such as 90s" in capsys.readouterr().err


def test_chunks_that_a_gpu_attacks_together_come_out_as_they_do_one_by_one(tmp_path, monkeypatch):
    # 140 images are two chunks; the second attack continues from the images of the first.
    text = small.CONFIG.replace('name = "small"', 'name = "small"\nworst_case = true')
    outcomes = []
    for images in (128, 256):
        size = lambda shape, device, images=images: images  # noqa: E731
        monkeypatch.setattr("bench.evaluation.device_cache.attack_group_size", size)
        folder = tmp_path / str(images)
        folder.mkdir()
        assert small.run(folder, text=text) == 0
        outcomes.append(small.outcome(folder))
    assert {event["images"] for event in small.events(tmp_path / "256", "crafted")} == {"000000-000140"}
    assert len(small.events(tmp_path / "128", "crafted")) == 2 * len(small.events(tmp_path / "256", "crafted"))
    assert outcomes[0] == outcomes[1]
