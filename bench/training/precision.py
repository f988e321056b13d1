"""The network as its batches run it: layout in memory, precision, and weights that are cast once a step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.data.memo import cache_folder
from bench.keys import derive_seed
from bench.models.build import build
from bench.models.logits import with_precise_logits
from bench.types import MethodRef, Schedule, TrainRef, UsageError

#: Modules whose weights autocast casts, with the names of those.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CAST_NAMES = ("weight", "bias")


class Precision(NamedTuple):
    """How a training computes; ``auto`` in its schedule is true on CUDA and false elsewhere."""

    bf16: bool
    channels_last: bool
    compile: bool

    @classmethod
    def of(cls, schedule: Schedule, device: torch.device) -> Precision:
        def decided(value: bool | str) -> bool:
            return device.type == "cuda" if isinstance(value, str) else value

        return cls(decided(schedule.bf16), decided(schedule.channels_last), schedule.compile)


def built(ref: TrainRef, network: MethodRef, device: torch.device) -> nn.Module:
    """Return the network with its first weights, in the memory layout of its schedule.

    Raises:
        UsageError: torch cannot run it in that layout.
    """
    channels_last = Precision.of(ref.schedule, device).channels_last
    torch.manual_seed(derive_seed(ref.seed, "init"))
    net = build(network, ref.data.num_classes, ref.data.image_shape).to(device).train()
    if channels_last and device.type == "cpu" and any(map(_overruns, net.modules())):
        raise UsageError(
            "channels_last = true: torch overruns memory on the CPU in strided 1x1 convolutions of fewer than 16 "
            f"channels, and {network.name} has one; leave it out, or make the network wider"
        )
    return net.to(memory_format=torch.channels_last) if channels_last else net


def in_precision(
    net: nn.Module, precision: Precision, image_shape: tuple[int, int, int], device: torch.device
) -> nn.Module:
    """Return a network as its batches run it: in bfloat16 or with precise logits, compiled if requested."""
    if precision.bf16:
        # A compiled network fuses its casts into what reads them.
        run: nn.Module = Bf16(net, cast_once=not precision.compile)
    else:
        run = with_precise_logits(net, torch.zeros(1, *image_shape, device=device))
    return cast(nn.Module, torch.compile(run)) if precision.compile else run


@contextmanager
def compile_cache() -> Iterator[None]:
    """Have torch.compile keep what it makes in the user's cache, where later runs find it, or where the user says.

    Never in a store: others may have written one, and this is code that is run. Nor where torch puts it by default, a
    name in the folder for temporary files that others could take first.

    Raises:
        CacheError: this user has no home folder.
    """
    folder = cache_folder() / "compiled"
    names = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder / "triton"}
    # This takes two seconds. It also sets the first of the names to torch's default, as if the user had.
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    added = {name: str(path) for name, path in names.items() if os.environ.get(name) in (None, default_cache_dir())}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        # Torch compiles headers into that folder for temporary files, whatever the cache is.
        with config.patch(cpp_cache_precompile_headers=False):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Bf16(nn.Module):
    """A network under autocast to bfloat16, with float32 logits.

    Autocast casts every weight in every forward pass. With ``cast_once`` those of linear layers and convolutions are
    cast by :meth:`cast`, to be called whenever they have changed; outputs and gradients stay the same, for every pass
    still accumulates its gradient in float32. They are equal to the bit where kernels give equal bits for equal
    numbers, which oneDNN's do not on every CPU.
    """

    def __init__(self, net: nn.Module, *, cast_once: bool = True) -> None:
        super().__init__()
        self.net = net
        self._weights = _cast_by_autocast(net) if cast_once else {}
        self._copies = {name: torch.empty_like(value, dtype=torch.bfloat16) for name, value in self._weights.items()}
        self.cast()

    @torch.no_grad()
    def cast(self) -> None:
        """Cast the weights as they are now."""
        if self._weights:
            torch._foreach_copy_(list(self._copies.values()), list(self._weights.values()))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the network gives images, for a score network with their steps."""
        weights = {name: _Cast.apply(value, self._copies[name]) for name, value in self._weights.items()}
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            logits: Tensor = functional_call(self.net, weights, inputs) if weights else self.net(*inputs)
        return logits.float()


class _Cast(torch.autograd.Function):
    """A float32 weight as its bfloat16 copy; the gradient returns to float32, as from a cast."""

    @staticmethod
    def forward(_context: Any, _weight: Tensor, copy: Tensor) -> Tensor:
        # A view would lay a weight of one channel out anew, and kernels depend on the layout.
        return copy.detach()

    @staticmethod
    def backward(_context: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].float(), None


def _cast_by_autocast(net: nn.Module) -> dict[str, nn.Parameter]:
    owners = Counter(id(value) for _, value in net.named_parameters(remove_duplicate=False))
    weights: dict[str, nn.Parameter] = {}
    for path, module in net.named_modules():
        own = module.named_parameters(path, recurse=False) if type(module) in _CAST else ()
        weights |= {
            name: value
            for name, value in own
            if name.rpartition(".")[2] in _CAST_NAMES and value.dtype == torch.float32 and owners[id(value)] == 1
        }
    return weights


def _overruns(module: nn.Module) -> bool:
    # Seen in torch 2.15, in the weight gradient on maps of 64x64 and more: a segmentation fault, or corrupt memory.
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < 16
    )
