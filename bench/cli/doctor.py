"""Is this machine ready?"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import time
from itertools import chain

from bench.cli import options
from bench.display.base import Display

SUMMARY = "is this machine ready? Of a checkpoint: what it holds, and which network fits"
_PACKAGES = (
    "torch",
    "torchvision",
    "pyautoattack",
    "adversarial-robustness-toolbox",
    "foolbox",
    "torchattacks",
    "adv-lib",
    "secml-torch",
    "timm",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a checkpoint; by default: environment, devices, packages, image sets, and a cell that takes seconds",
    )
    options.store(parser)
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")


def _print_packages() -> None:
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = f"not installed (pip install {package})"
        print(f"{package:<30} {version}")


def main(args: argparse.Namespace) -> int:
    if args.file is not None:
        from bench.cli import checkpoint

        return checkpoint.main(args)
    from bench import registry
    from bench.data import NAMED

    print(f"python       {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")
    _print_packages()
    display: Display = args.display
    with display.phase("looking for methods"):
        kinds = ("attack", "library", "recipe", "test-time")
        methods = chain.from_iterable(registry.entries(kind).values() for kind in kinds)
        missing = [entry.name for entry in methods if not entry.available]
    print(f"methods not available here: {', '.join(missing) or 'none'}")
    print(f"method files that cannot be read: {', '.join(str(path) for path, _ in registry.unread()) or 'none'}")
    folder = options.data_folder(args)
    for name, named in NAMED.items():
        with display.phase(f"looking for {name}"):
            available = named.available(folder)
        print(f"images {name:<14} {'found' if available else 'not found'}")
    root = options.store_root(args)

    from bench.store.working_store import Store

    Store(root).check_writable()
    free = shutil.disk_usage(root).free / 2**30
    print(f"store        {root.resolve()}, writable, {free:.0f} GiB free")

    with display.phase("loading torch"):
        import torch

        from bench.evaluation.device import device_named
        from bench.evaluation.target import Meter, NetworkTarget
        from bench.models.bf16 import has_units
        from bench.models.build import build, network_ref
        from bench.process.isolation import frozen
        from bench.types import Threat

    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())] or ["cpu only"]
    print(f"devices      {', '.join(devices)}; {torch.get_num_threads()} threads")
    device = device_named("auto", "doctor").type
    leads = "in hardware: it leads attacks on networks of convolutions"
    if device == "cuda":
        leads = 'in hardware: craft_precision = "bf16" lets it lead attacks'
    print(f"bfloat16     {leads if has_units(device) else 'emulated, slower than float32'}")
    started = time.perf_counter()
    net = build(network_ref("small-cnn", {}), 10, (3, 32, 32))
    x, y = torch.rand(16, 3, 32, 32), torch.zeros(16, dtype=torch.int64)
    with display.phase("measuring a cell"), frozen(net), Meter(net, 16) as meter:
        target = NetworkTarget(net, meter, torch.arange(16), seed=0, num_classes=10, batch=16)
        registry.find("attack", "pgd").load()(target, x, y, Threat(norm="linf"))
    print(
        f"a cell       16 images under PGD-20: {time.perf_counter() - started:.2f} s, {meter.forwards} forwards: ready"
    )
    return 0
