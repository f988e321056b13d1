"""The network as its batches run it: layout in memory and precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import nn

from bench.data.memo import cache_folder
from bench.keys import derive_seed
from bench.models.bf16 import Bf16
from bench.models.build import build
from bench.models.logits import with_precise_logits
from bench.types import MethodRef, Schedule, TrainRef, UsageError


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


def _overruns(module: nn.Module) -> bool:
    # Seen in torch 2.15, in the weight gradient on maps of 64x64 and more: a segmentation fault, or corrupt memory.
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < 16
    )
