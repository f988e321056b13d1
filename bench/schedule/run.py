"""From a plan to results, in this process: what is missing is done, what is done is left alone.

The work is a graph (train -> attack -> evaluate). Each method of :class:`Runner` is one kind of node and asks for the
nodes that it stands on, so a static adversarial set is made once and serves every test-time step on its network.
Processes on one store share the work by leases: on a training, on a chunk of an adversarial set, on a cell.
"""

from __future__ import annotations

import json
import logging
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bench import checks, weights
from bench.cost import PassFlops, deployed_cost, parameters, pass_flops, synchronize
from bench.data import open_ref, rows_of
from bench.evaluate import CHUNK, DRAWS, Crafted, Step, craft, entry_of, predict, put_on
from bench.keys import pack_bits
from bench.layout import fast_layout
from bench.lease import Busy
from bench.models.build import build
from bench.provenance import provenance, source
from bench.runlog import RunLog
from bench.schedule.chunks import Clean, Outcomes, read_chunk, read_clean, write_chunk, write_records
from bench.schedule.plan import Work, attack_key, cell_key, clean_cell, training_key
from bench.stats import wilson
from bench.store import Store, write_atomically
from bench.target import auto_batch, frozen, out_of_memory
from bench.train import DamagedState, Progress, train
from bench.types import (
    AttackRef,
    Cell,
    CellError,
    CellResult,
    Cost,
    DataRef,
    DefenseCost,
    MethodError,
    Metrics,
    ModelRef,
    PlannedCell,
    StoreError,
    TrainRef,
    UsageError,
)

_log = logging.getLogger("crossfire")
T = TypeVar("T")
R = TypeVar("R")
# Seconds between two looks at what other processes have in hand.
_PATIENCE = 0.5


class Overtime(BaseException):
    """A cell took longer than it may. No ``Exception``, so that no method takes it for a failure of its own."""


class Reporter(Protocol):
    """What a run tells while it works."""

    def cells(self, done: int, total: int) -> None:
        """Say how many cells are done."""

    def work(self, what: str, done: float, total: float, note: str = "") -> None:
        """Say how far the piece of work at hand is."""


class Classifier(NamedTuple):
    """A base classifier in its fastest layout; FLOPs of a pass, parameters as trained, and a note on the layout."""

    net: nn.Module
    flops: PassFlops
    params: int
    layout: str


@dataclass
class Images:
    """Test images on the device: uint8 pixels (N, C, H, W), labels (N,), and their row numbers in the set (N,)."""

    x: Tensor
    y: Tensor
    rows: Tensor

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield chunks: the first row, float32 pixels in [0, 1], labels, row numbers."""
        for first in range(0, len(self.x), CHUNK):
            s = slice(first, first + CHUNK)
            yield first, self.x[s].float() / 255, self.y[s], self.rows[s]


@dataclass
class Runner:
    """Executes the cells of one plan against one store on one device.

    ``asked`` is called between pieces of work and at every pass; what it raises (no ``Exception``) ends the run, and
    everything finished is kept. A cell that takes longer than ``timeout`` seconds, training apart, fails.
    """

    work: Work
    store: Store
    device: torch.device
    batch: int | None
    asked: Callable[[], None]
    reporter: Reporter
    timeout: float | None = None
    #: Marks (:meth:`bench.store.Store.marks`) of failures that are tried again; by default those there at the start.
    before: Mapping[str, int] | None = None
    _deadline: float | None = None
    _images: dict[str, Images] = field(default_factory=dict)
    _costs: dict[str, DefenseCost] = field(default_factory=dict)
    _flags: dict[str, set[str]] = field(default_factory=dict)
    _bases: dict[str, Classifier] = field(default_factory=dict)
    _warm: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        about = {"plan": self.work.plan.name, "cells": len(self.work.plan.cells), "device": str(self.device)}
        self.log = RunLog(self.store.root / "log", {**about, "commit": source()[0]})

    def check(self) -> None:
        """Raise what ends the run, the cell that took too long, or the work that another process has taken over."""
        self.asked()
        self.store.leases.check()
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise Overtime(f"took longer than timeout = {self.timeout:g} s; the next run goes on from what is finished")

    def run(self) -> list[CellResult]:
        """Do every cell that has no result yet and return all results, in the order of the plan."""
        cells = self.work.plan.cells
        results: dict[str, CellResult] = {}
        self.reporter.cells(0, len(cells))
        with self.log.warnings():
            for result in self.each(cells, self.cell):
                results[result.key] = result
                self.reporter.cells(len(results), len(cells))
        return [results[planned.key] for planned in cells]

    def each(self, items: Sequence[T], do: Callable[[T], R]) -> Iterator[R]:
        """Yield what ``do`` returns for every item; those that another process has in hand come last."""
        if self.before is None:
            self.before = self.store.marks()
        while items:
            busy = []
            for item in items:
                self.check()
                try:
                    done = do(item)
                except Busy:
                    busy.append(item)
                else:
                    yield done
            if len(busy) == len(items):
                time.sleep(_PATIENCE)
            items = busy

    def cell(self, planned: PlannedCell) -> CellResult:
        """Return the result of one cell, from the store where it is done; one that failed before is tried again.

        Raises:
            Busy: another process has it, or what it stands on, in hand.
            StoreError: the store cannot be written.
        """
        if (known := self._known(planned)) is not None:
            return known
        started, batch = time.monotonic(), self.batch
        try:
            with self.store.writing():
                result = self._with_memory(planned, self._made)
        except StoreError:
            raise
        except (Exception, Overtime) as error:
            result = CellResult(
                key=planned.key,
                names=planned.names,
                cell=planned.cell,
                status="failed",
                error=CellError(
                    kind=type(error).__name__,
                    message=str(error).strip().partition("\n")[0] or type(error).__name__,
                    traceback="".join(traceback.format_exception(error)),
                ),
                flags=("failed",),
                provenance=provenance(self.device),
            )
            self._put(result, started)
        finally:
            self._deadline, self.batch = None, batch
        return result

    def _known(self, planned: PlannedCell) -> CellResult | None:
        """Return the result in the store, unless it failed before this run."""
        if (done := self.store.finished(planned)) is not None:
            return done
        if not self._is_new(self.store.cell_file(planned.key)):
            return None
        known = self.store.get(planned.key)
        return known if known is not None and known.status == "failed" else None

    def _is_new(self, path: Path) -> bool:
        """Say whether a failure came after this run had begun, from whichever process: then once is enough."""
        try:
            mark = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        return self.before is not None and self.before.get(self.store.name(path)) != mark

    def _made(self, planned: PlannedCell) -> CellResult:
        """Make what a cell stands on, then the cell."""
        cell, started = planned.cell, time.monotonic()
        self._base_of(cell.model, cell.data)
        if cell.attack is not None:
            self._base_of(cell.attack.model, cell.data)
            self._require_clean(planned)
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout
        if cell.attack is not None:
            self.make_set(cell.attack, planned)
        with self.store.leases.hold(f"cell-{planned.key}"):
            if (known := self._known(planned)) is not None:
                return known
            result = self._measure(planned)
            self._put(result, started)
            return result

    def _put(self, result: CellResult, started: float) -> None:
        with self.store.writing():
            self.store.put(result)
        why = {} if result.error is None else {"error": f"{result.error.kind}: {result.error.message}"}
        seconds = round(time.monotonic() - started, 3)
        self.log.write(result.status, cell=str(result.names), key=result.key, seconds=seconds, **why)

    def _with_memory(self, planned: PlannedCell, do: Callable[[PlannedCell], R]) -> R:
        """Do it; where memory runs out, again with half the batch, down to single images."""
        while True:
            try:
                return do(planned)
            except (RuntimeError, MemoryError) as error:
                batch = self._batch(planned.cell.data)
                if batch == 1 or not (isinstance(error, MemoryError) or out_of_memory(error)):
                    raise
                self.batch = batch // 2
                self.log.write("out of memory", cell=str(planned.names), batch=self.batch)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _require_clean(self, planned: PlannedCell) -> None:
        clean = clean_cell(planned.cell)
        names = planned.names.model_copy(update={"attack": "clean", "access": clean.access})
        result = self.cell(PlannedCell(key=cell_key(clean), names=names, cell=clean))
        if result.error is not None:
            raise MethodError(f"without an attack already: {result.error.message}")

    def train(self, model: ModelRef, watched: DataRef) -> Path:
        """Return the weights of a base classifier, trained here where they are missing.

        The log of its epochs also measures the first of the ``watched`` test images.
        """
        ref = model.weights
        if not isinstance(ref, TrainRef):
            return self.work.weights_files[ref.sha256]
        key = training_key(model)
        folder = self.store.training(key)
        if not _is_trained(folder):
            with self.store.leases.hold(f"train-{key}"), self.store.writing():
                if not _is_trained(folder):
                    (folder / "card.json").unlink(missing_ok=True)
                    self._train(ref, model, watched, folder)
        return folder / "weights.safetensors"

    def _train(self, ref: TrainRef, model: ModelRef, watched: DataRef, folder: Path) -> None:
        failed = folder / "failed.json"
        if self._is_new(failed):
            raise MethodError(json.loads(failed.read_text(encoding="utf-8"))["message"])
        pixels, labels, _ = self._rows(ref.data)
        test = self._rows(watched)[:2]
        what = f"train {ref.recipe.name} {model.network.name}"

        def progress(at: Progress) -> None:
            self.reporter.work(what, at.epoch + at.step / at.steps, at.epochs, f"loss {at.loss:.3f}")

        def run() -> None:
            args = (ref, model.network, pixels, labels, folder)
            train(*args, device=self.device, check=self.check, on_progress=progress, test=test)

        started = time.monotonic()
        try:
            try:
                run()
            except DamagedState as error:
                _log.warning("%s; training begins again", error)
                (folder / "state.safetensors").unlink()
                run()
        except OSError:
            raise
        except Exception as error:
            # So that no other cell, nor another process, spends the same hours on the same end.
            write_atomically(failed, json.dumps({"message": str(error)}).encode())
            raise
        failed.unlink(missing_ok=True)
        self.reporter.work(what, 1, 1)
        self.log.write("trained", what=what, key=folder.name, seconds=round(time.monotonic() - started, 3))

    def check_weights(self) -> None:
        """Raises UsageError: a weights file of the plan does not fit its network. To be called before any work."""
        for cell in {training_key(planned.cell.model): planned.cell for planned in self.work.plan.cells}.values():
            if not isinstance(cell.model.weights, TrainRef):
                self._base_of(cell.model, cell.data)

    def _measure(self, planned: PlannedCell) -> CellResult:
        cell = planned.cell
        classifier = self._base_of(cell.model, cell.data)
        base, flops = classifier.net, classifier.flops
        step = put_on(base, cell.step, self._training_images(cell.model))
        images = self._test(cell.data)
        if cell.attack is None:
            found = self._clean(cell, base, step)
            before = Clean.of(found)
        else:
            before = self._clean_answers(cell, base, step)
            found = self._attacked(planned, base, step)
        share = found.column("share")
        right, survived = before.share > 0.5, share > 0.5
        flags = found.notes | self._function_flags(cell, base, step) | self._regime(cell)
        if step.rng is not None:
            flags.add("randomised")
        if cell.attack is not None and right.any():
            if not found.column("linf")[right].any():
                flags.add("no-op")
            # On what was attacked itself; a static set may well be undone by a step that it never saw.
            elif (
                cell.access in ("white-box", "adaptive") and not (found.column("margins") < before.margins)[right].any()
            ):
                flags.add("loss-not-rising")
        spent = self._defense_cost(cell, classifier, step)
        forwards, backwards = found.mean("forwards"), found.mean("backwards")
        robust, n = int((right & survived).sum()), len(right)
        interval = wilson(robust, n)
        write_records(self.store.records(planned.key), images.rows, images.x, images.y, before, found)
        return CellResult(
            key=planned.key,
            names=planned.names,
            cell=cell,
            status="done",
            metrics=Metrics(
                n=n,
                clean_accuracy=float(right.mean()),
                robust_accuracy=robust / n,
                ci_low=interval.low,
                ci_high=interval.high,
                mean_linf=found.mean("linf"),
                mean_l2=found.mean("l2"),
                protocol="deterministic" if step.rng is None else f"majority-of-{DRAWS}",
                robust_mean=None if step.rng is None else float((right * share).mean()),
                robust_worst=None if step.rng is None else float((right & (share == 1)).mean()),
            ),
            clean_bits=pack_bits(right.tolist()),
            adversarial_bits=pack_bits(survived.tolist()),
            flags=tuple(sorted(flags)),
            cost=Cost(
                forwards_per_example=forwards,
                backwards_per_example=backwards,
                seconds_per_example=found.seconds / n,
                flops_per_example=flops.of(forwards, backwards),
                peak_memory_bytes=_peak_memory(self.device),
            ),
            defense_cost=spent,
            provenance=provenance(self.device, classifier.layout),
        )

    def _training_images(self, model: ModelRef) -> Callable[[], Tensor] | None:
        ref = model.weights
        return (lambda: torch.from_numpy(self._rows(ref.data)[0])) if isinstance(ref, TrainRef) else None

    def _regime(self, cell: Cell) -> set[str]:
        """Return how the base classifier was overfitted, and whether a step lacks the overfitting that it relies on."""
        found: dict[str, Any] | None = self._card(cell.model).get("overfitting")
        if found is None:
            return set()
        flags = {f"{kind}-overfitting" for kind in ("catastrophic", "robust") if found[kind]}
        needed = None if cell.step is None else entry_of(cell.step).meta.get("relies_on")
        return flags if needed is None or needed in flags else flags | {f"no-{needed}"}

    def _function_flags(self, cell: Cell, base: nn.Module, step: Step) -> set[str]:
        """Return the flags of the deployed function; a static attacker's cells do not depend on its gradient."""
        key = cell_key(clean_cell(cell))
        if key not in self._flags:
            _, x, y, _ = next(iter(self._test(cell.data)))
            few = slice(0, min(64, self._batch(cell.data)))
            step.seed(key, "checks")
            with frozen(base):
                self._flags[key] = checks.of_function(
                    step.deployed, step.surrogate, x[few], y[few], random=step.rng is not None
                )
        return self._flags[key] - ({"zero-gradient"} if cell.access in ("static", "transfer") else set())

    def _clean_answers(self, cell: Cell, base: nn.Module, step: Step) -> Clean:
        key = cell_key(clean_cell(cell))
        if self.store.get(key) is not None and (known := read_clean(self.store.records(key), cell.data.n)) is not None:
            return known
        return Clean.of(self._clean(cell, base, step))

    def _clean(self, cell: Cell, base: nn.Module, step: Step) -> Outcomes:
        key = cell_key(clean_cell(cell))
        batch, found = self._batch(cell.data), Outcomes()
        for first, x, y, _ in self._test(cell.data):
            self.check()
            if first == 0:
                predict(step, base, x[:8], y[:8], batch, seed=(key, "warm"))
            synchronize(self.device)
            started = time.perf_counter()
            answer = predict(step, base, x, y, batch, seed=(key, "clean", first), check=self.check)
            synchronize(self.device)
            seconds = (time.perf_counter() - started) / len(answer.labels)
            forwards, backwards = (
                torch.full((len(x),), count, dtype=torch.float64) for count in (answer.forwards, answer.backwards)
            )
            found.add(answer, y, x, Crafted(x, forwards, backwards, seconds, [], batch))
        return found

    def _attacked(self, planned: PlannedCell, base: nn.Module, step: Step) -> Outcomes:
        cell, found = planned.cell, Outcomes()
        assert cell.attack is not None
        chunks = zip(self._test(cell.data), self._adversarial(cell.attack, planned), strict=True)
        for (first, x, y, _), made in chunks:
            images, seed = made.images.to(self.device), (planned.key, "attacked", first)
            answer = predict(step, base, images, y, self._batch(cell.data), seed=seed, check=self.check)
            found.add(answer, y, x, made)
        return found

    def make_set(self, ref: AttackRef, planned: PlannedCell) -> None:
        """Make the chunks of an adversarial set that are missing; several processes make different ones.

        Raises:
            Busy: another process still has one in hand.
        """
        busy = False
        for first, x, y, rows in self._test(ref.data):
            self.reporter.work(str(planned.names), first, ref.data.n)
            path = self._chunk(ref, first, len(x))
            if not path.is_file():
                try:
                    self._craft(ref, path, x, y, rows)
                except Busy:
                    busy = True
        if busy:
            raise Busy

    def _craft(self, ref: AttackRef, path: Path, x: Tensor, y: Tensor, rows: Tensor) -> None:
        key = attack_key(ref)
        base = self._base_of(ref.model, ref.data).net
        with self.store.leases.hold(f"attack-{key}-{path.stem}"):
            if path.is_file():
                return
            self.check()
            if key not in self._warm:
                _warm_up(base, x[:8])
                self._warm.add(key)
            started = time.monotonic()
            made = craft(
                ref,
                base,
                x,
                y,
                rows,
                key=key,
                batch=self._batch(ref.data),
                check=self.check,
                training=self._training_images(ref.model),
            )
            if made.batch < self._batch(ref.data):
                # Where memory ran out once it would run out again.
                self.batch = made.batch
                self.log.write("out of memory", set=key, batch=made.batch)
            write_chunk(path, made)
        seconds = round(time.monotonic() - started, 3)
        self.log.write("crafted", attack=ref.attack.name, key=key, images=path.stem, seconds=seconds)

    def _adversarial(self, ref: AttackRef, planned: PlannedCell) -> Iterator[Crafted]:
        for first, x, y, rows in self._test(ref.data):
            self.reporter.work(str(planned.names), first, ref.data.n)
            path = self._chunk(ref, first, len(x))
            while (made := read_chunk(path, len(x))) is None:
                path.unlink(missing_ok=True)
                self._craft(ref, path, x, y, rows)
            yield made
        self.reporter.work(str(planned.names), ref.data.n, ref.data.n)

    def _chunk(self, ref: AttackRef, first: int, n: int) -> Path:
        return self.store.adversarial(attack_key(ref)) / f"{first:06d}-{first + n:06d}.safetensors"

    def _base_of(self, model: ModelRef, data: DataRef) -> Classifier:
        key = training_key(model)
        if key not in self._bases:
            path = self.train(model, data)
            if not isinstance(model.weights, TrainRef) and weights.sha256(path) != model.weights.sha256:
                raise UsageError(f"{path} has changed since the plan was made; run it again")
            with torch.random.fork_rng(devices=[]):
                net = build(model.network, data.num_classes, data.image_shape)
            weights.load(path, net)
            fast = fast_layout(net.to(self.device).eval(), self._test(data).x[:4].float() / 255)
            layout = "channels-last, " + (fast.note or "batch norm folded")
            made = Classifier(fast.net, pass_flops(fast.net, data.image_shape), parameters(net), layout)
            # Two are enough: the cells of a plan are grouped by classifier, and a transfer needs one more.
            self._bases = dict([*self._bases.items()][-1:]) | {key: made}
        return self._bases[key]

    def _rows(self, ref: DataRef) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pixels, labels and row numbers of a list of images."""
        images = open_ref(ref, folder=self.work.data_folder)
        rows = rows_of(images, ref)
        return images.images[rows], images.labels[rows], rows

    def _test(self, ref: DataRef) -> Images:
        if (key := ref.data_sha + ref.indices_sha) not in self._images:
            self._images[key] = Images(*(torch.from_numpy(each).to(self.device) for each in self._rows(ref)))
        return self._images[key]

    def _batch(self, ref: DataRef) -> int:
        return self.batch or auto_batch(ref.image_shape, self.device)

    def _card(self, model: ModelRef) -> dict[str, Any]:
        if not isinstance(model.weights, TrainRef):
            return {}
        path = self.store.training(training_key(model)) / "card.json"
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return card

    def _defense_cost(self, cell: Cell, classifier: Classifier, step: Step) -> DefenseCost:
        key = cell_key(clean_cell(cell))
        if key not in self._costs:
            step.seed(key, "cost")
            test = deployed_cost(classifier.net, step.deployed, cell.data.image_shape, min(32, self._batch(cell.data)))
            card, flops = self._card(cell.model), classifier.flops
            trained = card.get("passes_per_example")
            self._costs[key] = DefenseCost(
                params=classifier.params,
                train_flops_per_epoch=flops.of(*trained) * card["images_per_epoch"] if trained else None,
                train_seconds_per_epoch=card.get("seconds_per_epoch"),
                test_flops=flops.of(*test.passes),
                test_seconds=test.seconds,
                test_forwards=test.passes.forwards,
                test_backwards=test.passes.backwards,
            )
        return self._costs[key]


def _is_trained(folder: Path) -> bool:
    """Say whether a training is finished and its weights are those that it wrote; if altered, with a warning."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        whole = weights.sha256(folder / "weights.safetensors") == card["weights_sha256"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        _log.warning("%s does not count and is trained again: cut short or altered since it was written", folder)
    return bool(whole)


def _warm_up(base: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(base(leaf).sum(), leaf)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
