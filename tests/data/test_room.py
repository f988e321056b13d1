"""The memory and time that large images take: as much as is used of them, however many there are."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import cache, data_ref, open_set, room, rows_of
from bench.evaluation import device_cache
from bench.evaluation.device_cache import DeviceCache, MappedPixels
from bench.types import Preprocessing, UsageError
from tests.data.image_files import noise

HOW = {"image_size": (224, 224), "preprocessing": Preprocessing(resize=256), "channels": 3}
EACH = 3 * 224 * 224
ROOT = Path(__file__).parents[2]


def photographs(folder, count):
    """Two classes, each with half of ``count`` files: a few photographs under many names."""
    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True)
    for index in range(count):
        path = folder / f"class{index % 2}" / f"{index:04}.jpg"
        if index < 8:
            Image.fromarray(noise(index, 100, 120)).save(path)
        else:
            os.link(folder / f"class{index % 2}" / f"{index % 8:04}.jpg", path)
    return f"folder:{folder}"


#: Prints the most memory, maps of files included, while each folder is decoded and read in chunks, as a run does.
PEAKS = """
import sys, threading
from pathlib import Path
import torch
from bench.data import cache, data_ref, open_set
from bench.evaluation import device_cache
from bench.types import Preprocessing

# A quarter of what is done at a time, so that fewer images show it.
device_cache.CHUNK //= 4
cache._AT_ONCE_BYTES //= 4
device_cache.HELD_BYTES //= 4
most, over = 0, threading.Event()

def watch():
    global most
    while not over.wait(0.002):
        lines = Path("/proc/self/status").read_text().splitlines()
        most = max(most, next(int(line.split()[1]) for line in lines if "VmRSS" in line) * 1024)

threading.Thread(target=watch).start()
for folder in sys.argv[1:]:
    most, how = 0, {"image_size": (224, 224), "preprocessing": Preprocessing(resize=256), "channels": 3}
    ref = data_ref(open_set(f"folder:{folder}", "test", folder=None, **how))
    decoding, most = most, 0
    images = device_cache.DeviceCache(torch.device("cpu"), None).test(ref)
    count = sum(len(x) for _, x, _, _ in images)
    assert len(set(images.hashes())) == 8
    print(count, decoding, most)
    del images
over.set()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
def test_four_times_the_images_take_no_more_memory(tmp_path):
    sizes = {"first": 40, "few": 96, "many": 384}
    for name, count in sizes.items():
        photographs(tmp_path / name, count)
    # What is freed goes back to the system at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in sizes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    _, few, many = lines
    # The images themselves are 43 MB more.
    assert many[0] == 384 and all(large < small + 96 * EACH / 2 for small, large in zip(few, many, strict=True)), lines


def test_a_part_needs_the_room_of_its_images_alone(tmp_path, monkeypatch):
    name = photographs(tmp_path / "set", 40)
    reports = []
    monkeypatch.setattr(room, "_free", lambda folder: 10 * EACH)
    with pytest.raises(UsageError, match="40 images of 3x224x224 take"):
        open_set(name, "test", folder=None, **HOW)
    monkeypatch.setattr(room, "available_memory", lambda: 512 * 224 * 224 + 10 * EACH)
    with cache.reported(lambda done, total, seconds: reports.append((done, total, seconds >= 0))):
        assert len(open_set(name, "test", folder=None, n=10, **HOW)) == 10
    assert reports[-1] == (10, 10, True)
    monkeypatch.setattr(room, "available_memory", lambda: 512 * 224 * 224 + 9 * EACH - 1)
    with pytest.raises(UsageError, match="^9 images of 3x224x224 and a network's pass take at least 0.0 GiB"):
        open_set(name, "test", folder=None, n=9, **HOW)
    # Of many test images the memory must hold none, only a pass.
    monkeypatch.setattr("bench.data.HELD_BYTES", 9 * EACH - 1)
    with pytest.raises(UsageError, match="^images of 3x224x224 and a network's pass take at least 0.0 GiB"):
        monkeypatch.setattr(room, "available_memory", lambda: 512 * 224 * 224 - 1)
        open_set(name, "test", folder=None, n=9, **HOW)
    monkeypatch.setattr(room, "available_memory", lambda: 512 * 224 * 224)
    assert len(open_set(name, "test", folder=None, n=9, **HOW)) == 9


def test_copies_of_files_do_not_count_against_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_CONTAINER", tmp_path)
    limits = {"memory.max": "8000", "memory.current": "7000", "memory.stat": "anon 1000\ninactive_file 5500\n"}
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    assert room.available_memory() == 6500
    (tmp_path / "memory.max").write_text("max\n")
    assert room.available_memory() > 6500


def test_rows_of_a_part_are_found_wherever_they_lie(tmp_path):
    images = open_set(photographs(tmp_path / "set", 24), "test", folder=None, n=12, **HOW)
    shuffled = np.random.default_rng(0).permutation(images.part.rows)
    pixels, labels = images.at(shuffled)
    places = [images.part.rows.tolist().index(row) for row in shuffled]
    assert np.array_equal(pixels, images.images[places]) and np.array_equal(labels, shuffled // 12)
    with pytest.raises(KeyError):
        images.at(np.setdiff1d(np.arange(24), images.part.rows)[:1])


@pytest.mark.parametrize("options", [{"n": 12}, {"n": 12, "subset": "first"}, {}])
@pytest.mark.parametrize("cropped", [True, False])
def test_images_that_stay_in_their_file_are_those_that_are_held(tmp_path, monkeypatch, options, cropped):
    how = {**HOW, "preprocessing": HOW["preprocessing"] if cropped else None}
    images = open_set(photographs(tmp_path / "set", 24), "test", folder=None, **how, **options)
    ref = data_ref(images, *options.values())
    held = DeviceCache(torch.device("cpu"), None).test(ref)
    monkeypatch.setattr(device_cache, "HELD_BYTES", 0)
    mapped = DeviceCache(torch.device("cpu"), None).test(ref)
    assert isinstance(held.x, torch.Tensor) and isinstance(mapped.x, MappedPixels)
    assert np.array_equal(held.x.numpy(), images.at(rows_of(images, ref))[0]) and torch.equal(mapped.x[:], held.x)
    assert mapped.x.shape == held.x.shape and list(mapped.hashes()) == list(held.hashes())
    for kept, read in zip(held, mapped, strict=True):
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(kept, read, strict=True))
