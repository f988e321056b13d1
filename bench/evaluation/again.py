"""Predictions repeated: images that were judged elsewhere are given to the same defense again, with the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.chunks import majority
from bench.evaluation.counted import Counted, counted
from bench.evaluation.craft import CHUNK, craft
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.device_cache import Classifier
from bench.evaluation.goals import ANY
from bench.evaluation.predict import Answer, predict
from bench.evaluation.probe import FEW, ProbeImages
from bench.evaluation.target import auto_batch
from bench.keys import clean_cell, seed_of
from bench.types import Cell

Kind = Literal["clean", "attacked"]
Array = np.ndarray


class Judged(NamedTuple):
    """Images that were judged before, and what was answered then, all in one order.

    Attributes:
        images: uint8, or float32 in [0, 1] (n, C, H, W).
        labels: the true ones (n,).
        answers: what was answered (n,).
        shares: of a random defense, the share of its draws on which an image held (n,).
        targets: the classes that images were to be given (n,), -1 where there is none.
    """

    images: Array
    labels: Array
    answers: Array
    shares: Array | None = None
    targets: Array | None = None


class Repeated(NamedTuple):
    """What is answered now to some images.

    Attributes:
        positions: of these images (k,).
        answers: to each (k,).
        unbroken: whether it holds (k,), bool.
        differing: the positions of images whose answer, or whose share of draws, is another than stated.
        gaps: how near each of those is to being answered as stated: the smallest distance, over draws, between the
            logit of the stated class and the highest other.
        margin: the mean distance between the true logit and the highest other, over all of these images.
        draws: how often each was asked about: once where the defense does not draw.
    """

    positions: Array
    answers: Array
    unbroken: Array
    differing: Array
    gaps: Array
    margin: float
    draws: int


def chunks(n: int) -> Sequence[slice]:
    """Return the chunks in which ``n`` images are judged: what a random defense draws depends on them."""
    return [slice(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]


@dataclass(frozen=True)
class Again:
    """Asks the deployed defense of a cell again, each time a fresh instance, as the measurement of the cell did.

    Args:
        cell: that was measured.
        classifier: under its test-time step, on its device.
        score: the network that the step predicts noise with, if it has one.
        training: gives training images to a step that is fitted on some.
        device: of the classifier.
        check: called between batches.
    """

    cell: Cell
    classifier: Classifier
    score: Classifier | None
    training: Callable[[], Tensor] | None
    device: torch.device
    check: Callable[[], None]

    def repeated(self, kind: Kind, judged: Judged, parts: Sequence[slice]) -> Repeated:
        """Return what is answered now.

        Args:
            kind: what the images are.
            judged: the images and what was answered.
            parts: which of the :func:`chunks` are asked, in rising order.

        Raises:
            MethodError: the defense broke its contract.
        """
        ask = partial(self._asked, kind, judged)
        positions = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        found = [(answer, part) for answer, part in ask(self._fresh(), parts, judged.targets)]
        labels = torch.cat([_answers(answer, judged, part) for answer, part in found]).numpy()
        shares = torch.cat([answer.unbroken.float().mean(0).cpu() for answer, _ in found]).numpy()
        is_other = labels != judged.answers[positions]
        if judged.shares is not None:
            is_other |= shares != judged.shares[positions]
        margins = torch.cat([answer.margins.abs().mean(0).cpu() for answer, _ in found]).double()
        differing = positions[is_other]
        gaps, draws = self._gaps(ask, judged, differing), len(found[0][0].labels)
        return Repeated(positions, labels, shares > 0.5, differing, gaps, float(margins.mean()), draws)

    def counted(self, judged: Judged) -> Counted:
        """Return what is counted of the defense, by asking a fresh instance about the first images again.

        Args:
            judged: the clean images.

        Raises:
            MethodError: the defense broke its contract.
        """
        batch = auto_batch(self.cell.data.image_shape, self.device)
        some = slice(0, 2 * min(FEW, batch))
        x, y = (torch.from_numpy(each[some]).to(self.device) for each in (judged.images, judged.labels))
        seed, score = seed_of(clean_cell(self.cell)), self.score and self.score.net
        probe = ProbeImages(self.classifier.net, x.float() / 255, y, seed, "checks", score=score)
        probe.answers(self._fresh(), probe.few, "first")
        return counted(self.cell, self.classifier, self.score, probe.cost())

    def crafted(self, clean: Judged, rows: Array, parts: Sequence[slice]) -> Iterator[tuple[Array, slice]]:
        """Yield what the attack of the cell makes now of each of the :func:`chunks`, float32 (n, C, H, W).

        Args:
            clean: the clean images.
            rows: their numbers in the set (N,), on which draws depend.
            parts: which chunks.

        Raises:
            MethodError: the attack raised.
        """
        ref, batch = self.cell.attack, auto_batch(self.cell.data.image_shape, self.device)
        assert ref is not None
        for part in parts:
            x, y, numbers = (
                torch.from_numpy(each[part]).to(self.device) for each in (clean.images, clean.labels, rows)
            )
            made = craft(
                ref,
                self.classifier.net,
                x.float() / 255,
                y,
                numbers,
                key=seed_of(ref),
                batch=batch,
                check=self.check,
                training=self.training,
                score=self.score and self.score.net,
            )
            yield made.images.cpu().numpy(), part

    def _gaps(self, ask: Callable[..., Iterator[tuple[Answer, slice]]], judged: Judged, differing: Array) -> Array:
        parts = [
            part for part in chunks(len(judged.labels)) if ((part.start <= differing) & (differing < part.stop)).any()
        ]
        gaps = np.full(len(judged.labels), np.nan)
        for answer, part in ask(self._fresh(), parts, judged.answers):
            gaps[part] = answer.margins.abs().amin(0).cpu().double().numpy()
        found: Array = gaps[differing]
        return found

    def _fresh(self) -> DeployedDefense:
        return deploy(self.classifier.net, self.cell.step, self.training, self.score and self.score.net)

    def _asked(
        self, kind: Kind, judged: Judged, step: DeployedDefense, parts: Sequence[slice], goals: Array | None
    ) -> Iterator[tuple[Answer, slice]]:
        """Yield the answers to each chunk; margins are towards ``goals`` where there are some."""
        cell = clean_cell(self.cell) if kind == "clean" else self.cell
        seed, batch = seed_of(cell), auto_batch(self.cell.data.image_shape, self.device)
        for part in parts:
            images = torch.from_numpy(judged.images[part]).to(self.device)
            x = images.float() / 255 if images.dtype == torch.uint8 else images
            y = torch.from_numpy(judged.labels[part]).to(self.device)
            to = None if goals is None else torch.from_numpy(goals[part]).to(self.device)
            place = (seed, kind, part.start)
            yield predict(step, self.classifier.net, x, y, batch, seed=place, check=self.check, goals=to), part


def _answers(answer: Answer, judged: Judged, part: slice) -> Tensor:
    """Return the label (N,) that most draws give, the true one or the target only where more than half give it."""
    y = torch.from_numpy(judged.labels[part])
    if judged.targets is not None:
        targets = torch.from_numpy(judged.targets[part])
        y = torch.where(targets == ANY, y, targets)
    return majority(answer.labels.cpu(), y)
