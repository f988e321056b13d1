"""How long the reading verbs take over 10,000 cells of 1,000 images: ``python -m tests.perf.report [SHAPE ...]``.

The cells come in five shapes: many ``rows`` of few attacks, few rows of many attacks (``columns``), one attack under
many ``budgets``, many ``seeds``, and attacks without a budget, which keep how far each image is from a wrong one
(``distances``). ``leaderboard --eps`` and ``figures eps-curve`` are made of these without another pass; how much longer
they take than the plain leaderboard of the same cells is ``over_plain``. Each verb and format runs as a process of its
own, as a user's would, and is measured from outside. ``scroll`` is about the page in a browser
(``tests/perf/scroll.py``). The figures go to ``results/perf``; exit code 1 if one is not what was promised.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.store import history
from bench.types import CellResult
from tests.perf.kept import Limits, keep, missed
from tests.report.fabricate import result, stored

CELLS, IMAGES = 10_000, 1_000
PROMISED: Limits = {"cpu_seconds": (None, 10), "megabytes": (None, 2048)}
PAGE: Limits = {**PROMISED, "page_megabytes": (None, 15)}
AT_BUDGETS: Limits = {"megabytes": (None, 2048), "over_plain": (None, 2)}
FIGURES = ("accuracy-heatmap", "access-gap", "accuracy-vs-cost", "cost", "eps-sweep")
EPS = "0.25,0.5,0.75,1,1.25,1.5,1.75,2"


def _cells(row: int, images: int, finished: str, attack: str = "pgd", **more: Any) -> Iterator[CellResult]:
    """Yield the cells of one attack on one row, of which every second has a step and is attacked in two ways."""
    rng = random.Random(f"{row} {attack} {more} {finished}")
    for access in ("static", "adaptive") if row % 2 else ("white-box",):
        bits = [rng.random() < 0.5 for _ in range(images)]
        yield result(
            f"defense-{row}",
            attack,
            clean=[True] * images,
            adversarial=bits,
            recipe=f"recipe-{row}",
            step="jpeg" if row % 2 else None,
            access=access,
            finished=finished,
            code=finished,
            **more,
        )


def rows(cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield many rows of two attacks."""
    for row in range(cells // 3):
        for attack in ("fgsm", "pgd"):
            yield from _cells(row, images, finished, attack)


def columns(cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield ten rows of many attacks."""
    for steps in range(1, 1 + cells // 15):
        for row in range(10):
            yield from _cells(row, images, finished, attack_params={"steps": steps})


def budgets(cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield ten rows of one attack under many budgets."""
    for budget in range(1, 1 + cells // 15):
        for row in range(10):
            yield from _cells(row, images, finished, eps=f"{budget}/2550")


def seeds(cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield ten rows of two attacks in many seeds."""
    for seed in range(cells // 30):
        for row in range(10):
            for attack in ("fgsm", "pgd"):
                yield from _cells(row, images, finished, attack, seed=seed)


def distances(cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield many rows of three attacks without a budget."""
    rng = random.Random(finished)
    for row in range(2 * cells // 9):
        for attack in ("cw", "ddn", "fmn"):
            found = [rng.uniform(0, 2) if rng.random() < 0.9 else float("inf") for _ in range(images)]
            yield from _cells(row, images, finished, attack, norm="l2", distances=found)


SHAPES: Mapping[str, Callable[[int, int, str], Iterator[CellResult]]] = {
    shape.__name__: shape for shape in (rows, columns, budgets, seeds, distances)
}


def measured(*words: str, torch: bool = False) -> tuple[float, float, int, int]:
    """Return the seconds by the clock and of computing, the peak bytes and the exit code of a command.

    Unless it may, it must not have loaded torch.
    """
    started = time.perf_counter()
    code = (
        "import resource, sys; from bench.cli import main; code = main(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, 'torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    computing, kilobytes, loaded = done.stderr.split()[-3:]
    assert torch or loaded == "False"
    return seconds, float(computing), int(kilobytes) * 1024, done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, "scroll", []], help="default: all")
    late: list[str] = []
    for shape in parser.parse_args().shapes or [*SHAPES, "scroll"]:
        if shape == "scroll":
            late += _scroll()
            continue
        with tempfile.TemporaryDirectory() as folder:
            late += _shape(shape, Path(folder))
    print("\n".join(late) or "all as promised")
    return int(bool(late))


def _scroll() -> list[str]:
    from tests.perf.scroll import scroll

    return scroll()


def _commands(shape: str, base: str, folder: Path, page: Path) -> dict[str, list[str]]:
    head = folder / "head.json"
    head.write_text(history.serialise(SHAPES[shape](CELLS, IMAGES, "2026-11-23T00:00:00+00:00")))
    commands = {"leaderboard": ["leaderboard", "--store", base]}
    for kind in ("json", "md", "csv", "tex"):
        commands[f"leaderboard {kind}"] = ["leaderboard", "--store", base, "--format", kind]
    commands["leaderboard html"] = ["leaderboard", "--store", base, "--out", str(page)]
    for kind in ("text", "md", "json"):
        commands[f"compare {kind}"] = ["compare", base, str(head), "--format", kind]
    for name in FIGURES:
        commands[f"figures {name}"] = ["figures", name, "--store", base, "--out", str(folder)]
    return commands


def _at_budgets(base: str, folder: Path) -> dict[str, list[str]]:
    plain = ["leaderboard", "--store", base, "--format", "json"]
    return {
        "leaderboard json": plain,
        "leaderboard eps json": [*plain, "--eps", EPS],
        "figures eps-curve": ["figures", "eps-curve", "--store", base, "--out", str(folder)],
    }


def _shape(shape: str, folder: Path) -> list[str]:
    """Measure every verb on the cells of one shape, keep the figures, and return what was not as promised."""
    base = str(stored(folder / "base", SHAPES[shape](CELLS, IMAGES, "2026-11-22T00:00:00+00:00")).root)
    page, figures, late = folder / "page.html", dict[str, dict[str, float]](), list[str]()
    commands = _at_budgets(base, folder) if shape == "distances" else _commands(shape, base, folder, page)
    for name, words in commands.items():
        seconds, computing, peak, code = measured(*words, torch=name.startswith("figures"))
        # A figure that these results have nothing for is one line and exit code 2.
        assert code in ((0, 2) if name.startswith("figures") else (0, 1)), words
        figures[name] = {"seconds": seconds, "cpu_seconds": computing, "megabytes": peak / 2**20}
        if name == "leaderboard html":
            figures[name]["page_megabytes"] = page.stat().st_size / 1e6
        limits = PAGE if name.endswith("html") else PROMISED
        if shape == "distances":
            figures[name]["over_plain"] = computing / figures["leaderboard json"]["cpu_seconds"]
            limits = AT_BUDGETS
        late += [f"{shape}: {name}: {line}" for line in missed(figures[name], limits)]
        print(f"{shape:8} {name:26} {computing:6.2f} s computing {peak / 2**20:7.0f} MB", flush=True)
    keep("report", {f"{shape}: {name}": each for name, each in figures.items()})
    return late


if __name__ == "__main__":
    sys.exit(main())
