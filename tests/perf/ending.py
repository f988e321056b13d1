"""How late a run ends, by a stopwatch: ``python -m tests.perf.ending [--only PATTERN] [--resume]``.

Methods that never come back (``tests/faults/hostile.py``), in an attack, a test-time step, a recipe, a network, a
factory and a file that is imported, are ended by a time budget, SIGTERM, Ctrl-C and the ``timeout`` of their cell. Of
each the seconds are taken from the moment at which it should end to the moment at which the command has ended or, for
a timeout, has let go of the cell. Each case is kept in ``results/perf/ending.json`` as soon as it is measured, with
machine, commit and load; with ``--resume`` those that were measured at this commit and are as promised are not measured
again. Exit code 1 if one took longer than is promised, ended with another exit code, or left something unfinished that
the same command does not finish.

Most cases begin in a store that holds everything but the hostile cells, so that the hostile one is reached at once.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bench.store.provenance import source
from tests.engine import tiny
from tests.faults import child, hostile
from tests.perf.kept import RESULTS, Limits, keep, missed

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "tests" / "faults" / "hostile.py"
#: Seconds within which a run must end, and a cell must be let go.
PROMISED: Limits = {"seconds": (None, 5.0)}
#: Seconds that a cell may take.
TIMEOUT = 4.0
#: Seconds that a run may take beyond those after which the method of the case before had begun.
BUDGET = 3.0
#: Seconds after which a method is taken to have begun in the first case.
FIRST = 8.0
#: Seconds after which a run that should have ended counts as one that hangs.
HANGS = 60
#: Of a Ray cluster: it is not there yet.
JOINING = "joining"
WAYS = ("SIGTERM", "SIGINT", "budget", "timeout")
CODES = {"SIGTERM": 143, "SIGINT": 130, "budget": 0, "timeout": 3}


class Case(NamedTuple):
    """Where a method never comes back, with which fault, and what ends it."""

    where: str
    fault: str
    way: str

    def __str__(self) -> str:
        return f"{self.where}/{self.fault}/{self.way}"


def cases() -> Iterator[Case]:
    for fault in (each.__name__ for each in hostile.ENDLESS):
        yield from (Case("attack", fault, way) for way in WAYS)
    for where in ("recipe", "step", "put-on", "network", "factory", "import"):
        for fault in ("python", "swallow", "gil"):
            yield from (Case(where, fault, way) for way in ("SIGTERM", "budget", "timeout"))
    # In an attack again, in a worker of a Ray cluster; and while that cluster is started.
    for fault in ("sleep", "swallow", "gil", "stopped"):
        yield from (Case("ray", fault, way) for way in WAYS)
    yield from (Case("ray", JOINING, way) for way in ("SIGTERM", "SIGINT"))


def config(folder: Path, case: Case, timeout: float) -> str:
    """Write the tiny run with one hostile method, and return where."""
    head, _, attacks = tiny.CONFIG.replace("epochs = 2", "epochs = 1").partition("\n[[attacks]]")
    plain = head.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', "")
    text, methods = f"{plain}\n[[attacks]]{attacks}", METHODS
    if case.where in ("attack", "ray"):
        fault = "sleep" if case.fault == JOINING else case.fault
        attack = f'\n[[attacks]]\nuse = "{METHODS}:hostile"\neps = "0.1"\nfault = "{fault}"\n'
        text = f"{plain}{attack}\n[[attacks]]{attacks}"
    elif case.where in ("step", "put-on"):
        when = "answer" if case.where == "step" else "wrap"
        step = f'\n[[defenses]]\nuse = "{METHODS}:Hostile"\nfault = "{case.fault}"\nwhen = "{when}"\nbase = "fgsm-at"\n'
        text = f"{plain}{step}\n[[attacks]]{attacks}"
    elif case.where == "recipe":
        text = text.replace('"fgsm-at"', f'"{METHODS}:endless"\nfault = "{case.fault}"')
    elif case.where in ("network", "factory"):
        text = text.replace(
            'arch = "small-cnn"\nchannels = 4\nhidden = 16', f'arch = "{METHODS}:{case.where}"\nfault = "{case.fault}"'
        )
    else:
        methods = folder / "imported.py"
        methods.write_text(METHODS.read_text() + f'\n\nharm("{case.fault}")\n')
        text = f'{plain}\n[[attacks]]\nuse = "{methods}:hostile"\neps = "0.1"\n\n[[attacks]]{attacks}'
    if case.way == "timeout":
        text += f'\n[run]\ntimeout = "{timeout}s"\n'
    (folder / "these.toml").write_text(text)
    return str(folder / "these.toml")


class Stopwatch:
    """Measures cases, one after another.

    Args:
        folder: for what all of them have in common.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = FIRST

    def prepare(self, case: Case, folder: Path) -> None:
        """Put a store that holds all but the hostile cells where the case will run, unless its network is hostile."""
        if case.where in ("recipe", "network", "factory"):
            return
        if not (self._folder / "store").exists():
            head, _, attacks = tiny.CONFIG.replace("epochs = 2", "epochs = 1").partition("\n[[attacks]]")
            plain = head.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', "")
            (self._folder / "these.toml").write_text(f"{plain}\n[[attacks]]{attacks}")
            if finishing(self._folder) != 0:
                raise RuntimeError(f"the run without a hostile method fails: {child.errors(self._folder)}")
        shutil.copytree(self._folder / "store", folder / "store")

    def measure(self, case: Case, folder: Path) -> tuple[float, int, str]:
        """Return how many seconds too late it ended, the exit code, and what it said last."""
        limit = TIMEOUT if case.way == "timeout" else self._starts + BUDGET
        # It may be over before the method has begun, on a machine that is busier than a moment ago.
        while (outcome := self._once(case, folder, limit)) is None:
            limit *= 2
        return outcome

    def _once(self, case: Case, folder: Path, limit: float) -> tuple[float, int, str] | None:
        words = [sys.executable, str(ROOT / "run_bench.py"), "run", config(folder, case, limit)]
        words += ["--store", str(folder / "store"), "--report", str(folder / "report")]
        words += ["--time-budget", f"{limit:.3f}s"] if case.way == "budget" else []
        words += ["--executor", "ray"] if case.where == "ray" else []
        started = time.time()
        # Not where the method leaves files that it names, for these are part of its code.
        run = subprocess.Popen(
            words, cwd=self._folder, env={**os.environ, "HOSTILE": str(folder)}, text=True,
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
            if case.fault == JOINING and any(" on Ray;" in line for _, line in list(heard.queue)):
                begun.touch()
        if not begun.exists():
            if case.way in ("budget", "timeout") and run.returncode == CODES[case.way] and limit < HANGS:
                return None
            return float("inf"), run.returncode, "it ended before the method had begun"
        self._starts = begun.stat().st_mtime - started
        due = (begun.stat().st_mtime if case.way == "timeout" else started) + limit
        if case.way.startswith("SIG"):
            time.sleep(0.5)
            due = time.time()
            run.send_signal(getattr(signal, case.way))
        try:
            run.wait(timeout=HANGS + limit)
        except subprocess.TimeoutExpired:
            run.kill()
            return float("inf"), -9, "it did not end"
        ended = time.time()
        assert run.stdout is not None
        out = run.stdout.read()
        listener.join()
        said = [heard.get() for _ in range(heard.qsize())]
        if case.way == "timeout":
            let_go = [when for when, line in said if "another process continues" in line]
            ended = min(let_go + [when for when in failures(folder) if when > started], default=ended)
        last = (out.strip().splitlines() or [line for _, line in said] or [""])[-1]
        return ended - due, run.returncode, last


def failures(folder: Path) -> list[float]:
    """Return when cells failed."""
    logs = (folder / "store" / "log").glob("*.jsonl")
    events = map(json.loads, chain.from_iterable(path.read_text().splitlines() for path in logs))
    return [datetime.fromisoformat(e["time"]).timestamp() for e in events if "failed" in e["event"]]


def finishing(folder: Path) -> int:
    """Return the exit code of the same command where methods come back."""
    (folder / "calm").touch()
    options = ["--store", str(folder / "store"), "--report", str(folder / "report")]
    return child.finish(child.start(folder, ["run", str(folder / "these.toml"), "--quiet", *options]), HANGS)


def done(commit: str | None) -> set[str]:
    """Return the cases that are kept as measured at a commit, and as promised."""
    path = RESULTS / "ending.json"
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    return {
        name
        for name, part in parts.items()
        if part["provenance"]["commit"] == commit
        and not part["provenance"]["dirty"]
        and part["figures"]["seconds"] is not None
        and not wrong_of(Case(*name.split("/")), part["figures"])
    }


def wrong_of(case: Case, figures: dict[str, Any]) -> list[str]:
    """Return a line for each promise that a case did not keep."""
    seconds = figures["seconds"]
    wrong = missed({"seconds": float("inf") if seconds is None else seconds}, PROMISED)
    wrong += [f"exit code {figures['code']}, not {CODES[case.way]}"] * (figures["code"] != CODES[case.way])
    wrong += ["the same command does not finish it"] * (not figures["finished"])
    return [f"{case}: {line}" for line in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of where/fault/what ends it")
    parser.add_argument("--resume", action="store_true", help="not what was measured at this commit and is as promised")
    args = parser.parse_args()
    known = done(source()[0]) if args.resume else set()
    chosen = [case for case in cases() if fnmatch.fnmatchcase(str(case), args.only) and str(case) not in known]
    delays: dict[Case, float] = {}
    wrong = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crossfire-ending-") as common:
        stopwatch = Stopwatch(Path(common))
        for case in chosen:
            with tempfile.TemporaryDirectory(prefix="crossfire-ending-") as name:
                folder = Path(name)
                stopwatch.prepare(case, folder)
                load = os.getloadavg()[0]
                seconds, code, said = stopwatch.measure(case, folder)
                finished = finishing(folder) == 0
            delays[case] = seconds
            figures = {
                "seconds": round(seconds, 2) if math.isfinite(seconds) else None,
                "code": code,
                "finished": finished,
                "load_before": round(load, 2),
                "processors": os.cpu_count(),
            }
            keep("ending", {str(case): figures})
            wrong += (of_case := wrong_of(case, figures))
            print(f"{case!s:28} {seconds:6.2f} s  {code:4}  {said}{'  WRONG' * bool(of_case)}", flush=True)
    for way in WAYS:
        if times := [seconds for case, seconds in delays.items() if case.way == way]:
            print(f"{way}: {len(times)} cases, at worst {max(times):.2f} s")
    print(f"{len(known)} kept, {len(delays)} measured in {(time.monotonic() - began) / 60:.1f} min")
    print("\n".join(wrong) or "all as promised")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
