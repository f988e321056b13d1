"""Epochs and cells in trackers: each once, as the store has them, and no run is changed or ended by one."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.schedule import trackers, tracking
from tests.schedule import small


def logged(names: str, text: str = small.CONFIG) -> str:
    return f"{text}\n[run]\nlog = {names}\n"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every scalar of TensorBoard's files as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), {accumulator.SCALARS: 0, accumulator.TENSORS: 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def in_store(store: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what the files of a store say that a tracker should have."""
    points: dict[str, list[tuple[int, float]]] = {}
    for path in store.glob("train/*/log.jsonl"):
        rows = list(map(json.loads, path.read_text().splitlines()))
        for row in rows:
            for name in ("loss", "train_accuracy", "learning_rate", "seconds"):
                tag = f"train/fgsm-at small-cnn seed 0 {path.parent.name[:8]}/{name}"
                points.setdefault(tag, []).append((row["epoch"], row[name]))
    for path in store.glob("cells/*.json"):
        result = json.loads(path.read_text())
        names, attack = result["names"], result["cell"]["attack"]
        column = f"{names['attack']}{' linf 1/10' if attack else ''} {names['access']}"
        for name in ("robust_accuracy", "accuracy_under_attack", "clean_accuracy"):
            tag = f"cells/{names['dataset']}/{names['model']}/{names['defense']}/{column}/{name}"
            points[tag] = [(0, result["metrics"][name])]
    return points


def close(points: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    return {tag: [(step, pytest.approx(value, rel=1e-6)) for step, value in curve] for tag, curve in points.items()}


def test_tensorboard_has_each_epoch_and_cell_once_and_numbers_are_those_of_a_run_without(
    tmp_path: Path, capfd: Any
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "without").mkdir()
    assert small.run(tmp_path / "without") == 0
    text, store = logged('["tensorboard"]'), tmp_path / "store"
    assert small.run(tmp_path, text=text) == 0
    assert small.outcome(tmp_path) == small.outcome(tmp_path / "without")
    first = scalars(store / "tensorboard" / "small")
    points = in_store(store)
    assert len(points) == 4 + 3 * len(list((store / "cells").iterdir()))
    assert {tag: first[tag] for tag in points} == close(points)
    for path in list((store / "cells").iterdir())[:2]:
        path.unlink()
    assert small.run(tmp_path, text=text) == 0
    assert scalars(store / "tensorboard" / "small") == first
    assert "warning" not in capfd.readouterr().err


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let a package ``wandb`` of this text be the one that is installed."""
    folder.mkdir()
    (folder / "wandb.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "raise RuntimeError('no network\\nat all')",
            "wandb failed and is off for the rest of this run: RuntimeError: no",
        ),
        ("import os; os._exit(3)", "the process of wandb has ended"),
        ("import time; time.sleep(60)", "wandb took over 0.5 s to end and was stopped"),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_a_tracker_that_fails_is_one_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, text: str, why: str
) -> None:
    package(tmp_path / "packages", monkeypatch, text)
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    assert small.run(tmp_path, text=logged('["wandb"]', small.ONE)) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "log: " in line]
    assert len(warnings) == 1 and why in warnings[0]


def test_a_package_that_is_missing_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(tracking, "imported_as", lambda name: None)
    assert small.run(tmp_path, text=logged('["mlflow"]', small.ONE)) == 2
    assert "run.log: mlflow needs a package: pip install mlflow" in capfd.readouterr().err
    assert not list((tmp_path / "store").glob("*/*"))


class Recorder:
    """A package that notes what is called in it, and returns itself."""

    def __init__(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]], name: str = "") -> None:
        self._calls, self._name = calls, name

    def __getattr__(self, name: str) -> Recorder:
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(self._calls, name)

    def __call__(self, *args: Any, **named: Any) -> Recorder:
        self._calls.append((self._name, args, named))
        return self

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "recorded"


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_the_other_trackers_are_called_once_for_each_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The functions are those of wandb 0.31.0, trackio 0.43.0 and mlflow 3.17.2, which were tried for real."""
    calls: list[Any] = []
    fake = Recorder(calls)
    monkeypatch.setitem(sys.modules, name, fake)
    entities = SimpleNamespace(Metric=lambda *parts: parts, RunTag=lambda *parts: parts)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    (tmp_path / "train" / "aa").mkdir(parents=True)
    # An epoch that was not measured has no accuracies on test images.
    rows = [{"epoch": epoch, "loss": 1 / epoch, "test": {"clean": 0.5}} for epoch in (1, 3)]
    rows.insert(1, {"epoch": 2, "loss": 0.5})
    (tmp_path / "train" / "aa" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epo')
    about = {"trackers": [name], "store": str(tmp_path), "plan": "p", "folder": "p", "id": "i"}
    lines = [
        about | {"commit": None, "config": {}},
        {"training": "aa", "series": "train/r"},
        {"cell": "bb", "series": "cells/d", "step": 3, "values": {"robust_accuracy": 0.25}},
    ]
    for _ in range(2):
        out = io.StringIO()
        text = "".join(json.dumps(line) + "\n" for line in [lines[0], *lines[1:] * 2])
        trackers.main(io.StringIO(text), out)
        assert [json.loads(line) for line in out.getvalue().splitlines()] == [{"ended": "all"}]
    written = [(args, named) for called, args, named in calls if called in ("log", "log_batch")]
    assert len(written) == 4
    everything = repr(written)
    assert everything.count("test/clean") == 2 and "cells/d/robust_accuracy" in everything and "'bb'" in everything
