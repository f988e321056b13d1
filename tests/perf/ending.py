"""How late a run ends, by a stopwatch: ``python -m tests.perf.ending [--only PATTERN] [--quick]``.

Methods that never come back (``tests/faults/hostile.py``), in an attack, a test-time step, a recipe, a network, a
factory and a file that is imported, are ended by a time budget, SIGTERM, Ctrl-C and the ``timeout`` of their cell. Of
each the seconds are taken from the moment at which it should end to the moment at which the command has ended or, for
a timeout, has let go of the cell. The figures go to ``results/perf``. Exit code 1 if one took longer than is promised,
ended with another exit code, or left something unfinished that the same command does not finish.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tests.engine import tiny
from tests.faults import hostile
from tests.perf.kept import Limits, keep, missed

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "tests" / "faults" / "hostile.py"
#: Seconds within which a run must end, and a cell must be let go.
PROMISED: Limits = {"seconds": (None, 5.0)}
#: Seconds of a cell, and of a run with its start.
TIMEOUT, BUDGET = 12, 45
WAYS = ("SIGTERM", "SIGINT", "budget", "timeout")
CODES = {"SIGTERM": 143, "SIGINT": 130, "budget": 0, "timeout": 3}


class Case(NamedTuple):
    """Where something never comes back, how, and what ends it."""

    where: str
    how: str
    way: str

    def __str__(self) -> str:
        return f"{self.where}/{self.how}/{self.way}"


def cases() -> Iterator[Case]:
    for how in (each.__name__ for each in hostile.ENDLESS):
        yield from (Case("attack", how, way) for way in WAYS)
    for where in ("recipe", "step", "put-on", "network", "factory", "import"):
        for how in ("python", "swallow", "gil"):
            yield from (Case(where, how, way) for way in ("SIGTERM", "budget", "timeout"))


def config(folder: Path, case: Case) -> str:
    """Write the tiny run with one hostile method, and return the pattern of the cells to run."""
    head, _, attacks = tiny.CONFIG.replace("epochs = 2", "epochs = 1").partition("\n[[attacks]]")
    plain = head.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', "")
    text, methods = f"{plain}\n[[attacks]]{attacks}", METHODS
    if case.where == "attack":
        text = (
            f'{plain}\n[[attacks]]\nuse = "{METHODS}:hostile"\neps = "0.1"\nhow = "{case.how}"\n\n[[attacks]]{attacks}'
        )
    elif case.where in ("step", "put-on"):
        when = "answer" if case.where == "step" else "wrap"
        step = f'\n[[defenses]]\nuse = "{METHODS}:Hostile"\nhow = "{case.how}"\nwhen = "{when}"\nbase = "fgsm-at"\n'
        text = f"{plain}{step}\n[[attacks]]{attacks}"
    elif case.where == "recipe":
        text = text.replace('"fgsm-at"', f'"{METHODS}:endless"\nhow = "{case.how}"')
    elif case.where in ("network", "factory"):
        text = text.replace(
            'arch = "small-cnn"\nchannels = 4\nhidden = 16', f'arch = "{METHODS}:{case.where}"\nhow = "{case.how}"'
        )
    else:
        methods = folder / "imported.py"
        methods.write_text(METHODS.read_text() + f'\n\nharm("{case.how}")\n')
        text = f'{plain}\n[[attacks]]\nuse = "{methods}:hostile"\neps = "0.1"\n\n[[attacks]]{attacks}'
    if case.way == "timeout":
        text += f'\n[run]\ntimeout = "{TIMEOUT}s"\n'
    (folder / "these.toml").write_text(text)
    return str(folder / "these.toml")


def measure(case: Case, folder: Path) -> tuple[float, int, str]:
    """Return how many seconds too late it ended, the exit code, and what it said last."""
    words = [sys.executable, str(ROOT / "run_bench.py"), "run", config(folder, case), "--store", str(folder / "store")]
    words += ["--report", str(folder / "report")]
    words += ["--time-budget", f"{BUDGET}s"] if case.way == "budget" else []
    started = time.time()
    run = subprocess.Popen(
        words, cwd=folder, env={**os.environ, "HOSTILE": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    heard: queue.Queue[tuple[float, str]] = queue.Queue()

    def listen() -> None:
        assert run.stderr is not None
        for line in run.stderr:
            heard.put((time.time(), line.rstrip()))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    begun = folder / "begun"
    while not begun.exists() and run.poll() is None:
        time.sleep(0.02)
    if not begun.exists():
        return float("inf"), run.returncode, "it ended before the method had begun"
    time.sleep(0.5)
    due = begun.stat().st_mtime + TIMEOUT if case.way == "timeout" else started + BUDGET
    if case.way.startswith("SIG"):
        due = time.time()
        run.send_signal(getattr(signal, case.way))
    try:
        run.wait(timeout=120)
    except subprocess.TimeoutExpired:
        run.kill()
        return float("inf"), -9, "it did not end"
    ended = time.time()
    assert run.stdout is not None
    out = run.stdout.read()
    listener.join()
    said = [heard.get() for _ in range(heard.qsize())]
    if case.way == "timeout":
        let_go = [when for when, line in said if "another process goes on" in line]
        ended = min(let_go + failures(folder), default=ended)
    last = (out.strip().splitlines() or [line for _, line in said] or [""])[-1]
    return ended - due, run.returncode, last


def failures(folder: Path) -> list[float]:
    """Return when cells failed."""
    logs = (folder / "store" / "log").glob("*.jsonl")
    events = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    return [datetime.fromisoformat(e["time"]).timestamp() for e in events if "failed" in e["event"]]


def finishes(case: Case, folder: Path) -> bool:
    """Say whether the same command, with methods that come back, finishes what was left."""
    (folder / "calm").touch()
    words = [sys.executable, str(ROOT / "run_bench.py"), "run", str(folder / "these.toml"), "--quiet"]
    words += ["--store", str(folder / "store"), "--report", str(folder / "report")]
    env = {**os.environ, "HOSTILE": str(folder)}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=300).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of where/how/what ends it")
    parser.add_argument("--keep", action="store_true", help="write the figures to results/perf")
    given = parser.parse_args()
    found: dict[str, float] = {}
    wrong = []
    for case in (case for case in cases() if fnmatch.fnmatchcase(str(case), given.only)):
        folder = Path(tempfile.mkdtemp(prefix="crossfire-ending-"))
        seconds, code, said = measure(case, folder)
        found[str(case)] = round(seconds, 2)
        whole = finishes(case, folder)
        wrong += [f"{case}: {line}" for line in missed({"seconds": seconds}, PROMISED)]
        wrong += [f"{case}: exit code {code}, not {CODES[case.way]} ({said})"] * (code != CODES[case.way])
        wrong += [f"{case}: the same command does not finish it"] * (not whole)
        print(f"{case!s:28} {seconds:6.2f} s  {code:4}  {said}", flush=True)
        shutil.rmtree(folder)
    for way in WAYS:
        times = [seconds for name, seconds in found.items() if name.endswith(way)]
        if times:
            print(f"{way}: {len(times)} cases, at worst {max(times):.2f} s")
    if given.keep:
        keep("ending", {"seconds": {**found, "load_before": os.getloadavg()[0], "processors": os.cpu_count()}})
    print("\n".join(wrong) or "all as promised")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
