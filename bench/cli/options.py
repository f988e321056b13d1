"""The words that run, train and plan have in common."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench.types import UsageError

if TYPE_CHECKING:
    import torch

    from bench.config import Config
    from bench.schedule.plan import Work


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="quick", metavar="PRESET|FILE.toml", help="default: quick")
    store(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: the configuration's")
    parser.add_argument("--n", type=int, metavar="N", help="test images, instead of the configuration's")
    parser.add_argument("--only", metavar="PATTERN", help="only cells whose dataset/model/defense/attack/access match")
    parser.add_argument("--executor", choices=("inline",), default="inline", help="default: inline, this process")
    parser.add_argument(
        "--time-budget", type=_seconds, metavar="9m", help="end cleanly after so long; run again to go on"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="one seed, instead of the configuration's")


def store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="default: $CROSSFIRE_STORE, or .crossfire in the current folder"
    )


def store_root(args: argparse.Namespace) -> Path:
    from bench.store import default_root

    root: Path = args.store or default_root()
    return root


def work(args: argparse.Namespace) -> tuple[Config, Work]:
    """Return the checked configuration and its plan."""
    from bench import config
    from bench.schedule.plan import make

    chosen = config.load(args.what)
    return chosen, make(chosen, data_folder=data_folder(args), n=args.n, seed=args.seed, only=args.only)


def data_folder(args: argparse.Namespace) -> Path | None:
    folder: Path | None = args.data
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--data {folder}: no such folder")
    return folder


def device(args: argparse.Namespace, config: Config) -> torch.device:
    """Return the device asked for; ``auto`` takes a GPU where there is one."""
    import torch

    name: str = args.device or config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return torch.device(name)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no time such as 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[match[2]]
