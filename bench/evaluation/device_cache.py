"""What a run holds on its device: test images and base classifiers, each read once."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import open_ref, rows_of
from bench.data.mapped import forget
from bench.data.room import HELD_BYTES
from bench.evaluation.cost import PassFlops, parameters, pass_flops
from bench.evaluation.craft import CHUNK, attack_group_size
from bench.keys import training_key
from bench.models import live, weights
from bench.models.layout import fast_layout
from bench.process.isolation import checksums, isolated, seal
from bench.store.account import spending
from bench.types import DataRef, MethodError, ModelRef, TrainRef, UsageError, WeightsRef

_log = logging.getLogger("crossfire")


class Classifier(NamedTuple):
    """A base classifier in its fastest layout; FLOPs of a pass, parameters as trained, and a note on the layout.

    The score of a purifier is one as well: it predicts noise, and its layout is the usual one.
    """

    net: nn.Module
    flops: PassFlops
    params: int
    layout: str


@dataclass
class MappedPixels:
    """Pixels uint8 (N, C, H, W) of many or large images, read from the map of their file where they are needed.

    Attributes:
        images: the map, of at least these images.
        places: where they are in it (N,).
    """

    images: np.ndarray
    places: np.ndarray

    device = torch.device("cpu")

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.places), *self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, s: slice) -> Tensor:
        pixels = torch.from_numpy(self.images[self.places[s]])
        forget(self.images)
        return pixels


@dataclass
class Images:
    """Test images on the device: uint8 pixels (N, C, H, W), labels (N,), and their row numbers in the set (N,)."""

    x: Tensor | MappedPixels
    y: Tensor
    rows: Tensor

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield chunks: the first row, float32 pixels in [0, 1], labels, row numbers."""
        for s in self.chunks():
            yield s.start, *self.part(s)

    def part(self, s: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return float32 pixels in [0, 1], labels and row numbers, as copies."""
        return self.x[s].float() / 255, self.y[s].clone(), self.rows[s].clone()

    def hashes(self) -> Iterator[str]:
        """Yield the first 16 hexadecimal digits of the SHA-256 of the pixels of each image."""
        for s in self.chunks():
            for image in self.x[s].cpu().numpy():
                yield hashlib.sha256(image.tobytes()).hexdigest()[:16]

    def chunks(self, within: slice | None = None) -> Iterator[slice]:
        """Yield the chunks of all images, or of a group."""
        return _cut(within or slice(0, len(self.x)), CHUNK)

    def groups(self) -> Iterator[slice]:
        """Yield the chunks that are attacked together, as one."""
        return _cut(slice(0, len(self.x)), attack_group_size(tuple(self.x.shape[1:]), self.x.device))  # type: ignore[arg-type]


def _weights_file(model: ModelRef, path: Callable[[], Path]) -> Path | None:
    """Return the file of weights; ``None`` for a network that was handed over with them.

    Raises:
        UsageError: it is not the one that the plan was made for.
    """
    ref = model.weights
    file = None if isinstance(ref, WeightsRef) and live.is_live(ref.name) else path()
    if file is not None and isinstance(ref, WeightsRef) and weights.sha256(file) != ref.sha256:
        raise UsageError(f"{file} has changed since the plan was made; run it again")
    return file


def _cut(images: slice, length: int) -> Iterator[slice]:
    for first in range(images.start, images.stop, length):
        yield slice(first, min(first + length, images.stop))


def read_only(array: np.ndarray) -> Tensor:
    """Return an array as a tensor that is never written to, without a copy: it may be the map of a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass
class DeviceCache:
    """Reads images and weights at the first need, and keeps what the next cells need again."""

    device: torch.device
    data_folder: Path | None
    _images: dict[str, Images] = field(default_factory=dict)
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _seals: dict[str, dict[str, int]] = field(default_factory=dict)
    _scores: dict[str, Classifier] = field(default_factory=dict)
    _offered: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Else a GPU may take sums in another order each time, and a step on a gradient's sign answer another way.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    def hold(self, ref: DataRef, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
        """Keep test images that are at hand, so that their set is not opened.

        Args:
            ref: what they are.
            pixels: uint8 (n, C, H, W).
            labels: (n,).
            rows: their numbers in the set (n,).
        """
        x, y, numbers = (torch.from_numpy(each).to(self.device) for each in (pixels, labels, rows))
        self._images[ref.data_sha + ref.indices_sha] = Images(x, y, numbers)

    def offer(self, model: ModelRef, net: nn.Module) -> None:
        """Keep a network that was just built with its weights for its first use, if it is the first offered."""
        # Of many, each would take memory until its turn.
        if not self._offered:
            self._offered[training_key(model)] = net

    def classifier(self, model: ModelRef, data: DataRef, path: Callable[[], Path]) -> Classifier:
        """Return a base classifier; ``path`` gives its weights where they must be read.

        One whose parameters or buffers have changed since is read again.

        Raises:
            UsageError: a weights file does not fit, or is not the one that the plan was made for.
        """
        key = training_key(model)
        self._forget_changed(self._classifiers, model)
        if key not in self._classifiers:
            file = _weights_file(model, path)
            with spending("networks"), isolated(f"network {model.network.name}"):
                net = self._built(model, data, file)
                # Counted before the layout changes: torch 2.15 corrupts memory in the weight gradient of one large
                # image whose weights are channels-last.
                flops = pass_flops(net.to(self.device).eval(), data.image_shape)
                fast = fast_layout(net, self.test(data).x[:4].float() / 255)
            layout = "channels-last, " + (fast.note or "batch norm folded") + self._rounding()
            read = Classifier(fast.net, flops, parameters(net), layout)
            # Two are enough: the cells of a plan are grouped by classifier, and a transfer needs one more.
            self._classifiers = dict([*self._classifiers.items()][-1:]) | {key: read}
            self._seals[key] = seal(read.net)
        return self._classifiers[key]

    def score(self, model: ModelRef, data: DataRef, path: Callable[[], Path]) -> Classifier:
        """Return the network that a purifier predicts noise with, frozen; ``path`` as for :meth:`classifier`.

        Raises:
            UsageError: as :meth:`classifier`.
        """
        key = training_key(model)
        self._forget_changed(self._scores, model)
        if key not in self._scores:
            file = _weights_file(model, path)
            with spending("networks"), isolated(f"network {model.network.name}"):
                net = self._built(model, data, file).to(self.device).eval()
                flops = pass_flops(net, data.image_shape)
            # One is enough: a row has one.
            self._scores = {key: Classifier(net.requires_grad_(False), flops, parameters(net), "")}
            self._seals[key] = seal(net)
        return self._scores[key]

    def _built(self, model: ModelRef, data: DataRef, file: Path | None) -> nn.Module:
        if (key := training_key(model)) in self._offered:
            return self._offered.pop(key)
        return weights.classifier(model, data, file).net

    def _forget_changed(self, known: dict[str, Classifier], model: ModelRef) -> None:
        key = training_key(model)
        if key in known and checksums(known[key].net) != self._seals[key]:
            _log.warning("a method changed the weights of %s; they are read again", model.network.name)
            del known[key]

    def require_unchanged(self, *models: ModelRef) -> None:
        """Raises MethodError: a network is no longer what was read, so nothing measured on it counts."""
        # Attacked and defended are mostly the same.
        for key, model in {training_key(model): model for model in models}.items():
            known = self._classifiers.get(key) or self._scores.get(key)
            if known is not None and checksums(known.net) != self._seals[key]:
                name = model.network.name
                raise MethodError(
                    f"the weights of {name} were changed meanwhile, perhaps by a thread that a method left"
                )

    def _rounding(self) -> str:
        # NVIDIA's own switch counts above torch's.
        rounds = torch.backends.cudnn.allow_tf32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
        return ", convolutions in TF32" if self.device.type == "cuda" and rounds else ""

    @spending("images")
    def rows(self, ref: DataRef) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pixels, labels and row numbers of a list of images; the pixels may be read-only."""
        images = open_ref(ref, folder=self.data_folder)
        rows = rows_of(images, ref)
        return *images.at(rows), rows

    @spending("images")
    def test(self, ref: DataRef) -> Images:
        """Return test images on the device."""
        if (key := ref.data_sha + ref.indices_sha) not in self._images:
            images = open_ref(ref, folder=self.data_folder)
            rows = rows_of(images, ref)
            places = images.places(rows)
            y, numbers = (torch.from_numpy(each).to(self.device) for each in (images.labels[places], rows))
            self._images[key] = Images(self._pixels(MappedPixels(images.images, places)), y, numbers)
        return self._images[key]

    def _pixels(self, mapped: MappedPixels) -> Tensor | MappedPixels:
        """Return the pixels on the device; on the CPU, those that take much memory stay in their file."""
        if self.device.type == "cpu" and math.prod(mapped.shape) > HELD_BYTES:
            return mapped
        pixels = torch.empty(mapped.shape, dtype=torch.uint8, device=self.device)
        for s in _cut(slice(0, len(mapped)), CHUNK):
            pixels[s] = mapped[s].to(self.device)
        return pixels

    def training_images(self, model: ModelRef) -> Callable[[], Tensor] | None:
        """Return what reads the images uint8 (N, C, H, W) that a classifier was trained on, if it was trained here."""
        ref = model.weights
        return (lambda: torch.from_numpy(np.array(self.rows(ref.data)[0]))) if isinstance(ref, TrainRef) else None
