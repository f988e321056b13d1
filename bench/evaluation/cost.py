"""What a pass costs.

FLOPs count 2 per multiply-add, convolutions and matrix products only, as the field's tables do. A backward pass is
counted as one with trainable parameters, two forwards' worth, also where an attack freezes them and pays one: so the
figures can be laid beside published ones (PGD-10 training of the CIFAR ResNet-18: 11 x 166.6 = 1833 TFLOP an epoch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.evaluation.target import Meter, set_oracle_labels
from bench.process.isolation import frozen, isolated
from bench.types import Passes


class PassFlops(NamedTuple):
    """FLOPs of one image forwards, and backwards with trainable parameters."""

    forward: float
    backward: float

    def of(self, forwards: float, backwards: float) -> float:
        return forwards * self.forward + backwards * self.backward


#: A convolution forwards, as torch calls it.
_CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten._convolution)


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by the formulas of torch's ``FlopCounterMode``, which loads torch's compiler first: over a second."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.by_convolutions = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:
                value = func.decompose(*args, **kwargs)
            if value is not NotImplemented:
                return value
        value = func(*args, **kwargs)
        if packet is torch.ops.aten.convolution_backward:
            self.total += _of_convolution_backward(*args, **kwargs)
        elif packet in flop_registry:
            counted = flop_registry[packet](*args, **kwargs, out_val=value)
            self.total += counted
            self.by_convolutions += counted if packet in _CONVOLUTIONS else 0
        return value


def _of_convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: object,
    wanted: Sequence[bool],
) -> int:
    # Torch's own formula forgets the groups: that of a depthwise convolution is too large by its channels.
    return 2 * sum(wanted[:2]) * math.prod((x if transposed else grad).shape) * math.prod(weight.shape[1:])


@contextmanager
def _counted() -> Iterator[_Flops]:
    """Count; attention is taken apart into its matrix products, since fused kernels have no formula, or another."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Flops() as flops:
            yield flops
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def pass_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> PassFlops:
    """Measure a classifier on one image of the given shape (C, H, W), on the device of its parameters."""
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    image = torch.full((1, *image_shape), 0.5, device=device)

    with frozen(net):
        with torch.no_grad(), _counted() as forward:
            net(image)
        net.requires_grad_(True)
        with torch.enable_grad(), _counted() as both:
            leaf = image.clone().requires_grad_()
            wanted = [each for each in (leaf, *net.parameters()) if each.requires_grad]
            value = net(leaf).logsumexp(1).sum()
            # A network may compute without gradients; attacks on scores need none.
            if value.requires_grad:
                torch.autograd.grad(value, wanted, allow_unused=True)
        net.requires_grad_(False)
    return PassFlops(float(forward.total), float(both.total - forward.total))


def convolution_flops(net: nn.Module, image_shape: Sequence[int]) -> tuple[float, float]:
    """Return the FLOPs of one grey image (C, H, W) forwards in convolutions, and in all."""
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    with torch.no_grad(), _counted() as counted:
        net(torch.full((1, *image_shape), 0.5, device=device))
    return float(counted.by_convolutions), float(counted.total)


def parameters(net: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


class DeployedCost(NamedTuple):
    """One image through the deployed defense: passes of the base classifier inside, seconds, and passes of a score."""

    passes: Passes
    seconds: float
    score_forwards: float = 0.0

    def with_score(self, base: PassFlops, score: PassFlops) -> PassFlops:
        """Return the FLOPs of a pass of the base classifier with those of the score that belong to it.

        Computing a step again in a backward pass, to save memory, is not counted.
        """
        times = self.score_forwards / self.passes.forwards if self.passes.forwards else 0.0
        return PassFlops(base.forward + times * score.forward, base.backward + times * score.backward)


def deployed_cost(
    base: nn.Module,
    deployed: nn.Module,
    image_shape: tuple[int, int, int],
    batch: int,
    score: nn.Module | None = None,
) -> DeployedCost:
    """Measure the deployed function on grey images: passes per image, and the least seconds of three runs.

    Args:
        base: the classifier inside.
        deployed: the function.
        image_shape: channels, height and width.
        batch: how many images.
        score: the network that predicts noise inside, if there is one.
    """
    device = next((parameter.device for parameter in base.parameters()), torch.device("cpu"))
    images = torch.full((batch, *image_shape), 0.5, device=device)
    seconds = []
    with isolated("the deployed function"), frozen(base, strict=True), torch.no_grad():
        deployed.eval()
        set_oracle_labels(deployed, torch.zeros(batch, dtype=torch.int64, device=device))
        with Meter(base) as meter, nullcontext() if score is None else Meter(score) as of_score:
            deployed(images)
        for _ in range(3):
            synchronize(device)
            started = time.perf_counter()
            deployed(images)
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    score_forwards = 0.0 if of_score is None else of_score.forwards / batch
    return DeployedCost(Passes(meter.forwards / batch, meter.backwards / batch), min(seconds) / batch, score_forwards)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is accurate."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
