"""From a plan to results, in this process: what is missing is done, what is done is left alone."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench import weights
from bench.cost import PassFlops, deployed_cost, parameters, pass_flops, synchronize
from bench.data import ImageSet, open_set, select
from bench.evaluate import CHUNK, Crafted, Step, craft, predict, put_on
from bench.keys import pack_bits
from bench.models.build import build
from bench.provenance import provenance
from bench.schedule.plan import Work, attack_key, cell_key, clean_cell, training_key
from bench.stats import wilson
from bench.store import Store, write_atomically
from bench.target import auto_batch
from bench.train import Progress, train
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
    TrainRef,
)


class Stop(BaseException):
    """The run was asked to end; everything finished is kept."""


class Reporter(Protocol):
    """What a run tells while it works."""

    def cells(self, done: int, total: int) -> None:
        """Say how many cells are done."""

    def work(self, what: str, done: float, total: float, note: str = "") -> None:
        """Say how far the piece of work at hand is."""


class Predictions(NamedTuple):
    """The labels that a deployed defense gives to clean images, and what that took in all."""

    labels: np.ndarray
    seconds: float


@dataclass
class Runner:
    """Executes the cells of one plan against one store on one device.

    ``check`` is called between pieces of work and at every pass of an attack; it raises :class:`Stop` to end the run.
    """

    work: Work
    store: Store
    device: torch.device
    batch: int | None
    check: Callable[[], None]
    reporter: Reporter
    _failed: dict[str, Exception] = field(default_factory=dict)
    _images: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    _base: tuple[str, nn.Module] | None = None
    _costs: dict[str, DefenseCost] = field(default_factory=dict)
    _flops: dict[str, PassFlops] = field(default_factory=dict)

    def run(self) -> list[CellResult]:
        """Do every cell that has no result yet and return all results, in the order of the plan."""
        results: list[CellResult] = []
        cells = self.work.plan.cells
        for planned in cells:
            self.reporter.cells(len(results), len(cells))
            self.check()
            results.append(self.cell(planned))
        self.reporter.cells(len(cells), len(cells))
        return results

    def cell(self, planned: PlannedCell) -> CellResult:
        """Return the result of one cell, from the store where it is done."""
        known = self.store.get(planned.key)
        if known is not None and known.status == "done":
            return known.model_copy(update={"names": planned.names})
        try:
            result = self._measure(planned)
        except Exception as error:
            result = self._failure(planned, error)
        self.store.put(result)
        return result

    def train(self, model: ModelRef) -> None:
        """Train a base classifier where its weights are missing."""
        if isinstance(model.weights, TrainRef):
            self._trained(model, model.weights)

    # From here on: one method for each node of the graph, each asking for the nodes it stands on.

    def _measure(self, planned: PlannedCell) -> CellResult:
        cell = planned.cell
        base = self._base_of(cell.model)
        step = put_on(base, cell.step)
        x, y, _ = self._test(cell.data)
        truth = y.cpu().numpy()
        clean = self._clean(cell, base, step)
        if cell.attack is None:
            found, cost, flags = clean.labels, self._clean_cost(cell, base, step, clean), ()
            linf = l2 = np.zeros(len(truth))
            spent = None
        else:
            sets = list(self._adversarial(cell.attack, base, planned))
            found, linf, l2 = self._attacked(cell, planned.key, base, step, sets)
            spent = Spent.of(sets, len(truth))
            cost = self._attack_cost(cell.attack, base, spent)
            moved = linf > 0
            no_op = () if moved.any() or (clean.labels != truth).all() else ("no-op",)
            flags = (*spent.notes, *no_op)
        if step.rng is not None:
            flags = (*flags, "randomised")
        right, survived = clean.labels == truth, found == truth
        self._records(planned.key, cell.data, x, truth, clean.labels, found, linf, l2, spent)
        robust = int((right & survived).sum())
        low, high = wilson(robust, len(truth))
        metrics = Metrics(
            n=len(truth),
            clean_accuracy=float(right.mean()),
            robust_accuracy=robust / len(truth),
            ci_low=low,
            ci_high=high,
            mean_linf=float(linf.mean()),
            mean_l2=float(l2.mean()),
        )
        return CellResult(
            key=planned.key,
            names=planned.names,
            cell=cell,
            status="done",
            metrics=metrics,
            clean_bits=pack_bits(right.tolist()),
            adversarial_bits=pack_bits(survived.tolist()),
            flags=tuple(sorted(set(flags))),
            cost=cost,
            defense_cost=self._defense_cost(cell, base, step),
            provenance=provenance(self.device),
        )

    def _failure(self, planned: PlannedCell, error: Exception) -> CellResult:
        return CellResult(
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

    def _clean(self, cell: Cell, base: nn.Module, step: Step) -> Predictions:
        key = cell_key(clean_cell(cell))
        path = self.store.records(key)
        if (result := self.store.get(key)) is not None and result.cost is not None and path.is_file():
            labels = pq.read_table(path, columns=["clean"]).column("clean").to_numpy()
            if len(labels) == cell.data.n:
                return Predictions(labels, result.cost.seconds_per_example * cell.data.n)
        x, _, _ = self._test(cell.data)
        batch = self._batch(cell.data)
        predict(step, base, x[: min(batch, 8)].float() / 255, batch)
        parts, seconds = [], 0.0
        for first in range(0, len(x), CHUNK):
            self.check()
            chunk = x[first : first + CHUNK].float() / 255
            step.seed(key, "clean", first)
            synchronize(self.device)
            started = time.perf_counter()
            parts.append(predict(step, base, chunk, batch).cpu())
            seconds += time.perf_counter() - started
        return Predictions(torch.cat(parts).numpy(), seconds)

    def _attacked(
        self, cell: Cell, key: str, base: nn.Module, step: Step, sets: list[Crafted]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, _, _ = self._test(cell.data)
        labels, linf, l2, first = [], [], [], 0
        for made in sets:
            self.check()
            adversarial = made.images.to(self.device)
            origin = x[first : first + len(adversarial)].float() / 255
            step.seed(key, "attacked", first)
            labels.append(predict(step, base, adversarial, self._batch(cell.data), self.check).cpu())
            delta = (adversarial - origin).flatten(1)
            linf.append(delta.abs().amax(1).cpu())
            l2.append(delta.norm(dim=1).cpu())
            first += len(adversarial)
        return tuple(torch.cat(parts).double().numpy() if i else torch.cat(parts).numpy() for i, parts in enumerate((labels, linf, l2)))  # type: ignore[return-value]

    def _adversarial(self, ref: AttackRef, base: nn.Module, planned: PlannedCell) -> Iterator[Crafted]:
        key = attack_key(ref)
        folder = self.store.adversarial(key)
        x, y, images = self._test(ref.data)
        batch, warm = self._batch(ref.data), False
        for first in range(0, len(x), CHUNK):
            last = min(first + CHUNK, len(x))
            path = folder / f"{first:06d}-{last:06d}.safetensors"
            made = _read_chunk(path, last - first)
            if made is None:
                self.check()
                self.reporter.work(str(planned.names), first, len(x))
                if not warm:
                    self._warm_up(base, x)
                    warm = True
                chunk = x[first:last].float() / 255
                made = craft(ref, base, chunk, y[first:last], images[first:last], key=key, batch=batch, check=self.check)
                batch = made.batch
                made = made._replace(images=made.images.cpu())
                _write_chunk(path, made)
            yield made
        self.reporter.work(str(planned.names), len(x), len(x))

    def _base_of(self, model: ModelRef) -> nn.Module:
        key = training_key(model)
        if self._base is not None and self._base[0] == key:
            return self._base[1]
        if isinstance(model.weights, TrainRef):
            path, data = self._trained(model, model.weights), model.weights.data
        else:
            path, data = self.work.weights_files[model.weights.sha256], self.work.plan.cells[0].cell.data
        with torch.random.fork_rng(devices=[]):
            net = build(model.network, data.num_classes, data.image_shape)
        weights.load(path, net)
        net = net.to(self.device).eval()
        self._base = (key, net)
        return net

    def _trained(self, model: ModelRef, ref: TrainRef) -> Path:
        key = training_key(model)
        folder = self.store.training(key)
        if (folder / "card.json").is_file():
            return folder / "weights.safetensors"
        if key in self._failed:
            raise self._failed[key]
        images, rows = self._rows(ref.data)
        what = f"train {ref.recipe.name} {model.network.name}"

        def progress(at: Progress) -> None:
            done = at.epoch + at.step / max(1, at.steps)
            self.reporter.work(what, done, at.epochs, f"epoch {min(at.epoch + 1, at.epochs)}/{at.epochs} loss {at.loss:.3f}")

        try:
            train(
                ref,
                model.network,
                np.asarray(images.images)[rows],
                np.asarray(images.labels)[rows],
                folder,
                device=self.device,
                check=self.check,
                on_progress=progress,
            )
        except Exception as error:
            self._failed[key] = error
            raise
        return folder / "weights.safetensors"

    def _rows(self, ref: DataRef) -> tuple[ImageSet, np.ndarray]:
        images = open_set(
            ref.name, ref.split, folder=self.work.data_folder, image_size=ref.image_shape[1:], interpolation=ref.interpolation
        )
        if images.sha != ref.data_sha:
            raise MethodError(f"the {ref.split} images of {ref.name} changed since the plan was made")
        return images, select(images, ref.n, ref.subset)

    def _test(self, ref: DataRef) -> tuple[Tensor, Tensor, Tensor]:
        if ref.indices_sha not in self._images:
            images, rows = self._rows(ref)
            self._images[ref.indices_sha] = (
                torch.from_numpy(np.asarray(images.images)[rows]).to(self.device),
                torch.from_numpy(np.asarray(images.labels)[rows]).to(self.device),
                torch.from_numpy(rows).to(self.device),
            )
        return self._images[ref.indices_sha]

    def _batch(self, ref: DataRef) -> int:
        return self.batch or auto_batch(ref.image_shape, self.device)

    def _warm_up(self, base: nn.Module, x: Tensor) -> None:
        image = (x[:8].float() / 255).requires_grad_()
        base(image).sum().backward()
        for parameter in base.parameters():
            parameter.grad = None

    # Costs.

    def _pass_flops(self, cell: Cell, base: nn.Module) -> PassFlops:
        key = training_key(cell.model)
        if key not in self._flops:
            self._flops[key] = pass_flops(base, cell.data.image_shape)
        return self._flops[key]

    def _clean_cost(self, cell: Cell, base: nn.Module, step: Step, clean: Predictions) -> Cost:
        spent = self._defense_cost(cell, base, step)
        return Cost(
            forwards_per_example=spent.test_forwards,
            backwards_per_example=spent.test_backwards,
            seconds_per_example=clean.seconds / cell.data.n,
            flops_per_example=spent.test_flops,
            peak_memory_bytes=_peak_memory(self.device),
        )

    def _attack_cost(self, ref: AttackRef, base: nn.Module, spent: Spent) -> Cost:
        n = ref.data.n
        forwards, backwards = float(spent.forwards.sum()) / n, float(spent.backwards.sum()) / n
        flops = pass_flops(base, ref.data.image_shape).of(forwards, backwards)
        return Cost(
            forwards_per_example=forwards,
            backwards_per_example=backwards,
            seconds_per_example=spent.seconds / n,
            flops_per_example=flops,
            peak_memory_bytes=_peak_memory(self.device),
        )

    def _defense_cost(self, cell: Cell, base: nn.Module, step: Step) -> DefenseCost:
        key = cell_key(clean_cell(cell))
        if key not in self._costs:
            shape = cell.data.image_shape
            each = self._pass_flops(cell, base)
            step.seed(key, "cost")
            test = deployed_cost(base, step.deployed, shape, min(32, self._batch(cell.data)))
            card = self._card(cell.model)
            trained = card.get("passes_per_example")
            self._costs[key] = DefenseCost(
                params=parameters(base),
                train_flops_per_epoch=each.of(*trained) * card["images_per_epoch"] if trained else None,
                train_seconds_per_epoch=card.get("seconds_per_epoch"),
                test_flops=each.of(*test.passes),
                test_seconds=test.seconds,
                test_forwards=test.passes.forwards,
                test_backwards=test.passes.backwards,
            )
        return self._costs[key]

    def _card(self, model: ModelRef) -> dict[str, Any]:
        if not isinstance(model.weights, TrainRef):
            return {}
        path = self.store.training(training_key(model)) / "card.json"
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return card

    def _records(
        self,
        key: str,
        data: DataRef,
        x: Tensor,
        truth: np.ndarray,
        clean: np.ndarray,
        found: np.ndarray,
        linf: np.ndarray,
        l2: np.ndarray,
        spent: Spent | None,
    ) -> None:
        """Write one row per example beside the store: index, input hash, label, predictions, distances, passes."""
        _, _, images = self._test(data)
        pixels = x.cpu().numpy()
        zeros = np.zeros(len(truth))
        table = pa.table(
            {
                "index": images.cpu().numpy(),
                "input_sha": [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels],
                "label": truth,
                "clean": clean,
                "adversarial": found,
                "robust": (clean == truth) & (found == truth),
                "linf": linf,
                "l2": l2,
                "forwards": spent.forwards if spent else zeros,
                "backwards": spent.backwards if spent else zeros,
                "seconds": np.full(len(truth), spent.seconds / len(truth)) if spent else zeros,
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_atomically(self.store.records(key), sink.getvalue().to_pybytes())


@dataclass(frozen=True)
class Spent:
    """What the chunks of one adversarial set took together; passes are per example."""

    forwards: np.ndarray
    backwards: np.ndarray
    seconds: float
    notes: tuple[str, ...]

    @classmethod
    def of(cls, sets: list[Crafted], n: int) -> Spent:
        forwards = torch.cat([made.forwards for made in sets]).double().numpy()
        backwards = torch.cat([made.backwards for made in sets]).double().numpy()
        assert len(forwards) == len(backwards) == n
        notes = sorted({note for made in sets for note in made.notes})
        return cls(forwards, backwards, math.fsum(made.seconds for made in sets), tuple(notes))


def _write_chunk(path: Path, made: Crafted) -> None:
    tensors = {
        "images": made.images.contiguous(),
        "forwards": made.forwards.double(),
        "backwards": made.backwards.double(),
    }
    about = {"seconds": repr(made.seconds), "notes": json.dumps(made.notes), "batch": str(made.batch)}
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in tensors.values())).hexdigest()
    write_atomically(path, save(tensors, {**about, "sha256": digest}))


def _read_chunk(path: Path, n: int) -> Crafted | None:
    """Return a chunk, or ``None`` where there is none or it was cut short or altered: it is then made again."""
    with suppress(FileNotFoundError, SafetensorError, KeyError, ValueError, OSError):
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in ("images", "forwards", "backwards")}
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in tensors.values())).hexdigest()
        if about["sha256"] == digest and len(tensors["images"]) == n:
            return Crafted(**tensors, seconds=float(about["seconds"]), notes=json.loads(about["notes"]), batch=int(about["batch"]))
    return None


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
