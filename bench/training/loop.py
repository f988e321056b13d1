"""The training loop: one recipe, one network, one device; stopped and resumed without a trace.

Every random choice is derived from the seed, the epoch and the batch, so a run that was killed and started again ends
with the weights of one that was not, to the bit, on one machine.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from bench import registry
from bench.evaluation.cost import parameters, pass_flops, synchronize
from bench.evaluation.device_cache import read_only
from bench.keys import canonical_json, derive_seed, identity, sha256_hex
from bench.models.build import build
from bench.models.logits import with_precise_logits
from bench.process.isolation import isolated
from bench.store import cards, files
from bench.store.files import write_atomically
from bench.training import checkpoint, overfitting
from bench.training.augment import Batches
from bench.training.checkpoint import DamagedState
from bench.training.step import Bf16, RecipeStep
from bench.types import MethodError, MethodRef, Schedule, TrainRef, UsageError, exact, jsonable

# Batches between two looks at the losses: each look waits for the device.
_LOOK_EVERY = {"cpu": 1, "cuda": 20}
#: Seconds after which the state is also kept within an epoch, so that a kill loses no more than that.
SAVE_EVERY = 60.0
#: Batches that take as many seconds are seldom over when the run must end, so the state is kept as soon as keeping it
#: took no more than a twentieth of the time.
SLOW_BATCH, _KEEPING = 1.0, 0.05
_WAYS = ("forwards", "backwards")


class _Epoch(BaseModel):
    """What the end of a training reads of the log of its epochs."""

    epoch: int
    seconds: float
    flops: float
    forwards: float
    backwards: float
    test: dict[str, float] = {}
    train: dict[str, float] = {}


class _Metadata(BaseModel):
    """What a state says beside its tensors."""

    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    forwards: int = Field(ge=0)
    backwards: int = Field(ge=0)
    best_score: float
    best_epoch: int = Field(ge=0)
    log: list[_Epoch]
    measured: dict[str, dict[str, int]] = {}


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

    The folder gets ``state.safetensors`` after every epoch, every minute and when stopped, ``log.jsonl`` with a row per
    epoch, at the end ``weights.safetensors``, and last of all ``card.json`` (see :mod:`bench.store.cards`), which marks
    the weights as complete.

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
    with isolated(f"recipe {ref.recipe.name}", seed=ref.seed), exact_kernels:
        run = _Training(ref, network, images, labels, folder, device, test)
        run.resume()
        run.epochs(check, on_progress)
        run.finish()


def batches_per_epoch(rows: int, batch: int) -> int:
    """Return how many batches an epoch of ``rows`` images has.

    A last batch of a single image, of which batch norm has no variance, is part of the one before.
    """
    return max(1, -(-rows // batch) - (rows % batch == 1))


def learning_rate(schedule: Schedule, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of one batch, of ``steps`` in each epoch; both count from zero."""
    if schedule.schedule == "one-cycle":
        done = (epoch * steps + step + 1) / (schedule.epochs * steps + 1)
        return schedule.lr * min(2 * done, 2 - 2 * done)
    passed = sum(epoch >= exact(drop) * schedule.epochs for drop in schedule.drops)
    return schedule.lr * schedule.drop_factor**passed


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
        entry = registry.entry_of(ref.recipe)
        self.recipe, self.arguments = entry.load(), entry.arguments(ref.recipe.params)
        self.threat = overfitting.watched_threat(ref.recipe)

        self.images, self.labels = read_only(images).to(device), torch.from_numpy(labels).to(device)
        self._split()
        self.steps = batches_per_epoch(len(self.rows), plan.batch)
        self.batches = Batches(self.images, plan.augment)
        self.watched = {} if test is None else self._watched(*test)

        self.net = self._built()
        self.average = copy.deepcopy(self.net).requires_grad_(False) if plan.ema else None
        self.step_of = RecipeStep(self._in_precision(), ref.data.num_classes, plan.batch + 1)
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in self.net.parameters() if parameter.requires_grad],
            lr=plan.lr,
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
            fused=True,
        )
        self.epoch = self.step = 0
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score, self.best_epoch = -1.0, 0
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

    def _built(self) -> nn.Module:
        """Return the network with its first weights, in the memory layout of the schedule.

        Raises:
            UsageError: torch cannot run it in that layout.
        """
        ref, plan = self.ref, self.ref.schedule
        torch.manual_seed(derive_seed(ref.seed, "init"))
        net = build(self.network, ref.data.num_classes, ref.data.image_shape).to(self.device).train()
        if plan.channels_last and self.device.type == "cpu" and any(map(_overruns, net.modules())):
            raise UsageError(
                "channels_last = true: torch overruns memory on the CPU in strided 1x1 convolutions of fewer than 16 "
                f"channels, and {self.network.name} has one; leave it out, or make the network wider"
            )
        return net.to(memory_format=torch.channels_last) if plan.channels_last else net

    def _in_precision(self) -> nn.Module:
        """Return the network as the batches run it: in bfloat16 or with precise logits, compiled if requested."""
        plan = self.ref.schedule
        example = torch.zeros(1, *self.ref.data.image_shape, device=self.device)
        run: nn.Module = Bf16(self.net) if plan.bf16 else with_precise_logits(self.net, example)
        return cast(nn.Module, torch.compile(run)) if plan.compile else run

    def _part(self, rows: Tensor) -> overfitting.Part:
        there = rows.to(self.device)
        return overfitting.Part(self.images[there], self.labels[there])

    def _generator(self, *seed_parts: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.ref.seed, *seed_parts))

    def _begin_epoch(self) -> None:
        self.step = self.looked = 0
        self.seconds = 0.0
        #: Correctly classified images of each batch measured after the epoch.
        self.measured: dict[str, dict[str, int]] = {}
        self.losses = torch.zeros(self.steps, device=self.device)
        self.right = torch.zeros((), dtype=torch.int64, device=self.device)
        self.step_of.meter.forwards = self.step_of.meter.backwards = 0

    # The loop.

    def epochs(self, check: Callable[[], None], on_progress: Callable[[Progress], None]) -> None:
        self.saved, self.saving = time.monotonic(), 0.0
        while self.epoch < self.ref.schedule.epochs:
            order = self.rows[torch.randperm(len(self.rows), generator=self._generator(self.epoch, "order"))]
            started, before = time.perf_counter(), self.seconds
            while self.step < self.steps:
                with self._kept():
                    check()
                begun = time.monotonic()
                rate = self._batch(order)
                if self.step % _LOOK_EVERY.get(self.device.type, 1) == 0 or self.step == self.steps:
                    loss = self._look()
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

    def _batch(self, order: Tensor) -> float:
        plan, at = self.ref.schedule, self.step * self.ref.schedule.batch
        rows = order[at:] if self.step == self.steps - 1 else order[at : at + plan.batch]
        seed_parts = (self.ref.seed, self.epoch, self.step)
        # Networks with dropout, and libraries, draw from the global generators; a resumed run must find them the same.
        torch.manual_seed(derive_seed(*seed_parts, "global"))
        x = self.batches(rows, derive_seed(*seed_parts, "augment"))
        if plan.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        there = rows.to(self.device, non_blocking=True)
        y = self.labels[there]
        self.step_of.begin(there, *seed_parts, "draws")
        loss = self.recipe(self.step_of, x, y, **self.arguments)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            raise MethodError(f"recipe {self.ref.recipe.name} returned no scalar loss that can be differentiated")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        rate = learning_rate(plan, self.epoch, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self._average(plan.ema)
        self.losses[self.step] = loss.detach()
        if self.step_of.logits is not None and len(self.step_of.logits) == len(y):
            self.right += (self.step_of.logits.argmax(1) == y).sum()
        self.step += 1
        return rate

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        assert self.average is not None
        pairs = zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True)
        for kept, new in pairs:
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    def _look(self) -> float:
        """Return the last loss.

        Raises:
            MethodError: a loss since the last look is not finite.
        """
        seen = self.losses[self.looked : self.step].tolist()
        for step, loss in enumerate(seen, self.looked):
            if not np.isfinite(loss):
                rate = learning_rate(self.ref.schedule, self.epoch, step, self.steps)
                raise self._diverged(f"loss {loss}", step, rate)
        self.looked = self.step
        return seen[-1] if seen else float("nan")

    def _diverged(self, what: str, step: int, rate: float) -> MethodError:
        return MethodError(
            f"training by {self.ref.recipe.name} diverged: {what} at epoch {self.epoch + 1}, batch {step + 1} of "
            f"{self.steps}, learning rate {rate:g}; the last good state is kept; a lower learning rate may help"
        )

    def _adversarial(self) -> bool:
        return "eps" in self.ref.recipe.params

    def _end_epoch(self, check: Callable[[], None]) -> None:
        rate = learning_rate(self.ref.schedule, self.epoch, self.steps - 1, self.steps)
        if not all(bool(value.isfinite().all()) for value in self.net.state_dict().values()):
            raise self._diverged("a weight that is not finite", self.steps - 1, rate)
        forwards, backwards = self.step_of.meter.forwards, self.step_of.meter.backwards
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": float(self.losses.double().mean()),
            "train_accuracy": int(self.right) / len(self.rows),
            "learning_rate": rate,
            "seconds": self.seconds,
            "flops": pass_flops(self.net, self.ref.data.image_shape).of(forwards, backwards),
            "forwards": forwards,
            "backwards": backwards,
        }
        judged = self.net if self.average is None else self.average
        parts = self._measured_parts(forwards + backwards)
        # An epoch that is interrupted here lacks only this, and continues after the batches already measured.
        with self._kept():
            try:
                for name, part in parts.items():
                    known = self.measured.setdefault(name, {})
                    row[name] = overfitting.measure(judged, part, self.threat, check, known)
            finally:
                # What is measured goes through the same network.
                self.step_of.meter.forwards, self.step_of.meter.backwards = forwards, backwards
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
        momentum = {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.net.named_parameters()
            if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        average = self.average.state_dict() if self.average is not None else {}
        groups = {"net": self.net.state_dict(), "average": average, "best": self.best}
        named: dict[str, Tensor] = {}
        for group, values in groups.items():
            named |= {f"{group}.{name}": value for name, value in values.items()}
        return named | momentum | {"epoch.losses": self.losses, "epoch.right": self.right}

    def _identity(self) -> str:
        return sha256_hex(canonical_json(identity(self.ref)), canonical_json(jsonable(self.network)))

    def _save(self) -> None:
        metadata = {
            "identity": self._identity(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "forwards": self.step_of.meter.forwards,
            "backwards": self.step_of.meter.backwards,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "log": self.log,
            "measured": self.measured,
        }
        began = time.monotonic()
        checkpoint.write(self.folder / "state.safetensors", self._tensors(), metadata)
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def resume(self) -> None:
        path = self.folder / "state.safetensors"
        files.make_folders(self.folder)
        if files.is_regular(path):
            kept, metadata = checkpoint.read(path, self._largest_state())
            if metadata.get("identity") != self._identity():
                raise DamagedState(f"{path} is the state of another training; delete it or choose another folder")
            if (why := self._differing(kept, metadata)) is not None:
                raise DamagedState(f"{path} is damaged ({why}); delete it to train from the start")
            self._restore(kept, metadata)
        lines = "".join(canonical_json(row) + "\n" for row in self.log)
        write_atomically(self.folder / "log.jsonl", lines.encode())

    def _largest_state(self) -> int:
        # Network, average, best and momentum, with room for names; and a row of some 600 bytes for each epoch.
        return 8 * sum(value.nbytes for value in self._tensors().values()) + 2**16 * (self.ref.schedule.epochs + 256)

    def _differing(self, kept: dict[str, Tensor], metadata: dict[str, Any]) -> str | None:
        """Return what of a state is not as this training would have written it; ``None`` if all is."""
        try:
            at = _Metadata.model_validate(metadata)
        except ValidationError as error:
            return f"{'.'.join(map(str, error.errors()[0]['loc']))} is not what a state says"
        if not (at.epoch == len(at.log) <= self.ref.schedule.epochs and at.step <= self.steps):
            return "its epochs and batches are not those of the schedule"
        parts = {f"momentum.{name}": value for name, value in self.net.named_parameters() if value.requires_grad}
        parts |= {f"best.{name}": value for name, value in self.net.state_dict().items()}
        expected = self._tensors()
        for name, value in (parts | expected).items():
            stored = kept.get(name)
            if (name in expected or stored is not None) and (
                stored is None or stored.shape != value.shape or stored.dtype != value.dtype
            ):
                return f"{name} is not what the network has"
        best = {name for name in kept if name.startswith("best.")}
        return "its best epoch is not whole" if best and best != {n for n in parts if n.startswith("best.")} else None

    @torch.no_grad()
    def _restore(self, kept: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.epoch = metadata["epoch"]
        self.step = self.looked = metadata["step"]
        self.seconds, self.log = metadata["seconds"], metadata["log"]
        self.measured = metadata.get("measured", {})
        self.best_score, self.best_epoch = metadata["best_score"], metadata["best_epoch"]
        meter = self.step_of.meter
        meter.forwards, meter.backwards = metadata["forwards"], metadata["backwards"]
        for name, parameter in self.net.named_parameters():
            if f"momentum.{name}" in kept:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter)
        best = {name: value for name, value in kept.items() if name.startswith("best.")}
        self.best = {
            name.removeprefix("best."): torch.empty_like(value, device=self.device) for name, value in best.items()
        }
        for name, value in self._tensors().items():
            value.copy_(kept[name])

    def finish(self) -> None:
        """Write the weights and, last, the card."""
        chosen = self.best or (self.net if self.average is None else self.average).state_dict()
        weights = checkpoint.serialised(chosen)
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
            "overfitting": None,
            "log": self.log,
        }
        if self.watched and self._adversarial() and epochs:
            card["overfitting"] = overfitting.verdict(self.log, len(self.watched["test"].labels))
        cards.write(self.folder, card)
        (self.folder / "state.safetensors").unlink(missing_ok=True)


def _overruns(module: nn.Module) -> bool:
    # Seen in torch 2.15, in the weight gradient on maps of 64x64 and more: a segmentation fault, or corrupt memory.
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < 16
    )
