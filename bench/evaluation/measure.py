"""One cell, measured: what the deployed defense answers to images, and what that is worth."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import registry
from bench.data import corrupted
from bench.evaluation.chunks import Clean, Records, read_clean, write_records
from bench.evaluation.cost import DeployedCost, PassFlops, synchronize
from bench.evaluation.counted import counted
from bench.evaluation.craft import LED_IN_BF16, Crafted
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.device_cache import Classifier, DeviceCache
from bench.evaluation.predict import predict
from bench.evaluation.probe import FEW, ProbeImages, function_flags
from bench.keys import DRAWS, cell_key, clean_cell, seed_of, training_key
from bench.outcomes import Distances, Outcomes
from bench.stats import wilson
from bench.store import cards
from bench.store.account import spending
from bench.store.provenance import provenance
from bench.store.working_store import Store
from bench.types import (
    DISTANCE_NORMS,
    MAX_DISTANCES,
    Cell,
    CellResult,
    CorruptionCount,
    Cost,
    DataRef,
    DefenseCost,
    MethodError,
    Metrics,
    ModelRef,
    PlannedCell,
    TrainRef,
)

#: Access to the function that is judged.
_OWN = ("white-box", "adaptive")
#: Flag of a cell in which an attack only succeeds where its target class is answered.
TARGETED = "targeted"
#: End of the flag that says how many images are of the target class, so that nothing can be done to them.
OF_TARGET_CLASS = "-of-target-class"


@dataclass
class Measure:
    """Measures cells on one device; ``check`` is called at every pass, ``batch`` says how many images go at once."""

    store: Store
    cache: DeviceCache
    check: Callable[[], None]
    batch: Callable[[DataRef], int]
    #: Not the networks themselves, of which the cache keeps few.
    _probed: dict[str, tuple[set[str], Tensor, DeployedCost]] = field(default_factory=dict)

    @spending("evaluating")
    def cell(
        self, planned: PlannedCell, classifier: Classifier, crafted: Iterable[Crafted], score: Classifier | None = None
    ) -> CellResult:
        """Return the result of a cell and keep its records.

        Args:
            planned: the cell.
            classifier: under its test-time step.
            crafted: the adversarial set in chunks; nothing for a clean cell.
            score: the network that the step predicts noise with, if it has one.
        """
        cell = planned.cell
        base = classifier.net
        fresh = partial(deploy, base, cell.step, self.cache.training_images(cell.model), score and score.net)
        step, images = fresh(), self.cache.test(cell.data)
        if cell.attack is None:
            records = self._clean(cell, base, step, fresh)
            clean = Clean.of(records)
        else:
            clean = self._clean_answers(cell, base, fresh)
            records = self._attacked(planned, base, step, crafted)
        flags = records.notes | self._function_flags(cell, base, step, fresh, score and score.net) | self._regime(cell)
        if cell.attack is not None:
            before = self._margins_before(cell, base, fresh, clean, records)
            flags |= _attack_flags(cell, images.y.cpu().numpy(), clean, records, before)
        if step.draws is not None:
            flags.add("randomised")
        defense_cost, flops = self._defense_cost(cell, classifier, score)
        records_sha = write_records(
            self.store.records(planned.key), images.rows, images.hashes(), images.y, clean, records
        )
        return CellResult(
            key=planned.key,
            names=planned.names,
            cell=cell,
            status="done",
            metrics=_metrics(clean, records, is_random=step.draws is not None),
            clean_bits=_encoded(clean.share),
            adversarial_bits=_encoded(records.column("share")),
            distances=_distances(cell, records),
            by_corruption=_by_corruption(cell, images.rows, clean),
            flags=tuple(sorted(flags - {LED_IN_BF16})),
            records_sha=records_sha,
            cost=_cost(records, flops, self.cache.device),
            defense_cost=defense_cost,
            provenance=provenance(self.cache.device, classifier.layout, "bf16" if LED_IN_BF16 in flags else ""),
        )

    def _regime(self, cell: Cell) -> set[str]:
        """Return how the base classifier was overfitted, and whether a step lacks the overfitting that it relies on."""
        overfitting: dict[str, Any] | None = self._card(cell.model).get("overfitting")
        if overfitting is None:
            return set()
        flags = {f"{kind}-overfitting" for kind in ("catastrophic", "robust") if overfitting.get(kind)}
        needed = None if cell.step is None else registry.entry_of(cell.step).meta.get("relies_on")
        return flags if needed is None or needed in flags else flags | {f"no-{needed}"}

    def _function_flags(
        self,
        cell: Cell,
        base: nn.Module,
        used: DeployedDefense,
        fresh: Callable[[], DeployedDefense],
        score: nn.Module | None,
    ) -> set[str]:
        """Return the flags of the deployed function; a static attacker's cells do not depend on its gradient.

        Args:
            cell: what was measured.
            base: the classifier.
            used: the instance that answered; one that has come to answer otherwise than at first is flagged too.
            fresh: makes an instance that has seen no image.
            score: the network that predicts noise inside, if there is one.
        """
        key = cell_key(clean_cell(cell))
        _, x, y, _ = next(iter(self.cache.test(cell.data)))
        some = slice(0, 2 * min(FEW, self.batch(cell.data)))
        probe = ProbeImages(base, x[some], y[some], seed_of(clean_cell(cell)), "checks", score=score)
        # A network alone is its only instance: probed just now, it was asked twice.
        ask_again = key in self._probed or cell.step is not None
        if key not in self._probed:
            flags, first = function_flags(probe, fresh)
            self._probed[key] = flags, first, probe.cost()
        flags, first, _ = self._probed[key]
        if ask_again and not torch.equal(probe.answers(used, probe.few, "first"), first):
            flags = flags | {"not-deterministic"}
        return flags - ({"zero-gradient"} if cell.access in ("static", "transfer") else set())

    def _clean_answers(self, cell: Cell, base: nn.Module, fresh: Callable[[], DeployedDefense]) -> Clean:
        key = cell_key(clean_cell(cell))
        result = self.store.get(key)
        is_kept = result is not None and self.store.has_records(result)
        known = read_clean(self.store.records(key), cell.data.n) if is_kept else None
        return known or Clean.of(self._clean(cell, base, fresh(), fresh))

    def _clean(
        self, cell: Cell, base: nn.Module, step: DeployedDefense, fresh: Callable[[], DeployedDefense]
    ) -> Records:
        cell_seed = seed_of(clean_cell(cell))
        batch, records = self.batch(cell.data), Records()
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
            records.add(answer, y, x, Crafted(x, forwards, backwards, seconds, [], batch))
        return records

    def _attacked(
        self, planned: PlannedCell, base: nn.Module, step: DeployedDefense, crafted: Iterable[Crafted]
    ) -> Records:
        cell, records = planned.cell, Records()
        cell_seed = seed_of(cell)
        for (first, x, y, _), chunk in zip(self.cache.test(cell.data), crafted, strict=True):
            images, seed = chunk.images.to(self.cache.device), (cell_seed, "attacked", first)
            goals = None if chunk.goals is None else chunk.goals.to(self.cache.device)
            answer = predict(step, base, images, y, self.batch(cell.data), seed=seed, check=self.check, goals=goals)
            records.add(answer, y, x, chunk)
        return records

    @spending("evaluating")
    def outcomes(
        self,
        planned: PlannedCell,
        classifier: Classifier,
        crafted: Iterable[tuple[slice, Crafted]],
        score: Classifier | None = None,
    ) -> Outcomes:
        """Return on which images of some chunks an attack has failed; nothing is kept.

        They are predicted as in the whole cell, by an instance of the defense that has seen no other image.

        Args:
            planned: the cell.
            classifier: under its test-time step.
            crafted: the place of each chunk in the list of images, and what the attack made of it.
            score: as for :meth:`cell`.
        """
        cell, base = planned.cell, classifier.net
        step = deploy(base, cell.step, self.cache.training_images(cell.model), score and score.net)
        images, cell_seed = self.cache.test(cell.data), seed_of(cell)
        failed: list[bool] = []
        for part, chunk in crafted:
            _, y, _ = images.part(part)
            x, seed = chunk.images.to(self.cache.device), (cell_seed, "attacked", part.start)
            goals = None if chunk.goals is None else chunk.goals.to(self.cache.device)
            answer = predict(step, base, x, y, self.batch(cell.data), seed=seed, check=self.check, goals=goals)
            failed += (answer.unbroken.float().mean(0) > 0.5).tolist()
        return Outcomes.of(failed)

    def _margins_before(
        self, cell: Cell, base: nn.Module, fresh: Callable[[], DeployedDefense], clean: Clean, records: Records
    ) -> np.ndarray:
        """Return the margins (n,) of the clean images, towards the target class of those that have one."""
        if not records.targeted or cell.access not in _OWN:
            return clean.margins
        margins: list[Tensor] = []
        step, cell_seed = fresh(), seed_of(clean_cell(cell))
        for (first, x, y, _), goals in zip(self.cache.test(cell.data), records.goals, strict=True):
            seed, there = (cell_seed, "clean", first), goals.to(self.cache.device)
            answer = predict(step, base, x, y, self.batch(cell.data), seed=seed, check=self.check, goals=there)
            margins.append(answer.margins.mean(0).cpu())
        return torch.cat(margins).numpy()

    def _card(self, model: ModelRef) -> dict[str, Any]:
        if not isinstance(model.weights, TrainRef):
            return {}
        key = training_key(model)
        card = cards.read(self.store.training(key), key)
        if card is None:
            raise MethodError("the card of its training is not whole; the next run trains again")
        return card

    def _defense_cost(
        self, cell: Cell, classifier: Classifier, score: Classifier | None
    ) -> tuple[DefenseCost, PassFlops]:
        """Return the cost of a probed defense, and of a pass of the base classifier in the measured function."""
        _, _, test = self._probed[cell_key(clean_cell(cell))]
        card, found = self._card(cell.model), counted(cell, classifier, score, test)
        trained = card.get("passes_per_example")
        cost = DefenseCost(
            params=found.params,
            train_flops_per_epoch=classifier.flops.of(*trained) * card.get("images_per_epoch", 0) if trained else None,
            train_seconds_per_epoch=card.get("seconds_per_epoch"),
            test_flops=found.test_flops,
            test_seconds=test.seconds,
            test_forwards=found.test_passes.forwards,
            test_backwards=found.test_passes.backwards,
        )
        return cost, found.attacked


def _attack_flags(cell: Cell, y: np.ndarray, clean: Clean, records: Records, before: np.ndarray) -> set[str]:
    """Return the flags of a targeted attack, and of one that moved no image, or raised the loss at none.

    Args:
        cell: that is attacked.
        y: the true labels (n,).
        clean: the answers to the clean images.
        records: the answers to the attacked ones.
        before: the margins of the clean images (n,), towards the same classes as those in ``records``.
    """
    assert cell.attack is not None
    flags = set[str]()
    of_target_class = records.column("goals") == y
    if cell.attack.target is not None:
        flags.add(TARGETED)
    if of_target_class.any():
        flags.add(f"{of_target_class.sum()}{OF_TARGET_CLASS}")
    tried = (clean.share > 0.5) & ~of_target_class
    # In a suite only the survivors of earlier attacks are attacked.
    tried = tried & (records.column("forwards") > 0) if cell.attack.after else tried
    if not tried.any():
        return flags
    if not records.column("linf")[tried].any():
        return flags | {"no-op"}
    # Only on the attacked function itself: a step may undo a static set, which was made without it.
    if cell.access in _OWN and not (records.column("margins") < before)[tried].any():
        flags.add("loss-not-rising")
    return flags


def _metrics(clean: Clean, records: Records, *, is_random: bool) -> Metrics:
    share = records.column("share")
    right, survived = clean.share > 0.5, share > 0.5
    under_attack = wilson(int(survived.sum()), len(right))
    return Metrics(
        n=len(right),
        clean_accuracy=float(right.mean()),
        accuracy_under_attack=under_attack.value,
        robust_accuracy=float((right & survived).mean()),
        ci_low=under_attack.low,
        ci_high=under_attack.high,
        mean_linf=records.mean("linf"),
        mean_l2=records.mean("l2"),
        protocol=f"majority-of-{DRAWS}" if is_random else "deterministic",
        robust_mean=float((right * share).mean()) if is_random else None,
        robust_worst=float((right & (share == 1)).mean()) if is_random else None,
    )


def _encoded(share: np.ndarray) -> str:
    """Return which images are right in more than half of the draws, as a result keeps it."""
    return Outcomes.of((share > 0.5).tolist()).encode()


def _by_corruption(cell: Cell, rows: Tensor, clean: Clean) -> tuple[CorruptionCount, ...]:
    """Return how many images are right of each corruption and severity, where a clean cell is of several."""
    if cell.attack is not None:
        return ()
    return corrupted.counts(cell.data.name, rows.cpu().numpy(), clean.share > 0.5)


def _distances(cell: Cell, records: Records) -> str | None:
    """Return how far images are from those that an attack without a budget broke them with, as a result keeps it."""
    threat = None if cell.attack is None else cell.attack.threat
    if threat is None or threat.eps is not None or threat.norm not in DISTANCE_NORMS or cell.data.n > MAX_DISTANCES:
        return None
    return Distances(np.where(records.column("share") > 0.5, np.inf, records.column(threat.norm)).tolist()).encode()


def _cost(records: Records, flops: PassFlops, device: torch.device) -> Cost:
    forwards, backwards = records.mean("forwards"), records.mean("backwards")
    return Cost(
        forwards_per_example=forwards,
        backwards_per_example=backwards,
        seconds_per_example=records.seconds / len(records.column("labels")),
        flops_per_example=flops.of(forwards, backwards),
        peak_memory_bytes=_peak_memory(device),
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
