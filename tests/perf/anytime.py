"""How long the ranks of a table take that are settled at any stop: ``python -m tests.perf.anytime``.

Row i of k keeps the images whose difficulty, drawn at random, is below its share, from 0.2 to 0.9. So one row keeps all
that a lower one keeps, and with images enough every rank is settled, which takes all pairs of rows; ``settled`` says
how many are. ``whole`` are the ranks of a table from nothing; ``update`` those after one row got more images, which a
run with a time budget does after every chunk. Times are those of the processor. The figures are kept in
``results/perf``; exit code 1 if one is not what was promised.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

from bench.anytime import Contender, Standings
from bench.outcomes import Outcomes
from tests.perf.kept import Limits, keep, missed

REPEATS = 5
#: Of rows and images; the last table has every rank of many rows settled.
PROMISED: dict[tuple[int, int], Limits] = {
    (20, 1_000): {"whole_ms": (None, 20), "update_ms": (None, 10), "settled": (20, None)},
    (1_000, 20): {"whole_ms": (None, 250), "update_ms": (None, 250)},
    (200, 20_000): {"whole_ms": (None, 3_000), "update_ms": (None, 250), "settled": (200, None)},
}


def taken(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def measure(rows: int, images: int) -> dict[str, float]:
    """Return the milliseconds of the ranks of a table, whole and after an update, and how many rows are settled."""
    draw = random.Random(0)
    difficulty = [draw.random() for _ in range(images + 128)]

    def contender(row: int, n: int) -> Contender:
        share = 0.2 + 0.7 * row / rows
        return Contender(f"row-{row}", {0: Outcomes.of(each < share for each in difficulty[:n])})

    table, later = [contender(row, images) for row in range(rows)], contender(0, images + 128)
    times: dict[str, list[float]] = {"whole_ms": [], "update_ms": []}
    for _ in range(REPEATS):
        standings = Standings(table)
        times["whole_ms"].append(taken(standings.ranks))
        standings.update(0, later)
        times["update_ms"].append(taken(standings.ranks))
    settled = sum(rank.is_settled for rank in Standings(table).ranks())
    return {**{name: statistics.median(each) for name, each in times.items()}, "settled": settled}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    figures, late = dict[str, dict[str, float]](), list[str]()
    for rows, images in PROMISED:
        figures[name := f"{rows} rows of {images} images"] = own = measure(rows, images)
        late += [f"{name}: {line}" for line in missed(own, PROMISED[rows, images])]
        after = f"after an update {own['update_ms']:8.2f} ms, {own['settled']} settled"
        print(f"{name:28} {own['whole_ms']:9.2f} ms, {after}", flush=True)
    keep("anytime", figures)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
