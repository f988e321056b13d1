"""The training loop: one recipe, one network, one device; stopped and resumed without a trace.

Every random choice is derived from the seed, the epoch and the batch, so a run that was killed and started again ends
with the weights of one that was not, to the bit, on one machine.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.cost import PassFlops, parameters, pass_flops, synchronize
from bench.evaluation.device_cache import read_only
from bench.keys import canonical_json, derive_seed, identity, sha256_hex
from bench.process.isolation import isolated
from bench.store import cards, files
from bench.store.files import write_atomically
from bench.training import checkpoint, overfitting
from bench.training.augment import Batches
from bench.training.checkpoint import DamagedState
from bench.training.epoch import EpochTables, learning_rate
from bench.training.losses import LossReader
from bench.training.precision import Precision, built, compile_cache
from bench.training.update import Updates
from bench.types import MethodError, MethodRef, TrainRef, UsageError, jsonable, text_of

#: Seconds after which the state is also kept within an epoch, so that a kill loses no more than that.
SAVE_EVERY = 60.0
#: Batches that take as many seconds are seldom over when the run must end, so the state is kept as soon as keeping it
#: took no more than a twentieth of the time.
SLOW_BATCH, _KEEPING = 1.0, 0.05
_WAYS = ("forwards", "backwards")


@dataclass(frozen=True)
class Progress:
    """Progress of a training run: ``epoch`` completed epochs, and ``step`` batches of the next."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    learning_rate: float


def train(
    ref: TrainRef,
    network: MethodRef,
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    *,
    device: torch.device,
    check: Callable[[], None],
    on_progress: Callable[[Progress], None],
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Train ``network`` by the recipe of ``ref`` into ``folder``, continuing where an earlier call ended.

    The folder gets ``state.safetensors`` after every epoch, every minute and when stopped, ``epoch.safetensors``, the
    state at the end of an epoch, once a state within the next one replaces it, ``log.jsonl`` with a row per epoch, at
    the end ``weights.safetensors``, and last of all ``card.json`` (see :mod:`bench.store.cards`), which marks the
    weights as complete.

    Args:
        ref: recipe, schedule, images and seed.
        network: the network to train.
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        folder: of this training alone.
        device: where to train.
        check: called before every batch, also when measuring after an epoch; if it raises, the state is saved and
            the exception passes through.
        on_progress: called after batches.
        test: images and labels, as above; on the first of them, and on as many training images, epochs are measured
            (see :func:`bench.training.overfitting.measuring_interval`), which does not influence the training.

    Raises:
        MethodError: the loss is not finite, or the recipe breaks its contract.
        DamagedState: the state in the folder is incomplete, or of another training.
        UsageError: the schedule does not fit the images or the network.
    """
    if cards.read(folder) is not None:
        return
    exact_kernels = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    compiled = compile_cache() if ref.schedule.compile else nullcontext()
    with isolated(f"recipe {ref.recipe.name}", seed=ref.seed), exact_kernels, compiled:
        run = _Training(ref, network, images, labels, folder, device, test)
        run.resume()
        run.epochs(check, on_progress)
        run.finish()


class _Training:
    """The state of one training run; it resumes from :meth:`_tensors` and the metadata of :meth:`_save`."""

    def __init__(
        self,
        ref: TrainRef,
        network: MethodRef,
        images: np.ndarray,
        labels: np.ndarray,
        folder: Path,
        device: torch.device,
        test: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        plan = ref.schedule
        if not plan.holdout < len(images):
            raise UsageError(f"holdout = {plan.holdout} leaves none of the {len(images)} training images")
        self.ref, self.network = ref, network
        self.folder, self.device = folder, device
        self.threat = overfitting.watched_threat(ref.recipe)
        self.precision = Precision.of(plan, device)

        self.images, self.labels = read_only(images).to(device), torch.from_numpy(labels).to(device)
        self._split()
        self.watched = {} if test is None else self._watched(*test)

        self.net = built(ref, network, device)
        tables = EpochTables(plan, ref.seed, self.rows, Batches(self.images, plan.augment), device)
        self.steps = tables.steps
        self.updates = Updates(ref, self.net, self.precision, tables, self.labels)
        self.losses = LossReader(self.updates.losses)
        self.flops: PassFlops | None = None
        self.epoch = 0
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score, self.best_epoch = -1.0, 0
        #: Whether the state in the folder is that at the end of an epoch.
        self.ended_epoch = False
        self._begin_epoch()

    def _split(self) -> None:
        """Set apart the holdout; ``rows`` are the positions of the images to train on, in order."""
        holdout = self.ref.schedule.holdout
        shuffled = torch.randperm(len(self.images), generator=self._generator("holdout"))
        held, self.rows = shuffled[:holdout].sort().values, shuffled[holdout:].sort().values
        self.held = self._part(held) if holdout else None

    def _watched(self, images: np.ndarray, labels: np.ndarray) -> dict[str, overfitting.Part]:
        """Return the training images and the test images on which epochs are measured."""
        size = overfitting.watched_images(len(self.rows))
        test = overfitting.Part(*(read_only(part[:size]).to(self.device) for part in (images, labels)))
        return {"train": self._part(self.rows[: len(test[0])]), "test": test}

    def _part(self, rows: Tensor) -> overfitting.Part:
        there = rows.to(self.device)
        return overfitting.Part(self.images[there], self.labels[there])

    def _generator(self, *seed_parts: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.ref.seed, *seed_parts))

    def _begin_epoch(self) -> None:
        self.step = 0
        self.seconds = 0.0
        #: Correctly classified images of each batch measured after the epoch.
        self.measured: dict[str, dict[str, int]] = {}
        self.losses.begin(0)
        self.updates.forget()

    # The loop.

    def epochs(self, check: Callable[[], None], on_progress: Callable[[Progress], None]) -> None:
        self.saved, self.saving = time.monotonic(), 0.0
        while self.epoch < self.ref.schedule.epochs:
            self.updates.begin(self.epoch, self.step)
            started, before = time.perf_counter(), self.seconds
            while self.step < self.steps:
                with self._kept():
                    check()
                begun = time.monotonic()
                self._batch()
                if self.step % self.losses.every == 0 or self.step == self.steps:
                    loss, rate = self._look(wait=self.step == self.steps), self._rate(self.step - 1)
                    reported = time.perf_counter()
                    on_progress(Progress(self.epoch, self.ref.schedule.epochs, self.step, self.steps, loss, rate))
                    # The callback may take long, for example to estimate when the run will end.
                    started += time.perf_counter() - reported
                self.seconds = before + time.perf_counter() - started
                if self._is_due(time.monotonic() - begun):
                    self._look()
                    self._save()
                    # Not counted: how long it takes is the disk's.
                    started, before = time.perf_counter(), self.seconds
            synchronize(self.device)
            self.seconds = before + time.perf_counter() - started
            self._end_epoch(check)

    def _is_due(self, batch_seconds: float) -> bool:
        since = time.monotonic() - self.saved
        slow = batch_seconds > SLOW_BATCH and since * _KEEPING > self.saving
        return slow or since > SAVE_EVERY

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Save the state if the block, which must not change it, is interrupted."""
        try:
            yield
        except BaseException:
            self._look()
            self._save()
            raise

    def _batch(self) -> None:
        try:
            self.updates(self.step)
        except (MethodError, UsageError):
            raise
        except Exception as error:
            raise MethodError(
                f"recipe {self.ref.recipe.name}, epoch {self.epoch + 1}, batch {self.step + 1} of {self.steps}: "
                f"{type(error).__name__}: {text_of(error)}"
            ) from error
        self.step += 1

    def _rate(self, step: int) -> float:
        return learning_rate(self.ref.schedule, self.epoch, step, self.steps)

    def _look(self, *, wait: bool = True) -> float:
        """Return the last loss that is known; without ``wait`` it may be one of some batches ago.

        Raises:
            MethodError: a loss since the last look is not finite.
        """
        for step, loss in self.losses.read(self.step, wait=wait):
            if not np.isfinite(loss):
                raise self._diverged(f"loss {loss}", step, self._rate(step))
        return self.losses.last

    def _diverged(self, what: str, step: int, rate: float) -> MethodError:
        return MethodError(
            f"training by {self.ref.recipe.name} diverged: {what} at epoch {self.epoch + 1}, batch {step + 1} of "
            f"{self.steps}, learning rate {rate:g}; the last good state is kept; a lower learning rate may help"
        )

    def _adversarial(self) -> bool:
        return "eps" in self.ref.recipe.params

    def _end_epoch(self, check: Callable[[], None]) -> None:
        rate = self._rate(self.steps - 1)
        if not all(bool(value.isfinite().all()) for value in self.net.state_dict().values()):
            raise self._diverged("a weight that is not finite", self.steps - 1, rate)
        meter, average = self.updates.step_of.meter, self.updates.average
        forwards, backwards = meter.forwards, meter.backwards
        if self.flops is None:
            self.flops = pass_flops(self.net, self.ref.data.image_shape)
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": float(self.updates.losses.double().mean()),
            "train_accuracy": None if self.updates.right < 0 else int(self.updates.right) / len(self.rows),
            "learning_rate": rate,
            "seconds": self.seconds,
            "flops": self.flops.of(forwards, backwards),
            "forwards": forwards,
            "backwards": backwards,
        }
        judged = self.net if average is None else average
        parts = self._measured_parts(forwards + backwards)
        # An epoch that is interrupted here lacks only this, and continues after the batches already measured.
        with self._kept():
            try:
                for name, part in parts.items():
                    known = self.measured.setdefault(name, {})
                    row[name] = overfitting.measure(judged, part, self.threat, check, known)
            finally:
                # What is measured goes through the same network.
                meter.forwards, meter.backwards = forwards, backwards
        score = 0.0 if self.held is None else row["holdout"]["pgd20" if self._adversarial() else "clean"]
        if self.held is not None and score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch + 1
            self.best = {name: value.detach().clone() for name, value in judged.state_dict().items()}
        self.log.append(row)
        self.epoch += 1
        self._begin_epoch()
        self._save()
        log = self.folder / "log.jsonl"
        with files.named(log), log.open("a", encoding="utf-8") as file:
            file.write(canonical_json(row) + "\n")

    def _measured_parts(self, passes: int) -> dict[str, overfitting.Part]:
        """Return the images that this epoch of so many passes is measured on, by name."""
        plan = self.ref.schedule
        # Always that of the first epoch, so that a resumed training measures the same epochs.
        first = self.log[0]["forwards"] + self.log[0]["backwards"] if self.log else passes
        interval = overfitting.measuring_interval(plan, len(self.rows), first)
        watched = self.watched if overfitting.is_measured(self.epoch + 1, plan.epochs, interval) else {}
        return watched | ({} if self.held is None else {"holdout": self.held})

    # What is kept.

    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state, by reference."""
        return self.updates.state() | {f"best.{name}": value for name, value in self.best.items()}

    def _identity(self) -> str:
        return sha256_hex(canonical_json(identity(self.ref)), canonical_json(jsonable(self.network)))

    def _save(self) -> None:
        metadata = {
            "identity": self._identity(),
            "training": jsonable(self.ref),
            "network": jsonable(self.network),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "forwards": self.updates.step_of.meter.forwards,
            "backwards": self.updates.step_of.meter.backwards,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "log": self.log,
            "measured": self.measured,
        }
        began = time.monotonic()
        if self.step and self.ended_epoch:
            checkpoint.keep_epoch(self.folder)
        checkpoint.write(self.folder / checkpoint.STATE, self._tensors(), metadata)
        self.ended_epoch = self.step == 0
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def resume(self) -> None:
        path = self.folder / checkpoint.STATE
        files.make_folders(self.folder)
        if files.is_regular(path):
            kept, metadata = checkpoint.read(path, self._largest_state())
            if metadata.get("identity") != self._identity():
                raise DamagedState(f"{path} is the state of another training; delete it or choose another folder")
            expected, schedule = self.updates.state(), (self.ref.schedule.epochs, self.steps)
            if (why := checkpoint.mismatch(kept, metadata, expected, *schedule)) is not None:
                raise DamagedState(f"{path} is damaged ({why}); delete it to train from the start")
            self._restore(kept, metadata)
            self.ended_epoch = self.step == 0
        lines = "".join(canonical_json(row) + "\n" for row in self.log)
        write_atomically(self.folder / "log.jsonl", lines.encode())

    def _largest_state(self) -> int:
        # Network, average, best and momentum, with room for names; and a row of some 600 bytes for each epoch.
        return 8 * sum(value.nbytes for value in self._tensors().values()) + 2**16 * (self.ref.schedule.epochs + 256)

    @torch.no_grad()
    def _restore(self, kept: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.epoch = metadata["epoch"]
        self.step = metadata["step"]
        self.losses.begin(self.step)
        self.seconds, self.log = metadata["seconds"], metadata["log"]
        self.measured = metadata.get("measured", {})
        self.best_score, self.best_epoch = metadata["best_score"], metadata["best_epoch"]
        meter = self.updates.step_of.meter
        meter.forwards, meter.backwards = metadata["forwards"], metadata["backwards"]
        best = {name: value for name, value in kept.items() if name.startswith("best.")}
        self.best = {
            name.removeprefix("best."): torch.empty_like(value, device=self.device) for name, value in best.items()
        }
        for name, value in self._tensors().items():
            # A parameter without a gradient so far has no momentum in states of earlier versions.
            if name in kept:
                value.copy_(kept[name])

    def finish(self) -> None:
        """Write the weights and, last, the card."""
        weights = checkpoint.serialised(checkpoint.weights(self._tensors()))
        write_atomically(self.folder / "weights.safetensors", weights)
        epochs = len(self.log)

        def mean(word: str) -> float | None:
            return sum(row[word] for row in self.log) / epochs if epochs else None

        card: dict[str, Any] = {
            "schema": 2,
            "training": jsonable(self.ref),
            "network": jsonable(self.network),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "weights_bytes": len(weights),
            "params": parameters(self.net),
            "epochs": epochs,
            "epoch_kept": self.best_epoch if self.best else epochs,
            "images_per_epoch": len(self.rows),
            "passes_per_example": [passes / len(self.rows) for way in _WAYS if (passes := mean(way)) is not None]
            or None,
            "seconds_per_epoch": mean("seconds"),
            "flops_per_epoch": mean("flops"),
            "device": str(self.device),
            "torch": torch.__version__,
            "computation": self.precision._asdict() | {"captured": self.updates.captured, "why": self.updates.why},
            "overfitting": None,
            "log": self.log,
        }
        if self.watched and self._adversarial() and epochs:
            card["overfitting"] = overfitting.verdict(self.log, len(self.watched["test"].labels))
        cards.write(self.folder, card)
        for name in (checkpoint.STATE, checkpoint.EPOCH):
            (self.folder / name).unlink(missing_ok=True)
