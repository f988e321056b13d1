"""How fast training and purification are, as ratios of times taken in one run: ``python tests/perf/training.py``.

1. ``loader``: an epoch the usual way (torchvision, ``DataLoader``, plain loop) over the engine's, with its defaults and
   with ``channels_last``. More is better.
2. ``floor``: the engine's epoch over its passes alone, on one batch again and again. Nearer to 1 is better.
3. ``steps``: each test-time step, base network included, over one forward pass of the base network.
4. ``engine``, on CUDA only: FGSM-AT and PGD-AT of ResNet-18 in bfloat16, recorded as a graph (``captured``) and
   launched kernel by kernel (``eager``): seconds an epoch, TFLOP/s, and their share of what a product of 8192 x 8192
   matrices reaches. An epoch has ``--images`` images; 50,000 make CIFAR-10's.

The figures are kept in ``results/perf``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.models.build import build, network_ref
from bench.process import capture
from bench.registry import entries, find
from bench.training.loop import train
from bench.types import DataRef, MethodRef, Schedule, TrainRef
from tests.perf.kept import keep

SHAPE = (3, 32, 32)
CLASSES, BATCH = 10, 128


def images(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, n)


def engine_epoch(
    recipe: str, network: MethodRef, n: int, device: torch.device, *, channels_last: bool = False, bf16: bool = False
) -> dict[str, float]:
    """Return what the log says of the second epoch; the first warms up."""
    data = DataRef(
        name="noise", split="train", n=n, image_shape=SHAPE, num_classes=CLASSES, indices_sha="a", data_sha="b"
    )
    schedule = Schedule(epochs=2, batch=BATCH, augment="crop-flip", channels_last=channels_last, bf16=bf16)
    ref = TrainRef(recipe=find("recipe", recipe).ref({}), schedule=schedule, data=data, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        train(
            ref,
            network,
            *images(n),
            Path(folder),
            device=device,
            check=lambda: None,
            on_progress=lambda progress: None,
        )
        row: dict[str, float] = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[1])
        return row


def peak(device: torch.device) -> float:
    """Return the FLOP/s of the product of two matrices of 8192 x 8192 in bfloat16, the best of five."""
    a, b = torch.rand(2, 8192, 8192, device=device, dtype=torch.bfloat16)
    a @ b
    return 2 * 8192**3 / min(timed(lambda: a @ b, device) for _ in range(5))


def engines(n: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return seconds, TFLOP/s and share of the peak of each recipe, captured and eager."""
    network, highest = network_ref("resnet18", {}), peak(device)
    figures = {}
    for recipe in ("fgsm-at", "pgd-at"):
        for way, graphs in (("captured", capture.graphs), ("eager", lambda device: False)):
            kept, capture.graphs = capture.graphs, graphs
            try:
                row = engine_epoch(recipe, network, n, device, channels_last=True, bf16=True)
            finally:
                capture.graphs = kept
            rate = row["flops"] / row["seconds"]
            figures[f"{recipe} {way}"] = {"seconds": row["seconds"], "tflops": rate / 1e12, "share": rate / highest}
    return figures


def plain_epoch(network: MethodRef, n: int, device: torch.device, workers: int) -> float:
    """Return the seconds of the second epoch of standard training in the usual way."""
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    pixels, labels = images(n)

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return n

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return change(pixels[row].transpose(1, 2, 0)), int(labels[row])

    loader = torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    net = build(network, CLASSES, SHAPE).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for _ in range(2):
        started = time.perf_counter()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            loss.item()
        seconds = time.perf_counter() - started
    return seconds


def passes(network: MethodRef, n: int, device: torch.device) -> float:
    """Return the seconds of the passes of an FGSM-AT epoch and nothing else: what no engine can save."""
    net = build(network, CLASSES, SHAPE).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3, fused=True)
    x, y = torch.rand(BATCH, *SHAPE, device=device), torch.zeros(BATCH, dtype=torch.int64, device=device)

    def batch() -> None:
        net.eval().requires_grad_(False)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
        net.train().requires_grad_(True)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    batch()
    return timed(lambda: [batch() for _ in range(n // BATCH)], device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def ratio(over: Callable[[], float], under: Callable[[], float], repeats: int) -> float:
    """Return the median ratio of pairs taken one after the other, so that a busy machine slows both."""
    return statistics.median(over() / under() for _ in range(repeats))


def step_costs(net: nn.Module, device: torch.device, repeats: int) -> dict[str, float]:
    x = torch.rand(BATCH, *SHAPE, device=device)
    costs = {}
    with torch.no_grad():
        for name, entry in entries("test-time").items():
            step = entry.load()(**entry.arguments({}))
            if hasattr(step, "fit"):
                step.fit((x * 255).to(torch.uint8))
            if hasattr(step, "use_score"):
                unet = find("score-network", "unet").load()(in_channels=SHAPE[0])
                step.use_score(unet.to(device).eval().requires_grad_(False))
            deployed = step.wrap(net).eval()
            deployed(x[:2])
            net(x[:2])
            costs[name] = ratio(
                lambda deployed=deployed: timed(lambda: deployed(x), device),
                lambda: timed(lambda: net(x), device),
                repeats,
            )
    return costs


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the plain DataLoader")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, n = torch.device(args.device), args.images // BATCH * BATCH
    tiny, narrow = network_ref("small-cnn", {"channels": 4}), network_ref("resnet18", {"width": 16})
    result = {
        "loader": {
            name: ratio(
                lambda: plain_epoch(tiny, n, device, args.workers),
                lambda channels_last=channels_last: engine_epoch(
                    "standard", tiny, n, device, channels_last=channels_last
                )["seconds"],
                args.repeats,
            )
            for name, channels_last in {"defaults": False, "channels_last": True}.items()
        },
        "floor": ratio(
            lambda: engine_epoch("fgsm-at", narrow, n, device)["seconds"],
            lambda: passes(narrow, n, device),
            args.repeats,
        ),
        "steps": step_costs(build(narrow, CLASSES, SHAPE).to(device).eval(), device, args.repeats),
    }
    if device.type == "cuda":
        result["engine"] = engines(n, device)
    print(json.dumps(result, indent=2))
    keep("training", {args.device: {**result, "images": n, "threads": args.threads}})


if __name__ == "__main__":
    main()
