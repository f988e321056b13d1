"""The same function, faster: batch norm folded into convolutions, weights laid out channels-last."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.models.logits import with_precise_logits
from bench.store.account import spending

# Folding rounds differently: relative to the largest logit, this much is round-off and more is a mistake.
ROUND_OFF = 1e-4


class FastLayout(NamedTuple):
    """A network that computes the same logits, and how many batch norms were folded; ``note`` says why if none."""

    net: nn.Module
    folded: int
    note: str


@spending("networks")
def fast_layout(net: nn.Module, example: Tensor) -> FastLayout:
    """Return a channels-last copy of a network in evaluation mode, with batch norm folded where that is safe.

    A network that cannot be traced, or whose trace gives other logits (a random one, say), is copied as it is.
    Logits of another precision than that of the images are given theirs.

    Args:
        net: images to logits; it is left alone.
        example: a few images (N, C, H, W) on its device, to compare the logits on.
    """
    fast = _fast_layout(net, example)
    return fast._replace(net=with_precise_logits(fast.net, example))


def _fast_layout(net: nn.Module, example: Tensor) -> FastLayout:
    plain = copy.deepcopy(net).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    try:
        traced = fx.symbolic_trace(copy.deepcopy(plain))
    except Exception as error:  # Whatever the network's own code raises when it meets a symbol instead of images.
        return FastLayout(plain, 0, f"not folded: it cannot be traced ({type(error).__name__})")
    folded = _fold(traced)
    traced.to(memory_format=torch.channels_last)
    # In TF32, which a GPU takes by default, round-off alone is larger than that.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected, actual = plain(example), traced(example)
    if not bool(((actual - expected).abs().amax() <= ROUND_OFF * expected.abs().amax().clamp_min(1.0)).all()):
        return FastLayout(plain, 0, "not folded: its trace gives other logits")
    return FastLayout(traced, folded, "" if folded else "not folded: it has no convolution followed by a batch norm")


def _fold(traced: fx.GraphModule) -> int:
    modules, folded = dict(traced.named_modules()), 0
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for norm in list(traced.graph.nodes):
        conv = norm.args[0] if norm.op == "call_module" and norm.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module":
            continue
        first, second = modules[str(conv.target)], modules[str(norm.target)]
        # A convolution that is read elsewhere, or called twice, must keep its own output.
        alone = len(conv.users) == 1 and called.count(conv.target) == called.count(norm.target) == 1
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.track_running_stats and alone:
            traced.set_submodule(str(conv.target), fuse_conv_bn_eval(first, second))
            norm.replace_all_uses_with(conv)
            traced.graph.erase_node(norm)
            folded += 1
    traced.delete_all_unused_submodules()
    traced.recompile()
    return folded
