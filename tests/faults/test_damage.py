"""A file of the store that was cut short or altered is noticed by its hash, said, and made again."""

import logging
import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch

from bench import config
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store import Store
from tests.schedule import small


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert small.run(folder) == 0
    return folder, small.outcome(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def alter(path):
    text = path.read_text()
    digits = re.search(r'accuracy":0\.\d*(\d)', text)
    changed = str((int(digits[1]) + 1) % 10)
    path.write_text(text[: digits.start(1)] + changed + text[digits.end(1) :])


@pytest.mark.parametrize(
    ("pattern", "damage", "also"),
    [
        ("cells/*.json", cut, None),
        ("cells/*.json", empty, None),
        ("cells/*.json", alter, None),
        ("attack/*/*.safetensors", cut, "cells/*.json"),
        ("attack/*/*.safetensors", flip, "cells/*.json"),
        ("train/*/weights.safetensors", flip, "cells/*.json"),
        ("train/*/card.json", cut, "cells/*.json"),
        ("records/*.parquet", cut, None),
        ("records/*.parquet", empty, None),
    ],
)
def test_damaged_and_made_again(done, tmp_path, caplog, pattern, damage, also):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    victims = sorted((tmp_path / "store").glob(pattern))
    for path in victims:
        damage(path)
    # With their results the cells that stand on these would be done, and nobody would look.
    for path in sorted((tmp_path / "store").glob("cells/*.json")):
        if also is not None:
            path.unlink()
    with caplog.at_level(logging.WARNING, "crossfire"):
        assert small.run(tmp_path) == 0
    assert small.outcome(tmp_path) == outcome
    said = " ".join(record.getMessage() for record in caplog.records)
    assert any(path.name in said or path.parent.name in said for path in victims)
    assert any("does not count" in event["message"] for event in small.events(tmp_path, "warning"))


def stop_in_training(folder):
    """Run, and end in the second epoch, with a state to resume from."""
    looks = iter(range(4))

    def asked():
        if next(looks, None) is None:
            raise KeyboardInterrupt

    work = make(config.load(small.write(folder)))
    with pytest.raises(KeyboardInterrupt):
        Runner(work, Store(folder / "store"), torch.device("cpu"), None, asked, Silent()).run()


class Silent:
    def cells(self, done, total):
        pass

    def work(self, what, done, total, note=""):
        pass


def test_altered_answers_among_records_are_not_taken(done, tmp_path, caplog):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    results = {str(result.names): result for result in Store(tmp_path / "store").results()}
    for name, result in results.items():
        path = Store(tmp_path / "store").records(result.key)
        if "/clean/" in name:
            table = pq.ParquetFile(path).metadata.row_group(0).column(3)
            data = bytearray(path.read_bytes())
            data[table.dictionary_page_offset + table.total_compressed_size - 1] ^= 1
            path.write_bytes(data)
        else:
            Store(tmp_path / "store").cell_file(result.key).unlink()
    assert small.run(tmp_path) == 0
    assert any("does not count" in record.getMessage() for record in caplog.records)
    again = {str(result.names): result.metrics for result in Store(tmp_path / "store").results()}
    assert again == {name: result.metrics for name, result in results.items()}


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_state_trains_again(done, tmp_path, caplog, damage):
    _, outcome = done
    stop_in_training(tmp_path)
    (state,) = (tmp_path / "store").glob("train/*/state.safetensors")
    damage(state)
    assert small.run(tmp_path) == 0
    assert any("training begins again" in record.getMessage() for record in caplog.records)
    assert small.outcome(tmp_path) == outcome


def test_records_that_are_gone_are_measured_again(done, tmp_path):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    for path in (tmp_path / "store" / "records").iterdir():
        path.unlink()
    assert small.run(tmp_path) == 0
    assert small.outcome(tmp_path) == outcome
