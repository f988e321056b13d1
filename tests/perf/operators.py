"""How many kernels each attack would launch on a GPU, counted on a CPU: ``python -m tests.perf.operators``.

An operator that only makes a view launches none and is left out; any other counts as one, though some launch several.
*In passes* are those of the network, its loss and their gradient, *beside* those of the attack itself, *waits* those
for which a GPU would stop: a value read on the host, a mask turned into positions, a number copied to the device. All
are means over the steps of one attack on a ResNet-18 whose images never break, so that no step is left out; set-up
counts too, and weighs less the more steps there are.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench import registry
from bench.api import Gradient, Threat
from bench.evaluation.target import Meter, NetworkTarget
from bench.models.build import build, network_ref
from bench.models.layout import fast_layout
from bench.process.isolation import frozen

#: Operators that allocate, and nothing else.
_NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_")
#: Operators for which a GPU's host waits, besides an index that is a mask.
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh")
#: What is run: attack, threat, settings, steps.
RUNS: list[tuple[str, Threat, dict[str, Any], int]] = [
    ("fgsm", Threat(), {}, 1),
    ("pgd", Threat(), {"steps": 20}, 20),
    ("mi-fgsm", Threat(), {"steps": 10}, 10),
    ("ti-dim", Threat(), {"steps": 10}, 10),
    ("apgd-ce", Threat(), {"steps": 30}, 30),
    ("apgd-ce", Threat(norm="l1", eps=12), {"steps": 30}, 30),
    ("cw", Threat(norm="l2", eps=None), {"steps": 50, "searches": 1, "first_c": 1.0, "abort_early": False}, 50),
    ("ddn", Threat(norm="l2", eps=None), {"steps": 50}, 50),
    ("fmn", Threat(norm="l2", eps=None), {"steps": 50}, 50),
    ("sigma-zero", Threat(norm="l0", eps=None), {"steps": 50}, 50),
    ("sta", Threat(norm="flow", eps=None), {"steps": 30}, 30),
    ("fwa", Threat(norm="wasserstein", eps="1/200"), {"steps": 20}, 20),
    ("square", Threat(), {"queries": 200}, 200),
    ("rays", Threat(), {"queries": 200}, 200),
    ("smoothed-pgd", Threat(), {"steps": 10, "samples": 4}, 10),
]


class Operators(TorchDispatchMode):
    """Counts operators by name, inside and outside of passes; ``waits`` are those that would stop a GPU's host."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.inside: Counter[str] = Counter()
        self.beside: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITS or (name.startswith("index") and _has_mask(args)):
            self.waits[name] += 1
        if not _is_view(func) and name not in _NO_KERNEL:
            (self.inside if self.depth else self.beside)[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def pass_(self) -> Iterator[None]:
        """Count what happens in this block as part of a pass."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def _has_mask(args: tuple[Any, ...]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class Counts(NamedTuple):
    """Operators per step: in passes, beside them, and those that would stop a GPU's host."""

    inside: float
    beside: float
    waits: float
    most: dict[str, float]


def counted(net: nn.Module, x: Tensor, y: Tensor, name: str, threat: Threat, settings: Any, steps: int) -> Counts:
    """Return the operators of an attack per step."""
    mode = Operators()

    class Target(NetworkTarget):
        def __call__(self, x: Tensor) -> Tensor:
            with mode.pass_():
                return super().__call__(x)

        def gradient(self, x: Tensor, loss: Callable[..., Tensor], *args: Tensor) -> Gradient:
            with mode.pass_():
                return super().gradient(x, loss, *args)

        def _copy(self) -> NetworkTarget:
            view = super()._copy()
            view.__class__ = Target
            return view

    entry = registry.find("attack", name)
    with frozen(net), Meter(net, len(x)) as meter:
        target = Target(net, meter, torch.arange(len(x)), seed=0, num_classes=10, batch=len(x))
        method, arguments = entry.load(), entry.arguments(settings)
        with mode:
            method(target, x, y, threat, **arguments)
    most = {operator: count / steps for operator, count in mode.beside.most_common(8)}
    return Counts(*(sum(c.values()) / steps for c in (mode.inside, mode.beside, mode.waits)), most)


class _NeverBroken(nn.Module):
    """A network whose answer nothing changes, with a gradient that does not vanish."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * self.net(x) + torch.eye(10, device=x.device)[0]


def main() -> None:
    """Count and print, as a table or with ``--json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--attack", action="append", help="only these")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y = torch.rand(args.images, 3, 32, 32), torch.zeros(args.images, dtype=torch.int64)
    net = _NeverBroken(fast_layout(build(network_ref("resnet18", {"width": 8}), 10, (3, 32, 32)).eval(), x[:2]).net)
    rows = {run[0]: counted(net, x, y, *run) for run in RUNS if args.attack is None or run[0] in args.attack}
    if args.json:
        print(json.dumps({name: row._asdict() for name, row in rows.items()}))
        return
    print("| attack | in passes | beside | waits | most frequent beside |\n| --- | ---: | ---: | ---: | --- |")
    for name, row in rows.items():
        most = ", ".join(f"{operator} {count:.1f}" for operator, count in row.most.items())
        print(f"| {name} | {row.inside:.1f} | {row.beside:.1f} | {row.waits:.1f} | {most} |")


if __name__ == "__main__":
    main()
