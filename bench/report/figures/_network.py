"""What the figures that look inside a network share: weights, images, adversarial sets and purified images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from bench.evaluation.chunks import read_chunk
from bench.evaluation.craft import CHUNK
from bench.evaluation.defense import deploy
from bench.keys import attack_key, training_key
from bench.models import weights
from bench.models.build import build
from bench.report.figures import Missing, Source
from bench.report.render import outside
from bench.report.render.outside import require_own
from bench.store.cards import is_trained
from bench.store.files import file_sha256
from bench.types import AttackRef, CellResult, DataRef, MethodError, MethodRef, ModelRef, TrainRef, UsageError

#: Images pushed through at once.
_BATCH = 256


@contextmanager
def _missing() -> Iterator[None]:
    """Turn what cannot be read, opened or made into what a figure lacks."""
    try:
        yield
    except (UsageError, MethodError) as error:
        raise Missing(str(error)) from None


class Images(NamedTuple):
    """Pixels float32 (N, C, H, W) in [0, 1] and labels int64 (N,)."""

    x: Tensor
    y: Tensor


def network(source: Source, model: ModelRef, data: DataRef) -> nn.Module:
    """Return a base classifier with its weights, in evaluation mode.

    Raises:
        Missing: the weights are not here, or the network cannot be made, or is not Crossfire's own and not trusted.
    """
    with _missing():
        require_own(model, trusted=source.trusted)
        if isinstance(model.weights, TrainRef):
            folder = source.store.training(training_key(model))
            path = folder / "weights.safetensors"
            if not is_trained(folder):
                raise Missing(f"the weights of {model.network.name} are not in this store, or not whole ({path})")
        else:
            path = weights.find(model.weights.name)
            if file_sha256(path) != model.weights.sha256:
                raise Missing(f"{path} has changed since it was measured")
        with torch.random.fork_rng(devices=[]):
            net = build(model.network, data.num_classes, data.image_shape)
        weights.load(path, net)
    return net.eval().requires_grad_(False)


def clean_images(source: Source, data: DataRef) -> Images:
    """Return the images of a cell.

    Raises:
        Missing: they are not on this machine, or others, or in a folder that nobody trusts.
    """
    pixels, labels = _pixels(source, data)
    return Images(pixels.float() / 255, labels)


def _pixels(source: Source, data: DataRef) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, C, H, W) and their labels int64 (N,)."""
    with _missing():
        images, rows = outside.images(data, source.data_folder, trusted=source.trusted)
    return torch.from_numpy(images.images[rows]), torch.from_numpy(np.asarray(images.labels[rows])).long()


def adversarial(source: Source, attack: AttackRef) -> Tensor:
    """Return an adversarial set (N, C, H, W).

    Raises:
        Missing: it is not whole in this store, or its clean images are missing.
    """
    folder, n = source.store.adversarial(attack_key(attack)), attack.data.n
    x, chunks = clean_images(source, attack.data).x, []
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        made = read_chunk(folder / f"{first:06d}-{last:06d}.safetensors", x[first:last], attack.threat)
        if made is None:
            raise Missing(
                f"the adversarial images of {attack.attack.name} are not in this store: figures of networks need the "
                "store that they were made in"
            )
        chunks.append(made.images)
    return torch.cat(chunks)


def purified(p: Purification, x: Tensor) -> Tensor:
    """Return what a test-time step hands to the network in the end, for images (N, C, H, W).

    Raises:
        Missing: the step does not change images once for each, so there is no such image; or it is fitted on training
            images that are not here.
    """
    try:
        put = deploy(p.net, p.step, p.training)
    except MethodError as error:
        raise Missing(str(error)) from None
    put.seed("figures")
    handed: list[Tensor] = []
    with _watching(p.net, lambda inputs: handed.append(inputs.detach())), torch.no_grad():
        found = []
        for part in torch.split(x, _BATCH):
            put.deployed(part)
            found.append(handed[-1])
            handed.clear()
    images = torch.cat(found)
    if images.shape != x.shape:
        raise Missing(f"{p.step.name} does not hand one image of the same size for each to the network")
    return images


@contextmanager
def _watching(module: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(inputs[0])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def predictions(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in torch.split(x, _BATCH)])


@torch.no_grad()
def penultimate(net: nn.Module, x: Tensor) -> np.ndarray:
    """Return what goes into the last linear layer, (N, features).

    Raises:
        Missing: the network has no linear layer.
    """
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise Missing("the network has no linear layer, so no penultimate features")
    seen: list[Tensor] = []
    with _watching(linear[-1], lambda inputs: seen.append(inputs.flatten(1))):
        for part in torch.split(x, _BATCH):
            net(part)
    return torch.cat(seen).numpy()


def last_map(net: nn.Module, x: Tensor) -> nn.Module:
    """Return the last module that gives a map (N, C, h, w) with more than one place, for Grad-CAM.

    Raises:
        Missing: no module does.
    """
    found: list[nn.Module] = []

    def hook(module: nn.Module, _: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    handles = [module.register_forward_hook(hook) for module in net.modules()]
    try:
        with torch.no_grad():
            net(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise Missing("the network has no layer that gives a map")
    return found[-1]


class Purification(NamedTuple):
    """A purified network, the strongest static attack on it, and the images."""

    name: str
    cell: CellResult
    attack: AttackRef
    step: MethodRef
    net: nn.Module
    images: Images
    adversarial: Tensor
    #: Gives the images that its network was trained on, uint8; none where it was trained elsewhere.
    training: Callable[[], Tensor] | None


def purification(source: Source) -> Purification:
    """Return the step that static attacks flatter the most on the longest list of images, and all it takes to look.

    Raises:
        Missing: no such cell, or its weights, images or adversarial set are not here.
    """
    cells = [
        r
        for r in source.results
        if r.cell.step
        and r.names.access == "static"
        and r.cell.attack
        and r.metrics
        and r.cell.attack.threat.eps is not None
    ]
    if not cells:
        raise Missing("no test-time step was attacked with static access under a budget")

    def met(r: CellResult) -> str:
        assert r.cell.attack is not None
        cell = r.cell
        return f"{cell.data.indices_sha} {cell.model.model_dump_json()} {r.names.attack} {r.cell.attack.threat}"

    def robust(r: CellResult) -> float:
        return r.metrics.robust_accuracy if r.metrics else 0.0

    bare = {met(r): robust(r) for r in source.results if r.cell.step is None and r.cell.attack}
    best = max(
        cells, key=lambda r: (r.cell.data.n, round(robust(r) - bare.get(met(r), robust(r)), 9), robust(r), r.key)
    )
    assert best.cell.attack is not None and best.cell.step is not None
    with _missing():
        require_own(best.cell.step, trusted=source.trusted)
    net = network(source, best.cell.model, best.cell.data)
    images = clean_images(source, best.cell.data)
    found = adversarial(source, best.cell.attack)
    trained = best.cell.model.weights
    training = (lambda: _pixels(source, trained.data)[0]) if isinstance(trained, TrainRef) else None
    name = source.board.labels[best.key][0]
    return Purification(name, best, best.cell.attack, best.cell.step, net, images, found, training)


def show(axis: Axes, image: Tensor) -> None:
    """Draw an image (C, H, W) in [0, 1] without ticks."""
    pixels = image.permute(1, 2, 0).numpy()
    grey = pixels.shape[2] == 1
    axis.imshow(
        pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest"
    )
    blank(axis)


def blank(axis: Axes) -> None:
    """Take ticks, grid and frame away."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def of_many_classes(scores: Tensor, labels: Tensor, count: int) -> list[int]:
    """Return the rows (N,) of highest score, each of another class while there are such."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    firsts = list({int(labels[index]): index for index in reversed(order)}.values())
    best = sorted(firsts, key=order.index)[:count]
    return [*best, *(index for index in order if index not in best)][:count]
