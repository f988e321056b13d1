"""The same work on a Ray cluster: each node of the graph is a task, and results go through the shared store alone.

Ray decides where and when a task runs, by what it asks for and what it stands on, and runs a lost one again elsewhere.
Tasks hold the same leases as any process does, so nothing is done twice whoever else works on the store.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import ray
import torch

from bench.evaluate import CHUNK
from bench.keys import Keys, training_key
from bench.lease import Busy
from bench.provenance import provenance
from bench.schedule.plan import Work, cell_key, changed, clean_cell, models_of
from bench.schedule.run import Runner, log_failure
from bench.store import Store
from bench.types import (
    AttackRef,
    CellError,
    CellResult,
    PlannedCell,
    RunPlan,
    StoreError,
    TrainRef,
    UsageError,
)

# Tasks given to Ray and not yet finished; more would only fill its memory.
_IN_FLIGHT = 1000
# A task of an adversarial set takes the chunks that are free; so many tasks share a set.
_CHUNKS_A_TASK = 4
_RETRIES = 3


@dataclass(frozen=True)
class Place:
    """What a task needs to know beside its cell."""

    store: Path
    data_folder: Path | None
    weights_files: tuple[tuple[str, Path], ...]
    device: str
    batch: int | None
    timeout: float | None
    threads: int
    before: tuple[tuple[str, str], ...]
    #: Of the one who asks: where relative names start, and where image sets are looked for.
    folder: Path
    shared_data: str | None


def run(runner: Runner, *, device: str, cpus: int | None, gpus: float | None) -> list[CellResult]:
    """Do what is missing of a plan on the cluster of ``RAY_ADDRESS``, or on one started here.

    Args:
        runner: of this process; it only reads.
        device: ``cpu``, ``cuda``, or ``auto``: GPUs where the cluster has any.
        cpus: processors for each task; by default as many as this process computes with, so that sums are taken in
            the same order and results are those of ``inline`` to the bit.
        gpus: GPUs, or a fraction of one, for each task; by default one where the device is a GPU.

    Raises:
        UsageError: no machine of the cluster can give what a task asks for.
    """
    own = not ray.is_initialized()
    if own:
        runner.reporter.work("reaching the Ray cluster", 0, None)
        asked_to_end = signal.getsignal(signal.SIGTERM)
        # RAY_ADDRESS is Ray's own word: with it this joins a cluster, without it starts one.
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
        if current_thread() is main_thread():
            # Ray has SIGTERM end the process; ours ends the run, with what is finished kept and said.
            signal.signal(signal.SIGTERM, asked_to_end)
    try:
        place, asked = _place(runner, device, cpus, gpus)
        runner.before = dict(place.before)
        lead = _Lead(runner, place, asked)
        try:
            lead.run()
        finally:
            for task in lead.pending:
                ray.cancel(task, force=True)
    finally:
        if own:
            ray.shutdown()
    return list(runner.each(runner.work.plan.cells, runner.cell))


def _place(runner: Runner, device: str, cpus: int | None, gpus: float | None) -> tuple[Place, dict[str, Any]]:
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    asked = {"CPU": cpus or torch.get_num_threads(), "GPU": 0.0}
    if device == "cuda":
        asked["GPU"] = 1.0 if gpus is None else gpus
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(what, 0) >= count for what, count in asked.items()) for node in nodes):
        most = ", ".join(sorted({f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes}))
        raise UsageError(
            f"a task asks for {asked['CPU']:g} CPUs and {asked['GPU']:g} GPUs, but the machines of the cluster have "
            f"{most}; set cpus and gpus in [run]"
        )
    place = Place(
        store=runner.store.root.resolve(),
        data_folder=runner.work.data_folder and runner.work.data_folder.resolve(),
        weights_files=tuple((sha, path.resolve()) for sha, path in runner.work.weights_files.items()),
        device=device,
        batch=runner.batch,
        timeout=runner.timeout,
        threads=int(asked["CPU"]),
        before=tuple(runner.store.marks().items()),
        folder=Path.cwd(),
        shared_data=os.environ.get("CROSSFIRE_DATA"),
    )
    return place, {"num_cpus": asked["CPU"], "num_gpus": asked["GPU"], "max_retries": _RETRIES}


class _Lead:
    """Hands the graph to Ray, a window at a time, and waits for its cells."""

    def __init__(self, runner: Runner, place: Place, asked: dict[str, Any]) -> None:
        self.runner = runner
        self.place = ray.put(place)
        self.train, self.attack, self.evaluate = (ray.remote(**asked)(task) for task in (_train, _attack, _evaluate))
        self.keys = Keys()
        self.nodes: dict[str, Any] = {}
        self.pending: dict[Any, PlannedCell] = {}
        self.done = self.failed = self.here = 0
        self.began = time.monotonic()

    def run(self) -> None:
        cells = self.runner.work.plan.cells
        for planned in cells:
            self.runner.check()
            if self.runner.store.finished(planned) is not None:
                self._one_more()
                continue
            if self.runner.work.why_not(planned.cell) is not None:
                self._one_more(self.runner.cell(planned))  # It fails at once.
                continue
            self._submit(planned)
            while len(self.pending) >= _IN_FLIGHT:
                self._wait()
        while self.pending:
            self._wait()

    def _submit(self, planned: PlannedCell) -> None:
        cell, clean_key = planned.cell, self.keys.of(clean_cell(planned.cell))
        first = [self._trained(planned, attacked=False)]
        if cell.attack is not None:
            if clean_key in self.nodes:
                first.append(self.nodes[clean_key])
            first += self._attacked(planned, cell.attack)
        task = self.evaluate.remote(self.place, planned, *first)
        if cell.attack is None:
            self.nodes[planned.key] = task
        self.pending[task] = planned

    def _attacked(self, planned: PlannedCell, ref: AttackRef) -> list[Any]:
        key = self.keys.of(ref)
        if key not in self.nodes:
            before = [self._trained(planned, attacked=True)]
            if ref.previous is not None:
                before += self._attacked(planned, ref.previous)
            tasks = -(-ref.data.n // (CHUNK * _CHUNKS_A_TASK))
            self.nodes[key] = [self.attack.remote(self.place, planned, ref, *before) for _ in range(tasks)]
        found: list[Any] = self.nodes[key]
        return found

    def _trained(self, planned: PlannedCell, *, attacked: bool) -> Any:
        model = planned.cell.attack.model if attacked and planned.cell.attack is not None else planned.cell.model
        if not isinstance(model.weights, TrainRef):
            return None
        key = training_key(model)
        if key not in self.nodes:
            self.nodes[key] = self.train.remote(self.place, planned, attacked)
        return self.nodes[key]

    def _wait(self) -> None:
        self.runner.check()
        ready, _ = ray.wait(list(self.pending), num_returns=1, timeout=0.5)
        for task in ready:
            planned = self.pending.pop(task)
            try:
                ray.get(task)
            except StoreError:
                raise
            except ray.exceptions.RayError as error:
                self._lost(planned, error)
            self.here += 1
            self._one_more(self.runner.store.get(planned.key))
        if self.pending:
            first = next(iter(self.pending.values())).names
            what = f"{len(self.pending)} cells with Ray, the first {first}"
            self.runner.reporter.work(what, 0, None, left=self._seconds_left())

    def _one_more(self, result: CellResult | None = None) -> None:
        self.done += 1
        self.failed += result is not None and log_failure(result)
        self.runner.reporter.cells(self.done, len(self.runner.work.plan.cells), self.failed)

    def _seconds_left(self) -> float | None:
        """Return how long the rest takes if its cells take as long as those that were done here; at first ``None``."""
        if self.here == 0:
            return None
        return (time.monotonic() - self.began) / self.here * (len(self.runner.work.plan.cells) - self.done)

    def _lost(self, planned: PlannedCell, error: Exception) -> None:
        """Keep the failure of a cell whose task Ray could not bring to its end, unless it came to it after all."""
        if self.runner.store.finished(planned) is not None:
            return
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        message = str(cause).strip().partition("\n")[0]
        if cause is error:
            message = f"Ray lost its task {_RETRIES + 1} times: {message}"
        failed = CellResult(
            key=planned.key,
            names=planned.names,
            cell=planned.cell,
            status="failed",
            error=CellError.of(error, message, str(error)),
            flags=("failed",),
            provenance=provenance(self.runner.device),
        )
        self.runner.store.put(failed)


# What runs in the workers. A failure of a method is kept in the store by the task of the cell, which meets it again.


class _Silent:
    def cells(self, done: int, total: int, failed: int = 0) -> None:
        pass

    def work(self, what: str, done: float, total: float | None, note: str = "", left: float | None = None) -> None:
        pass


@lru_cache(maxsize=1)
def _runner(place: Place) -> Runner:
    """Return the runner of this worker, which keeps networks and images from task to task."""
    torch.set_num_threads(place.threads)
    os.chdir(place.folder)
    if place.shared_data is not None:
        os.environ["CROSSFIRE_DATA"] = place.shared_data
    work = Work(RunPlan(name="ray", cells=()), place.data_folder, dict(place.weights_files))
    device = torch.device(place.device)
    return Runner(
        work, Store(place.store), device, place.batch, lambda: None, _Silent(), place.timeout, dict(place.before)
    )


def _prepared(place: Place, planned: PlannedCell) -> Runner:
    """Return the runner of this worker for a cell.

    Raises:
        UsageError: the code here is not that of the one who asks.
    """
    runner, cell = _runner(place), planned.cell
    if changed(cell) is not None or cell_key(cell) != planned.key:
        raise UsageError(
            f"{platform.node()} has another version of the code, of a package behind it, or of a file that it reads; "
            "install the same ones on every machine"
        )
    return runner


def _train(place: Place, planned: PlannedCell, attacked: bool) -> None:
    runner, cell = _prepared(place, planned), planned.cell
    try:
        list(runner.each([models_of(cell)[attacked]], lambda model: runner.train(model, cell.data)))
    except StoreError:
        raise
    except Exception:
        return


def _attack(place: Place, planned: PlannedCell, ref: AttackRef, *_first: None) -> None:
    runner = _prepared(place, planned)
    try:
        with runner.store.writing():
            runner.make_set(ref, planned)
    except StoreError:
        raise
    except (Busy, Exception):
        return


def _evaluate(place: Place, planned: PlannedCell, *_first: None) -> None:
    runner = _prepared(place, planned)
    list(runner.each([planned], runner.cell))
