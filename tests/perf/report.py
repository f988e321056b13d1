"""How long the reading verbs take over 10,000 cells of 1,000 images: ``python -m tests.perf.report``.

Each verb runs as a process of its own, as a user's would, and is measured from outside. The figures go to
``results/perf``; exit code 1 if one is not what was promised.
"""

import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.report import record
from bench.types import CellResult
from tests.perf.kept import Limits, keep, missed
from tests.report.fabricate import result, stored

CELLS, IMAGES = 10_000, 1_000
PROMISED: Limits = {"seconds": (None, 10), "megabytes": (None, 2048)}


def fabricated(finished: str) -> Iterator[CellResult]:
    """Yield 2 data sets x 125 defenses, half with a step, x 20 attacks x 2 budgets, with outcomes at random."""
    rng = random.Random(finished)
    places = itertools.product(("one", "two"), range(125), range(20), ("8/255", "16/255"))
    for dataset, defense, attack, eps in itertools.islice(places, CELLS):
        step = "step" if defense % 2 else None
        access = ("static" if attack % 2 else "adaptive") if step else "white-box"
        name = f"attack-{attack // 2 if step else attack}"
        bits = [rng.random() < 0.5 for _ in range(IMAGES)]
        yield result(
            f"defense-{defense}",
            name,
            clean=[True] * IMAGES,
            adversarial=bits,
            access=access,
            recipe=f"recipe-{defense}",
            step=step,
            dataset=dataset,
            eps=eps,
            finished=finished,
            code=finished,
        )


def measured(*words: str) -> tuple[float, float, int, int]:
    """Return the seconds by the clock and of computing, the peak bytes and the exit code of a command."""
    started = time.perf_counter()
    code = (
        "import resource, sys; from bench.cli import main; code = main(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, 'torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    computing, kilobytes, torch = done.stderr.split()[-3:]
    assert torch == "False"
    return seconds, float(computing), int(kilobytes) * 1024, done.returncode


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = str(stored(Path(folder) / "base", fabricated("2026-11-22T00:00:00+00:00")).root)
        head = Path(folder) / "head.json"
        head.write_text(record.serialise(fabricated("2026-11-23T00:00:00+00:00")))
        late, found = [], {}
        commands = [["leaderboard", "--store", base, "--format", kind] for kind in ("json", "md", "csv", "tex", "html")]
        for words in [["leaderboard", "--store", base], *commands, ["compare", base, str(head)]]:
            seconds, computing, peak, code = measured(*words)
            assert code in (0, 1), words
            name = " ".join(words).replace(folder, "").replace(" --store /base", "").replace("--format ", "")
            found[name] = {"seconds": seconds, "cpu_seconds": computing, "megabytes": peak / 2**20}
            late += [f"{name}: {line}" for line in missed(found[name], PROMISED)]
            print(f"{name:30} {seconds:6.2f} s ({computing:.2f} s computing) {peak / 2**20:7.0f} MB", flush=True)
    keep("report", found)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
