"""What a plan will cost, from one measured pass and the passes that its methods state; nothing is trained."""

from __future__ import annotations

import ast
import json
import operator
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bench.cost import Passes, PassFlops, deployed_cost, parameters, pass_flops
from bench.evaluate import entry_of, put_on
from bench.models.build import build
from bench.schedule.plan import Work, attack_key, training_key
from bench.store import Store
from bench.train import train
from bench.types import AttackRef, Cell, ModelRef, Scalar, Schedule, TrainRef


class Piece(NamedTuple):
    """One node of the graph: what it is, whether it is done, its TFLOP and seconds (``None`` where not known)."""

    what: str
    done: bool
    tflop: float | None
    seconds: float | None


class RecipeCost(NamedTuple):
    """One row of the cost table: a recipe on a network, per epoch and per test pass."""

    model: str
    recipe: str
    params: int
    train_tflop_per_epoch: float
    test_tflop: float
    test_images: int


class _Unit(NamedTuple):
    """A network's single pass: FLOPs by convention, and measured seconds per image."""

    flops: PassFlops
    forward_seconds: float
    backward_seconds: float


_FORMULA = re.compile(
    r"(?:at most )?(?P<forwards>[^,]*?) forwards?(?: \+ (?P<backwards>[^,]*?) backwards?)?(?: \(|,|$)"
)
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def passes_of(formula: str, params: Mapping[str, Scalar]) -> Passes | None:
    """Return the passes per image that a formula such as ``"steps forwards + 2 x steps backwards"`` states.

    What follows a comma or stands in brackets at the end is commentary. ``None`` where the formula cannot be reckoned
    from the parameters.
    """
    match = _FORMULA.match(formula)
    if match is None:
        return None
    try:
        counts = [
            0.0 if text is None else _reckon(ast.parse(text.replace(" x ", " * "), mode="eval").body, params)
            for text in match.group("forwards", "backwards")
        ]
    except (SyntaxError, ValueError):
        return None
    return Passes(*counts)


def _reckon(node: ast.expr, params: Mapping[str, Scalar]) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return float(_OPERATIONS[type(node.op)](_reckon(node.left, params), _reckon(node.right, params)))
    value = (
        node.value if isinstance(node, ast.Constant) else params.get(node.id) if isinstance(node, ast.Name) else None
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)} is no number")
    return float(value)


def costs(work: Work, device: torch.device) -> list[RecipeCost]:
    """Return the cost of every recipe and network in a plan, by the convention of :mod:`bench.cost`."""
    rows: dict[str, RecipeCost] = {}
    for planned in work.plan.cells:
        model, data = planned.cell.model, planned.cell.data
        key = training_key(model)
        if key in rows or not isinstance(model.weights, TrainRef):
            continue
        net = _initial(model, planned.cell, device)
        flops = pass_flops(net, data.image_shape)
        passes = _training_passes(model, data.image_shape)
        rows[key] = RecipeCost(
            planned.names.model,
            model.weights.recipe.name,
            parameters(net),
            flops.of(*passes) * model.weights.data.n / 1e12,
            flops.forward * data.n / 1e12,
            data.n,
        )
    return list(rows.values())


def pieces(work: Work, store: Store, device: torch.device) -> list[Piece]:
    """Return what a run would do, node by node, with its predicted cost."""
    found: dict[str, Piece] = {}
    units: dict[str, _Unit] = {}
    for planned in work.plan.cells:
        cell, model = planned.cell, planned.cell.model
        shape = f"{model.network.model_dump_json()}{cell.data.image_shape}"
        key = training_key(model)
        net = None
        if shape not in units:
            net = _initial(model, cell, device)
            units[shape] = _unit(net, cell.data.image_shape, device)
        unit = units[shape]
        if isinstance(model.weights, TrainRef) and key not in found:
            net = net or _initial(model, cell, device)
            passes = _training_passes(model, cell.data.image_shape)
            times = model.weights.schedule.epochs * model.weights.data.n
            done = (store.training(key) / "card.json").is_file()
            found[key] = _piece(
                f"train {model.weights.recipe.name} on {planned.names.model}", done, passes, times, unit
            )
        inside = None
        if cell.step is not None:
            net = net or _initial(model, cell, device)
            inside = deployed_cost(net, put_on(net, cell.step).deployed, cell.data.image_shape, 2).passes
        finished = (known := store.get(planned.key)) is not None and known.status == "done"
        if cell.attack is not None and (at := attack_key(cell.attack)) not in found:
            made = sorted(store.adversarial(at).glob("*.safetensors"))
            done = bool(made) and made[-1].stem.endswith(f"-{cell.data.n:06d}")
            found[at] = _piece(
                f"attack {planned.names}", done or finished, _attack_passes(cell.attack, inside), cell.data.n, unit
            )
        found[planned.key] = _piece(f"evaluate {planned.names}", finished, inside or Passes(1, 0), cell.data.n, unit)
    return list(found.values())


def _piece(what: str, done: bool, passes: Passes | None, times: int, unit: _Unit) -> Piece:
    if passes is None:
        return Piece(what, done, None, None)
    seconds = times * (passes.forwards * unit.forward_seconds + passes.backwards * unit.backward_seconds)
    return Piece(what, done, times * unit.flops.of(*passes) / 1e12, seconds)


def _attack_passes(attack: AttackRef, inside: Passes | None) -> Passes | None:
    formula = entry_of(attack.attack).meta.get("passes")
    stated = passes_of(formula, attack.attack.params) if formula else None
    if stated is None or attack.step is None or inside is None:
        return stated
    return Passes(
        stated.forwards * inside.forwards * attack.eot,
        (stated.forwards * inside.backwards + stated.backwards) * attack.eot,
    )


def _training_passes(model: ModelRef, image_shape: tuple[int, int, int]) -> Passes:
    """Count the passes per image of one optimiser step, taken on two grey images."""
    assert isinstance(model.weights, TrainRef)
    schedule = Schedule(epochs=1, batch=2)
    ref = model.weights.model_copy(update={"schedule": schedule})
    images = np.full((2, *image_shape), 128, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        train(
            ref,
            model.network,
            images,
            np.arange(2, dtype=np.int64),
            Path(folder),
            device=torch.device("cpu"),
            check=lambda: None,
            on_progress=lambda _: None,
        )
        return Passes(*json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))["passes_per_example"])


def _initial(model: ModelRef, cell: Cell, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build(model.network, cell.data.num_classes, cell.data.image_shape).to(device).eval()


def _unit(net: nn.Module, image_shape: tuple[int, int, int], device: torch.device, images: int = 16) -> _Unit:
    x = torch.full((images, *image_shape), 0.5, device=device)
    times: list[tuple[float, float]] = []
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        started = time.perf_counter()
        logits = net(leaf)
        forward = time.perf_counter()
        torch.autograd.grad(logits.sum(), leaf)
        times.append((forward - started, time.perf_counter() - forward))
    return _Unit(pass_flops(net, image_shape), min(t[0] for t in times) / images, min(t[1] for t in times) / images)
