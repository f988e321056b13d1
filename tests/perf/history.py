"""How long ``history`` takes over 200 commits of 100 cells of 1,000 images: ``python -m tests.perf.history``.

At every commit 0.4 % of the images of each cell are others by chance, and at one of them two rows get worse. The verb
reads, tests and writes in a process of its own, in a scratch repository that has the commits. The figures go to
``results/perf``; exit code 1 if one is not what was promised.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from bench.store import history
from bench.types import CellResult
from tests.perf.kept import Limits, keep, missed
from tests.perf.report import measured
from tests.report.fabricate import result

COMMITS, ROWS, IMAGES = 200, 20, 1_000
ATTACKS = (None, "fgsm", "pgd", "apgd-ce", "square")
PROMISED: Limits = {"cpu_seconds": (None, 10), "megabytes": (None, 2048)}
PAGE: Limits = {**PROMISED, "page_megabytes": (None, 3)}
CHURN, STEP_AT, LOST = 0.004, 150, 60


def _git(folder: Path, *words: str) -> str:
    given = {f"GIT_{who}_{what}": "perf" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **given}
    ).stdout.strip()


def _cells(number: int, commit: str, truths: dict[tuple[int, int], list[bool]]) -> Iterator[CellResult]:
    rng = random.Random(number)
    for (row, column), truth in truths.items():
        bits = list(truth)
        for image in rng.sample(range(IMAGES), round(CHURN * IMAGES)):
            bits[image] = not bits[image]
        if number >= STEP_AT and row < 2 and column:
            bits[:LOST] = [False] * LOST
        attack = ATTACKS[column]
        yield result(
            f"defense-{row}",
            attack,
            clean=truths[row, 0] if attack else bits,
            adversarial=bits if attack else None,
            recipe=f"recipe-{row}",
            commit=commit,
            code=str(number // 10),
            seconds=0.002 * rng.uniform(0.9, 1.1),
            finished=f"2026-11-{1 + number % 28:02d}T10:00:00+00:00",
        )


def _repository(folder: Path) -> None:
    _git(folder, "init", "-q")
    rng = random.Random(0)
    truths: dict[tuple[int, int], list[bool]] = {}
    for row in range(ROWS):
        for column in range(len(ATTACKS)):
            truths[row, column] = [rng.random() < (0.5 if column else 0.95) for _ in range(IMAGES)]
    runs = folder / history.RUNS / "box"
    runs.mkdir(parents=True)
    for number in range(COMMITS):
        _git(folder, "commit", "-q", "--allow-empty", "-m", f"Change {number}")
        commit = _git(folder, "rev-parse", "HEAD")
        (runs / f"{commit}.json").write_text(history.serialise(_cells(number, commit, truths)), encoding="utf-8")


def main() -> int:
    late: list[str] = []
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, chdir(name):
        _repository(Path(name))
        # The verb is a process of its own in another folder.
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        for file_format in ("text", "html", "md", "csv", "json"):
            out = Path(name) / f"timeline.{file_format}"
            seconds, computing, peak, code = measured("history", "--format", file_format, "--out", str(out))
            assert code == 0
            part = figures[file_format] = {
                "seconds": seconds,
                "cpu_seconds": computing,
                "megabytes": peak / 2**20,
                "page_megabytes": out.stat().st_size / 1e6,
            }
            late += [f"{file_format}: {line}" for line in missed(part, PAGE if file_format == "html" else PROMISED)]
            print(f"{file_format:5} {computing:6.2f} s computing {part['page_megabytes']:6.2f} MB written", flush=True)
    keep("history", figures)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
