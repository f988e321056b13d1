"""Attacks go on where the device runs out of memory, those of libraries too."""

from __future__ import annotations

import pytest

from bench import registry
from bench.store.working_store import Store
from tests.schedule import small
from tests.schedule.test_limits import hungry

ATTACKS = """
[[attacks]]
use = "autoattack"
eps = "0.1"
steps = 3
targets = 2
queries = 10

[[attacks]]
use = "art:ProjectedGradientDescent"
eps = "0.1"
max_iter = 2

[[attacks]]
use = "torchattacks:PGD"
eps = "0.1"
steps = 2

[[attacks]]
use = "foolbox:LinfPGD"
eps = "0.1"
steps = 2
"""


def test_libraries_too_get_half_the_batch_where_memory_runs_out(tmp_path, monkeypatch) -> None:
    for kind, name in (
        ("attack", "autoattack"),
        ("library", "art"),
        ("library", "torchattacks"),
        ("library", "foolbox"),
    ):
        if not (entry := registry.find(kind, name)).available:
            pytest.skip(f"{entry.requires} is not installed")
    max_batch = 20
    monkeypatch.setenv("MOST", str(max_batch))
    text = hungry(tmp_path).split("[[attacks]]")[0].replace("n = 140", "n = 50")
    text = text.split('[[defenses]]\nuse = "tpap"')[0] + ATTACKS
    assert small.run(tmp_path, text=text) == 0
    results = list(Store(tmp_path / "store").results())
    assert len(results) == 5
    assert all(r.status == "done" and r.metrics.n == 50 for r in results)
    batches = [event["batch"] for event in small.events(tmp_path, "out of memory")]
    assert batches and min(batches) <= max_batch
