"""What a Python object does, as a hash: of objects that were handed to the harness and lie in no file it can read.

Of functions and classes that come from no installed package, the source counts as that of a method's file does
(:mod:`bench.methods.syntax`), with what they close over, their defaults, and the globals that they use. Of an installed
package its version counts. Of an instance its class and its attributes count.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from bench.api import Draws
from bench.methods import sources
from bench.methods.syntax import syntax
from bench.types import UsageError, shown

_SCALARS = (type(None), bool, int, float, complex, str, bytes, Fraction, type(Ellipsis), range)
#: Attributes of a class that say where and how it was written.
_BOOKKEEPING = frozenset(
    {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__firstlineno__", "__static_attributes__"}
    | {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "_abc_impl"}
    | {"__dataclass_params__", "__dataclass_fields__", "__match_args__", "__orig_bases__", "__parameters__"}
)
#: Parts of a module of torch that decide what it computes, besides its own attributes.
_PARTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def identity_of(value: object, what: str, *, weights: bool = True) -> str:
    """Return a hash (64 hexadecimal digits) of everything that decides what an object does.

    Args:
        value: a module, an instance, a function, or plain data.
        what: it is, for the message.
        weights: of modules of torch the numbers of parameters and buffers count too, not their names and shapes alone.

    Raises:
        UsageError: a part of it cannot be hashed; the line names the part.
    """
    identity = _Identity(what, weights=weights)
    identity.add(value, "")
    return identity.hexdigest()


class _Identity:
    """Writes an object into a hash, part by part; an object that is met again is written as its number."""

    def __init__(self, what: str, *, weights: bool) -> None:
        self._what = what
        self._with_weights = weights
        self._digest = hashlib.sha256()
        # Objects are kept, so that their numbers are not used again.
        self._seen: dict[int, tuple[int, object]] = {}
        self._torch: Any = sys.modules.get("torch")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def add(self, value: Any, path: str) -> None:
        """Write a value that is found at ``path``, an expression that begins with the object."""
        if isinstance(value, _SCALARS):
            self._write(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._write("again", str(self._seen[id(value)][0]))
            return
        self._seen[id(value)] = len(self._seen), value
        try:
            self._writer(value)(value, path)
        except RecursionError:
            raise self._refused(value, path, "it is nested too deeply") from None

    def _writer(self, value: object) -> Callable[[Any, str], None]:
        torch = self._torch
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor
        if torch is not None and isinstance(value, torch.nn.Module):
            return self._module
        writers: list[tuple[Any, Callable[[Any, str], None]]] = [
            ((np.ndarray, np.generic), self._array),
            ((list, tuple), self._sequence),
            ((set, frozenset), self._set),
            ((dict, OrderedDict), self._mapping),
            (FunctionType, self._function),
            (MethodType, self._method),
            (functools.partial, self._partial),
            (type, self._class),
            (ModuleType, self._source_module),
            (CodeType, self._code),
            (Draws, self._named),
        ]
        return next((write for kind, write in writers if isinstance(value, kind)), self._instance)

    def _write(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            self._digest.update(len(data).to_bytes(8, "big"))
            self._digest.update(data)

    def _refused(self, value: object, path: str, why: str) -> UsageError:
        where = f" at {path.lstrip('.')}" if path else ""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return UsageError(f"{self._what} has no key: {why} ({kind}{where}); leave it out, or make it plain data")

    # Data.

    def _tensor(self, value: Any, path: str) -> None:
        try:
            plain = value.detach().to("cpu")
            plain = plain if plain.layout is self._torch.strided else plain.to_dense()
            data = plain.contiguous().reshape(-1).view(self._torch.uint8).numpy().tobytes()
        except Exception as error:
            raise self._refused(value, path, f"its numbers cannot be read: {shown(str(error))}") from None
        self._write("tensor", str(plain.dtype), str(tuple(plain.shape)), data)

    def _array(self, value: Any, path: str) -> None:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise self._refused(value, path, "it is an array of objects")
        self._write("array", array.dtype.str, str(array.shape), array.tobytes())

    def _sequence(self, value: Iterable[Any], path: str) -> None:
        items = list(value)
        self._write(type(value).__name__, str(len(items)))
        for index, item in enumerate(items):
            self.add(item, f"{path}[{index}]")

    def _set(self, value: Iterable[Any], path: str) -> None:
        # In the order of their hashes, as a set has none of its own.
        self._write("set", *sorted(identity_of(item, self._what, weights=self._with_weights) for item in value))

    def _mapping(self, value: Mapping[Any, Any], path: str) -> None:
        self._write("dict", str(len(value)))
        for key, item in value.items():
            self.add(key, path)
            self.add(item, f"{path}[{shown(key, 40)}]")

    # Code.

    def _function(self, value: FunctionType, path: str) -> None:
        if self._installed(value):
            return
        self._source_of(value, path)
        self.add(value.__defaults__, f"{path}.__defaults__")
        self.add(value.__kwdefaults__, f"{path}.__kwdefaults__")
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            self._write(name)
            # A variable that is assigned later, as of a function that calls itself.
            if _is_filled(cell):
                self.add(cell.cell_contents, f"{path}.{name}")
        for name in sorted(set(_globals_of(value.__code__)) & value.__globals__.keys()):
            self._write(name)
            self.add(value.__globals__[name], f"{path}.{name}")

    def _source_of(self, value: FunctionType, path: str) -> None:
        try:
            if value.__name__ == "<lambda>":
                # Its source is the entire statement, which several may share.
                raise ValueError
            text = textwrap.dedent(inspect.getsource(value)).encode()
            self._write("source", syntax(text).sha)
        except (OSError, TypeError, ValueError):
            self._code(value.__code__, path)

    def _code(self, value: CodeType, path: str) -> None:
        self._write("code", value.co_code, *value.co_names, *value.co_varnames)
        for constant in value.co_consts:
            self.add(constant, path)

    def _method(self, value: MethodType, path: str) -> None:
        self._write("method")
        self.add(value.__func__, path)
        self.add(value.__self__, f"{path}.__self__")

    def _partial(self, value: functools.partial[Any], path: str) -> None:
        self._write("partial")
        self.add(value.func, path)
        self.add(value.args, path)
        self.add(value.keywords, path)

    def _class(self, value: type, path: str) -> None:
        if self._installed(value):
            return
        self._write("class")
        for base in value.__bases__:
            self.add(base, path)
        for name, member in vars(value).items():
            if name not in _BOOKKEEPING:
                self._write(name)
                self.add(_bare(member), f"{path}.{name}")

    def _source_module(self, value: ModuleType, path: str) -> None:
        if self._installed(value):
            return
        try:
            self._write("module", syntax(Path(value.__file__ or "").read_bytes()).sha)
        except (OSError, ValueError):
            raise self._refused(value, path, f"the source of {value.__name__} cannot be read") from None

    def _installed(self, value: Any) -> bool:
        """Write the name and version of what comes from an installed package; say whether it does."""
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
        top = str(module).partition(".")[0]
        name = "" if isinstance(value, ModuleType) else str(getattr(value, "__qualname__", ""))
        if (version := _version_of(top)) is None:
            return False
        self._write("installed", version, f"{module}:{name}")
        return True

    # Objects.

    def _named(self, value: object, path: str) -> None:
        """Write an object that begins anew at each use: its state does not count."""
        self._write(type(value).__qualname__)

    def _module(self, value: Any, path: str) -> None:
        self.add(type(value), path)
        own = {name: item for name, item in vars(value).items() if name not in _module_attributes(self._torch)}
        self._mapping(own, path)
        for part in _PARTS:
            items = getattr(value, part)
            self._write(part, str(len(items)))
            for name, item in items.items():
                # Hooks have numbers, which go on from network to network.
                self._write("" if part.endswith("hooks") else str(name))
                if part in ("_parameters", "_buffers") and item is not None and not self._with_weights:
                    self._write(str(item.dtype), str(tuple(item.shape)))
                else:
                    self.add(item, f"{path}.{name}")

    def _instance(self, value: Any, path: str) -> None:
        if isinstance(value, BuiltinFunctionType):
            self._write("builtin", str(value.__module__), value.__qualname__)
            return
        if callable(getattr(value, "__wrapped__", None)):
            # A cache around a function, say, which would be copied by its name.
            self._write("wrapped", type(value).__qualname__)
            self.add(value.__wrapped__, path)
            return
        try:
            # What a copy of it would be made of.
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise self._refused(value, path, f"its state cannot be read: {shown(str(error))}") from None
        self._write("instance")
        for part in [reduced] if isinstance(reduced, str) else list(reduced):
            self.add(list(part) if isinstance(part, Iterator) else part, path)


def _bare(member: Any) -> Any:
    """Return what a member of a class runs: the functions of a property, that of a class method."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return [member.fget, member.fset]
    # A slot, or a descriptor of the interpreter's own.
    if inspect.isdatadescriptor(member) and not isinstance(member, FunctionType):
        return type(member).__qualname__
    return member


def _globals_of(code: CodeType) -> Iterator[str]:
    """Yield the names of the globals that some code reads, also inside the functions that it defines."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@functools.cache
def _version_of(top: str) -> str | None:
    """Return an installed package with its version, or the name of what has none; ``None`` of a user's own module."""
    if top in sources.NOT_COUNTED or top in sys.builtin_module_names:
        return top
    spec = sources.find_top(top) if top and top != "__main__" else None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin and spec.has_location else [])]
    return sources.version(top) if any(sources.is_installed(Path(place)) for place in places) else None


@functools.cache
def _module_attributes(torch: Any) -> frozenset[str]:
    return frozenset(vars(torch.nn.Module()))
