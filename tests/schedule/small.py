"""The smallest run with every kind of work: two chunks of images, a training, static, adaptive and shared sets."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.cli import main
from bench.config import sections
from bench.evaluation.device_cache import DeviceCache
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import Threat

#: Images and a network that take seconds.
DIGITS = """
[dataset]
name = "digits"
n = 140
train_n = 100

[[models]]
arch = "small-cnn"
channels = 4
hidden = 16
"""
CONFIG = f"""
schema = 1
name = "small"
{DIGITS}
[train]
epochs = 2
batch = 50
lr = 0.05
eps = "0.1"

[[defenses]]
use = "fgsm-at"

[[defenses]]
use = "tpap"
beta = "0.1"

[[attacks]]
use = "fgsm"
eps = "0.1"

[[attacks]]
use = "pgd"
eps = "0.1"
steps = 2
"""


#: The threat of its attacks.
THREAT = Threat(eps="0.1")

#: One row and one column of the run; they take a second.
ONE = (
    CONFIG.replace("n = 140", "n = 24").replace("epochs = 2", "epochs = 1").partition('[[defenses]]\nuse = "tpap"')[0]
    + '[[attacks]]\nuse = "fgsm"\neps = "0.1"\n'
)


@cache
def images() -> Tensor:
    """Return the images of the run, float32 (140, 1, 8, 8) in [0, 1]."""
    with TemporaryDirectory() as folder:
        work = make(sections.load(write(Path(folder))))
    return DeviceCache(torch.device("cpu"), work.data_folder).test(work.plan.cells[0].cell.data).x.float() / 255


def write(folder: Path, text: str = CONFIG) -> str:
    path = folder / "small.toml"
    path.write_text(text)
    return str(path)


def command_line(folder: Path, *options: str, text: str = CONFIG) -> list[str]:
    """Return the arguments of the run of a configuration into a folder."""
    return ["run", write(folder, text), "--store", str(folder / "store"), "--report", str(folder / "report"), *options]


def run(folder: Path, *options: str, text: str = CONFIG) -> int:
    return main(command_line(folder, *options, text=text))


def events(folder: Path, *kinds: str) -> list[dict]:
    """Return the events of some kinds in the logs of a store."""
    matches: list[dict] = []
    for path in (folder / "store" / "log").glob("*.jsonl"):
        logged = map(json.loads, path.read_text().splitlines())
        matches += [event for event in logged if event["event"] in kinds]
    return matches


def outcome(folder: Path) -> dict[str, object]:
    """Return everything that a run stores except times: results, records, adversarial images, final weights."""
    store = Store(folder / "store")
    contents: dict[str, object] = {}
    for result in store.results():
        body = result.model_dump(include={"status", "metrics", "clean_bits", "adversarial_bits", "flags"})
        passes = result.cost and (result.cost.forwards_per_example, result.cost.backwards_per_example)
        rows = pq.read_table(store.records(result.key)).drop_columns(["seconds"]).to_pydict()
        contents[str(result.names)] = (body, passes, rows)
    for path in sorted(store.root.glob("*/*/[!s]*.safetensors")):
        tensors = load_file(path)
        contents[store.name(path)] = {name: tensors[name].numpy().tobytes() for name in sorted(tensors)}
    return contents
