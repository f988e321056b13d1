"""Watching a training run from outside: accuracies on fixed images after each epoch, and what they say in the end.

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
from bench.evaluation.target import Meter, NetworkTarget, auto_batch, parts
from bench.models.logits import judged
from bench.process.isolation import frozen
from bench.types import MethodRef, Threat

#: The attacks after each epoch, with the parameters that differ from their own defaults. The gradient of a network that
#: FGSM training has overfitted can vanish at an image: PGD does not move there; momentum carries MI-FGSM further.
MONITOR_ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fgsm": ("fgsm", {}),
    "pgd20": CHOOSING,
    "mi10": ("mi-fgsm", {"steps": 10}),
}


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


def measure(
    net: nn.Module,
    part: Part,
    threat: Threat,
    check: Callable[[], None] | None = None,
    known: dict[str, int] | None = None,
) -> dict[str, float]:
    """Return clean accuracy and accuracy under each attack of ``WATCH``, whatever the clean answer.

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
    """Return how many of some images are right, as they are or under an attack of ``WATCH``."""
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
        log: its rows, with the accuracies of :func:`measure` under ``test`` and ``train``.
        monitored: on how many images they were measured.

    Returns:
        ``catastrophic``: at the end an attack of several steps leaves right fewer than half of the test images that
        FGSM leaves right, and 0.15 of all images fewer. ``robust``: test accuracy under PGD ended more than 0.05 below
        its best, with accuracy on training images above what it was then. The margins of 0.15 and 0.05 are two standard
        errors where those are more. ``regime``: the one that holds, in words. And the figures they rest on.
    """
    last = log[-1]
    best = max(log, key=lambda row: row["test"]["pgd20"])
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
