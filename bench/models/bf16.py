"""Networks in bfloat16: under autocast, with weights that are cast once, and where processors have units for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

#: Images on which the two precisions are compared.
COMPARED = 8

#: A margin is beyond rounding from this multiple of the largest difference between these images' logits on.
_FAR = 3.0

#: Modules whose weights autocast casts, with the names of those.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CAST_NAMES = ("weight", "bias")


def has_units(device: str) -> bool:
    """Say whether a device, ``cpu`` or ``cuda``, multiplies bfloat16 in hardware, and not by way of float32.

    A processor does with AVX512-BF16 or AMX, a GPU from NVIDIA's Ampere on.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Bf16(nn.Module):
    """A network under autocast to bfloat16, with float32 logits.

    Autocast casts every weight in every forward pass. With ``cast_once`` those of linear layers and convolutions are
    cast by :meth:`cast`, to be called whenever they have changed; outputs and gradients stay the same, for every pass
    still accumulates its gradient in float32. They are equal to the bit where kernels give equal bits for equal
    numbers, which oneDNN's do not on every CPU. Those of modules in ``without`` are left to autocast.
    """

    def __init__(self, net: nn.Module, *, cast_once: bool = True, without: Collection[nn.Module] = ()) -> None:
        super().__init__()
        self.net = net
        self._weights = _cast_by_autocast(net, without) if cast_once else {}
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


class LeadingBf16(nn.Module):
    """A classifier that computes in bfloat16 inside :meth:`leading`, and elsewhere as it is: in float32.

    Its weights are frozen: they are cast once, when it is made. Logits are float32 either way. Layers that read the
    image itself stay in float32: neighbouring numbers of bfloat16 are up to 1/256 apart in [0, 1], as far as a small
    perturbation reaches, and steps below half of that would be lost.

    Args:
        net: images to logits.
        image_shape: (C, H, W), by which those layers are known.
    """

    def __init__(self, net: nn.Module, image_shape: Sequence[int]) -> None:
        super().__init__()
        self._readers = _readers_of(image_shape, net)
        self._bf16 = Bf16(net, without=self._readers)
        self._leads = False

    @property
    def net(self) -> nn.Module:
        """The classifier itself."""
        return self._bf16.net

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Compute in bfloat16 in this block."""
        before, self._leads = self._leads, True
        try:
            yield
        finally:
            self._leads = before

    def forward(self, x: Tensor) -> Any:
        if not self._leads:
            return self.net(x)
        with _in_float32(self._readers, x.device.type):
            return self._bf16(x)


class Rounding(NamedTuple):
    """What bfloat16 does to the logits of a network: the largest change of a difference between two of an image.

    It is ``share`` of the image's largest logit, which is ``typical`` for half of the images.
    """

    share: float
    typical: float

    @classmethod
    def between(cls, full: Tensor, low: Tensor) -> Rounding:
        """Return it from logits (N, classes) of the same images in float32 and in bfloat16."""
        errors, largest = low - full, full.abs().amax(1)
        share = (errors.amax(1) - errors.amin(1)) / largest.clamp_min(torch.finfo(full.dtype).tiny)
        return cls(float(share.max()), float(largest.median()))

    def bound(self, logits: Tensor) -> Tensor:
        """Return from where on margins of logits (N, classes) in bfloat16 have the sign of float32's, shape (N,).

        Not proven: three times what was measured on clean images. Sums inside the network do not shrink with the
        logits, so neither does the bound of an image whose logits are smaller than most.
        """
        return _FAR * self.share * logits.abs().amax(1).clamp_min(self.typical)


class _Cast(torch.autograd.Function):
    """A float32 weight as its bfloat16 copy; the gradient returns to float32, as from a cast."""

    @staticmethod
    def forward(_context: Any, _weight: Tensor, copy: Tensor) -> Tensor:
        # A view would lay a weight of one channel out anew, and kernels depend on the layout.
        return copy.detach()

    @staticmethod
    def backward(_context: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].float(), None


def _readers_of(image_shape: Sequence[int], net: nn.Module) -> Sequence[nn.Module]:
    """Return the layers that are as wide as an image, by channels or by pixels; the first of all where none is."""
    layers = [module for module in net.modules() if isinstance(module, _CAST)]
    wide = [layer for layer in layers if _width(layer) in (image_shape[0], math.prod(image_shape))]
    return wide or layers[:1]


def _width(layer: nn.Module) -> object:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


@contextmanager
def _in_float32(modules: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Keep some modules out of autocast."""
    outside = ExitStack()

    def enter(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        outside.enter_context(torch.autocast(device, enabled=False))
        # One further inside the network gets what others have made, in bfloat16.
        return tuple(each.float() if isinstance(each, Tensor) else each for each in inputs)

    def leave(*_: object) -> None:
        outside.close()

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def _cast_by_autocast(net: nn.Module, without: Collection[nn.Module]) -> dict[str, nn.Parameter]:
    owners = Counter(id(value) for _, value in net.named_parameters(remove_duplicate=False))
    weights: dict[str, nn.Parameter] = {}
    for path, module in net.named_modules():
        is_cast = type(module) in _CAST and module not in without
        own = module.named_parameters(path, recurse=False) if is_cast else ()
        weights |= {
            name: value
            for name, value in own
            if name.rpartition(".")[2] in _CAST_NAMES and value.dtype == torch.float32 and owners[id(value)] == 1
        }
    return weights
