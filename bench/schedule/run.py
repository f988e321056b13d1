"""From a plan to results, in this process: what is missing is done, what is done is left alone.

The work is a graph (train -> attack -> evaluate). Each method of :class:`Runner` is one kind of node and requests the
nodes that it depends on, so a static adversarial set is made once and serves every test-time step on its network.
Processes on one store share the work by leases: on a training, on a chunk of an adversarial set, on a cell.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.data import saved
from bench.data.saved import SavedImages
from bench.evaluation.chunks import read_chunk, write_chunk
from bench.evaluation.craft import LED_IN_BF16, Crafted, craft
from bench.evaluation.device_cache import Classifier, DeviceCache, Images
from bench.evaluation.measure import Measure
from bench.evaluation.precision import may_lead
from bench.evaluation.replays import Replays
from bench.evaluation.target import auto_batch, out_of_memory
from bench.keys import attack_key, cell_key, clean_cell, models_of, seed_of, training_key
from bench.process.capture import graphs
from bench.process.ending import Control, Lost, Overtime, Piece, Stop, why_of
from bench.process.isolation import frozen, isolated
from bench.schedule import estimate, growth, unusable
from bench.schedule.damage import Damage
from bench.schedule.plan import Work, changed
from bench.schedule.progress import ProgressTracker, Reporter, TimeLeft
from bench.schedule.tracking import NOWHERE, Tracking
from bench.schedule.units import Units
from bench.store import account, cards, chunk_file, files
from bench.store import partial as partials
from bench.store.account import spending
from bench.store.cards import is_trained
from bench.store.lease import Busy
from bench.store.provenance import provenance, source
from bench.store.run_log import RunLog, failures
from bench.store.working_store import Store
from bench.training.checkpoint import DamagedState
from bench.training.loop import Progress, train
from bench.types import (
    AttackRef,
    Cell,
    CellError,
    CellResult,
    DataRef,
    MethodError,
    MethodRef,
    ModelRef,
    PartialResult,
    PlannedCell,
    StoreError,
    TrainRef,
    UsageError,
)

_log = logging.getLogger("crossfire")
T = TypeVar("T")
R = TypeVar("R")
# How often a chunk is made before it counts as unreadable; another process may remove one as damaged.
_ATTEMPTS = 3
# Seconds between two checks of the work that other processes hold.
_PATIENCE = 0.5
# Seconds to time each batch for the estimate of the time left.
_GLANCE = 0.1


@dataclass
class Runner:
    """Executes the cells of one plan against one store on one device.

    ``stop_check`` is called between pieces of work and at every pass; what it raises (no ``Exception``) ends the run,
    and everything finished is kept. A cell that takes longer than ``timeout`` seconds, training apart, fails; so does a
    training of which one step takes longer. ``control`` sees to it where nobody looks at the clock.
    """

    work: Work
    store: Store
    device: torch.device
    batch: int | None
    stop_check: Callable[[], None]
    reporter: Reporter
    timeout: float | None = None
    #: Stamps (:meth:`bench.store.working_store.Store.stamps`) of failures that are tried
    #: again; by default those there at the start.
    known_failures: Mapping[str, str] | None = None
    control: Control = field(default_factory=Control)
    #: What ended the processes that worked on this plan before, in the same run, and their logs.
    lost: Sequence[Lost] = ()
    logs: Sequence[Path] = ()
    #: Keys of cells known to be done, whose number is reported to the control; ``None`` reports nothing.
    done: set[str] | None = None
    #: Where epochs and cells are logged as well.
    tracking: Tracking = NOWHERE
    #: Whether cells grow chunk by chunk, those first that decide ranks and verdicts (:mod:`bench.schedule.growth`).
    anytime: bool = False
    cache: DeviceCache = field(init=False)
    log: RunLog = field(init=False)

    def __post_init__(self) -> None:
        self.cache = DeviceCache(self.device, self.work.data_folder)
        self._measure = Measure(self.store, self.cache, self.check, self._batch)
        self._limit = math.inf if self.timeout is None else self.timeout
        self._warm: set[str] = set()
        self._failed: set[str] = set()
        self._saved: dict[str, SavedImages] = {}
        # Failures that an earlier process of this run recorded and reported.
        self._said = set(chain.from_iterable(map(failures, self.logs)))
        about = {"plan": self.work.plan.name, "cells": len(self.work.plan.cells), "device": str(self.device)}
        self.log = RunLog(self.store.root / "log", {**about, "commit": source()[0]}, self.control.logs)
        self._progress = ProgressTracker(self.reporter, self.log, self._estimate())

    def _estimate(self) -> TimeLeft | None:
        if not self.work.plan.cells or any(lost.kind == "estimate" for lost in self.lost):
            return None
        units = Units(self.device, self.batch, _GLANCE, self.control)

        def steps() -> Generator[None, None, list[estimate.Node]]:
            # Uses the plan at that time: weights that do not fit are known by then.
            return (yield from estimate.predicting(self.work.usable, self.store, units))

        return TimeLeft(steps())

    def check(self) -> None:
        """Raise what ends the run, the cell that took too long, or the work that another process has taken over."""
        self.stop_check()
        self.store.leases.check()
        self.control.check_piece()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run the plan inside this block; on leaving, log how it ended."""
        try:
            with self.control.looked_after():
                yield
        except Stop:
            self.log.close(why_of(self.control.code), spent=account.seconds())
            raise
        self.log.close("finished", spent=account.seconds())

    def run(self) -> list[CellResult]:
        """Do every cell that has no result yet and return all results, in the order of the plan."""
        cells = self.work.plan.cells
        results: dict[str, CellResult] = {}
        failed = 0
        known = set(self.done or ())
        self.reporter.cells(len(known), len(cells))
        try:
            with self.log.warnings():
                for result in growth.results(self, cells) if self.anytime else self.each(cells, self.cell):
                    results[result.key] = result
                    self.note(result)
                    self.tracking.cell(result)
                    failed += result.status == "failed"
                    if self.store.name(self.store.cell_file(result.key)) not in self._said:
                        log_failure(result)
                    self.reporter.cells(len(known | results.keys()), len(cells), failed)
        finally:
            self.store.remember()
        return [results[planned.key] for planned in cells]

    def note(self, result: CellResult) -> None:
        """Report a finished cell of the plan to the control."""
        if self.done is not None:
            self.done |= {result.key} if result.status == "done" else set()
            self.control.count(len(self.done), len(self.work.plan.cells))

    def each(self, items: Sequence[T], do: Callable[[T], R]) -> Iterator[R]:
        """Yield what ``do`` returns for every item; those that another process holds come last."""
        if self.known_failures is None:
            self.known_failures = {name: stamp for name, stamp in self.store.stamps().items() if name not in self._said}
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
                self.reporter.work("waiting for work that other processes hold", 0, None)
                time.sleep(_PATIENCE)
            items = busy

    def cell(self, planned: PlannedCell) -> CellResult:
        """Return the result of one cell, from the store if it is done; one that failed before is tried again.

        Raises:
            Busy: another process holds it, or something it depends on.
            StoreError: the store cannot be written.
        """
        result = self._known(planned) or self._run_cell(planned)
        if result.status == "failed" and result.cell.attack is not None:
            self._failed.add(attack_key(result.cell.attack))
        return result

    def known(self, planned: PlannedCell) -> CellResult | None:
        """Return the result of a cell that is done, or that failed in this run."""
        return self._known(planned)

    def part(self, planned: PlannedCell, group: slice) -> PartialResult:
        """Attack and predict one more group of images of a cell, and keep what is known of it then.

        Args:
            planned: an attacked cell, of which the images before the group are known.
            group: one of those that are attacked together, but not the last.

        Raises:
            Busy: another process holds the group, the cell, or something that it depends on.
            StoreError: the store cannot be written.
            Exception: whatever makes the whole cell fail as well.
            Overtime: it took longer than a cell may.
        """
        with self.store.writing(), isolated("a method"):
            self._require_not_lost("cell", planned.key)
            piece = Piece("cell", planned.key, self._limit, self._late)
            return self.control.within(piece, lambda: self._with_memory(planned, partial(self._grow, group=group)))

    def _grow(self, planned: PlannedCell, group: slice) -> PartialResult:
        cell, ref = planned.cell, planned.cell.attack
        assert ref is not None
        if (problem := self.work.why_not(cell)) is not None:
            raise UsageError(problem)
        _require_unchanged(cell)
        self._classifier(ref.model, cell.data)
        self._require_clean(planned)
        classifier, score = self._classifier(cell.model, cell.data), self._score(cell.step, cell.data)
        self.control.restart()
        started, images = time.monotonic(), self.cache.test(cell.data)
        self._progress(str(planned.names), attack_key(ref), group.start, cell.data.n)
        parts = list(images.chunks(group))
        if not all(files.is_regular(self._chunk(ref, part)) for part in parts):
            self.control.within(Piece("set", attack_key(ref)), partial(self._craft, ref, group))
        with self.store.leases.hold(f"cell-{planned.key}"):
            known = partials.get(self.store, planned.key)
            if known is not None and known.n >= group.stop:
                return known
            crafted = [(part, self._chunk_of(ref, part)) for part in parts]
            is_led = any(LED_IN_BF16 in chunk.notes for _, chunk in crafted)
            attacked = self._measure.outcomes(planned, classifier, crafted, score)
            _require_unchanged(cell)
            self.cache.require_unchanged(*models_of(cell))
            if known is not None:
                # A device that attacks more at once may begin before the end of what is known.
                attacked = known.outcomes_under_attack.first(group.start).then(attacked)
            seconds = time.monotonic() - started + (0.0 if known is None else known.seconds)
            clean = self.store.get(cell_key(clean_cell(cell)))
            assert clean is not None and clean.clean_outcomes is not None
            result = PartialResult(
                key=planned.key,
                names=planned.names,
                cell=cell,
                n=attacked.n,
                clean_bits=clean.clean_outcomes.first(attacked.n).encode(),
                adversarial_bits=attacked.encode(),
                seconds=seconds,
                craft_precision="bf16" if is_led or (known and known.craft_precision) else "",
            )
            partials.put(self.store, result)
        self.log.write("grown", cell=str(planned.names), key=planned.key, images=result.n)
        return result

    def _run_cell(self, planned: PlannedCell) -> CellResult:
        """Compute a cell and store its result, or why it failed."""
        started, batch = time.monotonic(), self.batch
        try:
            # Every call of a method is isolated under its own name; this block covers the code between them.
            with self.store.writing(), isolated("a method"):
                self._require_not_lost("cell", planned.key)
                piece = Piece("cell", planned.key, self._limit, self._late)
                result = self.control.within(piece, lambda: self._with_memory(planned, self._compute_cell))
        except StoreError:
            raise
        except (Exception, Overtime) as error:
            message = str(error).strip().partition("\n")[0] or type(error).__name__
            details = "".join(traceback.format_exception(error))
            result = CellResult.failed(planned, CellError.of(error, message, details), provenance(self.device))
            self._put(result, started)
        finally:
            self.batch = batch
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
        """Return whether a failure is from this run, of any process: such a cell is not tried again."""
        stamp = self.store.stamp(path)
        if stamp is None or self.known_failures is None:
            return False
        return self.known_failures.get(self.store.name(path)) != stamp

    def _compute_cell(self, planned: PlannedCell) -> CellResult:
        """Make what a cell depends on, then the cell."""
        cell, started = planned.cell, time.monotonic()
        if (problem := self.work.why_not(cell)) is not None:
            raise UsageError(problem)
        _require_unchanged(cell)
        if cell.attack is not None:
            self._classifier(cell.attack.model, cell.data)
            self._require_clean(planned)
        classifier, score = self._classifier(cell.model, cell.data), self._score(cell.step, cell.data)
        self.control.restart()
        if cell.attack is not None:
            self.make_set(cell.attack, planned)
        with self.store.leases.hold(f"cell-{planned.key}"):
            if (known := self._known(planned)) is not None:
                return known
            self._progress(str(planned.names), planned.key, 0, 1)
            result = self._measure.cell(planned, classifier, self._adversarial(planned), score)
            _require_unchanged(cell)
            self.cache.require_unchanged(*models_of(cell))
            self._put(result, started)
            self._progress(str(planned.names), planned.key, 1, 1)
            return result

    def _put(self, result: CellResult, started: float) -> None:
        self.store.leases.check()
        with self.store.writing():
            self.store.put(result)
            partials.remove(self.store, result.key)
        why = {} if result.error is None else {"error": f"{result.error.kind}: {result.error.message}"}
        seconds = round(time.monotonic() - started, 3)
        self.log.write(result.status, cell=str(result.names), key=result.key, seconds=seconds, **why)

    def _with_memory(self, planned: PlannedCell, do: Callable[[PlannedCell], R]) -> R:
        """Do it; if memory runs out, retry with half the batch, down to single images."""
        while True:
            try:
                return do(planned)
            except (RuntimeError, MemoryError) as error:
                batch = self._batch(planned.cell.data)
                if batch == 1 or not out_of_memory(error):
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
        """Return the weights of a base classifier or a score, trained here if they are missing.

        The log of a classifier's epochs also measures the first of the ``watched`` test images.
        """
        ref = model.weights
        if not isinstance(ref, TrainRef):
            return self.work.weights_files[ref.sha256]
        key = training_key(model)
        folder = self.store.training(key)
        if not is_trained(folder, key):
            with self.store.leases.hold(f"train-{key}"), self.store.writing():
                if not is_trained(folder, key):
                    self.store.make_folder(folder)
                    files.remove(folder / "card.json")
                    self._train(ref, model, watched, folder)
                    if (card := cards.read(folder, key)) is not None:
                        self.store.has_weights(folder, card)
        return folder / "weights.safetensors"

    def _train(self, ref: TrainRef, model: ModelRef, watched: DataRef, folder: Path) -> None:
        failed = folder / "failed.json"
        if self._is_new(failed) and (why := cards.failure(folder)) is not None:
            raise MethodError(why)
        what = f"train {ref.recipe.name} {model.network.name}"
        self.reporter.work(what, 0, 1)
        run = self._training_run(ref, model, watched, folder, what)
        started = time.monotonic()
        try:
            with self.store.writing():
                try:
                    run()
                except DamagedState as error:
                    _log.warning("%s; training begins again", error)
                    files.remove(folder / "state.safetensors")
                    run()
        except StoreError:
            raise
        except Exception as error:
            # Other cells and processes need not spend the same hours on the same failure.
            cards.write_failure(folder, str(error))
            self.log.write("training failed", what=what, key=folder.name, error=str(error))
            raise
        files.remove(failed)
        self._progress(what, folder.name, 1, 1)
        self.log.write("trained", what=what, key=folder.name, seconds=round(time.monotonic() - started, 3))

    def _training_run(
        self, ref: TrainRef, model: ModelRef, watched: DataRef, folder: Path, what: str
    ) -> Callable[[], None]:
        """Return a function that trains into a folder, continuing from its state, each step within the time limit."""
        pixels, labels, _ = self.cache.rows(ref.data)
        # A score classifies nothing, so it has no accuracies.
        test = self.cache.rows(watched)[:2] if model.network.kind == "network" else None

        logged = -1

        def progress(at: Progress) -> None:
            nonlocal logged
            if at.epoch > logged:
                # The epochs before this one are in the log of the training.
                logged = at.epoch
                self.tracking.training(model)
            self._progress(what, folder.name, at.epoch + at.step / at.steps, at.epochs, f"loss {at.loss:.3f}")

        def check() -> None:
            self.check()
            self.control.restart()

        def run() -> None:
            args = (ref, model.network, pixels, labels, folder)
            # The first optimizer would import it, which takes seconds that are not the recipe's.
            with spending("starting"):
                self.control.within(Piece("training", folder.name, math.inf), partial(import_module, "torch._dynamo"))
            _count_compiling()
            piece = Piece("training", folder.name, self._limit, self._late)
            work = partial(train, *args, device=self.device, check=check, on_progress=progress, test=test)
            try:
                self._require_not_lost("training", folder.name)
                with spending("training"):
                    self.control.within(piece, work)
            except Overtime as error:
                raise MethodError(f"a step of the training {error}") from None

        return run

    def check_weights(self) -> None:
        """Find the weights files that do not fit their networks, before any work; their cells will fail.

        Raises:
            UsageError: every requested cell needs a weights file that cannot be used.
        """

        def attempt(key: str, find: Callable[[], str | None]) -> str | None:
            try:
                self._require_not_lost("network", key)
                return self.control.within(Piece("network", key, self._limit, self._late), find)
            except (MethodError, Overtime) as error:
                return str(error)

        self.work = unusable.checked(self.work, attempt, self.cache.offer)

    def make_set_alone(self, ref: AttackRef, planned: PlannedCell) -> None:
        """Make an adversarial set within a time limit of its own, as long as a cell's.

        Raises:
            Busy: another process still holds a part of it.
            Overtime: it took longer than a cell may.
        """
        piece = Piece("set", attack_key(ref), self._limit, self._late)
        self.control.within(piece, partial(self.make_set, ref, planned))

    def make_set(self, ref: AttackRef, planned: PlannedCell) -> None:
        """Make the chunks of an adversarial set that are missing; several processes make different ones.

        Earlier sets of its suite are made first, starting after the last complete one; sets that cannot be made are
        left out.

        Raises:
            Busy: another process still holds one.
        """
        missing = [ref]
        while (earlier := self._previous(missing[-1])) is not None and not self._is_complete(earlier):
            missing.append(earlier)
        for each in reversed(missing):
            try:
                self._make_chunks(each, planned)
            except (Busy, StoreError):
                raise
            except Exception as error:
                if each is ref or out_of_memory(error):
                    raise
                # Its own cell fails with the reason; if that cell is not in the plan, only the log has it.
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self.log.write("left out of a suite", set=attack_key(each), attack=each.attack.name, error=why)
                self._failed.add(attack_key(each))

    def _is_complete(self, ref: AttackRef) -> bool:
        folder = self.store.adversarial(attack_key(ref))
        return all(files.is_regular(folder / _chunk_name(part)) for part in self.cache.test(ref.data).chunks())

    def _make_chunks(self, ref: AttackRef, planned: PlannedCell) -> None:
        busy = False
        key, images = attack_key(ref), self.cache.test(ref.data)
        folder = self.store.adversarial(key)
        for group in images.groups():
            self._progress(str(planned.names), key, group.start, ref.data.n)
            if not all(files.is_regular(folder / _chunk_name(part)) for part in images.chunks(group)):
                try:
                    self._require_not_lost("set", key)
                    self.control.within(Piece("set", key), partial(self._craft, ref, group))
                except Busy:
                    busy = True
        self._progress(str(planned.names), key, ref.data.n, ref.data.n)
        if busy:
            raise Busy

    def _craft(self, ref: AttackRef, group: slice) -> None:
        """Make every chunk of a group, also existing ones: draws of libraries depend on the other images in a batch."""
        key, images = attack_key(ref), self.cache.test(ref.data)
        paths = {self._chunk(ref, part): part for part in images.chunks(group)}
        base, score = self._classifier(ref.model, ref.data).net, self._score(ref.step, ref.data)
        with self.store.leases.hold(f"attack-{key}-{group.start:06d}"):
            if all(files.is_regular(path) for path in paths):
                return
            self.store.make_folder(self.store.adversarial(key))
            self.check()
            x, y, rows = images.part(group)
            if (network := training_key(ref.model)) not in self._warm:
                _warm_up(base, x[:8])
                self._warm.add(network)
            started = time.monotonic()
            earlier = self._previous(ref)
            before = None if earlier is None else self._crafted_before(earlier, paths.values())
            replays = Replays(self.device) if graphs(self.device) else None
            with spending("attacks"):
                crafted = craft(
                    self._led_as_begun(ref, images),
                    base,
                    x,
                    y,
                    rows,
                    key=seed_of(ref),
                    batch=self._batch(ref.data),
                    check=self.check,
                    training=self.cache.training_images(ref.model),
                    score=score and score.net,
                    before=before,
                    saved=self._saved_images(ref, images),
                    replays=replays,
                )
            _require_unchanged(ref)
            _require_same_images(ref)
            self.cache.require_unchanged(ref.model)
            if ref.step is not None and ref.step.score is not None:
                self.cache.require_unchanged(ref.step.score)
            if earlier != ref.previous:
                crafted.notes.append("earlier-attack-failed")
            if crafted.batch < self._batch(ref.data):
                # Memory that ran out once would run out again.
                self.batch = crafted.batch
                self.log.write("out of memory", set=key, batch=crafted.batch)
            self._write_chunks(paths, crafted, group)
        seconds = round(time.monotonic() - started, 3)
        of = f"{group.start:06d}-{group.stop:06d}"
        more = {} if replays is None else {"replayed": replays.replayed, "not replayed": replays.reasons}
        self.log.write("crafted", attack=ref.attack.name, key=key, images=of, seconds=seconds, **more)

    def _led_as_begun(self, ref: AttackRef, images: Images) -> AttackRef:
        """Return an attack in the precision in which its set was begun, where that is left to the device."""
        if ref.craft_precision != "auto" or not may_lead(ref):
            return ref
        for part in images.chunks():
            if not files.is_regular(path := self._chunk(ref, part)):
                continue
            x, _, _ = images.part(part)
            # What is damaged is said where it is made again.
            with suppress(FileNotFoundError, ValueError):
                notes = chunk_file.read(path, x.cpu().numpy(), ref.threat).notes
                return ref.model_copy(update={"craft_precision": "bf16" if LED_IN_BF16 in notes else "float32"})
        return ref

    def _saved_images(self, ref: AttackRef, images: Images) -> Callable[[Tensor], Tensor] | None:
        """Return what gives the saved images of row numbers, float32 (N, C, H, W), where an attack reads such.

        Raises:
            UsageError: their file has changed since the plan was made, or cannot be read any more.
        """
        if (file := ref.attack.file) is None:
            return None
        path, key = saved.path_of(file), attack_key(ref)
        _require_same_images(ref)
        if key not in self._saved:
            rows = images.rows.cpu().numpy()
            array, severity = saved.choice(ref.attack.params)
            # One is enough: the groups of a set follow each other.
            self._saved = {key: saved.matched(path, ref.data.image_shape, rows, array, severity=severity)}
        return lambda numbers: torch.from_numpy(self._saved[key].of(numbers.cpu().numpy()))

    def _crafted_before(self, earlier: AttackRef, parts: Iterable[slice]) -> Crafted:
        """Return the images of an earlier attack of a suite that the next one starts from."""
        return Crafted.joined([self._chunk_of(earlier, part) for part in parts])

    def _write_chunks(self, paths: Mapping[Path, slice], crafted: Crafted, group: slice) -> None:
        """Write each chunk of a group, which this process must still hold the lease on."""
        self.store.leases.check()
        for path, part in paths.items():
            write_chunk(path, crafted.part(slice(part.start - group.start, part.stop - group.start)))
            self.store.known.note(self.store.name(path), path, chunk_file.SEALED)

    @property
    def _late(self) -> str:
        return f"took longer than timeout = {self._limit:g} s; the next run continues from what is finished"

    def _require_not_lost(self, kind: str, key: str) -> None:
        """Raises Overtime or MethodError: this piece of work ended a process that was doing it before."""
        for lost in self.lost:
            if (lost.kind, lost.key) != (kind, key):
                continue
            if lost.late:
                raise Overtime(self._late)
            raise MethodError(lost.why)

    def mend(self, damage: Damage) -> None:
        """Remake damaged files that finished cells depend on; report those that cannot be remade."""
        pieces: list[tuple[PlannedCell, Callable[[], object]]] = []
        pieces += [(planned, partial(self.train, model, planned.cell.data)) for model, planned in damage.trainings]
        pieces += [(planned, partial(self._mend_chunk, ref, path)) for ref, planned, path in damage.chunks]
        try:
            with self.log.warnings():
                for _ in self.each(pieces, lambda piece: self._mend(*piece)):
                    pass
        finally:
            self.store.remember()

    def _mend(self, planned: PlannedCell, make: Callable[[], object]) -> None:
        try:
            with self.store.writing(), isolated("a method"):
                make()
        except StoreError:
            raise
        except (Exception, Overtime) as error:
            _log.warning("what %s depends on cannot be made again: %s", planned.names, error)

    def _mend_chunk(self, ref: AttackRef, path: Path) -> None:
        for part in self.cache.test(ref.data).chunks():
            if self._chunk(ref, part) == path:
                self._chunk_of(ref, part)

    def _adversarial(self, planned: PlannedCell) -> Iterator[Crafted]:
        if (ref := planned.cell.attack) is None:
            return
        for part in self.cache.test(ref.data).chunks():
            self.reporter.work(str(planned.names), part.start, ref.data.n)
            yield self._chunk_of(ref, part)
        self.reporter.work(str(planned.names), ref.data.n, ref.data.n)

    def leave_out(self, sets: Collection[str]) -> None:
        """Let suites continue without the adversarial sets of some keys, as if their attacks had failed here."""
        self._failed.update(sets)

    def _previous(self, ref: AttackRef) -> AttackRef | None:
        """Return the set that one of a suite continues from: that of the last attack before it that did not fail."""
        earlier = ref.previous
        # The key of a set in a long suite takes as long as the suite.
        while earlier is not None and self._failed and attack_key(earlier) in self._failed:
            earlier = earlier.previous
        return earlier

    def _chunk_of(self, ref: AttackRef, part: slice) -> Crafted:
        path, images = self._chunk(ref, part), self.cache.test(ref.data)
        x, _, _ = images.part(part)
        for _ in range(_ATTEMPTS):
            if (crafted := read_chunk(path, x, ref.threat)) is not None:
                return crafted
            files.remove(path)
            self._craft(ref, next(group for group in images.groups() if part.start < group.stop))
        raise MethodError(f"{path} was made {_ATTEMPTS} times, and what is read back is not what was made")

    def _classifier(self, model: ModelRef, data: DataRef) -> Classifier:
        return self.cache.classifier(model, data, lambda: self.train(model, data))

    def _score(self, step: MethodRef | None, data: DataRef) -> Classifier | None:
        """Return the network that a step predicts noise with, trained here if it is missing; nothing if it has none."""
        model = None if step is None else step.score
        return None if model is None else self.cache.score(model, data, lambda: self.train(model, data))

    def _batch(self, ref: DataRef) -> int:
        return self.batch or auto_batch(ref.image_shape, self.device)

    def _chunk(self, ref: AttackRef, part: slice) -> Path:
        return self.store.adversarial(attack_key(ref)) / _chunk_name(part)


def _count_compiling() -> None:
    """Count what ``torch.compile`` compiles from now on as such, where this version of torch says when it does."""
    handler = getattr(getattr(torch._dynamo, "callback", None), "callback_handler", None)
    if handler is None or _compiling_began in handler.start_callbacks:
        return
    handler.register_start_callback(_compiling_began)
    handler.register_end_callback(_compiling_ended)


def _compiling_began(_: object) -> None:
    _COMPILING.enter_context(spending("compiling"))


def _compiling_ended(_: object) -> None:
    _COMPILING.close()


_COMPILING = ExitStack()


def _chunk_name(part: slice) -> str:
    return f"{part.start:06d}-{part.stop:06d}.safetensors"


def log_failure(result: CellResult) -> bool:
    """Say whether a cell failed, and in the log why."""
    if result.error is not None:
        _log.error("failed: %s: %s: %s", result.names, result.error.kind, result.error.message)
    return result.error is not None


def _require_unchanged(value: Cell | AttackRef) -> None:
    if (method := changed(value)) is not None:
        raise MethodError(f"{method.name}: its code, or a file that it reads, was edited while this ran; run again")


def _require_same_images(ref: AttackRef) -> None:
    """Raises UsageError: the file of saved images that an attack reads has changed since the plan was made."""
    if ref.attack.file is not None and saved.content_sha(saved.path_of(ref.attack.file)) != ref.attack.params["sha256"]:
        raise UsageError(f"{ref.attack.file} has changed since the plan was made; run it again")


def _warm_up(base: nn.Module, x: Tensor) -> None:
    with isolated("the network"), frozen(base):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(base(leaf).sum(), leaf)
