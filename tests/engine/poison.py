"""Attacks and defenses that damage the network or the process, as a user's own files."""

import builtins
import gc
import os
import random
import signal
import sys
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.api import attack, defense

#: Damages of `harm` that cannot be undone, or that end the process.
FAILS = {
    "data", "state-dict", "no-grad", "one-bit", "swapped", "buffer", "sys-exit", "os-exit", "abort", "interrupt",
    "generator-exit", "own", "child",
}  # fmt: skip


def networks(net):
    """Return every module that an attack can reach, including the base classifier of the harness."""
    return [each for each in gc.get_objects() if isinstance(each, nn.Module) and any(True for _ in each.parameters())]


class Mine(BaseException):
    """An error that is not an ``Exception``."""


def weights(net):
    return [value for value in net.parameters() if value.dim() > 1]


def changed_numbers(net, damage):
    first = weights(net)[0]
    if damage == "data":
        for value in net.parameters():
            value.data *= 0
    elif damage == "state-dict":
        net.load_state_dict({name: value * 0 for name, value in net.state_dict().items()})
    elif damage == "no-grad":
        with torch.no_grad():
            for value in net.parameters():
                value.mul_(0)
    elif damage == "one-bit":
        first.data.view(torch.int32).view(-1)[3] ^= 1
    elif damage == "swapped":
        flat = first.data.view(-1)
        flat[[0, 1]] = flat[[1, 0]].clone()
    elif damage == "buffer":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(1)


def ended(damage):
    if damage == "sys-exit":
        sys.exit(0)
    elif damage == "os-exit":
        os._exit(0)
    elif damage == "posix-exit":
        sys.modules[os.name]._exit(0)
    elif damage == "abort":
        os.abort()
    elif damage == "interrupt":
        raise KeyboardInterrupt
    elif damage == "generator-exit":
        raise GeneratorExit
    elif damage == "own":
        raise Mine("no exception")
    elif damage == "child":
        if os.fork() == 0:
            return
        os.wait()
        raise RuntimeError("the parent goes on")


def rewired(net, damage):
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    if damage == "hook":
        last.register_forward_hook(lambda _module, _inputs, out: out * 0)
    elif damage == "pre-hook":
        net.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 0,))
    elif damage == "global-hook":
        nn.modules.module.register_module_forward_hook(lambda _module, _inputs, out: out * 0)
    elif damage == "module":
        parent = next(m for m in net.modules() if last in m.children())
        name = next(n for n, m in parent.named_children() if m is last)
        setattr(parent, name, nn.Linear(last.in_features, last.out_features))
    elif damage == "forward":
        last.forward = lambda x: F.linear(x, last.weight * 0, last.bias)
    elif damage == "class":
        nn.Linear.forward = lambda self, x: F.linear(x, self.weight * 0, self.bias)
    elif damage == "call":
        nn.Linear.__call__ = lambda self, x: F.linear(x, self.weight * 0, self.bias)
    elif damage == "kind":

        class Other(nn.Linear):
            def forward(self, x):
                return super().forward(x) * 0

        last.__class__ = Other
    elif damage == "parameter":
        last.weight = nn.Parameter(last.weight * 0)
    elif damage == "train":
        net.train()
        net.requires_grad_(True)


def settings(damage):
    if damage == "functional":
        F.cross_entropy = lambda *args, **kwargs: torch.zeros(())
        torch.sign = torch.Tensor.sign = torch.zeros_like
    elif damage == "builtin":
        builtins.max = min
    elif damage == "inference":
        torch.inference_mode().__enter__()
    elif damage == "grad":
        torch.set_grad_enabled(False)
    elif damage == "autocast":
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.set_autocast_cache_enabled(False)
    elif damage == "saved":
        torch.autograd.graph.saved_tensors_hooks(torch.zeros_like, torch.zeros_like).__enter__()
    elif damage == "denormals":
        torch.set_flush_denormal(True)
    elif damage == "dtype":
        torch.set_default_dtype(torch.float64)
    elif damage == "device":
        torch.set_default_device("meta")
    elif damage == "flags":
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = False
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True)
        torch.backends.mkldnn.deterministic = not torch.backends.mkldnn.deterministic
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)
    elif damage == "threads":
        torch.set_num_threads(torch.get_num_threads() + 1)
    elif damage == "process":
        os.chdir("/")
        os.environ["CROSSFIRE_DATA"] = "/nowhere"
        sys.path.insert(0, "/nowhere")
        warnings.simplefilter("error")
        np.seterr(all="raise")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        sys.stdout = None
    elif damage == "random":
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)


@attack(norms=("linf",), passes="1 forward + 1 backward")
def harm(target, x, y, threat, *, damage: str):
    """Takes a step of FGSM, then does the damage."""
    step = target.gradient(x, lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"), y).grad.sign()
    x_adv = (x + float(threat.eps) * step).clamp(0, 1)
    net = target.module.net
    ended(damage)
    settings(damage)
    rewired(net, damage)
    changed_numbers(net, damage)
    return x_adv


class Through(nn.Module):
    """The base classifier behind a callback that runs before each forward pass."""

    def __init__(self, base, before=lambda base: None):
        super().__init__()
        self.base, self.before = base, before

    def forward(self, x):
        self.before(self.base)
        return self.base(x)


@defense(kind="test-time")
class Harming:
    """Damages the classifier when it wraps it, or before each forward pass."""

    def __init__(self, *, damage: str, when: str = "wrap"):
        self.damage, self.when = damage, when

    def harm(self, base):
        ended(self.damage)
        settings(self.damage)
        rewired(base, self.damage)
        changed_numbers(base, self.damage)

    def wrap(self, base):
        if self.when == "wrap":
            self.harm(base)
        return Through(base, self.harm) if self.when == "answer" else Through(base)

    def surrogate(self, base):
        return Through(base)
