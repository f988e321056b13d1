"""What a user waits for: ``python -m tests.perf.process [ATTACK ...] --data DIR``; kept in ``results/perf``.

From an empty store to a robust accuracy, as a whole process: ``run`` of a checkpoint under one attack, and a plain
script that loads the same weights and images and calls another library (``tests/perf/plain_script.py``). They run in
turn, with the threads that each takes by default. *seconds* are of the wall and *cpu* of the processors, medians;
*ratio* is ours over theirs, pair by pair, and *robust* what each prints, in percent of all images. The network is the
ResNet-18 inside pyautoattack, on CIFAR-10. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.config import sections
from bench.data import open_ref, rows_of
from bench.models import weights
from bench.schedule.plan import make
from tests.perf.kept import keep

ROOT = Path(__file__).parents[2]
EPS, STEP = 8 / 255, 2 / 255
CONFIGURATION = """
schema = 1
name = "process"
[dataset]
name = "cifar10"
n = {images}
[[models]]
arch = "resnet18"
[[defenses]]
use = "weights:{weights}"
[[attacks]]
use = "{attack}"
{settings}
"""


class Row(NamedTuple):
    """The settings of an attack here, and the same of a library, called ``package:name``."""

    settings: dict[str, Any]
    peer: str
    parameters: dict[str, Any]


_LAST = {"step_size": "2/255", "rule": "last-iterate"}
_PGD = {"eps": EPS, "alpha": STEP, "steps": 20}
#: A budget in which PGD leaves a third of the images of this network right: a stand-in for a robust one.
_SMALL = {"eps": 9 / 2040, "alpha": 9 / 8160}
_SETTINGS_SMALL = {"steps": 20, "eps": "9/2040", "step_size": "9/8160"}
_MOMENTUM = {"eps": EPS, "alpha": STEP, "steps": 10}
#: The library has the rule of early ends as well, and no switch for it.
_CW = {"steps": 50, "searches": 1, "first_c": 1.0, "abort_early": True}
ROWS = {
    "fgsm": Row({}, "torchattacks:FGSM", {"eps": EPS}),
    "pgd": Row({"steps": 20, **_LAST}, "torchattacks:PGD", _PGD),
    "pgd that stops early": Row({"steps": 20, "step_size": "2/255"}, "torchattacks:PGD", _PGD),
    "pgd that stops early, a third kept": Row(_SETTINGS_SMALL, "torchattacks:PGD", {**_PGD, **_SMALL}),
    "pgd that stops early, a third kept, in bfloat16": Row(
        {**_SETTINGS_SMALL, "craft_precision": "bf16"}, "torchattacks:PGD", {**_PGD, **_SMALL}
    ),
    "pgd in bfloat16": Row({"steps": 20, **_LAST, "craft_precision": "bf16"}, "torchattacks:PGD", _PGD),
    "mi-fgsm": Row({"steps": 10, **_LAST}, "torchattacks:MIFGSM", {**_MOMENTUM, "decay": 1.0}),
    "ti-dim": Row({"steps": 10}, "torchattacks:TIFGSM", {**_MOMENTUM, "decay": 1.0, "len_kernel": 7}),
    "apgd-ce": Row({"steps": 20}, "torchattacks:APGD", {"eps": EPS, "steps": 20}),
    "square": Row({"queries": 200}, "torchattacks:Square", {"eps": EPS, "n_queries": 200}),
    "cw": Row(_CW, "torchattacks:CW", {"c": 1, "steps": 50}),
    "ddn": Row({"steps": 50}, "foolbox:DDNAttack", {"steps": 50}),
    "fmn": Row({"steps": 50}, "foolbox:L2FMNAttack", {"steps": 50}),
}


class Took(NamedTuple):
    """One process."""

    seconds: float
    cpu: float
    robust: float


def took(command: Sequence[str], folder: Path, pattern: str) -> Took:
    """Run a command, and return its times and the robust accuracy that the pattern finds in what it prints."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(pattern, done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(seconds, cpu, float(found[1]))


def measured(row: Row, attack: str, folder: Path, data: str, images: int, repeats: int) -> dict[str, object]:
    """Run both in turn, each time from an empty store."""
    file = weights.find("weights:pyautoattack")
    # As the library computes, where a row says nothing else.
    given = {"craft_precision": "float32", **row.settings}
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
    table = folder / "table.toml"
    table.write_text(CONFIGURATION.format(images=images, weights=file, attack=attack, settings=settings))
    ref = make(sections.load(table), data_folder=Path(data)).plan.cells[0].cell.data
    source = open_ref(ref, folder=Path(data))
    x, y = source.at(rows_of(source, ref))
    np.savez(folder / "images.npz", x=x, y=y)
    package, name = row.peer.split(":")
    plain = [sys.executable, str(ROOT / "tests" / "perf" / "plain_script.py"), package, name]
    plain += [json.dumps(row.parameters), str(file), "images.npz"]
    pairs = []
    for i in range(repeats):
        ours = [sys.executable, str(ROOT / "run_bench.py"), "run", str(table), "--data", data]
        ours += ["--store", f"store-{i}", "--report", f"report-{i}"]
        line = r"weights:\S+ +white-box +[0-9.]+ +([0-9.]+)"
        pairs.append((took(ours, folder, line), took(plain, folder, r"robust ([0-9.]+)")))
    medians = {
        who: Took(*(statistics.median(values) for values in zip(*taken, strict=True)))._asdict()
        for who, taken in zip(("crossfire", row.peer), zip(*pairs, strict=True), strict=True)
    }
    ratios = {
        what: statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs) for what in ("seconds", "cpu")
    }
    return medians | {"ratio": ratios, "images": images, "repeats": repeats}


def main() -> None:
    """Measure and print each row as it is done, and keep it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--data", default=os.environ.get("CROSSFIRE_DATA"), help="folder with cifar10")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if unknown := set(args.attacks) - set(ROWS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if args.data is None:
        print("left out: it needs CIFAR-10; name its folder with --data DIR or $CROSSFIRE_DATA")
        return
    for title in args.attacks or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            row, attack = ROWS[title], title.split(" ")[0]
            figures = measured(row, attack, Path(folder), str(Path(args.data).resolve()), args.images, args.repeats)
        print(title, json.dumps(figures), flush=True)
        keep("process", {title: figures})


if __name__ == "__main__":
    main()
