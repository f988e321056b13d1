"""What diffusion purification costs beside a plain torch chain: ``python -m tests.perf.purification``.

The plain chain is DDPM as one would write it: the same networks, noise from ``torch.randn``, and autograd as it is. One
forward pass and one gradient to the images are measured of both, in turn, on one thread; figures are medians of
processor time and of the ratios of pairs. The purifier computes its steps again in the backward pass, which keeps
memory small (``defenses/test_diffusion.py``), so its gradient takes longer. The figures are kept in ``results/perf``;
exit code 1 if one is not what was promised.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.build import build, network_ref
from bench.models.layout import fast_layout
from bench.registry import entries, find
from tests.perf.kept import Limits, keep, missed

#: Images at a time, their shape, and the channels of the denoiser.
CASES = {"digits": (100, (1, 8, 8), 16), "cifar10": (8, (3, 32, 32), 32)}
SETTINGS = {"t_star": 0.2, "steps": 10}
REPEATS = 9
#: A backward pass to the images takes one or two forward passes, and the steps are computed once more.
PROMISED: Limits = {"forward_over": (None, 1.25), "gradient_over": (None, 1.5)}


class PlainChain(nn.Module):
    """DDPM from t* back to 0, then the classifier (Ho et al., 2020; Nie et al., 2022)."""

    def __init__(self, base: nn.Module, score: nn.Module) -> None:
        super().__init__()
        self.base, self.score = base, score
        signal = score.alpha_bar.tolist()
        start = round(SETTINGS["t_star"] * (len(signal) - 1))
        self.times = [start * (SETTINGS["steps"] - i) // SETTINGS["steps"] for i in range(SETTINGS["steps"] + 1)]
        self.signal = signal

    def forward(self, x: Tensor) -> Tensor:
        first = self.signal[self.times[0]]
        x_t = first**0.5 * (2 * x - 1) + (1 - first) ** 0.5 * torch.randn_like(x)
        for now, then in zip(self.times, self.times[1:], strict=False):
            before, after = self.signal[now], self.signal[then]
            noise = self.score(x_t, torch.full((len(x),), now))
            x_0 = (x_t - (1 - before) ** 0.5 * noise) / before**0.5
            variance = (1 - after) / (1 - before) * (1 - before / after)
            x_t = after**0.5 * x_0 + max(1 - after - variance, 0.0) ** 0.5 * noise
            if then:
                x_t = x_t + variance**0.5 * torch.randn_like(x)
        purified: Tensor = self.base(((x_t + 1) / 2).clamp(0, 1))
        return purified


def measure(images: int, shape: tuple[int, int, int], channels: int) -> dict[str, float]:
    """Return the milliseconds of each way for an image, and their ratios."""
    torch.manual_seed(0)
    x, y = torch.rand(images, *shape), torch.randint(10, (images,))
    base = fast_layout(build(network_ref("small-cnn", {}), 10, shape).eval().requires_grad_(False), x[:2]).net
    score = entries("score-network")["unet"].load()(in_channels=shape[0], channels=channels)
    step = find("test-time", "diffusion").load()(**SETTINGS)
    step.use_score(score.eval().requires_grad_(False))
    ways = {"purifier": step.surrogate(base).eval(), "plain": PlainChain(base, score).eval()}
    taken: dict[str, list[float]] = {f"{name}_{kind}": [] for name in ways for kind in ("forward_ms", "gradient_ms")}
    for repeat in range(1 + REPEATS):
        for name, function in ways.items():
            spent = {"forward_ms": _forward(function, x), "gradient_ms": _gradient(function, x, y)}
            # The first call of all loads kernels and finds memory.
            for kind in spent if repeat else ():
                taken[f"{name}_{kind}"].append(1000 * spent[kind] / images)
    figures = {name: statistics.median(each) for name, each in taken.items()}
    for kind in ("forward", "gradient"):
        pairs = zip(taken[f"purifier_{kind}_ms"], taken[f"plain_{kind}_ms"], strict=True)
        figures[f"{kind}_over"] = statistics.median(ours / plain for ours, plain in pairs)
    return figures


def _forward(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    started = time.process_time()
    with torch.no_grad():
        function(x)
    return time.process_time() - started


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    started = time.process_time()
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(function(leaf), y, reduction="sum"), leaf)
    return time.process_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    torch.set_num_threads(1)
    figures, late = dict[str, dict[str, float]](), list[str]()
    for case in parser.parse_args().cases or CASES:
        figures[case] = measure(*CASES[case])
        late += [f"{case}: {line}" for line in missed(figures[case], PROMISED)]
        print(case, ", ".join(f"{name} {value:.3g}" for name, value in figures[case].items()), flush=True)
    keep("purification", figures)
    print("\n".join(late) or "all as promised")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
