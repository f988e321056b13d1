"""What a run finishes is also sent to a tracker: TensorBoard, Weights & Biases, Trackio or MLflow.

The trackers are in a process of their own (:mod:`bench.schedule.trackers`), which reads lines of JSON. So a tracker
that hangs, draws random numbers or changes its process cannot slow, change or end the run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

from bench.keys import sha256_hex, training_key
from bench.registry import imported_as
from bench.types import CellResult, ModelRef, TrainRef, UsageError, eps_text

#: Seconds in which the trackers may write what is left when the run ends, and when it is ended before its time.
PATIENCE, HURRY = 60.0, 2.0
_ROOT = Path(__file__).resolve().parents[2]
_log = logging.getLogger("crossfire")


def require_packages(names: Iterable[str]) -> None:
    """Raises UsageError: the package of a tracker is not installed."""
    for name in names:
        if imported_as(name) is None:
            raise UsageError(f"run.log: {name} needs a package: pip install {name}")


class Tracking:
    """Sends trainings and cells to the trackers of a run; without any, it does nothing.

    Each epoch and each cell reaches a tracker once, whoever computed it and however often the run was continued.

    Args:
        names: of the trackers.
        root: of the store.
        plan: the name of the plan.
        commit: of the code.
        config: what was asked for, as plain data.
    """

    def __init__(
        self, names: Sequence[str], root: Path, *, plan: str, commit: str | None, config: dict[str, Any]
    ) -> None:
        self._names, self._folder = tuple(dict.fromkeys(names)), re.sub(r"[^A-Za-z0-9_.-]+", "-", plan)
        store = str(root.resolve())
        identity = sha256_hex(store, plan)[:12]
        self._about = {
            **{"trackers": self._names, "store": store, "plan": plan, "folder": self._folder},
            **{"id": identity, "commit": commit, "config": config},
        }
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._threads: list[Thread] = []
        self._stopped = False
        #: Networks of finished cells, whose epochs are all sent.
        self._trained: set[ModelRef] = set()

    def __enter__(self) -> Tracking:
        if self._names:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(PATIENCE if kind is None else HURRY)

    def close(self, patience: float | None = None) -> None:
        """Wait until everything is written; what takes longer is written by the next run."""
        if self._process is None:
            return
        self._lines.put(None)
        patience = PATIENCE if patience is None else patience
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            _log.warning("log: %s took over %g s to end and was stopped", ", ".join(self._names), patience)
            self._stopped = True
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        self._process = None

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        try:
            # A session of its own: Ctrl-C is for the run, which then ends this.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.schedule.trackers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            _log.warning("log: %s could not be started: %s", ", ".join(self._names), error)
            return
        self._threads = [Thread(target=part, daemon=True) for part in (self._write, self._read)]
        for thread in self._threads:
            thread.start()
        self._send(self._about)

    def _send(self, content: dict[str, Any]) -> None:
        if self._process is not None:
            self._lines.put(json.dumps(content) + "\n")

    def _write(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            with self._process.stdin as stream:
                while (line := self._lines.get()) is not None:
                    stream.write(line)
                    stream.flush()
        # The process has ended, which the other thread says.
        except (OSError, ValueError):
            pass

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        ended = False
        for line in self._process.stdout:
            said = json.loads(line)
            ended |= "ended" in said
            if "failed" in said:
                _log.warning("log: %s failed and is off for the rest of this run: %s", said["failed"], said["why"])
        if not ended and not self._stopped:
            _log.warning("log: the process of %s has ended; nothing more is logged in this run", ", ".join(self._names))

    def training(self, model: ModelRef) -> None:
        """Send the finished epochs of a training, if the network is trained here."""
        if self._process is not None and isinstance(ref := model.weights, TrainRef):
            key = training_key(model)
            series = f"train/{ref.recipe.name} {model.network.name} seed {ref.seed} {key[:8]}"
            self._send({"training": key, "series": series})

    def cell(self, result: CellResult) -> None:
        """Send the numbers of a finished cell, and the epochs of its network."""
        if self._process is None or result.metrics is None:
            return
        step = result.cell.step
        for model in (result.cell.model, None if step is None else step.score):
            if model is not None and model not in self._trained:
                self._trained.add(model)
                self.training(model)
        names, metrics = result.names, result.metrics
        attack = result.cell.attack
        threat = ""
        if attack is not None:
            eps = "unbounded" if attack.threat.eps is None else eps_text(attack.threat.eps)
            # The name of a corruption says how severe it is.
            threat = "" if attack.threat.norm == "corruption" else f" {attack.threat.norm} {eps}"
        values = {
            "robust_accuracy": metrics.robust_accuracy,
            "accuracy_under_attack": metrics.accuracy_under_attack,
            "clean_accuracy": metrics.clean_accuracy,
            "seconds_per_image": None if result.cost is None else result.cost.seconds_per_example,
        }
        parts = (names.dataset, names.model, names.defense, f"{names.attack}{threat} {names.access}")
        self._send(
            {
                "cell": result.key,
                "series": "/".join(("cells", *(" ".join(part.split()) for part in parts))),
                "step": result.cell.seed,
                "values": {name: value for name, value in values.items() if value is not None},
            }
        )


#: What sends nothing.
NOWHERE = Tracking((), Path(), plan="", commit=None, config={})
