"""A computation recorded once as a CUDA graph and replayed, and what in it would make that impossible.

A GPU that is launched one kernel at a time waits for the host. A graph is launched whole, but repeats exactly what was
recorded: it reads nothing back, its shapes depend on no value, and its inputs stay where they were.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Runs before a capture, in which libraries choose their kernels and allocate what they keep.
WARM_UP = 3
#: By how much results may differ, relative to the largest: the unit of bfloat16.
ROUND_OFF = 2.0**-7


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, while it is entered, each kind of operation for which a GPU would wait or that no graph can repeat.

    Those are values read by the host, shapes that depend on values, and copies between host and device. Nothing is
    changed or stopped, and any device will do: a CPU can tell what a GPU could capture. Not seen are what a method does
    outside torch, and ``numpy()`` and ``tolist()`` of tensors on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        #: Names of the operations as torch has them, each once, in the order in which they were met.
        self.found: list[str] = []

    @property
    def why(self) -> str | None:
        """The reason not to capture, in words; ``None`` if there is none."""
        names = ", ".join(self.found)
        return f"it waits for the host or has shapes that depend on values ({names})" if names else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in self.found and _reads_host(func, name, args, result):
            self.found.append(name)
        return result


def graphs(device: torch.device) -> bool:
    """Say whether graphs are recorded on a device: on CUDA, unless ``CROSSFIRE_GRAPHS=0`` forbids it."""
    return device.type == "cuda" and os.environ.get("CROSSFIRE_GRAPHS", "1") != "0"


def _reads_host(func: Any, name: str, args: Any, result: Any) -> bool:
    if name in ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"):
        masks = [each for each in args[1] if each is not None and each.dtype in (torch.bool, torch.uint8)]
        # One value is filled in where a mask is true, which needs no count of where that is.
        return bool(masks) and not (name.startswith("index_put") and args[2].numel() == 1 == len(args[1]))
    if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
        return True
    if name == "lift_fresh":
        # ``torch.tensor``: on a device its numbers are copied from the host, except a scalar, which is an argument.
        return bool(args[0].dim() or args[0].device.type != "cpu")
    if name in ("copy_", "_to_copy", "_copy_from"):
        return len({each.device.type for each in tree_leaves((args, result)) if isinstance(each, Tensor)}) > 1
    return False


class Captured:
    """A function of tensors, recorded once on CUDA and replayed at every call; elsewhere it is called each time.

    The first call prepares: it runs ``function`` under :class:`HostReads`, warms it up, captures it, and compares a
    replay with what a call returned. Where one of these fails ``why`` says so, and every call runs the function as it
    is; nothing else differs but the last digits. Whatever the function changes beside its results is changed at each of
    these runs. To repeat the effect of a single call, use :meth:`prepare` and put the tensors back afterwards.

    Args:
        function: of tensors to tensors. It may also read and change tensors that it keeps; those must stay in place.
            What it does in Python alone happens at the preparation and never again.
        device: of every tensor.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], device: torch.device) -> None:
        self.why: str | None = None if graphs(device) else f"there are no graphs on {device.type}"
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream() if graphs(device) else None  # type: ignore[no-untyped-call]
        self._inputs: tuple[Tensor, ...] | None = None
        self._outputs: tuple[Tensor, ...] = ()

    @property
    def captured(self) -> bool:
        """Whether calls are replays of a graph."""
        return self._graph is not None

    @property
    def places(self) -> tuple[Tensor, ...]:
        """Where the inputs lie, once prepared; one that is given as an input is not copied."""
        return self._inputs or ()

    def abandon(self, why: str) -> None:
        """Never replay again, for this reason."""
        self.why, self._graph = why, None
        self._outputs = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the results, in tensors that the next call overwrites; ``inputs`` have one shape at all calls."""
        if self._inputs is None:
            self.prepare(*inputs)
        if self._graph is None:
            return self.eager(*inputs)
        self._place(inputs)
        self._graph.replay()
        return self._outputs

    def prepare(self, *inputs: Tensor) -> None:
        """Capture the function on copies of ``inputs``, which runs it several times; a capture is tried once."""
        self._inputs = tuple(torch.empty_like(each).copy_(each) for each in inputs)
        if self.why is not None:
            return
        with HostReads() as reads:
            self.eager(*self._inputs)
        self.why = reads.why
        if self.why is None:
            self._capture()

    def eager(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function as it is, whether it was captured or not."""
        if self._stream is None:
            return self._function(*inputs)
        # On the stream of the capture: autograd accumulates where it first met a parameter.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return outputs

    def _place(self, inputs: tuple[Tensor, ...]) -> None:
        assert self._inputs is not None
        for place, value in zip(self._inputs, inputs, strict=True):
            if place is not value:
                place.copy_(value)

    def _capture(self) -> None:
        assert self._inputs is not None
        before = [each.clone() for each in self._inputs]
        expected: list[Tensor] = []
        for _ in range(WARM_UP):
            self._place(tuple(before))
            expected = [each.clone() for each in self.eager(*self._inputs)]
        graph = torch.cuda.CUDAGraph()
        self._place(tuple(before))
        try:
            # In other threads, such as one that decodes images, anything is allowed meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                outputs = self._function(*self._inputs)
            graph.replay()
            self.why = differing(expected, list(outputs))
        except RuntimeError as error:
            self.why = f"capturing failed: {(str(error) or type(error).__name__).splitlines()[0]}"
        if self.why is None:
            self._graph, self._outputs = graph, outputs


def is_plain(function: Callable[..., Any]) -> bool:
    """Say whether a function is one of a module, without a closure: what is recorded of it then holds at every call."""
    if not isinstance(function, FunctionType) or function.__closure__:
        return False
    return getattr(sys.modules.get(function.__module__), function.__qualname__, None) is function


def differing(expected: list[Tensor], received: list[Tensor], tolerance: float = ROUND_OFF) -> str | None:
    """Return in words how two lists of results differ by more than ``tolerance`` of the largest; ``None`` if none does.

    This waits for the device.
    """
    for i, (one, other) in enumerate(zip(expected, received, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"its result {i + 1} has another shape or type when replayed"
        if one.numel() == 0 or torch.equal(one, other):
            continue
        distance = float((one.double() - other.double()).abs().max())
        if not distance <= tolerance * float(one.double().abs().max()):
            return f"its result {i + 1} differs by {distance:.3g} when replayed"
    return None
