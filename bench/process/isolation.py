"""Isolation of foreign code: whatever a method does to the process or to a network, the next one finds both unchanged.

Three things go round every call of an attack, a defense, a recipe or a network: :func:`isolated` for the process,
:func:`frozen` for the network, and :func:`checksums`, by which a network whose weights were changed is known. What can
be undone is undone. What cannot, fails the call that did it.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import logging
import operator
import os
import random
import signal
import sys
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, product, starmap
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as _every_module
from torch.utils import _python_dispatch as _dispatch

from bench.process.ending import Needs
from bench.types import Ending, MethodError, text_of

# Saved now, as a method may replace them.
_EXIT, _PROCESS = os._exit, os.getpid
# ``os``, and the module from which it imports the functions that end a process.
_SYSTEM = (os, importlib.import_module(os.name))
_PIECE = 2**18
#: Elements that are summed together on a GPU.
_GROUP = 2**24
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ABSENT = object()


@contextmanager
def isolated(who: str, *, seed: int | None = None) -> Iterator[None]:
    """Run a method's code and restore the process: its settings, its working folder, every global generator.

    Args:
        who: the method, as its user calls it.
        seed: of the global generators inside the block, for code that draws from them.

    Raises:
        MethodError: the code tried to end the process, closed its standard output or error, lowered a limit that cannot
            be raised again, replaced its clocks, or raised something other than an ``Exception``. Exceptions that end
            the work from outside (:class:`bench.types.Ending`, and an unhandled Ctrl-C) pass through.
    """
    process = os.getpid()
    before, needs = _Process(), Needs()
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for module in _SYSTEM:
        module._exit = module.abort = partial(_refuse_to_end, process)  # type: ignore[attr-defined]
    try:
        if seed is not None:
            seed_generators(seed)
        yield
        if (taken := needs.taken()) is not None:
            raise MethodError(f"{who} {taken}")
        if clocks := before.replaced_clocks():
            raise MethodError(f"{who} replaced {' and '.join(clocks)}, by which its time is measured")
    except Ending:
        raise
    except Exception as error:
        try:
            str(error)
        except Exception:
            # Reporting why the method failed must not fail too.
            raise MethodError(f"{who} raised {text_of(error)}") from error
        raise
    except BaseException as error:
        if interrupts and isinstance(error, KeyboardInterrupt):
            raise
        words = "asked to end the process" if isinstance(error, SystemExit) else "raised"
        raise MethodError(f"{who} {words}: {type(error).__name__}({text_of(error)})") from error
    finally:
        if _PROCESS() != process:
            # A fork that the method left running would continue the run in parallel.
            _EXIT(70)
        # The limits first: while they are lowered, the following steps may get no file or memory.
        needs.taken()
        before.restore()


def seed_generators(seed: int) -> None:
    """Seed every global generator that a method may draw from: those of Python, NumPy and torch."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        # Without an accelerator the former takes a millisecond: it keeps the stack for when one starts.
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _refuse_to_end(process: int, status: int = 1) -> NoReturn:
    if os.getpid() != process:
        _EXIT(status)
    raise SystemExit(status)


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return partial(getattr, owner, name), partial(setattr, owner, name)


def _autocast(device: str) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    return [
        (partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)),
        (partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device)),
    ]


def _attention(kernel: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return getattr(_BACKENDS.cuda, f"{kernel}_sdp_enabled"), getattr(_BACKENDS.cuda, f"enable_{kernel}_sdp")


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _set_autocast_depth(wanted: int) -> None:
    # Weights that were cast are kept while any autocast is entered, also once it is disabled and they have changed.
    while _autocast_depth() > wanted:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _flushes_denormals() -> bool:
    return sys.float_info.min / 2 == 0


def _pop_saved_tensors_hooks(wanted: Any) -> None:
    while _saved_tensors_hooks() not in (wanted, None):
        torch._C._autograd._pop_saved_tensors_default_hooks()


_saved_tensors_hooks = partial(torch._C._autograd._top_saved_tensors_default_hooks, False)


def _set_environment(wanted: dict[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _set_path(wanted: list[str]) -> None:
    # What a method added stays, so that it may import later; at the end, where it hides nothing.
    sys.path[:] = [*wanted, *(path for path in sys.path if path not in wanted)]


def _set_filters(wanted: list[Any]) -> None:
    warnings.filters[:] = wanted  # type: ignore[index]
    # Leaving such a block makes Python drop its record of warnings already shown.
    with warnings.catch_warnings():
        pass


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _set_folder(wanted: str | None) -> None:
    if wanted is not None:
        os.chdir(wanted)


def _umask() -> int:
    # It can only be read by setting it. It is set to its last known value, so that no thread sees another one.
    if (current := _UMASK(_LAST_UMASK[0])) != _LAST_UMASK[0]:
        _set_umask(current)
    return current


def _set_umask(wanted: int) -> None:
    _UMASK(wanted)
    _LAST_UMASK[0] = wanted


_UMASK, _LAST_UMASK = os.umask, [0o022]


def _handlers() -> dict[int, Any]:
    return {number: _HANDLER_OF(number) for number in _SIGNALS}


def _set_handlers(wanted: dict[int, Any]) -> None:
    # Python lets its main thread alone do so, for a method as for us.
    if threading.current_thread() is threading.main_thread():
        for number, handler in wanted.items():
            if handler is not None and _HANDLER_OF(number) is not handler:
                signal.signal(number, handler)


# What `signal.getsignal` calls: it makes an enumeration of each answer, which takes longer than all that is asked here.
_HANDLER_OF: Callable[[int], Any] = importlib.import_module("_signal").getsignal
_SIGNALS = signal.valid_signals()


def _mask() -> set[Any]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _set_mask(wanted: set[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted)


def _set_alarm(wanted: bool) -> None:
    if not wanted:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_default_device(wanted: torch.device) -> None:
    torch.set_default_device(None if wanted == torch.device("cpu") else wanted)


def _set_inference_mode(wanted: bool) -> None:
    # Kept: the mode ends with the object.
    _MODES.append(torch.inference_mode(wanted))
    _MODES[-1].__enter__()


_MODES: list[Any] = []


def _set_numpy_errors(wanted: Any) -> None:
    np.seterr(**wanted)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(wanted: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(wanted[0], warn_only=wanted[1])


_BACKENDS = torch.backends
_ROUNDED = (
    _BACKENDS,
    _BACKENDS.cudnn,
    _BACKENDS.cudnn.conv,  # type: ignore[attr-defined]
    _BACKENDS.cudnn.rnn,
    _BACKENDS.cuda.matmul,
    _BACKENDS.mkldnn,
    _BACKENDS.mkldnn.conv,  # type: ignore[attr-defined]
    _BACKENDS.mkldnn.matmul,  # type: ignore[attr-defined]
)
_LOGGERS = (logging.getLogger(), logging.getLogger("crossfire"))

#: How to read each setting of the process, and how to set it.
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.is_inference_mode_enabled, _set_inference_mode),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, torch._C.set_anomaly_enabled),
    (_deterministic, _set_deterministic),
    *_autocast("cpu"),
    *_autocast("cuda"),
    (_autocast_depth, _set_autocast_depth),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (_flushes_denormals, torch.set_flush_denormal),
    (_saved_tensors_hooks, _pop_saved_tensors_hooks),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *(_attribute(owner, "fp32_precision") for owner in _ROUNDED),
    *(_attribute(_BACKENDS.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    _attribute(_BACKENDS.cuda.matmul, "allow_tf32"),
    *(_attribute(_BACKENDS.mkldnn, name) for name in ("enabled", "deterministic")),
    (_BACKENDS.mha.get_fastpath_enabled, _BACKENDS.mha.set_fastpath_enabled),
    *map(_attention, ("flash", "mem_efficient", "math", "cudnn")),
    (np.geterr, _set_numpy_errors),
    (lambda: dict(os.environ), _set_environment),
    (lambda: list(sys.path), _set_path),
    (lambda: list(warnings.filters), _set_filters),
    (_folder, _set_folder),
    (_umask, _set_umask),
    (_handlers, _set_handlers),
    *([(_mask, _set_mask)] if hasattr(signal, "pthread_sigmask") else []),
    (lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, _set_alarm),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.gettrace, sys.settrace),
    *(_attribute(sys, name) for name in ("stdin", "stdout", "stderr", "excepthook")),
    *starmap(_attribute, product(_SYSTEM, ("_exit", "abort"))),
    # These functions clear the loggers' cache of enabled levels.
    (partial(getattr, logging.root.manager, "disable"), logging.disable),
    *((partial(getattr, logger, "level"), logger.setLevel) for logger in _LOGGERS),
    *starmap(_attribute, product(_LOGGERS, ("propagate", "disabled"))),
]


_CLOCKS = set(map("".join, product(("time", "perf_counter", "monotonic", "process_time"), ("", "_ns"))))
#: Replaced functions of these are restored.
_OWNERS = (torch, nn.functional, torch.autograd, torch.Tensor, builtins, time, os, signal)


def _read(get: Callable[[], Any]) -> Any:
    # If both of torch's ways to set the precision of matrix products were used, reading it raises.
    with suppress(RuntimeError):
        return get()
    return _ABSENT


class _Process:
    """The settings of this process, its random states, and the functions that a method might replace."""

    def __init__(self) -> None:
        self._settings = [_read(get) for get, _ in _SETTINGS]
        self._modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = (torch.cuda.current_device(), torch.cuda.get_rng_state_all()) if _cuda() else None
        self._functions = _functions(_OWNERS)
        self._hooks = _containers(vars(_every_module), "_global_")
        self._handlers = [list(logger.handlers) for logger in _LOGGERS]

    def replaced_clocks(self) -> list[str]:
        """Return the clocks that were replaced: times measured with them are invalid."""
        of_time = [(owner, known) for owner, known in self._functions if owner is time]
        return sorted(f"time.{name}" for _, name, _ in _replaced(of_time) if name in _CLOCKS)

    def restore(self) -> None:
        for owner, name, value in _replaced(self._functions):
            _define(owner, name, value)
        for (get, put), wanted in zip(_SETTINGS, self._settings, strict=True):
            if wanted is not _ABSENT and _read(get) != wanted:
                put(wanted)
        while torch._C._len_torch_function_stack() > self._modes[0]:
            torch.overrides._pop_mode()  # type: ignore[no-untyped-call]
        while torch._C._len_torch_dispatch_stack() > self._modes[1]:
            _dispatch._pop_mode()
        _put_back(self._hooks)
        for logger, handlers in zip(_LOGGERS, self._handlers, strict=True):
            logger.handlers[:] = handlers
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_device(self._cuda[0])
            torch.cuda.set_rng_state_all(self._cuda[1])


def _cuda() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


_Functions = list[tuple[Any, dict[str, Any]]]


def _functions(owners: Iterable[Any]) -> _Functions:
    """Return what modules and classes define, of which :func:`_replaced` looks at the functions."""
    return [(owner, dict(vars(owner))) for owner in owners]


def _replaced(functions: _Functions) -> list[tuple[Any, str, Any]]:
    """Return the owner, name and old value of each function that was replaced, or hidden by a new one."""
    replaced = []
    for owner, known in functions:
        now = vars(owner)
        if _same(now, known):
            continue
        replaced += [(owner, n, value) for n, value in known.items() if now.get(n) is not value and callable(value)]
        if isinstance(owner, type):
            hiding = [n for n, v in now.items() if callable(v) and n not in known and hasattr(super(owner, owner), n)]
            replaced += [(owner, name, _ABSENT) for name in hiding]
    return replaced


def _define(owner: Any, name: str, value: Any) -> None:
    if value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


_Containers = list[tuple[Any, Any]]


def _containers(values: dict[str, Any], start: str = "") -> _Containers:
    """Return the dicts, lists and sets among some values, each with a copy of its contents."""
    kinds = (dict, OrderedDict, list, set)
    return [(v, v.copy()) for name, v in values.items() if type(v) in kinds and name.startswith(start)]


def _holds(container: Any, held: Any) -> bool:
    """Say whether a container has what its copy has, in its order."""
    if not container and not held:
        return True
    if isinstance(container, dict):
        return _same_in_order(container, held)
    if isinstance(container, set):
        return bool(container == held)
    return len(container) == len(held) and all(map(operator.is_, container, held))


def _put_back(containers: _Containers) -> None:
    for container, held in containers:
        if _holds(container, held):
            continue
        if isinstance(container, list):
            container[:] = held
        else:
            container.clear()
            container.update(held)


@contextmanager
def frozen(net: nn.Module, *, strict: bool = False) -> Iterator[nn.Module]:
    """Put a network in evaluation mode with frozen parameters; on leaving restore it and check its numbers.

    Restored are modes, hooks, modules, parameters, functions and other attributes of every module and of its class.

    Args:
        net: the network; it is yielded.
        strict: also refuse changes that are undone afterwards: a hook, another module, another function.

    Raises:
        MethodError: a parameter or a buffer was changed, such as a batch-norm statistic, in the block or since the
            network was sealed; or, if ``strict``, the block changed it in another way that affects its outputs.
    """
    before = _Network(net)
    net.eval()
    net.requires_grad_(False)
    try:
        yield net
        rewired = before.rewired() if strict else None
    finally:
        before.restore()
    if (changed := before.changed()) is not None:
        raise MethodError(f"the network's {changed} was changed; methods must leave the network alone")
    if rewired is not None:
        raise MethodError(f"{rewired}; methods must leave the network alone, or work on a copy.deepcopy of it")


def seal(net: nn.Module) -> dict[str, int]:
    """Return the checksums of a network that nobody may change from now on.

    :func:`frozen` compares with these instead of those at its beginning, so it also refuses what changed before it.
    """
    _SEALS[id(net)] = sums = checksums(net)
    weakref.finalize(net, _SEALS.pop, id(net), None)
    return sums


#: By identity, as long as the network lives: a network may call itself equal to another.
_SEALS: dict[int, dict[str, int]] = {}


def checksums(net: nn.Module) -> dict[str, int]:
    """Return a checksum of each parameter, buffer and other tensor of a network; a change of any bit changes it.

    On a CPU it is the SHA-256 of the bytes. Elsewhere, where these would have to be copied, it is the sum of the bits
    of each element times an odd weight for its index, modulo 2**64: any single change, and any exchange of two
    elements, changes it.
    """
    tensors: dict[str, Tensor] = {}
    for path, module in net.named_modules():
        prefix = f"{path}." if path else ""
        for kind, values in (
            ("parameter", module._parameters),
            ("buffer", module._buffers),
            ("tensor", vars(module)),
        ):
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{kind} {prefix}{name}"] = value
    elsewhere = {name: _elements(value) for name, value in tensors.items() if value.device.type != "cpu"}
    with torch.no_grad():
        numbers = iter(_sums(list(chain.from_iterable(elsewhere.values()))))
        sums = {
            name: tuple(next(numbers) for _ in elsewhere[name]) if name in elsewhere else _digest(value)
            for name, value in tensors.items()
        }
    return {n: hash((value.shape, value.stride(), value.dtype, sums[n])) for n, value in tensors.items()}


def _digest(value: Tensor) -> bytes:
    """Return the SHA-256 of the bytes of a tensor on the CPU, in memory order."""
    plain = value.is_contiguous() and not value.is_complex()
    flat = value.detach().reshape(-1) if plain else _in_memory_order(value)
    array: Any = flat.view(torch.uint8).numpy()
    return hashlib.sha256(array).digest()


def _sums(pieces: list[Tensor]) -> list[int]:
    """Return the sum of each piece of bits times its weights."""
    sums: list[int] = [0] * len(pieces)
    placed: dict[tuple[torch.device, torch.dtype, int], list[int]] = {}
    length = 0
    for i, piece in enumerate(pieces):
        length += len(piece)
        placed.setdefault((piece.device, piece.dtype, length // _GROUP), []).append(i)
    for members in placed.values():
        for i, value in zip(members, _sums_joined([pieces[i] for i in members]).tolist(), strict=True):
            sums[i] = value
    return sums


def _sums_joined(pieces: list[Tensor]) -> Tensor:
    """Return the sums of pieces of a device (P,), by a few operators: hundreds of small ones take as long as a pass."""
    bits = torch.cat(pieces).long()
    lengths = torch.tensor([0, *map(len, pieces)], device=bits.device)
    ends = lengths.cumsum(0)
    weights = torch.arange(len(bits), device=bits.device) * 2 + 1
    plain, weighted = (F.pad(values.cumsum(0), (1, 0))[ends].diff() for values in (bits, bits * weights))
    # The weights of a piece begin at 1, not where it lies in the whole.
    return weighted - 2 * ends[:-1] * plain


def _elements(value: Tensor) -> tuple[Tensor, ...]:
    """Return the bits of a tensor as integers, in memory order, in chunks."""
    flat = _in_memory_order(value)
    return torch.split(flat.view(_INTEGERS[flat.element_size()]), _PIECE)


def _in_memory_order(value: Tensor) -> Tensor:
    """Return the elements of a tensor (N,) as they lie in memory; a complex one has two."""
    plain = (value if value.layout is torch.strided else value.to_dense()).detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    bits = plain.reshape(1) if plain.dim() == 0 else plain
    return bits.permute(sorted(range(bits.dim()), key=bits.stride, reverse=True)).reshape(-1)


class _Network:
    """A snapshot of a network: its modules with their attributes, the functions of their classes, its parameters."""

    def __init__(self, net: nn.Module) -> None:
        sealed = _SEALS.get(id(net))
        self._net, self._sums = net, checksums(net) if sealed is None else sealed
        self._modules = [(each, type(each), dict(vars(each)), _containers(vars(each))) for each in net.modules()]
        bases = chain.from_iterable(type(each).__mro__ for each in net.modules())
        classes = {owner for owner in bases if issubclass(owner, nn.Module)}
        self._classes = _functions(classes)
        self._parameters = [(each, each.requires_grad, each.grad, _hooks_of(each)) for each in net.parameters()]

    def rewired(self) -> str | None:
        """Describe a change other than to numbers that affects the network's outputs, if there is one."""
        for module, kind, held, containers in self._modules:
            if type(module) is kind and _same(vars(module), held) and all(starmap(_holds, containers)):
                continue
            name = kind.__name__
            if type(module) is not kind:
                return f"a {name} of the network was made a {type(module).__name__}"
            if vars(module).get("forward") is not held.get("forward"):
                return f"the forward of a {name} of the network was replaced"
            copies = {id(container): copy for container, copy in containers}
            for word, value in held.items():
                copy, now = copies.get(id(value)), vars(module).get(word)
                if word.endswith("_hooks") and copy is not None and now != copy:
                    return f"a hook was put on a {name} of the network"
                if word in ("_modules", "_parameters") and copy is not None and not _same(now or {}, copy):
                    return f"a {name} of the network was given other {word[1:]}"
        for owner, name, _ in _replaced(self._classes):
            return f"{name} of the class {owner.__name__} was replaced"
        return None

    def restore(self) -> None:
        for module, kind, held, containers in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
            if not _same(vars(module), held):
                vars(module).clear()
                vars(module).update(held)
            _put_back(containers)
        for owner, name, value in _replaced(self._classes):
            _define(owner, name, value)
        for parameter, required, grad, hooks in self._parameters:
            parameter.requires_grad_(required)
            parameter.grad = grad
            for name, held in hooks.items():
                hooks_now = getattr(parameter, name)
                if hooks_now is not None:
                    hooks_now.clear()
                    hooks_now.update(held)

    def changed(self) -> str | None:
        """Return a parameter or buffer whose numbers changed, if any."""
        now = checksums(self._net)
        return next((name for name, value in self._sums.items() if now.get(name) != value), None)


def _hooks_of(parameter: Tensor) -> dict[str, dict[Any, Any]]:
    return {n: dict(getattr(parameter, n) or {}) for n in ("_backward_hooks", "_post_accumulate_grad_hooks")}


def _same(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Say whether both have the same names for the same objects."""
    # Nearly always in one order, which takes a tenth of looking up each name.
    return _same_in_order(one, other) or (one.keys() == other.keys() and all(one[name] is other[name] for name in one))


def _same_in_order(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return (
        len(one) == len(other)
        and all(map(operator.is_, one.values(), other.values()))
        and all(map(operator.eq, one, other))
    )
