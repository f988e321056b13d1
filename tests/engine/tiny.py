"""The smallest real run: digits, a network of a few thousand weights, one epoch."""

from pathlib import Path

CONFIG = """
schema = 1
name = "tiny"

[dataset]
name = "digits"
n = 40
train_n = 200

[[models]]
arch = "small-cnn"
channels = 4
hidden = 16

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
steps = 3
"""


def write(folder: Path, extra: str = "") -> str:
    path = folder / "tiny.toml"
    path.write_text(CONFIG + extra)
    return str(path)
