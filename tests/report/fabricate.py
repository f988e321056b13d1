"""Fabricated results, consistent in themselves, so that every table has a known answer."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.data.rows import sha_of_rows
from bench.keys import EVALUATION_VERSION, identity, key_of, sha256_hex
from bench.outcomes import Distances, Outcomes
from bench.stats import wilson
from bench.store.working_store import Store
from bench.types import (
    AttackRef,
    Cell,
    CellError,
    CellResult,
    CorruptionCount,
    Cost,
    DataRef,
    DefenseCost,
    MethodRef,
    Metrics,
    ModelRef,
    Names,
    Provenance,
    Schedule,
    Threat,
    TrainRef,
    jsonable,
)

ITERATIVE = {"pgd": {"steps": 20, "rule": "any-iterate"}, "apgd-ce": {"steps": 100, "rule": "any-iterate"}}


def outcomes(share: float, n: int, seed: int = 0) -> list[bool]:
    """Return ``n`` outcomes of which exactly ``round(share * n)`` are true, in an order of their own."""
    right = [i < round(share * n) for i in range(n)]
    random.Random(seed).shuffle(right)
    return right


def method(kind: Any, name: str, params: dict[str, Any] | None = None, code: str = "1") -> MethodRef:
    return MethodRef(kind=kind, name=name, params=params or {}, code_sha=sha256_hex(kind, name, code))


def _measured(
    clean: Sequence[bool], final: Sequence[bool], attacked: bool, forwards: float, seconds: float
) -> dict[str, Any]:
    """Return the parts of a result that are measured, given which images are right clean and in the end."""
    n, robust = len(clean), [a and b for a, b in zip(clean, final, strict=True)]
    share, low, high = wilson(sum(final), n)
    return {
        "metrics": Metrics(
            n=n,
            clean_accuracy=sum(clean) / n,
            accuracy_under_attack=share,
            robust_accuracy=sum(robust) / n,
            ci_low=low,
            ci_high=high,
            mean_linf=0.03,
            mean_l2=0.8,
        ),
        "clean_bits": Outcomes.of(clean).encode(),
        "adversarial_bits": Outcomes.of(final).encode() if attacked else None,
        "cost": Cost(
            forwards_per_example=forwards,
            backwards_per_example=forwards,
            seconds_per_example=seconds,
            flops_per_example=3e6 * forwards,
            peak_memory_bytes=10**8,
        ),
    }


def _defense_cost(recipe: str, step: str | None) -> DefenseCost:
    return DefenseCost(
        params=75_000,
        train_flops_per_epoch=2.5e10 * (1 + (recipe != "standard")),
        train_seconds_per_epoch=1.25,
        test_flops=1e6 * (1 + 3 * (step == "tpap")),
        test_seconds=2e-4,
        test_forwards=1,
        test_backwards=0,
    )


def result(
    defense: str = "standard",
    attack: str | None = "pgd",
    *,
    clean: Sequence[bool],
    adversarial: Sequence[bool] | None = None,
    access: Any = None,
    recipe: str = "standard",
    recipe_params: dict[str, Any] | None = None,
    step: str | None = None,
    step_params: dict[str, Any] | None = None,
    attack_params: dict[str, Any] | None = None,
    norm: Any = "linf",
    eps: Any = "8/255",
    dataset: str = "digits",
    network: str = "small-cnn",
    network_params: dict[str, Any] | None = None,
    network_code: str = "1",
    seed: int = 0,
    status: Any = "done",
    flags: tuple[str, ...] = (),
    code: str = "1",
    rows: str = "first",
    commit: str | None = "a" * 40,
    dirty: bool = False,
    machine: str = "box",
    device: str = "cpu: Xeon",
    finished: str = "2026-11-22T10:00:00+00:00",
    seconds: float = 0.002,
    version: int = EVALUATION_VERSION,
    forwards: float = 20.0,
    label: str | None = None,
    train_n: int | None = None,
    epochs: int = 24,
    image_shape: tuple[int, int, int] = (1, 16, 16),
    num_classes: int = 10,
    distances: Sequence[float] | None = None,
    by_corruption: Sequence[CorruptionCount] = (),
) -> CellResult:
    n = len(clean)
    if distances is not None:
        eps, adversarial = None, [each == float("inf") for each in distances]
    data = DataRef(
        name=dataset,
        split="test",
        n=n,
        image_shape=image_shape,
        num_classes=num_classes,
        indices_sha=sha256_hex(rows, str(n)),
        data_sha=sha256_hex(dataset),
    )
    model = ModelRef(
        network=method("network", network, network_params, network_code),
        weights=TrainRef(
            recipe=method("recipe", recipe, recipe_params),
            schedule=Schedule(epochs=epochs),
            data=data.model_copy(
                update={"split": "train", "n": train_n or n, "indices_sha": sha_of_rows(np.arange(train_n or n))}
            ),
            seed=seed,
        ),
    )
    stepped = method("test-time", step, step_params) if step else None
    access = access or ("static" if step else "white-box")
    attack_ref = None
    if attack is not None:
        params = ITERATIVE.get(attack, {}) if attack_params is None else attack_params
        attack_ref = AttackRef(
            model=model,
            step=stepped if access == "adaptive" else None,
            attack=method("attack", attack, params, code),
            threat=Threat(norm=norm, eps=eps),
            data=data,
            seed=seed,
        )
    cell = Cell(data=data, model=model, step=stepped, access=access, attack=attack_ref, seed=seed)
    if status == "done":
        body = _measured(clean, clean if adversarial is None else adversarial, attack is not None, forwards, seconds)
        body["defense_cost"] = _defense_cost(recipe, step)
        body["by_corruption"] = tuple(by_corruption)
        body["distances"] = None if distances is None else Distances(distances).encode()
    else:
        body = {
            "error": CellError(kind="MethodError", message="pgd returned NaN for 3 of 8 images", traceback="Traceback")
        }
    return CellResult(
        schema=1,
        # The first protocol named images and weights in its keys.
        key=key_of(jsonable(cell) if version == 1 else identity(cell), version=version),
        names=Names(dataset=dataset, model=network, defense=defense, attack=label or attack or "clean", access=access),
        cell=cell,
        status=status,
        flags=flags,
        provenance=Provenance(
            commit=commit, dirty=dirty, machine=machine, device=device, threads=1, python="3.11.7",
            packages={"torch": "2.15.0", "numpy": "2.4.6"}, deterministic=True, finished=finished,
        ),
        **body,
    )  # fmt: skip


def _both(static_fgsm: float, static_pgd: float, adaptive_fgsm: float, adaptive_pgd: float) -> dict[str, Any]:
    return {
        "static": {"fgsm": static_fgsm, "pgd": static_pgd},
        "adaptive": {"fgsm": adaptive_fgsm, "pgd": adaptive_pgd},
    }


# Each defense: its recipe, step, clean accuracy, and accuracy by access and attack.
STORY = {
    "standard": ("standard", None, 0.986, {"white-box": {"fgsm": 0.254, "pgd": 0.012}}),
    "fgsm-at": ("fgsm-at", None, 0.990, {"white-box": {"fgsm": 0.976, "pgd": 0.030}}),
    "pgd-at": ("pgd-at", None, 0.974, {"white-box": {"fgsm": 0.880, "pgd": 0.842}}),
    "tpap": (
        "fgsm-at",
        "tpap",
        0.984,
        {"static": {"fgsm": 0.418, "pgd": 0.97}, "adaptive": {"fgsm": 0.3, "pgd": 0.026}},
    ),
    "jpeg": (
        "standard",
        "jpeg",
        0.982,
        _both(0.38, 0.21, 0.24, 0.016),
    ),
}


def story(n: int = 500, **more: Any) -> list[CellResult]:
    """Return the paper's story in miniature: five defenses, two attacks, every access."""
    results = []
    for index, (defense, (recipe, step, clean_share, accesses)) in enumerate(STORY.items()):
        clean = outcomes(clean_share, n, index)
        common = {"recipe": recipe, "step": step, **more}
        results.append(result(defense, None, clean=clean, **common))
        for access, attacks in accesses.items():
            for attack, share in attacks.items():
                hits = [i for i in range(n) if clean[i]][: round(share * n)]
                adversarial = [i in set(hits) for i in range(n)]
                results.append(result(defense, attack, clean=clean, adversarial=adversarial, access=access, **common))
    return results


def stored(root: Any, results: Iterable[CellResult]) -> Store:
    store = Store(root)
    for each in results:
        store.put(each)
    return store
