"""The same work on a Ray cluster: each node of the graph is a task, and results go through the shared store alone.

Ray decides where and when a task runs, from its resources and dependencies, and reruns a lost one elsewhere.
Tasks hold the same leases as any process does, so nothing is done twice whoever else works on the store.

A cluster may lose any machine but two: its head, and the one that this process runs on. Without these Ray waits for
ever or aborts the process that it is in, and it takes signals for itself. So it is in a process of its own, which hands
out the tasks; this one follows it, and ends the run with one line whatever becomes of the other.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import re
import signal
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import ray
import torch

from bench.evaluation.craft import CHUNK
from bench.keys import Keys, attack_key, cell_key, clean_cell, models_of, training_key
from bench.process.allocator import keep_freed_memory
from bench.process.ending import Control, Lost, Overtime, end_with
from bench.schedule.hand import Abandoned, Hand
from bench.schedule.plan import Work, changed
from bench.schedule.run import Runner, log_failure
from bench.store.lease import Busy
from bench.store.provenance import provenance
from bench.store.working_store import Store
from bench.types import (
    AttackRef,
    CellError,
    CellResult,
    Ending,
    ModelRef,
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
# Seconds until the run ends where the cluster's head does not answer; after 60 Ray ends its process itself.
_HEAD = 40.0
# Seconds until the run ends where no machine can hold a task; an autoscaler may start one.
_MACHINES = 180.0
# Seconds until the run ends where the leading process reports nothing.
_SILENCE = 90.0
# Seconds for an address to answer.
_ANSWER = 10.0
# Seconds for Ray to start or join a cluster, and to leave it.
_JOIN = 60.0
_LEAVE = 2.0
_FORK = multiprocessing.get_context("fork")


class ClusterError(UsageError):
    """The cluster was lost: the run ends, everything finished is kept, and the same command continues."""

    @classmethod
    def of(cls, why: str) -> ClusterError:
        return cls(f"{why}; what is finished is kept, and the same command continues once the cluster works")


class _ParentGone(Ending):
    """The process that follows this one has ended."""


_log = logging.getLogger("crossfire")


@dataclass(frozen=True)
class WorkerContext:
    """What a task needs to know beside its cell."""

    store: Path
    data_folder: Path | None
    weights_files: tuple[tuple[str, Path], ...]
    device: str
    batch: int | None
    timeout: float | None
    threads: int
    known_failures: tuple[tuple[str, str], ...]
    #: Folders of the submitting process: the base of relative names, and where image sets are searched.
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
        UsageError: no cluster answers, or no machine of it has the resources that a task needs.
        ClusterError: the head of the cluster, this machine's part in it or every machine that can hold a task was lost.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    where = f"RAY_ADDRESS={address}" if address not in ("", "local") else "Ray cannot be started here"
    runner.reporter.work("reaching the Ray cluster", 0, None)
    _require_answer(address, where)
    if runner.known_failures is None:
        runner.known_failures = runner.store.stamps()
    ours, theirs = _FORK.Pipe()
    leader = _FORK.Process(
        target=_lead, args=(theirs, ours, os.getpid(), runner, where, device, cpus, gpus), daemon=True
    )
    with warnings.catch_warnings():
        # That a copy of a process has none of its threads: it computes nothing, and waits for none.
        warnings.simplefilter("ignore", DeprecationWarning)
        leader.start()
    theirs.close()
    patience = 0.0
    try:
        _follow(ours, leader, runner, where)
        patience = _LEAVE
    finally:
        _end(leader, patience)
        ours.close()
    return list(runner.each(runner.work.plan.cells, runner.cell))


def _require_answer(address: str, where: str) -> None:
    """Raises UsageError: nothing answers at an address of a machine and a port, where Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if re.fullmatch(r"[\w.-]+", host) and re.fullmatch(r"\d{1,5}", port):
        try:
            socket.create_connection((host, int(port)), _ANSWER).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise UsageError(f"{where}: no Ray cluster answers there ({_first_line(error)})") from error


def _follow(ours: Connection, leader: BaseProcess, runner: Runner, where: str) -> None:
    """Report what the process that leads says, until it is done."""
    heard, limit = time.monotonic(), _JOIN
    while True:
        runner.check()
        if not ours.poll(0.2):
            if time.monotonic() - heard > limit:
                raise ClusterError.of(f"{where}: no answer of Ray for {limit:g} s")
            continue
        heard = time.monotonic()
        try:
            topic, content = ours.recv()
        except (EOFError, OSError):
            leader.join(1.0)
            gone = "its head was restarted or has ended, or this machine has lost its part in it"
            why = gone if limit == _SILENCE else "it ended while it was joined"
            raise ClusterError.of(f"the Ray cluster was lost: {why}") from None
        if topic == "joined":
            limit = _SILENCE
        elif topic == "cells":
            done, total, failed = content
            runner.control.count(done - failed, total)
            runner.reporter.cells(done, total, failed)
        elif topic == "work":
            runner.reporter.work(*content)
        elif topic == "log":
            _log.handle(content)
        elif topic == "error":
            raise content
        else:
            return


def _end(leader: BaseProcess, patience: float) -> None:
    """End the process that leads, after so many seconds in which it may leave Ray, and a cluster that it started.

    A cluster that it joined ends the workers of a process that is gone.
    """
    leader.join(patience)
    # It began a group of processes, for what a cluster starts would outlive it for seconds.
    if leader.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)
    leader.kill()
    leader.join()


# What runs in the process that leads.


class _PipeReporter(QueueHandler):
    """Reports progress and log lines to the process that follows the run."""

    def __init__(self, theirs: Connection) -> None:
        super().__init__(Queue())
        self._theirs = theirs

    def cells(self, done: int, total: int, failed: int = 0) -> None:
        self._theirs.send(("cells", (done, total, failed)))

    def work(
        self,
        what: str,
        done: float,
        total: float | None,
        note: str = "",
        left: float | None = None,
        most: float | None = None,
    ) -> None:
        self._theirs.send(("work", (what, done, total, note, left, most)))

    def enqueue(self, record: logging.LogRecord) -> None:
        self._theirs.send(("log", record))


def _lead(
    theirs: Connection,
    ours: Connection,
    parent: int,
    runner: Runner,
    where: str,
    device: str,
    cpus: int | None,
    gpus: float | None,
) -> None:
    os.setsid()
    end_with(parent)
    # The process that follows has them end the run; this one ends with that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ours.close()
    # Ray's own threads print what becomes of a cluster, and the last lines of its logs.
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    pipe_reporter = _PipeReporter(theirs)
    _log.handlers[:] = [pipe_reporter]

    def check() -> None:
        if os.getppid() != parent:
            raise _ParentGone

    last_message: tuple[str, object] = ("done", None)
    try:
        _join(where)
        theirs.send(("joined", None))
        runner.stop_check, runner.reporter = check, pipe_reporter
        _Driver(runner, *_context_of(runner, device, cpus, gpus)).run()
    except UsageError as error:
        last_message = ("error", error)
    except _ParentGone:
        pass
    except Exception as error:
        last_message = ("error", ClusterError.of(f"Ray gave up: {_first_line(error)}"))
    with suppress(OSError):
        theirs.send(last_message)
    ray.shutdown()


def _join(where: str) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one.

    Raises:
        UsageError: none answers there, or none can be started.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # By default Ray runs a task whose memory ran out again for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))
    # Without an address Ray would look for a cluster that was once started here, and wait for it if it is gone.
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, include_dashboard=False)
    except Exception as error:
        raise UsageError(f"{where}: {_first_line(error)}") from error


def _cause(error: Exception) -> Exception:
    """Return what a task raised, or what Ray says where it did not come so far."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return cause if isinstance(cause, Exception) else error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _context_of(
    runner: Runner, device: str, cpus: int | None, gpus: float | None
) -> tuple[WorkerContext, dict[str, float]]:
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    resources = {"CPU": cpus or torch.get_num_threads(), "GPU": 0.0}
    if device == "cuda":
        resources["GPU"] = 1.0 if gpus is None else gpus
    _require_fit(_machines(), resources)
    context = WorkerContext(
        store=runner.store.root.resolve(),
        data_folder=runner.work.data_folder and runner.work.data_folder.resolve(),
        weights_files=tuple((sha, path.absolute()) for sha, path in runner.work.weights_files.items()),
        device=device,
        batch=runner.batch,
        timeout=runner.timeout,
        threads=int(resources["CPU"]),
        known_failures=tuple((runner.known_failures or {}).items()),
        folder=Path.cwd(),
        shared_data=os.environ.get("CROSSFIRE_DATA"),
    )
    return context, resources


def _require_fit(machines: list[dict[str, float]], resources: dict[str, float]) -> None:
    """Raises UsageError: no machine has the resources that a task needs."""
    if not any(_fits(machine, resources) for machine in machines):
        most = ", ".join(sorted({f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in machines}))
        raise UsageError(
            f"a task asks for {resources['CPU']:g} CPUs and {resources['GPU']:g} GPUs, but the machines of the cluster "
            f"have {most}; set cpus and gpus in [run]"
        )


def _machines() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fits(machine: dict[str, float], resources: dict[str, float]) -> bool:
    return all(machine.get(what, 0) >= count for what, count in resources.items())


class _Watch:
    """Queries the head for its machines every second, in its own thread, as it may never answer."""

    def __init__(self, resources: dict[str, float]) -> None:
        self._resources = resources
        self._heard = self._fitting = time.monotonic()
        Thread(target=self._look, name="watch the cluster", daemon=True).start()

    def check(self) -> None:
        """Raises ClusterError: the head, or every machine that can hold a task, has been gone for too long."""
        now = time.monotonic()
        if now - self._heard > _HEAD:
            raise ClusterError.of(f"the head of the Ray cluster has not answered for {_HEAD:g} s")
        if now - self._fitting > _MACHINES:
            raise ClusterError.of(f"the Ray cluster has had no machine that can hold a task for {_MACHINES:g} s")

    def _look(self) -> None:
        while True:
            time.sleep(1.0)
            machines = _machines()
            self._heard = time.monotonic()
            if any(_fits(machine, self._resources) for machine in machines):
                self._fitting = self._heard


class _Driver:
    """Hands the graph to Ray, a window at a time, and waits for its cells."""

    def __init__(self, runner: Runner, context: WorkerContext, resources: dict[str, float]) -> None:
        self.runner = runner
        self.watch = _Watch(resources)
        self.context = ray.put(context)
        remote = ray.remote(num_cpus=resources["CPU"], num_gpus=resources["GPU"], max_retries=_RETRIES)
        self.train = remote(_train)
        self.attack = remote(_attack)
        self.evaluate = remote(_evaluate)
        self.keys = Keys()
        self.nodes: dict[str, Any] = {}
        self.pending: dict[Any, PlannedCell] = {}
        self.done = self.failed = self.here = 0
        self.began = time.monotonic()
        #: Keys of adversarial sets whose attack ended its process, and those that were passed to a cell's tasks.
        self.deadly: set[str] = set()
        self.spared: dict[str, frozenset[str]] = {}

    def run(self) -> None:
        cells = self.runner.work.plan.cells
        for planned in cells:
            self.runner.check()
            if self.runner.store.finished(planned) is not None:
                self._count_cell()
                continue
            if self.runner.work.why_not(planned.cell) is not None:
                self._count_cell(self.runner.cell(planned))  # It fails at once.
                continue
            self._submit(planned)
            while len(self.pending) >= _IN_FLIGHT:
                self._wait()
        while self.pending:
            self._wait()

    def _submit(self, planned: PlannedCell) -> None:
        cell, clean_key = planned.cell, self.keys.of(clean_cell(planned.cell))
        first = self._trained(planned, cell.model, None if cell.step is None else cell.step.score)
        if cell.attack is not None:
            if clean_key in self.nodes:
                first.append(self.nodes[clean_key])
            first += self._attacked(planned, cell.attack)
        self.spared[planned.key] = frozenset(self.deadly)
        task = self.evaluate.remote(self.context, planned, self.spared[planned.key], *first)
        if cell.attack is None:
            self.nodes[planned.key] = task
        self.pending[task] = planned

    def _attacked(self, planned: PlannedCell, ref: AttackRef) -> list[Any]:
        key = self.keys.of(ref)
        if key not in self.nodes:
            before = self._trained(planned, ref.model, None if ref.step is None else ref.step.score)
            lively = (each for each in self._earlier(ref) if self.keys.of(each) not in self.deadly)
            if (earlier := next(lively, None)) is not None:
                before += self._attacked(planned, earlier)
            tasks = -(-ref.data.n // (CHUNK * _CHUNKS_A_TASK))
            self.nodes[key] = [
                self.attack.remote(self.context, planned, ref, frozenset(self.deadly), *before) for _ in range(tasks)
            ]
        tasks_of_set: list[Any] = self.nodes[key]
        return tasks_of_set

    def _trained(self, planned: PlannedCell, *models: ModelRef | None) -> list[Any]:
        """Return the tasks that train those of the networks of a cell which are trained here."""
        tasks: list[Any] = []
        for model in models:
            if model is None or not isinstance(model.weights, TrainRef):
                continue
            key = training_key(model)
            if key not in self.nodes:
                number = models_of(planned.cell).index(model)
                self.nodes[key] = self.train.remote(self.context, planned, number)
            tasks.append(self.nodes[key])
        return tasks

    def _wait(self) -> None:
        self.runner.check()
        self.watch.check()
        ready, _ = ray.wait(list(self.pending), num_returns=1, timeout=0.5)
        for task in ready:
            planned = self.pending.pop(task)
            try:
                ray.get(task)
            except StoreError as error:
                raise StoreError(_first_line(_cause(error))) from None
            except ray.exceptions.LocalRayletDiedError:
                raise ClusterError.of("this machine has lost its part in the Ray cluster") from None
            except ray.exceptions.RayError as error:
                if self._retry_without_lost_sets(planned):
                    continue
                self._lost(planned, error)
            self.here += 1
            self._count_cell(self.runner.store.get(planned.key))
        if self.pending:
            first = next(iter(self.pending.values())).names
            what = f"{len(self.pending)} cells with Ray, the first {first}"
            self.runner.reporter.work(what, 0, None, left=self._seconds_left())

    def _retry_without_lost_sets(self, planned: PlannedCell) -> bool:
        """Redo a cell whose set continues from one whose attack ended its process, without that one."""
        if (own := planned.cell.attack) is None:
            return False
        chain = {self.keys.of(ref): ref for ref in self._earlier(own)}
        self.deadly |= {key for key in chain if any(map(_took_its_process, self.nodes.get(key, ())))}
        if not self.deadly & set(chain) - self.spared[planned.key]:
            return False
        for key in (*chain, self.keys.of(own)):
            if any(map(_has_failed, self.nodes.get(key, ()))):
                del self.nodes[key]
        self._submit(planned)
        return True

    def _earlier(self, ref: AttackRef) -> Iterator[AttackRef]:
        while (previous := ref.previous) is not None:
            yield previous
            ref = previous

    def _count_cell(self, result: CellResult | None = None) -> None:
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
        cause = _cause(error)
        message = _first_line(cause)
        if isinstance(cause, ray.exceptions.RayError):
            message = f"Ray lost its task, also when it was run again: {message}"
        failure = CellError.of(cause, message, str(error))
        self.runner.store.put(CellResult.failed(planned, failure, provenance(self.runner.device)))


def _took_its_process(task: Any) -> bool:
    """Return whether a task ended without a report, and not because of a task that it depends on."""
    try:
        ray.get(task, timeout=0)
    except (ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError):
        return False
    except ray.exceptions.RayError:
        return True
    return False


def _has_failed(task: Any) -> bool:
    try:
        ray.get(task, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return False
    except ray.exceptions.RayError:
        return True
    return False


# What runs in the workers. Methods run in a process beside each. A failure of a method is kept in the store by the task
# of the cell, which meets it again; what takes too long or takes the process with it goes from task to task as lost.


def _train(context: WorkerContext, planned: PlannedCell, number: int) -> tuple[Lost, ...]:
    return _hand(context).do((_do_training, planned, number))


def _attack(
    context: WorkerContext, planned: PlannedCell, ref: AttackRef, deadly: frozenset[str], *first: Sequence[Lost] | None
) -> tuple[Lost, ...]:
    return _hand(context).do((_do_attack, planned, ref, deadly), _joined(first), ("set", attack_key(ref)))


def _evaluate(
    context: WorkerContext, planned: PlannedCell, deadly: frozenset[str], *first: Sequence[Lost] | None
) -> tuple[Lost, ...]:
    return _hand(context).do((_do_evaluation, planned, deadly), _joined(first))


def _joined(first: Sequence[Sequence[Lost] | None]) -> list[Lost]:
    return list(dict.fromkeys(chain.from_iterable(each or () for each in first)))


@lru_cache(maxsize=1)
def _hand(context: WorkerContext) -> Hand:
    """Return the process beside this worker, which keeps networks and images from task to task."""
    return Hand(partial(_work, context))


class _Silent:
    def cells(self, done: int, total: int, failed: int = 0) -> None:
        pass

    def work(
        self,
        what: str,
        done: float,
        total: float | None,
        note: str = "",
        left: float | None = None,
        most: float | None = None,
    ) -> None:
        pass


def _work(context: WorkerContext, control: Control, task: tuple[Any, ...], lost: Sequence[Lost]) -> Sequence[Lost]:
    do, planned, *more = task
    runner = _prepared(context, planned, control)
    runner.lost = lost
    runner.leave_out({each.key for each in lost if each.kind == "set"})
    lost_now: Sequence[Lost] = do(runner, planned, *more)
    return lost_now


@lru_cache(maxsize=1)
def _runner(context: WorkerContext, control: Control) -> Runner:
    keep_freed_memory()
    torch.set_num_threads(context.threads)
    os.chdir(context.folder)
    if context.shared_data is not None:
        os.environ["CROSSFIRE_DATA"] = context.shared_data
    work, parent = Work(RunPlan(name="ray", cells=()), context.data_folder, dict(context.weights_files)), os.getppid()

    def check() -> None:
        if os.getppid() != parent:
            raise Abandoned
        control.check_run()

    return Runner(
        work,
        Store(context.store),
        torch.device(context.device),
        batch=context.batch,
        stop_check=check,
        reporter=_Silent(),
        timeout=context.timeout,
        known_failures=dict(context.known_failures),
        control=control,
    )


def _prepared(context: WorkerContext, planned: PlannedCell, control: Control) -> Runner:
    """Return the runner of this process for a cell.

    Raises:
        UsageError: the code here is not that of the submitting process.
    """
    runner, cell = _runner(context, control), planned.cell
    if changed(cell) is not None or cell_key(cell) != planned.key:
        raise UsageError(
            f"{platform.node()} has another version of the code, of a package behind it, or of a file that it reads; "
            "install the same ones on every machine"
        )
    return runner


def _do_training(runner: Runner, planned: PlannedCell, number: int) -> Sequence[Lost]:
    cell = planned.cell
    try:
        list(runner.each([models_of(cell)[number]], lambda model: runner.train(model, cell.data)))
    except StoreError:
        raise
    except Exception:
        return ()
    return ()


def _do_attack(runner: Runner, planned: PlannedCell, ref: AttackRef, deadly: frozenset[str]) -> Sequence[Lost]:
    runner.leave_out(deadly)
    try:
        with runner.store.writing():
            runner.make_set_alone(ref, planned)
    except StoreError:
        raise
    except Overtime as error:
        return (Lost("set", attack_key(ref), str(error), late=True),)
    except (Busy, Exception):
        return ()
    return ()


def _do_evaluation(runner: Runner, planned: PlannedCell, deadly: frozenset[str]) -> Sequence[Lost]:
    runner.leave_out(deadly)
    list(runner.each([planned], runner.cell))
    return ()
