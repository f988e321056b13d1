"""How the scheduler scales: ``python -m tests.perf.schedule [PART ...]``; the figures go to ``results/perf``.

``plan``: seconds of processor time and memory to plan 100,000 cells, in every shape of ``tests/perf/shapes.py``.
``listing``: seconds of processor time and memory of the whole command ``plan`` for as many.
``noop``: seconds of processor time of a run of 10,000 finished cells, report included, in a process of its own.
``upkeep``: the same of ``gc`` and ``gc --yes`` on 10,000 finished cells.
``share``: attack time of eight test-time defenses over that of one, on the same adversarial sets.
``predict``: what ``plan`` predicts for a preset over what ``run`` then takes, and the worst estimate of remaining time
after the first tenth.
``memory``: peak memory of a run over ten times the images, and of a rerun over ten times the finished cells.

Exit code 1 if a figure is not what docs/reliability.md promises. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from bench.config import sections
from bench.schedule.plan import make
from bench.store.files import write_atomically
from bench.store.provenance import provenance
from bench.store.working_store import Store
from bench.types import CellResult, Cost, DefenseCost, Metrics
from tests.perf.kept import Limits, keep, missed
from tests.perf.shapes import SHAPES

ROOT = Path(__file__).parents[2]

LARGE = """
schema = 1
name = "large"
seeds = [{seeds}]

[dataset]
name = "digits"
n = 100

[[models]]
arch = "small-cnn"
channels = [4, 8]

[[defenses]]
use = "jpeg"
base = "fgsm-at"
quality = [{qualities}]

[[attacks]]
use = "pgd"
eps = [{budgets}]
"""

MANY = """
schema = 1
name = "many"

[dataset]
name = "digits"
n = 500
image_size = 16

[[models]]
arch = "small-cnn"

[train]
epochs = 1
eps = "0.1"
{defenses}
{attacks}
"""
STEPS = ("bit-depth", "jpeg", "median", "gaussian-blur", "wavelet", "feature-squeezing", "resize-pad", "tpap")
ATTACKS = ("fgsm", "pgd", "mi-fgsm", "ti-dim", "apgd-ce", "apgd-t", "ddn", "cw")


def large(folder: Path, seeds: int, qualities: int, budgets: int) -> Path:
    path = folder / "large.toml"
    text = LARGE.format(
        seeds=",".join(map(str, range(seeds))),
        qualities=",".join(map(str, range(20, 20 + qualities))),
        budgets=",".join(f'"{i}/255"' for i in range(1, budgets + 1)),
    )
    path.write_text(text)
    return path


def plan(folder: Path) -> dict[str, float]:
    """Plan 100,000 cells in every shape, each in a process of its own."""
    code = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[2]); started = time.process_time()\n"
        "from bench.config import sections; from bench.schedule.plan import make\n"
        "n = len(make(sections.load(sys.argv[1])).plan.cells)\n"
        "print(n, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    figures: dict[str, float] = {}
    for name, shape in SHAPES.items():
        path = folder / f"{name}.toml"
        path.write_text(shape(100_000, folder))
        words = [sys.executable, "-c", code, path, ROOT]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        cells, seconds, megabytes = map(float, out.split())
        figures |= {f"{name}_cells": cells, f"{name}_cpu_seconds": seconds, f"{name}_megabytes": megabytes}
        print(f"{name:8} {cells:7.0f} cells {seconds:6.2f} s computing {megabytes:6.0f} MB", flush=True)
    return figures


def listing(folder: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in ("budgets", "rows"):
        path = folder / f"{name}.toml"
        path.write_text(SHAPES[name](100_000, folder))
        cpu, megabytes = watched(["plan", str(path), "--store", str(folder / "store"), "--device", "cpu"])
        figures |= {f"{name}_cpu_seconds": cpu, f"{name}_megabytes": megabytes}
    return figures


def noop(folder: Path, budgets: int = 25) -> dict[str, float]:
    words, count = finished(folder, budgets)
    started = time.perf_counter()
    cpu, megabytes = watched(["run", *words])
    seconds = time.perf_counter() - started
    return {"cells": count, "seconds": seconds, "cpu_seconds": cpu, "megabytes": megabytes}


def upkeep(folder: Path) -> dict[str, float]:
    words, count = finished(folder)
    plan, store = words[0], words[words.index("--store") :][:2]
    cpu = {
        "gc": watched(["gc", plan, *store])[0],
        "gc_yes": watched(["gc", plan, "--yes", *store])[0],
    }
    return {"cells": count, **{f"{name}_cpu_seconds": seconds for name, seconds in cpu.items()}}


def finished(folder: Path, budgets: int = 25) -> tuple[list[str], int]:
    """Make a store in which all cells of a plan are done; return the arguments of ``run``, and how many cells."""
    import torch

    path, store = large(folder, 2, 50, budgets), Store(folder / "store")
    here = provenance(torch.device("cpu"))
    cells = make(sections.load(str(path))).plan.cells
    bits = "AAAAAAAAAAAAAAAAAA=="
    for planned in cells:
        write_atomically(store.records(planned.key), b"records")
        store.put(
            CellResult(
                key=planned.key, names=planned.names, cell=planned.cell, status="done", provenance=here,
                metrics=Metrics(
                    n=100, clean_accuracy=0, accuracy_under_attack=0, robust_accuracy=0, ci_low=0, ci_high=0.04,
                    mean_linf=0, mean_l2=0,
                ),
                clean_bits=bits, adversarial_bits=bits, records_sha=hashlib.sha256(b"records").hexdigest(),
                cost=Cost(forwards_per_example=1, backwards_per_example=1, seconds_per_example=1, flops_per_example=1,
                          peak_memory_bytes=1),
                defense_cost=DefenseCost(params=1, train_flops_per_epoch=1, train_seconds_per_epoch=1, test_flops=1,
                                         test_seconds=1, test_forwards=1, test_backwards=1),
            )
        )  # fmt: skip
    # As a run does at its end.
    store.remember()
    words = [str(path), "--store", str(store.root), "--report", str(folder / "report"), "--device", "cpu"]
    return words, len(cells)


def watched(words: list[str]) -> tuple[float, float]:
    """Return the seconds of processor time and the peak memory in MB of a command."""
    code = (
        "import resource, sys; from bench.cli import main; code = main(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True, cwd=ROOT)
    cpu, megabytes = map(float, done.stderr.split()[-2:])
    return cpu, megabytes


def memory(folder: Path) -> dict[str, float]:
    megabytes = {}
    rng = np.random.default_rng(0)
    for n in (256, 2560):
        images = folder / f"images-{n}"
        for split, count in (("train", 64), ("test", n)):
            for i in range(count):
                path = images / split / str(i % 2) / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        (folder / f"{n}.toml").write_text(
            MANY.format(
                defenses='\n[[defenses]]\nuse = "standard"\n', attacks='\n[[attacks]]\nuse = "pgd"\nsteps = 2\n'
            )
            .replace('"digits"', f'"folder:{images}"')
            .replace("n = 500\nimage_size = 16", f"n = {n}")
        )
        words = ["run", str(folder / f"{n}.toml"), "--store", str(folder / f"store-{n}"), "--device", "cpu"]
        megabytes[n] = watched([*words, "--report", str(folder / f"report-{n}")])[1]
    cells = {}
    for budgets in (2, 20):
        (folder / f"cells-{budgets}").mkdir()
        one = noop(folder / f"cells-{budgets}", budgets)
        cells[one["cells"]] = one["megabytes"]
    (few, small), (many, big) = cells.items()
    return {
        "megabytes_256_images": megabytes[256],
        "megabytes_2560_images": megabytes[2560],
        "ratio_of_ten_times_the_images": megabytes[2560] / megabytes[256],
        "kilobytes_a_cell": 1024 * (big - small) / (many - few),
    }


def share(folder: Path) -> dict[str, float]:
    spent = {}
    for steps in (1, len(STEPS)):
        case_folder = folder / str(steps)
        case_folder.mkdir()
        defenses = "".join(f'\n[[defenses]]\nuse = "{step}"\nbase = "fgsm-at"\n' for step in STEPS[:steps])
        attacks = "".join(f'\n[[attacks]]\nuse = "{attack}"\naccess = ["static"]\n' for attack in ATTACKS)
        (case_folder / "many.toml").write_text(MANY.format(defenses=defenses, attacks=attacks))
        run([str(case_folder / "many.toml")], case_folder)
        spent[steps] = sum(event["seconds"] for event in events(case_folder) if event["event"] == "crafted")
    return {"one": spent[1], "eight": spent[8], "ratio": spent[8] / spent[1]}


def predict(folder: Path) -> dict[str, float]:
    words = ["plan", "quick", "--store", str(folder / "store"), "--device", "cpu", "--json"]
    out = subprocess.run([sys.executable, ROOT / "run_bench.py", *words], check=True, capture_output=True, text=True)
    predicted = sum(piece["seconds"] or 0 for piece in json.loads(out.stdout))
    run(["quick", "--device", "cpu"], folder)
    logged = sorted(events(folder), key=lambda event: str(event["time"]))
    began, ended = (datetime.fromisoformat(str(logged[i]["time"])) for i in (0, -1))
    total = (ended - began).total_seconds()
    estimates = [
        ((datetime.fromisoformat(str(event["time"])) - began).total_seconds(), float(event["seconds"]))  # type: ignore[arg-type]
        for event in logged
        if event["event"] == "remaining"
    ]
    late = [(total - at, left) for at, left in estimates if 0.1 * total <= at <= 0.95 * total]
    worst = max((abs(left / true - 1) for true, left in late), default=float("nan"))
    return {"predicted_seconds": predicted, "seconds": total, "ratio": predicted / total, "worst_remaining": worst}


def run(arguments: Iterable[str], folder: Path) -> None:
    words = ["run", *arguments, "--store", str(folder / "store"), "--report", str(folder / "report")]
    subprocess.run([sys.executable, ROOT / "run_bench.py", *words], check=True, stdout=subprocess.DEVNULL)


def events(folder: Path) -> list[dict[str, object]]:
    logs = (folder / "store" / "log").glob("*.jsonl")
    lines = chain.from_iterable(path.read_text().splitlines() for path in logs)
    return [json.loads(line) for line in lines]


PARTS = {part.__name__: part for part in (plan, listing, noop, upkeep, share, predict, memory)}
PROMISED: dict[str, Limits] = {
    "plan": {
        **{f"{shape}_cpu_seconds": (None, 10) for shape in SHAPES},
        **{f"{shape}_megabytes": (None, 1024) for shape in SHAPES},
    },
    "listing": {"budgets_cpu_seconds": (None, 25), "rows_cpu_seconds": (None, 25)},
    "noop": {"cpu_seconds": (None, 6)},
    "upkeep": {"gc_cpu_seconds": (None, 10), "gc_yes_cpu_seconds": (None, 10)},
    "share": {"ratio": (None, 1.2)},
    "predict": {"ratio": (0.8, 1.25), "worst_remaining": (None, 0.5)},
    "memory": {"ratio_of_ten_times_the_images": (None, 1.1), "kilobytes_a_cell": (None, 10)},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    args = parser.parse_args()
    late = []
    for name in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            busy = os.getloadavg()[0]
            figures = PARTS[name](Path(folder))
        late += [f"{name}: {line}" for line in missed(figures, PROMISED[name])]
        print(name, json.dumps(figures), flush=True)
        keep("schedule", {name: {**figures, "load_before": busy, "processors": os.cpu_count()}})
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
