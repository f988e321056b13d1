"""Helpers of the figures that run a network: weights, images, adversarial sets and purified images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from bench.evaluation.chunks import read_chunk
from bench.evaluation.craft import CHUNK, Crafted
from bench.evaluation.defense import deploy
from bench.evaluation.goals import ANY
from bench.keys import attack_key, training_key
from bench.models import weights
from bench.report.figures import Failed, Missing, NotDrawn, Source
from bench.report.figures._plot import ACCESS_WORDS, SOFT, WRONG, without_eps
from bench.report.figures._text import fitted, fitted_name
from bench.report.render import outside
from bench.report.render.class_names import class_labels
from bench.report.render.outside import require_own
from bench.store.cards import is_trained
from bench.types import (
    AttackRef,
    CellResult,
    DataRef,
    MethodError,
    MethodRef,
    ModelRef,
    TrainRef,
    UnknownMethod,
    UsageError,
    shortened,
    text_of,
    threat_text,
)

#: Images that a network gets at once.
_BATCH_IMAGES = 256


@contextmanager
def _missing() -> Iterator[None]:
    """Turn errors about weights, images and methods into :class:`Missing`; a name that no method has is a failure."""
    try:
        yield
    except UnknownMethod as error:
        raise Failed(str(error)) from None
    except (UsageError, MethodError) as error:
        raise Missing(str(error)) from None


@contextmanager
def running(what: str) -> Iterator[None]:
    """Turn whatever a network or a step raises on images into :class:`Failed`."""
    try:
        yield
    except NotDrawn:
        raise
    except Exception as error:
        said = " ".join(text_of(error).split())
        raise Failed(f"{what} cannot be run on these images: {shortened(said, 300)}") from error


class ShownClass(NamedTuple):
    """A predicted class as a picture shows it."""

    text: str
    colour: str


class Images(NamedTuple):
    """Pixels float32 (N, C, H, W) in [0, 1], labels int64 (N,), and the names of the classes."""

    x: Tensor
    y: Tensor
    #: The name of each class, as the set has it.
    class_names: tuple[str, ...]
    #: The same for pictures: on one line, and all different.
    class_labels: tuple[str, ...]

    def class_name(self, number: int) -> str | None:
        """Return the name of a class; ``None`` for an output of the network that is no class of the set."""
        return self.class_names[number] if number < len(self.class_names) else None

    def fitted_class(self, number: int, inches: float, size: float, lines: int, *, before: str = "") -> str:
        """Return how a class is shown, after the words ``before``, in at most so many lines of this width.

        Args:
            number: of the class.
            inches: the width of a line.
            size: of the letters, in points.
            lines: as many as there may be.
            before: words before the name.
        """
        if number < len(self.class_labels):
            return fitted_name(number, self.class_labels, inches, size, lines, before=before)
        return fitted(f"{before}class {number}", inches, size, lines)

    def prediction(
        self, row: int, number: int, inches: float, size: float, lines: int, *, goal: int | None = None
    ) -> ShownClass:
        """Return the class that is predicted for an image of this row, after what that is worth to the attack.

        ``wrong:`` is before a wrong class; where the attack was to reach one, ``reached:`` is before it, and before any
        other ``missed:``.
        """
        wrong = number != int(self.y[row])
        succeeded = wrong and goal in (None, number)
        failure, success = ("", "wrong: ") if goal is None else ("missed: ", "reached: ")
        text = self.fitted_class(number, inches, size, lines, before=success if succeeded else failure)
        return ShownClass(text, WRONG if succeeded else SOFT)


def network(source: Source, model: ModelRef, data: DataRef) -> nn.Module:
    """Return a base classifier with its weights, in evaluation mode.

    Raises:
        Missing: the weights are not here, or the network cannot be built, or is not Crossfire's own and not trusted.
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
            if weights.sha256(path) != model.weights.sha256:
                raise Missing(f"{path} has changed since it was measured")
        with torch.random.fork_rng(devices=[]):
            net = weights.classifier(model, data, path).net
    return net.eval().requires_grad_(False)


def clean_images(source: Source, data: DataRef) -> Images:
    """Return the images of a cell.

    Raises:
        Missing: they are not on this machine, or are other images, or lie in a folder that is not trusted.
    """
    with _missing():
        image_set, rows = outside.images(data, source.data_folder, trusted=source.trusted)
    pixels, labels = image_set.at(rows)
    x, y = torch.from_numpy(np.array(pixels)), torch.from_numpy(np.array(labels))
    return Images(x.float() / 255, y.long(), image_set.class_names, class_labels(image_set.class_names))


def _training_images(source: Source, data: DataRef) -> Tensor:
    """Return images uint8 (N, C, H, W)."""
    with _missing():
        image_set, rows = outside.images(data, source.data_folder, trusted=source.trusted)
    return torch.from_numpy(np.array(image_set.at(rows)[0]))


class AdversarialSet(NamedTuple):
    """Adversarial images (N, C, H, W), and the class that each was to be given (N,), ``ANY`` where any wrong one."""

    images: Tensor
    goals: Tensor


def adversarial(source: Source, attack: AttackRef) -> AdversarialSet:
    """Return an adversarial set.

    Raises:
        Missing: it is not complete in this store, or its clean images are missing.
    """
    folder, n = source.store.adversarial(attack_key(attack)), attack.data.n
    x = clean_images(source, attack.data).x
    chunks: list[Crafted] = []
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        chunk = read_chunk(folder / f"{first:06d}-{last:06d}.safetensors", x[first:last], attack.threat)
        if chunk is None:
            raise Missing(
                f"the adversarial images of {attack.attack.name} are not in this store: figures of networks need the "
                "store that they were made in"
            )
        chunks.append(chunk)
    joined = Crafted.joined(chunks)
    return AdversarialSet(joined.images, torch.full((n,), ANY) if joined.goals is None else joined.goals)


def purified(p: Purification, x: Tensor) -> Tensor:
    """Return the images that the network gets from a test-time step, for images (N, C, H, W).

    Raises:
        Missing: the step does not give the network one image for each, or it is fitted on training images that are not
            on this machine.
    """
    with _missing():
        defense = deploy(p.net, p.step, p.training, p.score)
    defense.seed("figures")
    inputs: list[Tensor] = []
    last_inputs: list[Tensor] = []
    with (
        running(p.step.name),
        _watching(p.net, lambda received: inputs.append(received.detach())),
        torch.no_grad(),
    ):
        for part in torch.split(x, _BATCH_IMAGES):
            defense.deployed(part)
            last_inputs.append(inputs[-1])
            inputs.clear()
    images = torch.cat(last_inputs)
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
    """Return the predicted classes (N,).

    Raises:
        Missing: the network cannot be run on these images.
    """
    with running("the network"):
        return torch.cat([net(part).argmax(1) for part in torch.split(x, _BATCH_IMAGES)])


@torch.no_grad()
def penultimate(net: nn.Module, x: Tensor) -> np.ndarray:
    """Return the input of the last linear layer, (N, features).

    Raises:
        Missing: the network has no linear layer.
    """
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise Missing("the network has no linear layer, so no penultimate features")
    features: list[Tensor] = []
    with running("the network"), _watching(linear[-1], lambda inputs: features.append(inputs.flatten(1))):
        for part in torch.split(x, _BATCH_IMAGES):
            net(part)
    return torch.cat(features).numpy()


def last_map(net: nn.Module, x: Tensor) -> nn.Module:
    """Return the last module that gives a map (N, C, h, w) of more than one pixel, for Grad-CAM.

    Raises:
        Missing: no module does.
    """
    with_map: list[nn.Module] = []

    def hook(module: nn.Module, _: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            with_map.append(module)

    handles = [module.register_forward_hook(hook) for module in net.modules()]
    try:
        with running("the network"), torch.no_grad():
            net(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not with_map:
        raise Missing("the network has no layer that gives a map")
    return with_map[-1]


class Purification(NamedTuple):
    """A purified network, the strongest static attack on it, and the images."""

    name: str
    cell: CellResult
    attack: AttackRef
    step: MethodRef
    net: nn.Module
    images: Images
    adversarial: Tensor
    #: Gives the images that its network was trained on, uint8; ``None`` where it was trained elsewhere.
    training: Callable[[], Tensor] | None
    #: The network that the step predicts noise with, if it has one.
    score: nn.Module | None
    #: The title of a figure.
    title: str
    #: Accuracy under this attack, in [0, 1], where it sees the step; ``None`` where that was not measured.
    adaptive: float | None

    @property
    def names(self) -> dict[str, Any]:
        """Its data set, network, defense and attack, and accuracy under it by access, for the JSON of a figure."""
        names = self.cell.names
        return {
            "dataset": names.dataset,
            "model": names.model,
            "defense": self.name,
            "attack": names.attack,
            "threat": threat_text(self.attack.threat),
            "access": names.access,
            "accuracy_under_attack": {"static": _under_attack(self.cell), "adaptive": self.adaptive},
        }

    @property
    def accuracies(self) -> str:
        """What a static attack flatters, in one sentence."""
        static, adaptive = _percent(_under_attack(self.cell)), _percent(self.adaptive)
        return f"Accuracy under this attack, gray-box (static): {static}; adaptive: {adaptive}."


def purification(source: Source) -> Purification:
    """Return the step that static attacks flatter the most, on the longest list of images.

    Raises:
        Missing: there is none, or its weights, images or adversarial set are not here.
    """
    best = _most_flattered(source)
    assert best.cell.attack is not None and best.cell.step is not None
    with _missing():
        require_own(best.cell.step, trusted=source.trusted)
    defense, attack = source.board.labels[best.key]
    weights, score = best.cell.model.weights, best.cell.step.score
    return Purification(
        name=defense,
        cell=best,
        attack=best.cell.attack,
        step=best.cell.step,
        net=network(source, best.cell.model, best.cell.data),
        images=clean_images(source, best.cell.data),
        adversarial=adversarial(source, best.cell.attack).images,
        training=(lambda: _training_images(source, weights.data)) if isinstance(weights, TrainRef) else None,
        score=None if score is None else network(source, score, best.cell.data),
        # It comes first, since long titles are cut at their end.
        title=f"{ACCESS_WORDS['static']}, {without_eps(attack)}, {threat_text(best.cell.attack.threat)}: "
        f"{defense} on {best.names.dataset} · {best.names.model}",
        adaptive=_adaptive(source, best),
    )


def _adaptive(source: Source, static: CellResult) -> float | None:
    """Return the accuracy under the attack of a static cell where it sees the step, too: the least of several."""
    shares = (
        _under_attack(r)
        for r in source.results
        if r.names.access == "adaptive" and r.cell.step == static.cell.step and _attacked(r) == _attacked(static)
    )
    return min((share for share in shares if share is not None), default=None)


def _under_attack(r: CellResult) -> float | None:
    """Return the accuracy under the attack of a cell, or robust accuracy where only that was kept."""
    if r.metrics is None:
        return None
    share = r.metrics.accuracy_under_attack
    return r.metrics.robust_accuracy if share is None else share


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def _most_flattered(source: Source) -> CellResult:
    """Return the static cell whose robust accuracy is the most above that of its bare network."""
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

    bare = {_attacked(r): _robust(r) for r in source.results if r.cell.step is None and r.cell.attack}

    def order(r: CellResult) -> tuple[int, float, float, str]:
        return r.cell.data.n, round(_robust(r) - bare.get(_attacked(r), _robust(r)), 9), _robust(r), r.key

    return max(cells, key=order)


def _attacked(r: CellResult) -> str:
    """Return the images, the network and the attack of a cell; of one without attack, what no other has."""
    cell = r.cell
    if cell.attack is None:
        return r.key
    return f"{cell.data.indices_sha} {cell.model.model_dump_json()} {r.names.attack} {cell.attack.threat}"


def _robust(r: CellResult) -> float:
    return r.metrics.robust_accuracy if r.metrics else 0.0


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
    """Return the rows with the highest scores (N,), each of another class as long as there are more classes."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    firsts = list({int(labels[index]): index for index in reversed(order)}.values())
    best = sorted(firsts, key=order.index)[:count]
    return [*best, *(index for index in order if index not in best)][:count]
