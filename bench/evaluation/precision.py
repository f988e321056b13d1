"""What leads an attack: bfloat16 where it is asked for, or where it is faster and breaks as many images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bench.evaluation.cost import convolution_flops
from bench.models.bf16 import has_units
from bench.types import AttackRef

#: Attacks of many steps that were measured to break as many images; docs/reading-the-tables.md has the figures.
KEEPING = frozenset(("apgd-ce", "apgd-dlr", "apgd-t", "ddn", "fmn", "mi-fgsm", "pgd", "ti-dim"))
#: FLOPs of an image in convolutions below which to convert numbers takes longer than bfloat16 saves.
_LEAST_FLOPS = 50e6
#: Share of convolutions in all FLOPs: under torch's autocast a transformer is no faster on a processor.
_LEAST_SHARE = 0.5
_NORMS = ("linf", "l2")


def is_led_in_bf16(ref: AttackRef, base: nn.Module, image_shape: Sequence[int], device: torch.device) -> bool:
    """Say whether gradients in bfloat16 lead an attack.

    With ``craft_precision = "auto"`` that depends on the processor, the attack and the network, and never on a clock,
    so that the same run gives the same images. A GPU leads in float32 unless it is told otherwise: nothing was measured
    on one.

    Args:
        ref: the attack.
        base: the base classifier, on the device.
        image_shape: (C, H, W).
        device: where it computes.
    """
    if not may_lead(ref):
        return False
    return ref.craft_precision == "bf16" or gains(base, image_shape, device)


def may_lead(ref: AttackRef) -> bool:
    """Say whether bfloat16 is to lead an attack, or may by itself.

    It may where it was measured: on a bare classifier, to any class, without a budget of passes.
    """
    if ref.craft_precision != "auto":
        return ref.craft_precision == "bf16"
    is_plain = ref.step is None and ref.target is None and ref.max_passes is None
    return is_plain and ref.attack.name in KEEPING and ref.threat.norm in _NORMS


def gains(base: nn.Module, image_shape: Sequence[int], device: torch.device) -> bool:
    """Say whether bfloat16 makes a classifier faster on a device, as far as that was measured."""
    if device.type != "cpu" or not has_units("cpu"):
        return False
    convolved, total = convolution_flops(base, image_shape)
    return convolved >= max(_LEAST_FLOPS, _LEAST_SHARE * total)
