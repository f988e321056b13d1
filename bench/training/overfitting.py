"""Watching a training run from outside: accuracies on fixed images after epochs, and what they say in the end.

Two things are called overfitting and are kept apart here. Catastrophic overfitting (Wong et al., 2020): the network
resists FGSM and falls to attacks of several steps. Robust overfitting (Rice et al., 2020): accuracy under PGD on test
images falls from its best while on training images it rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.config.expand import CHOOSING
from bench.evaluation.passes import passes_of
from bench.evaluation.target import Meter, NetworkTarget, auto_batch, parts
from bench.models.logits import judged
from bench.process.isolation import frozen
from bench.store.account import spending
from bench.types import MethodRef, Passes, Schedule, Threat

#: The attacks after an epoch, with the parameters that differ from their own defaults. The gradient of a network that
#: FGSM training has overfitted can vanish at an image: PGD does not move there; momentum carries MI-FGSM further.
MONITOR_ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fgsm": ("fgsm", {}),
    "pgd20": CHOOSING,
    "mi10": ("mi-fgsm", {"steps": 10}),
}

# This share of the training set's size is measured, within limits, on training and on test images.
_WATCHED_SHARE = 1 / 50
_FEWEST_WATCHED = 100
_MOST_WATCHED = 256
#: Training images up to which every epoch is measured; of more, measuring takes at most this share of the passes.
_EVERY_EPOCH_UP_TO, _MEASURING_SHARE = 10_000, 0.03


class Part(NamedTuple):
    """Images uint8 (N, C, H, W) and labels (N,), on the device."""

    images: Tensor
    labels: Tensor


def watched_threat(recipe: MethodRef) -> Threat:
    """Return what is watched during a recipe: its own threat, else 8/255 in L∞.

    Its own is one whose norm FGSM and PGD know, and whose ``eps`` is a budget.
    """
    eps, norm = recipe.params.get("eps"), recipe.params.get("norm", "linf")
    if eps is None or norm not in ("linf", "l2"):
        return Threat()
    try:
        return Threat.model_validate({"norm": norm, "eps": eps})
    except ValueError:
        return Threat()


def watched_images(rows: int) -> int:
    """Return on how many training images, and as many test images, a training on ``rows`` images is measured."""
    return int(min(max(_WATCHED_SHARE * rows, _FEWEST_WATCHED), _MOST_WATCHED))


def passes_per_image() -> Passes:
    """Return the passes that :func:`measure` takes for each image, as its attacks state them."""
    clean = Passes(1, 0)
    for name, params in MONITOR_ATTACKS.values():
        entry = registry.find("attack", name)
        stated = passes_of(str(entry.meta.get("passes")), entry.arguments(params)) or Passes(0, 0)
        clean = Passes(clean.forwards + stated.forwards + 1, clean.backwards + stated.backwards)
    return clean


def measuring_interval(schedule: Schedule, rows: int, passes: float) -> int:
    """Return the epochs between two measurements of the watched images; see :func:`is_measured`.

    It is ``measure_every`` of the schedule where that is given. Otherwise every epoch is measured of up to 10,000
    images; of more, so few that measuring them takes at most 3 % of the passes of the whole training, if more than its
    first and its last epoch are measured at all.

    Args:
        schedule: of the training.
        rows: images to train on.
        passes: forward and backward passes of an epoch of training, over all its images.
    """
    if schedule.measure_every is not None:
        return schedule.measure_every
    measuring = 2 * watched_images(rows) * sum(passes_per_image())
    if rows <= _EVERY_EPOCH_UP_TO or measuring <= _MEASURING_SHARE * passes:
        return 1
    affordable = math.floor(_MEASURING_SHARE * passes * schedule.epochs / measuring)
    # The first and the last epoch are measured besides the multiples of the interval.
    return schedule.epochs // (max(affordable - 2, 0) + 1) + 1


def is_measured(epoch: int, epochs: int, interval: int) -> bool:
    """Say whether an epoch, counted from 1, is measured: the first, the last, and every multiple of the interval."""
    return epoch in (1, epochs) or epoch % interval == 0


def measurements(epochs: int, interval: int) -> int:
    """Return how many of the ``epochs`` are measured."""
    return min(epochs, epochs // interval + (interval > 1) + (epochs % interval > 0))


@spending("measuring")
def measure(
    net: nn.Module,
    part: Part,
    threat: Threat,
    check: Callable[[], None] | None = None,
    known: dict[str, int] | None = None,
) -> dict[str, float]:
    """Return clean accuracy and accuracy under each attack of ``MONITOR_ATTACKS``, whatever the clean answer.

    Draws are the same at every call.

    Args:
        net: the network.
        part: what is measured.
        threat: of the attacks.
        check: called before every batch; its exceptions pass through.
        known: counts of earlier calls that were ended, by attack and first image of a batch; new ones are added.
    """
    counts = {} if known is None else known
    batch = auto_batch(tuple(part.images.shape[1:]), part.images.device)  # type: ignore[arg-type]
    right = dict.fromkeys(("clean", *MONITOR_ATTACKS), 0)
    with frozen(net), torch.no_grad():
        for label in right:
            for s in parts(len(part.labels), batch):
                if (batch_id := f"{label} {s.start}") not in counts:
                    if check is not None:
                        check()
                    counts[batch_id] = _right(net, part, s, threat, label, batch)
                right[label] += counts[batch_id]
    return {label: count / len(part.labels) for label, count in right.items()}


def _right(net: nn.Module, part: Part, s: slice, threat: Threat, label: str, batch: int) -> int:
    """Return how many of some images are right, as they are or under an attack of ``MONITOR_ATTACKS``."""
    x, y = part.images[s].float() / 255, part.labels[s]
    names = torch.arange(s.start, s.stop, device=x.device)
    with Meter(net, len(x)) as meter:
        classes = net(x[:1]).shape[1]
        target = NetworkTarget(net, meter, names, seed=0, num_classes=classes, batch=batch)
        if label in MONITOR_ATTACKS:
            name, params = MONITOR_ATTACKS[label]
            entry = registry.find("attack", name)
            x = entry.load()(target, x, y, threat, **entry.arguments(params))
        labels, _ = judged(target(x), y)
    return int((labels == y).sum())


def verdict(log: Sequence[Mapping[str, Any]], monitored: int) -> dict[str, Any]:
    """Say in which regime a training run ended.

    Args:
        log: its rows; those of measured epochs, of which the last is one, have the accuracies of :func:`measure` under
            ``test`` and ``train``.
        monitored: on how many images they were measured.

    Returns:
        ``catastrophic``: at the end an attack of several steps leaves right fewer than half of the test images that
        FGSM leaves right, and 0.15 of all images fewer. ``robust``: test accuracy under PGD ended more than 0.05 below
        its best, with accuracy on training images above what it was then. The margins of 0.15 and 0.05 are two standard
        errors where those are more. ``regime``: the one that holds, in words. And the figures they rest on.
    """
    measured = [row for row in log if "test" in row]
    last = measured[-1]
    best = max(measured, key=lambda row: row["test"]["pgd20"])
    fgsm, left = last["test"]["fgsm"], min(last["test"][name] for name in last["test"].keys() - {"clean", "fgsm"})
    fall = best["test"]["pgd20"] - last["test"]["pgd20"]
    noise = 2 * math.sqrt(0.5 / monitored)
    catastrophic = left < fgsm / 2 and fgsm - left > max(0.15, noise)
    robust = not catastrophic and fall > max(0.05, noise) and last["train"]["pgd20"] > best["train"]["pgd20"]
    regime = "robust-overfitting" if robust else "none"
    if catastrophic:
        regime = "catastrophic-overfitting"
    return {
        "regime": regime,
        "catastrophic": catastrophic,
        "robust": robust,
        "last_fgsm": fgsm,
        "last_several_steps": left,
        "best_pgd20": best["test"]["pgd20"],
        "best_epoch": best["epoch"],
        "last_pgd20": last["test"]["pgd20"],
        "train_minus_test_pgd20": last["train"]["pgd20"] - last["test"]["pgd20"],
    }
