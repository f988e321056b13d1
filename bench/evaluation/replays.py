"""Passes and steps that an attack makes again and again on tensors of one shape, replayed as CUDA graphs.

A network whose kernels are short waits for the host to launch them, a hundred and more at every pass. Recorded once, a
pass is launched whole. Recording takes as long as several passes, so it is left until a shape has come up before, and
to passes that take longer to launch than to compute; others would gain nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn

from bench.evaluation.target import Meter, out_of_memory
from bench.process.capture import ROUND_OFF, Captured, HostReads, differing, graphs

#: How often a shape comes up before it is recorded: as often as recording takes passes, so no more than that is lost.
RECURS = 8
#: Graphs held at once, each with the memory of a pass; the one that was used longest ago makes room.
HELD = 4
#: Shapes remembered that have come up.
REMEMBERED = 16
#: Replays that are launched before the first of them must be over, so that an attack can be stopped within a second.
AHEAD = 8
#: Share of a pass's time above which its launching is what it waits for.
LAUNCH_BOUND = 0.8

Function = Callable[..., tuple[Tensor, ...]]


class Replays:
    """The recorded passes and steps of one attack on one group of images.

    What cannot be recorded, or would give other bits, is called as it is, and :attr:`reasons` says why.

    Args:
        device: of all tensors. On one that has no graphs the same path is taken, and each function called.
        recurs: how often a shape comes up before it is recorded.
        always: record also what does not wait for its launches.
    """

    def __init__(self, device: torch.device, *, recurs: int = RECURS, always: bool = False) -> None:
        #: Calls that were replays.
        self.replayed = 0
        #: Why other calls were none, each reason once.
        self.reasons: list[str] = []
        self._device = device
        self._recurs = recurs
        self._always = always or not graphs(device)
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._held: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._launched: deque[Any] = deque()

    def __call__(
        self,
        what: Hashable,
        function: Function,
        inputs: tuple[Tensor, ...],
        net: nn.Module | None = None,
        meter: Meter | None = None,
    ) -> tuple[Tensor, ...]:
        """Return ``function(*inputs)``, detached.

        Args:
            what: names the function and everything but its inputs that decides its results.
            function: of tensors to tensors, which reads nothing else that changes.
            inputs: detached; those that the last call was given too are not copied again.
            net: the network that the function calls, if any.
            meter: counts the passes of that network.
        """
        key = (what, *((each.shape, each.dtype, each.stride()) for each in inputs))
        if key in self._held:
            self._held.move_to_end(key)
            return self._replay(self._held[key], inputs)
        if what not in self._refused and key not in self._refused:
            self._seen[key] = self._seen.pop(key, 0) + 1
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            if self._seen[key] >= self._recurs:
                del self._seen[key]
                return self._record(key, function, inputs, net, meter)
        return function(*inputs)

    def refuse(self, what: Hashable, reason: str) -> None:
        """Never record this; say why."""
        self._refused.add(what)
        self.say(reason)

    def say(self, reason: str) -> None:
        """Note why some calls are no replays."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def release(self) -> bool:
        """Give back the memory of all graphs and record these no more; say whether there were any."""
        had_any = bool(self._held)
        for key in self._held:
            self.refuse(key, "memory ran out")
        self._held.clear()
        if had_any and graphs(self._device):
            torch.cuda.empty_cache()
        return had_any

    def _record(
        self, key: Hashable, function: Function, inputs: tuple[Tensor, ...], net: nn.Module | None, meter: Meter | None
    ) -> tuple[Tensor, ...]:
        """Return the results of a call, after which the function is recorded where that is possible and pays."""
        results, pays = (function(*inputs), True) if self._always else self._timed(function, inputs)
        recorded = _Recorded(function, self._device, meter)
        reason = None if pays else "its passes take longer to compute than to launch"
        try:
            reason = reason or recorded.prepare(inputs, list(results), net)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = "memory ran out while it was recorded"
        if reason is not None:
            self.refuse(key, reason)
            return results
        self._held[key] = recorded
        if len(self._held) > HELD:
            self._held.popitem(last=False)
        return results

    def _replay(self, recorded: _Recorded, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(self._launched) >= AHEAD:
            self._launched.popleft().synchronize()
        results = recorded(inputs)
        if graphs(self._device):
            self._launched.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
            self._launched[-1].record()
        self.replayed += 1
        return results

    def _timed(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
        """Return the results of a call, and whether launching it took most of the time until it was over."""
        torch.cuda.synchronize(self._device)
        started = time.perf_counter()
        results = function(*inputs)
        launched = time.perf_counter()
        torch.cuda.synchronize(self._device)
        return results, launched - started > LAUNCH_BOUND * (time.perf_counter() - started)


class _Recorded:
    """One function, recorded for inputs of one shape."""

    def __init__(self, function: Function, device: torch.device, meter: Meter | None) -> None:
        self._device = device
        self._function = function
        self._captured = Captured(function, device)
        self._meter = meter
        self._passes: list[tuple[bool, int]] = []
        self._last: Sequence[tuple[Tensor | None, int]] = []

    def prepare(self, inputs: tuple[Tensor, ...], expected: list[Tensor], net: nn.Module | None) -> str | None:
        """Record the function; return why it cannot be replayed with the results ``expected``, if so."""
        if net is not None and _hooked(net):
            return "hooks are on its network"
        devices = [self._device] if graphs(self._device) else []
        with self._uncounted() as passes, torch.random.fork_rng(devices=devices):
            if (reason := self._unfit(inputs, net)) is not None:
                return reason
            self._passes = list(passes)
            self._captured.prepare(*inputs)
            if graphs(self._device) and not self._captured.captured:
                return self._captured.why
            # Bits where kernels are chosen to repeat themselves: attacks take signs.
            tolerance = 0.0 if torch.backends.cudnn.deterministic or not graphs(self._device) else ROUND_OFF
            return differing(expected, [each.detach() for each in self._captured(*inputs)], tolerance)

    def _unfit(self, inputs: tuple[Tensor, ...], net: nn.Module | None) -> str | None:
        """Call the function; return why its results depend on more than its inputs, or need the host, if so."""
        attributes, generators = _attributes(net), self._generators()
        with HostReads() as reads:
            self._function(*inputs)
        if not all(map(torch.equal, generators, self._generators())):
            return "its network draws random numbers"
        if _attributes(net) != attributes:
            return "its network changes itself while it answers"
        why: str | None = reads.why
        return why

    def _generators(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if graphs(self._device) else states

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the results for new inputs, in tensors of their own, and count the passes."""
        now = [(each, -1 if each.is_inference() else each._version) for each in inputs]
        last = self._last or [(None, -1)] * len(now)
        for place, (each, version), (known, earlier) in zip(self._captured.places, now, last, strict=True):
            if known is not each or not version == earlier >= 0:
                place.copy_(each)
        self._last = now
        with self._uncounted():
            results = self._captured(*self._captured.places)
        if self._meter is not None:
            self._meter.repeat(self._passes)
        return tuple(each.detach().clone() if self._captured.captured else each.detach() for each in results)

    def _uncounted(self) -> Any:
        return nullcontext([]) if self._meter is None else self._meter.recording()


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooked(net: nn.Module) -> bool:
    """Say whether hooks other than a meter's are on a network: in a replay they would not be called."""
    registries = (getattr(module, name) for module, name in product(net.modules(), _HOOKS))
    hooks = chain.from_iterable(registry.values() for registry in registries)
    return any(not isinstance(getattr(hook, "__self__", None), Meter) for hook in hooks)


def _attributes(net: nn.Module | None) -> dict[str, tuple[int, int]]:
    """Return which object each attribute of a network's modules is, and the length of those that grow."""
    attributes: dict[str, tuple[int, int]] = {}
    for path, module in () if net is None else net.named_modules():
        for name, value in vars(module).items():
            attributes[f"{path}.{name}"] = id(value), len(value) if isinstance(value, list | dict | set) else 0
    return attributes
