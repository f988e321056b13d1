"""How many images stand after attacks that float32 and that bfloat16 led.

``python -m tests.perf.precision [--data DIR]`` trains networks on digits, and on CIFAR-10 where that is at hand, and
attacks each in both precisions with a large and a small budget. Work is kept in ``--store``, where a second run
continues. ``higher`` is how many of 1,000 images more stand where bfloat16 led. The figures are kept in
``results/perf``, and the table in docs/reading-the-tables.md is made of them; exit code 1 if more than one in 1,000
does, or if an attack is missing that bfloat16 leads by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from bench.cli import main as crossfire
from bench.evaluation.precision import KEEPING
from bench.store.working_store import Store
from bench.types import CellResult
from tests.perf.kept import Limits, keep, missed

PROMISED: Limits = {"higher": (None, 1.0)}
STEPS: dict[str, dict[str, int]] = {
    "apgd-ce": {"steps": 30},
    "apgd-dlr": {"steps": 30},
    "apgd-t": {"steps": 15, "targets": 3},
    "cw": {"steps": 40, "searches": 3},
    "ddn": {"steps": 50},
    "fgsm": {},
    "fmn": {"steps": 50},
    "mi-fgsm": {"steps": 10},
    "pgd": {"steps": 20},
    "smoothed-pgd": {"steps": 10, "samples": 3},
    "ti-dim": {"steps": 10},
}
#: Those that minimize the change; the others have budgets.
MINIMAL = ("cw", "ddn", "fmn")


class Task(NamedTuple):
    """Networks, how they are trained, and budgets in L-infinity, large and small, and in L2."""

    dataset: str
    networks: tuple[str, ...]
    defenses: tuple[dict[str, Any], ...]
    train: dict[str, Any]
    train_n: int | None
    budgets: tuple[str, str, str]
    n: int = 500


HERE = str(Path(__file__).resolve())
PGD_AT = {"use": "pgd-at", "steps": 5}
TASKS = (
    Task(
        "digits",
        ("small-cnn", f"{HERE}:Transformer", f"{HERE}:Perceptron"),
        ({"use": "standard"}, PGD_AT),
        {"epochs": 20, "batch": 64, "lr": 0.05, "schedule": "one-cycle", "eps": "0.1"},
        1200,
        ("0.1", "0.01", "1"),
    ),
    Task(
        "cifar10",
        ("small-resnet",),
        ({"use": "fgsm-rs"}, PGD_AT),
        {"epochs": 4, "batch": 128, "lr": 0.1, "schedule": "one-cycle", "augment": "crop-flip", "eps": "8/255"},
        8000,
        ("8/255", "1/255", "0.5"),
    ),
    # As deep as those that people attack; plainly trained, so that a third stands in a small budget.
    Task("cifar10", ("resnet18",), ({"use": "weights:pyautoattack"},), {}, None, ("8/255", "9/2040", "0.1"), 64),
)


class Transformer(nn.Module):
    """A small vision transformer."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, 2, 2)
        self.positions = nn.Parameter(
            0.02 * nn.init.normal_(self.patches.weight.new_empty(1, image_size**2 // 4, width))
        )
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2) + self.positions).mean(1))


class Perceptron(nn.Sequential):
    """Two hidden layers."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int = 256) -> None:
        hidden = nn.Linear(in_channels * image_size**2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        super().__init__(nn.Flatten(), *hidden, nn.Linear(width, num_classes))


def attacks(task: Task) -> Iterator[dict[str, Any]]:
    """Yield every attack in both precisions."""
    large, small, l2 = task.budgets
    for name, effort in STEPS.items():
        norm = "l2" if name in ("cw", "ddn") else "linf"
        budgets = [("l2", l2)] if norm == "l2" else [("linf", large)]
        budgets += [] if name in (*MINIMAL, "smoothed-pgd") else [("linf", small)]
        budgets += [("l2", l2)] if name in ("pgd", "apgd-ce") else []
        for each, eps in budgets:
            for precision in ("float32", "bf16"):
                yield {"use": name, "norm": each, "eps": eps, "craft_precision": precision, **effort}


def configuration(task: Task) -> str:
    """Return the table of a task as TOML."""
    sections = [
        ("", {"schema": 1, "name": f"precision-{task.networks[0]}"}),
        ("[dataset]", {"name": task.dataset, "n": task.n, **({"train_n": task.train_n} if task.train else {})}),
        *([("[train]", {"momentum": 0.9, "weight_decay": 5e-4, **task.train})] if task.train else []),
        *(("[[models]]", {"arch": network}) for network in task.networks),
        *(("[[defenses]]", defense) for defense in task.defenses),
        *(("[[attacks]]", attack) for attack in attacks(task)),
    ]
    # Numbers and texts are the same in JSON.
    bodies = ((head, (f"{key} = {json.dumps(value)}" for key, value in body.items())) for head, body in sections)
    return "\n".join("\n".join((head, *lines)) for head, lines in bodies)


def counted(results: Iterable[CellResult]) -> dict[str, dict[str, float]]:
    """Return of each attack its images, how many stand in each precision, and how many more of 1,000 in bfloat16."""
    images, standing = Counter[str](), Counter[tuple[str, str]]()
    for result in results:
        if (attack := result.cell.attack) is None or (right := result.robust_outcomes) is None:
            continue
        images[attack.attack.name] += result.cell.data.n
        standing[attack.attack.name, attack.craft_precision] += right.count
    figures = {}
    for name, both in sorted(images.items()):
        full, low = standing[name, "float32"], standing[name, "bf16"]
        figures[name] = {"images": both / 2, "float32": full, "bf16": low, "higher": 2000 * (low - full) / both}
    return figures


def run(task: Task, store: str, data: str | None) -> int:
    """Train and attack what is not done yet, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, f"{task.dataset}.toml")
        table.write_text(configuration(task))
        more = ["--data", data] if data else []
        return crossfire(["run", str(table), "--store", store, "--report", str(Path(folder, "report")), *more])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with image sets; without it digits alone are attacked")
    parser.add_argument("--store", default=str(Path(tempfile.gettempdir(), "crossfire-precision")))
    asked = parser.parse_args()
    for task in TASKS if asked.data else TASKS[:1]:
        if code := run(task, asked.store, asked.data):
            return code
    figures = counted(Store(Path(asked.store)).results())
    print("attack | images | float32 | bfloat16 | more of 1,000")
    for name, own in figures.items():
        print(f"{name} | {own['images']:,.0f} | {own['float32']:,} | {own['bf16']:,} | {own['higher']:+.2f}")
    keep("precision", figures)
    late = [f"{name}: {line}" for name, own in figures.items() for line in missed(own, PROMISED)]
    late += [f"{name} was not measured" for name in sorted(KEEPING - figures.keys())]
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
