"""One cell, measured: what the deployed defense answers to images, and what that is worth."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import registry
from bench.evaluation.chunks import Clean, Records, read_clean, write_records
from bench.evaluation.cost import deployed_cost, synchronize
from bench.evaluation.craft import Crafted
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.device_cache import Classifier, DeviceCache
from bench.evaluation.predict import DRAWS, predict
from bench.evaluation.probe import Asked, of_function
from bench.keys import cell_key, clean_cell, seed_of, training_key
from bench.outcomes import Outcomes
from bench.stats import wilson
from bench.store import cards
from bench.store.provenance import provenance
from bench.store.working_store import Store
from bench.types import (
    Cell,
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


@dataclass
class Measure:
    """Measures cells on one device; ``check`` is called at every pass, ``batch`` says how many images go at once."""

    store: Store
    cache: DeviceCache
    check: Callable[[], None]
    batch: Callable[[DataRef], int]
    _costs: dict[str, DefenseCost] = field(default_factory=dict)
    _probed: dict[str, tuple[Asked, set[str], Tensor]] = field(default_factory=dict)

    def cell(self, planned: PlannedCell, classifier: Classifier, crafted: Iterable[Crafted]) -> CellResult:
        """Return the result of a cell and keep its records.

        Args:
            planned: the cell.
            classifier: under its test-time step.
            crafted: the adversarial set in chunks; nothing for a clean cell.
        """
        cell = planned.cell
        base, flops = classifier.net, classifier.flops
        fresh = partial(deploy, base, cell.step, self.cache.training_images(cell.model))
        step, images = fresh(), self.cache.test(cell.data)
        if cell.attack is None:
            found = self._clean(cell, base, step, fresh)
            before = Clean.of(found)
        else:
            before = self._clean_answers(cell, base, fresh)
            found = self._attacked(planned, base, step, crafted)
        share = found.column("share")
        right, survived = before.share > 0.5, share > 0.5
        flags = found.notes | self._function_flags(cell, base, step, fresh) | self._regime(cell)
        if step.draws is not None:
            flags.add("randomised")
        tried = right if cell.attack is None or not cell.attack.after else right & (found.column("forwards") > 0)
        if cell.attack is not None and tried.any():
            if not found.column("linf")[tried].any():
                flags.add("no-op")
            # On what was attacked itself; a static set may well be undone by a step that it never saw.
            elif (
                cell.access in ("white-box", "adaptive") and not (found.column("margins") < before.margins)[tried].any()
            ):
                flags.add("loss-not-rising")
        spent = self._defense_cost(cell, classifier, fresh)
        forwards, backwards = found.mean("forwards"), found.mean("backwards")
        n, under_attack = len(right), wilson(int(survived.sum()), len(right))
        records_sha = write_records(self.store.records(planned.key), images.rows, images.x, images.y, before, found)
        return CellResult(
            key=planned.key,
            names=planned.names,
            cell=cell,
            status="done",
            metrics=Metrics(
                n=n,
                clean_accuracy=float(right.mean()),
                accuracy_under_attack=under_attack.value,
                robust_accuracy=float((right & survived).mean()),
                ci_low=under_attack.low,
                ci_high=under_attack.high,
                mean_linf=found.mean("linf"),
                mean_l2=found.mean("l2"),
                protocol="deterministic" if step.draws is None else f"majority-of-{DRAWS}",
                robust_mean=None if step.draws is None else float((right * share).mean()),
                robust_worst=None if step.draws is None else float((right & (share == 1)).mean()),
            ),
            clean_bits=Outcomes.of(right.tolist()).encode(),
            adversarial_bits=Outcomes.of(survived.tolist()).encode(),
            flags=tuple(sorted(flags)),
            records_sha=records_sha,
            cost=Cost(
                forwards_per_example=forwards,
                backwards_per_example=backwards,
                seconds_per_example=found.seconds / n,
                flops_per_example=flops.of(forwards, backwards),
                peak_memory_bytes=_peak_memory(self.cache.device),
            ),
            defense_cost=spent,
            provenance=provenance(self.cache.device, classifier.layout),
        )

    def _regime(self, cell: Cell) -> set[str]:
        """Return how the base classifier was overfitted, and whether a step lacks the overfitting that it relies on."""
        found: dict[str, Any] | None = self._card(cell.model).get("overfitting")
        if found is None:
            return set()
        flags = {f"{kind}-overfitting" for kind in ("catastrophic", "robust") if found.get(kind)}
        needed = None if cell.step is None else registry.entry_of(cell.step).meta.get("relies_on")
        return flags if needed is None or needed in flags else flags | {f"no-{needed}"}

    def _function_flags(
        self, cell: Cell, base: nn.Module, used: DeployedDefense, fresh: Callable[[], DeployedDefense]
    ) -> set[str]:
        """Return the flags of the deployed function; a static attacker's cells do not depend on its gradient.

        Args:
            cell: what was measured.
            base: the classifier.
            used: the instance that answered; one that has come to answer otherwise than at first is flagged too.
            fresh: makes an instance that has seen no image.
        """
        key = cell_key(clean_cell(cell))
        if key not in self._probed:
            _, x, y, _ = next(iter(self.cache.test(cell.data)))
            some = slice(0, min(64, self.batch(cell.data)))
            asked = Asked(base, x[some], y[some], seed_of(clean_cell(cell)), "checks")
            self._probed[key] = asked, *of_function(asked, fresh)
        asked, flags, first = self._probed[key]
        if not torch.equal(asked.answers(used, asked.few, "first"), first):
            flags = flags | {"not-deterministic"}
        return flags - ({"zero-gradient"} if cell.access in ("static", "transfer") else set())

    def _clean_answers(self, cell: Cell, base: nn.Module, fresh: Callable[[], DeployedDefense]) -> Clean:
        key = cell_key(clean_cell(cell))
        result = self.store.get(key)
        whole = result is not None and self.store.has_records(result)
        known = read_clean(self.store.records(key), cell.data.n) if whole else None
        return known or Clean.of(self._clean(cell, base, fresh(), fresh))

    def _clean(
        self, cell: Cell, base: nn.Module, step: DeployedDefense, fresh: Callable[[], DeployedDefense]
    ) -> Records:
        cell_seed = seed_of(clean_cell(cell))
        batch, outcomes = self.batch(cell.data), Records()
        for first, x, y, _ in self.cache.test(cell.data):
            self.check()
            if first == 0:
                # Another instance: one that remembers images must not have seen these.
                predict(fresh(), base, x[:8], y[:8], batch, seed=(cell_seed, "warm"))
            synchronize(self.cache.device)
            started = time.perf_counter()
            answer = predict(step, base, x, y, batch, seed=(cell_seed, "clean", first), check=self.check)
            synchronize(self.cache.device)
            seconds = (time.perf_counter() - started) / len(answer.labels)
            forwards, backwards = (
                torch.full((len(x),), count, dtype=torch.float64) for count in (answer.forwards, answer.backwards)
            )
            outcomes.add(answer, y, x, Crafted(x, forwards, backwards, seconds, [], batch))
        return outcomes

    def _attacked(
        self, planned: PlannedCell, base: nn.Module, step: DeployedDefense, crafted: Iterable[Crafted]
    ) -> Records:
        cell, outcomes = planned.cell, Records()
        cell_seed = seed_of(cell)
        for (first, x, y, _), chunk in zip(self.cache.test(cell.data), crafted, strict=True):
            images, seed = chunk.images.to(self.cache.device), (cell_seed, "attacked", first)
            answer = predict(step, base, images, y, self.batch(cell.data), seed=seed, check=self.check)
            outcomes.add(answer, y, x, chunk)
        return outcomes

    def _card(self, model: ModelRef) -> dict[str, Any]:
        if not isinstance(model.weights, TrainRef):
            return {}
        key = training_key(model)
        card = cards.read(self.store.training(key), key)
        if card is None:
            raise MethodError("the card of its training is not whole; the next run trains again")
        return card

    def _defense_cost(self, cell: Cell, classifier: Classifier, fresh: Callable[[], DeployedDefense]) -> DefenseCost:
        key = cell_key(clean_cell(cell))
        if key not in self._costs:
            step = fresh()
            step.seed(seed_of(clean_cell(cell)), "cost")
            test = deployed_cost(classifier.net, step.deployed, cell.data.image_shape, min(32, self.batch(cell.data)))
            card, flops = self._card(cell.model), classifier.flops
            trained = card.get("passes_per_example")
            self._costs[key] = DefenseCost(
                params=classifier.params,
                train_flops_per_epoch=flops.of(*trained) * card.get("images_per_epoch", 0) if trained else None,
                train_seconds_per_epoch=card.get("seconds_per_epoch"),
                test_flops=flops.of(*test.passes),
                test_seconds=test.seconds,
                test_forwards=test.passes.forwards,
                test_backwards=test.passes.backwards,
            )
        return self._costs[key]


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
