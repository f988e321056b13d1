"""The cascade beside several runs of AutoAttack, also on networks whose gradients are masked or rough.

``python -m tests.perf.masked`` trains a small network on digits and gives the same images to the cascade and to
standard AutoAttack, each with seeds of its own. ``missed`` is how many images, in the mean over pairs of runs, stand
under the cascade that AutoAttack breaks, and ``between`` how many stand under one run of AutoAttack that another
breaks: where a run has luck of its own no attack misses none. ``gained`` is the reverse of ``missed``. The figures are
kept in ``results/perf``, and the table in docs/adaptive.md is made of them; exit code 1 if the cascade misses more than
a run of AutoAttack does, or takes over half as many passes more, on a network whose gradients lead more than a fifth of
them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.api import Threat
from defenses.jpeg import Jpeg
from tests.attacks.conftest import trained
from tests.attacks.driving import Case, drive, right
from tests.attacks.test_cascade import Flattened, KWinners, Quantised
from tests.perf.kept import Limits, keep, missed

#: Runs of each attack, and images.
RUNS, IMAGES = 3, 100
#: Of networks whose gradients are masked or rough, and of those whose gradients lead where they promise.
PROMISED: Limits = {"excess": (None, 0.0), "share": (None, 1.5)}
PROMISED_OF_PLAIN: Limits = {"missed": (None, 0.0), "share": (None, 0.2)}


def plain(net: nn.Module) -> nn.Module:
    return net


def jpeg(net: nn.Module) -> nn.Module:
    """Attacked with the gradient of straight-through rounding."""
    return Jpeg(quality=50).surrogate(net)


def k_winners(net: nn.Module) -> nn.Module:
    return nn.Sequential(*(KWinners() if isinstance(layer, nn.ReLU) else layer for layer in net.children()))


class Task(NamedTuple):
    """A network made of the trained one, and a threat."""

    name: str
    made: Any
    threat: Threat
    limits: Limits = PROMISED


TASKS = (
    Task("plain linf 1/10", plain, Threat(norm="linf", eps="1/10"), PROMISED_OF_PLAIN),
    Task("plain l2 7/10", plain, Threat(norm="l2", eps="7/10"), PROMISED_OF_PLAIN),
    Task("jpeg linf 15/100", jpeg, Threat(norm="linf", eps="15/100")),
    Task("jpeg l2 7/10", jpeg, Threat(norm="l2", eps="7/10")),
    Task("k-winners linf 1/10", k_winners, Threat(norm="linf", eps="1/10")),
    Task("k-winners l2 6/10", k_winners, Threat(norm="l2", eps="6/10")),
    Task("quantised linf 15/100", Quantised, Threat(norm="linf", eps="15/100")),
    Task("flattened linf 15/100", Flattened, Threat(norm="linf", eps="15/100")),
    Task("flattened l2 7/10", Flattened, Threat(norm="l2", eps="7/10")),
)


class Runs(NamedTuple):
    """Which images stand after each of several runs (N,), and the passes of an image in the mean."""

    standing: list[Tensor]
    passes: float


def run(net: nn.Module, use: str, x: Tensor, y: Tensor, threat: Threat, seeds: Iterable[int]) -> Runs:
    parameters = {"version": "standard"} if use == "autoattack" else {}
    standing: list[Tensor] = []
    passes: list[float] = []
    for seed in seeds:
        driven = drive(net, use, x, y, threat, seed=seed, **parameters)
        standing.append(right(net, driven.images, y))
        passes.append(float((driven.forwards + driven.backwards).mean()))
    return Runs(standing, mean(passes))


def broken_by_the_other(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return how many images stand in the first of two runs and not in the second, in the mean over pairs."""
    return mean(int((first & ~second).sum()) for first, second in pairs)


def measure(case: Case, task: Task) -> dict[str, float]:
    net = task.made(case.net).eval().requires_grad_(False)
    kept = right(net, case.x, case.y)
    x, y = case.x[kept][:IMAGES], case.y[kept][:IMAGES]
    # Seeds of their own, as those of two attacks of one run are.
    ours = run(net, "cascade", x, y, task.threat, range(RUNS))
    theirs = run(net, "autoattack", x, y, task.threat, range(RUNS, 2 * RUNS))
    others = [(first, second) for first, second in product(theirs.standing, repeat=2) if first is not second]
    missed_ones, between = broken_by_the_other(product(ours.standing, theirs.standing)), broken_by_the_other(others)
    return {
        "images": len(x),
        "standing": mean(int(each.sum()) for each in ours.standing),
        "autoattack_standing": mean(int(each.sum()) for each in theirs.standing),
        "missed": missed_ones,
        "gained": broken_by_the_other(product(theirs.standing, ours.standing)),
        "between": between,
        "excess": missed_ones - between,
        "passes": ours.passes,
        "autoattack_passes": theirs.passes,
        "share": ours.passes / theirs.passes,
    }


def line(name: str, figures: Mapping[str, float]) -> str:
    """Return the row of the table in docs/adaptive.md."""
    cells = [f"{figures[each]:.1f}" for each in ("standing", "autoattack_standing", "missed", "gained", "between")]
    passes = [f"{figures[each]:,.0f}" for each in ("passes", "autoattack_passes")]
    return f"| {name} | {figures['images']:.0f} | " + " | ".join((*cells, *passes)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    case = trained(0.15, 12)
    figures: dict[str, dict[str, float]] = {}
    late: list[str] = []
    for task in TASKS:
        figures[task.name] = own = measure(case, task)
        late += [f"{task.name}: {text}" for text in missed(own, task.limits)]
        print(line(task.name, own), flush=True)
    keep("masked", figures)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
