"""How often statements over seeds are right, by simulation: ``python -m tests.perf.equivalence [--repeats N]``.

Every image has its own chance to be right, drawn from a beta distribution, so that about one image in a hundred changes
sides by chance from one training to the next. Every seed has its own true change, normal around the true mean. It falls
on a third of the images, the same for all seeds: so seeds, images, and both together matter. ``covered`` is how often
the 95 % interval holds the true mean, ``wrongly_same`` how often a cell whose true change is the margin is called the
same, ``found_same`` how often one without a true change is, ``wrongly_clear`` how often its p-value is below 5 %, and
``half`` half the mean length of the interval in points. The figures are kept in ``results/perf``, and the table in
docs/continuous-integration.md is made of them; exit code 1 if one is not what was promised.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.equivalence import joint
from tests.perf.kept import Limits, keep, missed

IMAGES, MARGIN, ERROR = 1_000, 0.005, 0.05
SPREADS, SEEDS, ACCURACIES = (0.0, 0.005, 0.02), (2, 3, 5, 10), (0.3, 0.55, 0.9)
#: How alike the chances of images are: below 1 most are near 0 or 1.
ALIKE = 0.02
#: Some of the images take all of the change.
SHARE = 1 / 3
#: Beyond what chance allows for in the number of repeats.
PROMISED: Limits = {"covered": (0.94, None), "wrongly_same": (None, ERROR), "wrongly_clear": (None, 0.06)}


class World(NamedTuple):
    """What is true: the mean change and the standard deviation of seeds, as shares, and the accuracy of the base."""

    change: float
    spread: float
    accuracy: float
    seeds: int


def drawn(
    world: World, repeats: int, rng: np.random.Generator, images: int = IMAGES
) -> Iterator[list[list[tuple[int, int]]]]:
    """Yield for each repeat the images that each seed lost and gained."""
    a = world.accuracy
    for _ in range(repeats):
        chance = rng.beta(a * ALIKE, (1 - a) * ALIKE, images)
        base, head = (rng.random((2, world.seeds, images)) < chance)[:]
        # A third of the images can lose no more than all of it.
        most = 0.95 * SHARE * min(a, 1 - a)
        change = np.clip(
            rng.normal(world.change, world.spread, (world.seeds, 1)), world.change - most, world.change + most
        )
        weight = (rng.random(images) < SHARE) / SHARE
        flips = rng.random((world.seeds, images)) < np.abs(change) / np.where(change < 0, a, 1 - a) * weight
        head = np.where(change < 0, head & ~flips, head | flips)
        yield [[(_bits(lost), _bits(gained))] for lost, gained in zip(base & ~head, head & ~base, strict=True)]


def _bits(images: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(images).tobytes(), "big")


def measured(spread: float, seeds: int, accuracy: float, repeats: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the figures of one world, with a true change at the margin and with none."""
    at_margin = [joint(runs, IMAGES, ERROR) for runs in drawn(World(-MARGIN, spread, accuracy, seeds), repeats, rng)]
    none = [joint(runs, IMAGES, ERROR) for runs in drawn(World(0, spread, accuracy, seeds), repeats, rng)]
    covered = [
        each.interval.low <= truth <= each.interval.high
        for truth, said in ((-MARGIN, at_margin), (0, none))
        for each in said
    ]
    return {
        "covered": float(np.mean(covered)),
        "wrongly_same": float(np.mean([each.narrow.within(MARGIN) for each in at_margin])),
        "found_same": float(np.mean([each.narrow.within(MARGIN) for each in none])),
        "wrongly_clear": float(np.mean([each.p < 0.05 for each in none])),
        "half": 50 * float(np.mean([each.interval.high - each.interval.low for each in none])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000, help="of each world; default: 2000")
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    figures, late = dict[str, dict[str, float]](), list[str]()
    print("seeds differ by | seeds | covered, least | wrongly same, most | wrongly clear, most | found same | half")
    for spread, seeds in product(SPREADS, SEEDS):
        own: dict[str, list[float]] = defaultdict(list)
        for accuracy in ACCURACIES:
            for name, value in measured(spread, seeds, accuracy, repeats, rng).items():
                own[name].append(value)
        worst = {
            "covered": min(own["covered"]),
            "wrongly_same": max(own["wrongly_same"]),
            "wrongly_clear": max(own["wrongly_clear"]),
            "found_same": float(np.mean(own["found_same"])),
            "half": float(np.mean(own["half"])),
        }
        figures[name := f"{100 * spread:g} points, {seeds} seeds"] = {**worst, "repeats": repeats}
        late += [f"{name}: {line}" for line in missed(worst, PROMISED)]
        shares = [f"{100 * worst[each]:.1f} %" for each in ("covered", "wrongly_same", "wrongly_clear", "found_same")]
        print(f"{100 * spread:g} points | {seeds} | {' | '.join(shares)} | {worst['half']:.2f}", flush=True)
    keep("equivalence", figures)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
