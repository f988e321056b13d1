"""Adversarial images of one attack, as a call returns them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.craft import Crafted
from bench.evaluation.craft import craft as run_attack
from bench.evaluation.device_cache import DeviceCache
from bench.evaluation.target import auto_batch
from bench.keys import attack_key, seed_of
from bench.library import images as own_images
from bench.library import methods, request
from bench.library.evaluate import undisturbed
from bench.library.images import Layout
from bench.schedule.plan import Work
from bench.types import Access, AttackRef, ModelRef, UsageError, WeightsRef, shown

if TYPE_CHECKING:
    from torch import nn


def attack(
    net_or_defense: nn.Module | str | object,
    x: Any,
    y: Any,
    attack: object = "pgd",
    *,
    eps: str | float | None = None,
    norm: str | None = None,
    access: Access = "adaptive",
    base: nn.Module | str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    batch: int | str = "auto",
    layout: Layout | None = None,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    progress: bool = False,
    **params: Any,
) -> Any:
    """Return adversarial images of one attack, each of them finite, in the box and within the budget.

    Where pixels are multiples of 1/255, they are to the bit those of which :func:`bench.evaluate` measures the accuracy
    with the same arguments; other floats are attacked as they are.

    Args:
        net_or_defense: as for :func:`bench.evaluate`; one network, or one test-time step on ``base``.
        x: images (N, C, H, W) or (N, H, W, C), a float32 or float64 tensor or array in [0, 1].
        y: labels (N,), whole numbers.
        attack: a name, or a function ``f(target, x, y, threat, *, ...)``.
        eps: the budget, as text or a number: ``"8/255"``, 8 / 255; by default 8/255, and 1/2 in L2.
        norm: ``"linf"`` or ``"l2"``; by default that of the attack.
        access: what the attacker of a test-time step sees: ``"adaptive"`` all of it, ``"static"`` the classifier.
        base: the classifier under a test-time step.
        weights: the file with the state dict of a network that is given by name.
        seed: of every random draw, at least 0.
        device: where to compute: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        batch: images at a time; ``"auto"`` takes what fits.
        layout: ``"NCHW"`` or ``"NHWC"``, where the shape does not tell.
        num_classes: of a network given by name; by default the largest label and one.
        mean: of a network that expects normalised images, as for :func:`bench.evaluate`.
        std: goes with ``mean``.
        progress: show a bar.
        params: parameters of the attack, such as ``steps=50``; ``eot`` of a randomised defense; ``max_passes``;
            ``target``, the class to reach: ``"least-likely"``, ``"second"``, ``"random"`` or its number;
            ``craft_precision``, ``"bf16"`` for gradients in bfloat16.

    Returns:
        Images as ``x``: of its kind, shape, type and device.

    Raises:
        UsageError: an argument is not what it should be; one line says what would be.
        MethodError: the attack failed, or returned an image that breaks the threat.
    """
    if not isinstance(x, Tensor | np.ndarray) or str(x.dtype).removeprefix("torch.") not in ("float32", "float64"):
        kind = getattr(x, "dtype", type(x).__name__)
        raise UsageError(f"images are {kind}: give a tensor or array of float32 or float64 in [0, 1]")
    if access not in ("static", "adaptive"):
        raise UsageError(f"access = {shown(access)}: it is 'static' or 'adaptive'")
    with undisturbed(progress=progress) as display, ExitStack() as stack:
        entry = {**methods.attack_entry(attack, stack, {}), **params}
        entries = request.attack_entries(entry, eps=eps, norm=norm, access=access, stack=stack)
        asked = request.subject(net_or_defense, base=base, weights=weights, name=None, stack=stack)
        if len(asked.steps) > 1:
            raise UsageError("one test-time step is attacked at a time, and a list was given")
        own = own_images.read(x, y, layout=layout, rounding=True)
        exact = None if own.exact is None else own.exact.tobytes()
        dataset = request.own_set(
            own, asked, n=None, num_classes=num_classes, images_name="images", stack=stack, exact=exact
        )
        asked = asked.normalised(mean, std)
        config, work = request.planned(asked, dataset, entries, seed=seed, batch=batch, data_folder=None, device=device)
        chosen = None if batch == "auto" else int(config.run.batch)
        runner = _Attack(work, _attack_ref(work), request.device_named(device), chosen)
        with display.phase("attacking", len(own.labels)) as at:
            crafted = runner.run(own.exact, lambda done: at(done, ""))
    return _as_given(crafted, x, layout or own_images.layout_of(tuple(x.shape)))


def _attack_ref(work: Work) -> AttackRef:
    """Return the one adversarial set of a plan: on the test-time step, if there is one.

    Raises:
        UsageError: the plan has several, as a list of parameters gives, or it can only fail.
    """
    cells = [planned.cell for planned in work.plan.cells if planned.cell.attack is not None]
    own = [cell for cell in cells if cell.step is not None] or cells
    sets = {attack_key(cell.attack): cell.attack for cell in own if cell.attack is not None}
    why = next(filter(None, map(work.why_not, own)), None)
    if why is not None:
        raise UsageError(why)
    if len(sets) != 1 or len({cell.step for cell in own}) != 1:
        raise UsageError("one attack on one function is run at a time: give no lists of parameters")
    return next(iter(sets.values()))


class _Attack:
    """One attack on one function, without a store."""

    def __init__(self, work: Work, ref: AttackRef, device: torch.device, batch: int | None) -> None:
        self._ref = ref
        self._files = work.weights_files
        self._cache = DeviceCache(device, work.data_folder)
        self._batch = batch or auto_batch(ref.data.image_shape, device)
        self._device = device

    def run(self, exact: np.ndarray[Any, Any] | None, report: Any) -> Tensor:
        """Return adversarial images float32 (N, C, H, W); ``exact`` are the clean ones where pixels are not."""
        ref, images = self._ref, self._cache.test(self._ref.data)
        classifier = self._cache.classifier(ref.model, ref.data, lambda: self._file(ref.model))
        model = None if ref.step is None else ref.step.score
        score = None if model is None else self._cache.score(model, ref.data, lambda: self._file(model)).net
        crafted: list[Crafted] = []
        for group in images.groups():
            report(group.start)
            x, y, rows = images.part(group)
            if exact is not None:
                x = torch.from_numpy(exact[group]).to(self._device)
            crafted.append(
                run_attack(ref, classifier.net, x, y, rows, key=seed_of(ref), batch=self._batch, score=score)
            )
        return Crafted.joined(crafted).images

    def _file(self, model: ModelRef) -> Path:
        # Nothing can be trained on images that were handed over.
        assert isinstance(model.weights, WeightsRef)
        return self._files[model.weights.sha256]


def _as_given(crafted: Tensor, x: Any, layout: str) -> Any:
    """Return images as the clean ones are: in their layout and type, where they are."""
    placed = crafted if layout == "NCHW" else crafted.permute(0, 2, 3, 1)
    if isinstance(x, Tensor):
        return placed.to(x.device, x.dtype).contiguous()
    return np.ascontiguousarray(placed.cpu().numpy().astype(x.dtype))
